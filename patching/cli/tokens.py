"""mingpt-tokens: texts -> pieces, bytes, merges and ids; how two prompts go together.

Nothing is run: to find prompts of equal length, a tokenizer is enough. How they
are compared is alignment.py's business, the words are tokens_report.py's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mingpt.files import expanded
from mingpt.version import __version__
from patching.cli.common import output
from patching.cli.common.arguments import MODEL_NAMES, Parser, add_source_arguments, lines_of
from patching.cli.common.command import UsageError, run_command, tell
from patching.cli.common.models import load_tokenizers
from patching.cli.common.progress import Bars
from patching.text import escaped

if TYPE_CHECKING:
    from mingpt.bpe import PieceWork
    from patching.alignment import Row, Stretch, Suggestion
    from patching.cli.common.models import LoadedTokenizer

COMMAND = "mingpt-tokens"

DESCRIPTION = """\
What does a model read? Texts as their tokens, and how those came about.

A text is cut into pieces by a rule that is the same for every model; a piece is
spelt as its UTF-8 bytes; and neighbours are merged, pair by pair in the order
that the model's merges have, until no pair is left that can be. What is left are
the tokens. Of two and more texts the first is put beside each of the others, as
mingpt-patch does with a clean and a corrupt prompt: it needs equally many tokens.
"""
EPILOG = f"""\
what is printed:
  of each text       its pieces, their bytes in hex, the merges in the order made,
                     the ids and the tokens; models side by side
  of two texts       which positions go together; a star where the tokens differ
  A leading space is shown as \u2423, a byte that is no character by itself as \\xe6.
  What is too long for its column ends in \u2026; --json has it whole, and there the
  merges are in the alphabet of the model's merges file.

  <|endoftext|> in a text is spelt out, like any other text.

--suggest:
  Of two texts, the first is the clean prompt and the second the corrupt one. The
  word, or the words side by side, that the corrupt one has in place of the clean
  one's are replaced by each of yours, wherever they are. A word fits if there are
  as many tokens then as in the clean prompt, and others only in its place.
  Give the words with commas between them, or a file with one word in each line,
  in UTF-8: what ends in .txt, has a / in it, or is the name of a file is one.

examples:
  {COMMAND} --model builtin "Michelle Jones was a top-notch student."
  {COMMAND} --model gpt2 --model builtin "The keys to the cabinet"
  {COMMAND} --model gpt2 --suggest "Smith,Brown,Zimmermann" \\
      "Michelle Jones was a top-notch student. Michelle" \\
      "Michelle Papadopoulos was a top-notch student. Michelle"
  {COMMAND} --json "a text" "another text" > tokens.json
  {COMMAND} -- "--a text that begins with a dash"

exit codes: 0 done, whether or not the texts are equally long or a word fits; 2 bad
input, with one line on stderr; 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(COMMAND, run, sys.argv[1:] if argv is None else argv)


