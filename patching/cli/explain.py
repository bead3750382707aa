"""mingpt-explain: one prompt and two next words -> what made the model prefer one of them.

As in patch.py, what the user asked for is checked before anything is loaded,
the work is patching's, and the words are tables.py's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mingpt.version import __version__
from patching.cli.common import output
from patching.cli.common.arguments import Parser, add_model_arguments, texts_asked
from patching.cli.common.command import run_command, tell
from patching.cli.common.models import load_model
from patching.cli.common.progress import Bars, Progress
from patching.explanation.request import DEFAULT, INSTRUMENTS, figures_of, instruments_asked

if TYPE_CHECKING:
    from mingpt.model import GPT
    from patching.explanation.run import Explanation

COMMAND = "mingpt-explain"
EXAMPLE = {
    "text": "This summer, unlike the previous winter, is being extremely",
    "target": "hot",
    "foil": "cold",
}

DESCRIPTION = """\
Which words of a prompt made the model prefer one next word over another?

The model runs once. Its logits for the two words are taken apart into what the
embeddings, each attention head, each MLP and the biases write towards them; the
sum is checked against the logits, in every run. What attention writes is then
followed back through the blocks to the words of the prompt (ALTI-Logit, Ferrando
et al. 2023, arXiv 2305.12535). In numbers and pictures, a positive number
speaks for the target and a negative one for the foil (in mingpt-patch's
logit_diff it is the other way round).
"""
EPILOG = f"""\
prompt:
  Target and foil must be one token each: a word is looked up with a leading
  space ("hot" is the token " hot"), text that starts with a space or a
  punctuation mark is taken as it is, and id:3024 names a token directly.

methods (several with commas between them):
  alti        how much of each token is in each position, after all blocks:
              a heatmap of positions by tokens
  alti-logit  what the tokens of the prompt add to logit(target) - logit(foil):
              bars, and a heatmap of layers by tokens
  logit       the same of the positions that attention reads, not followed
              further: bars, and a heatmap of layers by positions
  lens        what the model would say next if it stopped after a layer (logit
              lens), and how its choice between the two comes about
  direct      what each head and each MLP adds by itself (direct logit
              attribution)
  default: {",".join(DEFAULT)}

  The bars are what attention and the embeddings add. They leave out the MLPs
  and the biases, so they do not add up to the logit difference and can even
  have the other sign; the line under the plot says so in numbers. What moves
  through an MLP, no method here follows: patching does (mingpt-patch).

examples:
  {COMMAND} --model builtin
      the example of the README on the model that ships with the project
  {COMMAND} --model gpt2 --text "The keys to the cabinet" --target are --foil is
  {COMMAND} --model builtin --method lens,direct --out run/ --format svg
  {COMMAND} --model builtin --method logit --json --quiet

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(COMMAND, run, sys.argv[1:] if argv is None else argv)


def build_parser() -> Parser:
    """The command's options; --help is meant to teach."""
    parser = Parser(prog=COMMAND, description=DESCRIPTION, epilog=EPILOG)
    prompt = parser.add_argument_group("prompt (without any of them: the README's example)")
    prompt.add_argument("--text", metavar="TEXT", help="the prompt")
    prompt.add_argument("--target", metavar="WORD", help="the next word to explain")
    prompt.add_argument("--foil", metavar="WORD", help="the next word it is preferred over")
    add_model_arguments(parser)
    explanation = parser.add_argument_group("explanation")
    explanation.add_argument(
        "--method", metavar="LIST", default=",".join(DEFAULT),
        help=f"one or more of {', '.join(INSTRUMENTS)}; default: {','.join(DEFAULT)}",
    )  # fmt: skip
    output.add_output_arguments(parser, top_k=10)
    parser.add_argument("--version", action="version", version=f"{COMMAND} {__version__}")
    return parser


