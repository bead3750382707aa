"""mingpt-embeddings: positions that are alike, words that are near, as figures and a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

from click import IntRange, Option

from patching.cli.common import output
from patching.cli.common.command import Command, Several, print_line, run_command
from patching.cli.common.models import import_libraries, load_model
from patching.cli.common.options import look_options, model_options, place_options
from patching.embeddings.request import (
    COMPONENTS,
    MOST_COMPONENTS,
    MOST_NEIGHBOURS,
    NEIGHBOURS,
    EmbeddingsRequest,
)

if TYPE_CHECKING:
    from patching.embeddings.result import Embeddings

COMMAND = "mingpt-embeddings"
DESCRIPTION = """\
Look at a model's embeddings.

Draws the cosine similarity of all position embeddings, and the positions along their
principal components. With --words, prints the tokens nearest to each word (by the cosine
of the angle between their embeddings), and draws the words on a map: their first two
principal components.
"""
EPILOG = f"""\
words:
  A word must be one token; it is looked up with a leading space ("Paris" is the token
  " Paris"), and text that starts with a space or a punctuation mark is taken as it is.

examples:
  {COMMAND} --model builtin
  {COMMAND} --model builtin --words France Italy Paris Rome Mary John
  {COMMAND} --model gpt2 --words king queen man woman --rows 5 --out run/

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted.
"""
OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "model": model_options(seed="accepted for scripts; nothing here is random"),
    "embeddings": [
        Several(["--words"], multiple=True, metavar="WORD...", help="words to look at"),
        Option(["--rows"], type=IntRange(1, MOST_NEIGHBOURS), default=NEIGHBOURS, metavar="N",
               help="tokens nearest to each word"),
        Option(["--components"], type=IntRange(1, MOST_COMPONENTS), default=COMPONENTS,
               metavar="N", help="principal components of the positions"),
    ],
    "figure": look_options(),
    "output": [
        *place_options(".json"),
        Option(["--json"], is_flag=True, help="print the result as JSON on stdout, text on stderr"),
        Option(["--quiet"], is_flag=True,
               help="print only the model's line and the paths written; no progress bar"),
    ],
})  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """Load, look, print and write."""
    request = EmbeddingsRequest(tuple(arguments.words or ()), arguments.rows, arguments.components)
    import_libraries(drawing=True)
    from patching.cli.common import tables
    from patching.drawing.style import check_cmap
    from patching.embeddings.figures import FIGURES
    from patching.embeddings.run import look_at_embeddings

    check_cmap(arguments.cmap)
    figures = FIGURES if len(request.words) > 1 else FIGURES[:1]
    place = output.OutputPlace.of(arguments, [f"-{name}" for name in figures], kinds=(".json",))
    say = output.make_say(arguments)
    loaded = load_model(arguments, arguments.model)
    say(tables.model_line(loaded.model, loaded.fallback), always=True)
    found = look_at_embeddings(loaded.model, loaded.tokenizer, request)
    found = replace(found, notes=output.fallback_notes(loaded.fallback))
    if found.ids:
        say(f"\n{neighbour_table(found)}\n")
    defining = (
        output.model_identity(loaded.model, found.checksum, is_fallback=bool(found.notes)),
        (found.ids, request.neighbours, request.components, arguments.cmap, arguments.title),
    )
    name = output.run_name(" ".join(request.words) or "positions", "embeddings", defining=defining)
    written = _write(found, figures, place, name, arguments)
    output.say_written(say, written)
    if arguments.json:
        fields = {**found.to_dict(), "paths": [str(path) for path in written]}
        print_line(json.dumps(fields, allow_nan=False), sys.stdout)


def neighbour_table(found: Embeddings) -> str:
    """Return the nearest tokens of each word, with the cosine of each."""
    from patching.cli.common.tables import table, token_cell

    rows = [tuple(cell for token in found.tokens for cell in (token_cell(token), "cosine"))]
    for row in zip(*found.neighbours, strict=True):
        rows.append(tuple(c for one in row for c in (token_cell(one.token), f"{one.cosine:.3f}")))
    return table(rows, right=range(1, 2 * len(found.tokens), 2), keys=0)


def _write(
    found: Embeddings,
    figures: Sequence[str],
    place: output.OutputPlace,
    name: str,
    arguments: SimpleNamespace,
) -> dict:
    """Write figures and result; return path -> True if it replaced a file."""
    from patching.drawing.style import save_figure
    from patching.embeddings.figures import draw_embeddings
    from patching.result_files import saved_checksum

    files = place.files(name)
    existed = {path: path.exists() for path in files}
    readable = found.save(place.stem(name))
    checksum = saved_checksum(readable)
    for figure, path in zip(figures, files, strict=False):
        drawn = draw_embeddings(found, figure=figure, cmap=arguments.cmap, title=arguments.title)
        save_figure(drawn, path, [checksum])
    return existed