def build_parser() -> Parser:
    """The command's options; --help is meant to teach."""
    parser = Parser(prog=COMMAND, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("texts", metavar="TEXT", nargs="*", default=(), help="one or more")
    group = parser.add_argument_group("model")
    add_source_arguments(
        group,
        f"{MODEL_NAMES}. Of these the tokenizer only. Several times: side by side. Default:"
        " gpt2 if its tokenizer is in a cache or can be fetched (1.5 MB, once), else builtin",
        action="append",
    )
    parser.add_argument(
        "--suggest", metavar="LIST|FILE",
        help="words that may replace what the second of two texts has in place of the first's",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="all of it as JSON on stdout, the text on stderr"
    )
    parser.add_argument("--quiet", action="store_true", help="lines only, no tables; no bar")
    parser.add_argument("--version", action="version", version=f"{COMMAND} {__version__}")
    return parser


def run(argv: Sequence[str]) -> None:
    """Parse, load the tokenizers, print."""
    arguments = build_parser().parse_args(argv)
    texts = arguments.texts
    _check(texts)
    words = None if arguments.suggest is None else words_asked(arguments.suggest)
    if words is not None and len(texts) != 2:
        raise UsageError(f"--suggest takes two texts, clean and corrupt, not {len(texts)}")

    # Only now what takes time to import.
    from patching.alignment import stretch, suggest

    replaced = None if words is None else stretch(*texts)
    say = output.speaker(arguments)
    views = []
    for loaded in load_tokenizers(arguments, Bars(arguments.quiet)):
        tokenizer = loaded.tokenizer
        works = [tokenizer.show_work(text) for text in texts]
        suggested = None if words is None else suggest(tokenizer, *texts, words)
        views.append(_View(loaded, works, suggested))
    _tell(say, texts, views, replaced)
    if arguments.json:
        found = {"texts": list(texts), "tokenizers": [view.to_dict() for view in views]}
        tell(json.dumps(found, allow_nan=False), sys.stdout)


def words_asked(asked: str) -> list[str]:
    """The words of --suggest, each once: a list with commas, or a file's lines.

    Raises:
        UsageError: none, or a file that cannot be read.
    """
    path, is_file = expanded(asked), False
    with contextlib.suppress(OSError):  # too long for a name, say: then it is none
        is_file = path.is_file()
    is_file = is_file or asked.endswith(".txt") or "/" in asked or os.sep in asked
    parts = lines_of("--suggest", path).values() if is_file else asked.split(",")
    words = [*dict.fromkeys(part.strip() for part in parts if part.strip())]
    if not words:
        raise UsageError(f"--suggest {asked!r}: there is no word in it")
    return words


@dataclass(frozen=True)
class _View:
    """What one model's tokenizer makes of the texts."""

    loaded: LoadedTokenizer
    works: list[list[PieceWork]]  # of each text
    suggested: list[Suggestion] | None

    @cached_property
    def ids(self) -> list[list[int]]:
        return [[number for work in works for number in work.ids] for works in self.works]

    @cached_property
    def tokens(self) -> list[list[str]]:
        return [[token for work in works for token in work.tokens] for works in self.works]

    def alignment(self, other: int) -> list[Row]:
        """The first text beside another one."""
        from patching.alignment import alignment

        return alignment(self.ids[0], self.ids[other])

    def to_dict(self) -> dict[str, object]:
        """As JSON has it."""
        texts = [
            {"n_tokens": len(ids), "pieces": [{**asdict(w), "data": w.data.hex()} for w in works]}
            for ids, works in zip(self.ids, self.works, strict=True)
        ]
        alignments = [
            {
                "texts": [0, other],
                "equally_long": len(self.ids[0]) == len(self.ids[other]),
                "rows": [asdict(row) for row in self.alignment(other)],
            }
            for other in range(1, len(self.ids))
        ]
        suggestions = self.suggested and [
            {**asdict(one), "n_tokens": len(one.ids)} for one in self.suggested
        ]
        return {
            "name": self.loaded.name,
            "fallback": self.loaded.fallback,
            "texts": texts,
            "alignments": alignments,
            "suggestions": suggestions,
        }


def _check(texts: Sequence[str]) -> None:
    if not texts:
        raise UsageError("no text: give one or more (see --help)")
    for number, text in enumerate(texts, 1):
        if not text:
            raise UsageError(f"text {number} is empty")
        try:
            text.encode()
        except UnicodeEncodeError:  # bytes of the command line that are no text
            raise UsageError(f"text {number} is not valid Unicode: {text!r}") from None


def _tell(
    say: Callable[..., None],
    texts: Sequence[str],
    views: Sequence[_View],
    replaced: Stretch | None,
) -> None:
    from patching.cli import tokens_report
    from patching.cli.common import tables

    models = [view.loaded for view in views]
    columns = shutil.get_terminal_size().columns
    names = [f"text {number}" for number in range(1, len(texts) + 1)]
    if replaced is not None:
        names = ["clean", "corrupt"]
    for model in models:
        say(tokens_report.tokenizer_line(model), always=True)
    for number, (name, text) in enumerate(zip(names, texts, strict=True)):
        counts = {view.loaded.name: len(view.ids[number]) for view in views}
        say("")
        say(tokens_report.text_line(name, text, counts), always=True)
        say(tokens_report.piece_table(models, [view.works[number] for view in views], columns))
    for other in range(1, len(texts)):
        for view in views:
            two = {"names": (names[0], names[other]), "ids": (view.ids[0], view.ids[other])}
            tokens = (view.tokens[0], view.tokens[other])
            say("")
            say(tokens_report.alignment_line(view.loaded.name, **two), always=True)
            say(tables.alignment_table(view.alignment(other), tokens=tokens, **two))
    if replaced is not None:
        say("")
        _tell_suggestions(say, texts[0], views, replaced)
    elif any(len(ids) != len(view.ids[0]) for view in views for ids in view.ids):
        say("")
        say("--suggest, with a list of words, finds those that make two texts equally long")


def _tell_suggestions(
    say: Callable[..., None], clean: str, views: Sequence[_View], replaced: Stretch
) -> None:
    from patching.cli import tokens_report

    lengths = [len(view.ids[0]) for view in views]
    places = len(replaced.corrupt_spans)
    where = "" if places == 1 else f", at {places} places"
    say(f"words in place of {escaped(replaced.text)}{where}:", always=True)
    for view, length in zip(views, lengths, strict=True):
        line = tokens_report.suggestion_line(view.loaded.name, clean, length, view.suggested)
        say(line, always=True)
    suggested = [view.suggested for view in views]
    fitting = tokens_report.suggestion_table(
        [view.loaded.name for view in views], clean, lengths, suggested
    )
    if fitting is not None:
        say(fitting)