def run(argv: Sequence[str]) -> None:
    """Parse, load, explain, print and write."""
    arguments = build_parser().parse_args(argv)
    texts = texts_asked(arguments, EXAMPLE)
    methods = instruments_asked(arguments.method)

    # Only now what takes time to import.
    import torch

    from patching.cli.common import tables
    from patching.explanation.run import explain
    from patching.prompts import Question

    figures = figures_of(methods)
    output.check_output(arguments)
    place = output.Place.of(arguments, [f"-{name}" for name in figures])
    say = output.speaker(arguments)
    bars = Bars(arguments.quiet)
    loaded = load_model(arguments, arguments.model, bars)
    model, tokenizer = loaded.model, loaded.tokenizer
    say(tables.model_line(model, loaded.fallback), always=True)
    question = Question.from_text(tokenizer, **texts)
    say(f"\n{tables.prompt_table(question.ids, [*map(tokenizer.token, question.ids)])}")

    with bars.bar("explaining") as progress:
        found = explain(
            model,
            torch.tensor(question.ids),
            question.target_id,
            question.foil_id,
            methods=methods,
            top_k=arguments.top_k,
            tokenizer=tokenizer,
            progress=progress,
        )
    say(f"\n{tables.next_token_table(run=found.next)}")
    for method in ("alti-logit", "logit"):
        if method in methods:
            table = tables.attribution_table(question.ids, found, method)
            say(f"\n{INSTRUMENTS[method]}, the embeddings on the last:\n{table}")
    say(f"\n{_choice(found)}\n{_completeness(found)}\nexplained in {found.seconds:.2f} s")
    found = _recorded(found, model, arguments, loaded.fallback)
    with bars.bar("drawing") as progress:
        written = _write(found, model, figures, place, arguments.cmap, progress)
    output.tell_written(say, written)
    if arguments.json:
        paths = [str(path) for path in written]
        tell(json.dumps({**found.to_dict(), "paths": paths}, allow_nan=False), sys.stdout)


def _choice(found: Explanation) -> str:
    from patching.text import escaped

    target, foil = (
        f"logit({escaped(score.token)}) {score.logit:.4f}"
        for score in (found.next.target, found.next.foil)
    )
    parts = ", ".join(f"{name} {value:.4f}" for name, value in found.parts().items())
    return f"{target} - {foil} = {found.logits[0] - found.logits[1]:.4f}, of which {parts}"


def _completeness(found: Explanation) -> str:
    error, allowed = found.worst()
    limit = f"at most {allowed:.2g}" if math.isfinite(allowed) else "not judged in half precision"
    return f"completeness: the terms differ from the logits by {error:.2g} ({limit})"


def _recorded(
    found: Explanation, model: GPT, arguments: argparse.Namespace, fallback: str | None
) -> Explanation:
    """The explanation with all that the command knows of the run."""
    import matplotlib

    asked = (*output.MODEL_ARGUMENTS, "method", "top_k", "cmap", "format")
    return dataclasses.replace(
        found,
        notes=output.fallback_notes(fallback),
        arguments={name: getattr(arguments, name) for name in asked},
        versions={**found.versions, "matplotlib": matplotlib.__version__},
        checksum=model.checksum(),
    )


def _write(
    found: Explanation,
    model: GPT,
    figures: Sequence[str],
    place: output.Place,
    cmap: str | None,
    progress: Progress | None,
) -> dict[Path, bool]:
    """Write figures and result; the paths, and whether something was there before."""
    from patching.drawing.explanation import draw

    defining = (
        output.of_model(model, found.checksum, found.notes),
        (found.methods, len(found.top_ids), cmap, found.arguments["seed"]),
        (found.ids.tolist(), int(found.target), int(found.foil)),
        (found.versions["device"], found.versions["dtype"]),
    )
    name = output.run_name(found.texts[0], "explained", defining=defining)
    files = place.files(name)
    existed = {path: path.exists() for path in files}
    found.save(place.stem(name))
    for number, (figure, path) in enumerate(zip(figures, files, strict=False), 1):
        draw(found, figure, path, cmap=cmap)  # the result's own files follow
        if progress is not None:
            progress(number, len(figures))
    return existed
