"""mingpt-tokens: show texts as pieces, bytes, merges and ids, and compare two prompts.

No model is run: a tokenizer is enough. patching/alignment.py compares the prompts;
tokens_report.py makes the tables.
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
from types import SimpleNamespace
from typing import TYPE_CHECKING

from click import Argument, Option

from mingpt.files import expanded
from patching.cli.common import output
from patching.cli.common.arguments import read_lines
from patching.cli.common.command import Command, UsageError, print_line, run_command
from patching.cli.common.models import load_tokenizers
from patching.cli.common.options import MODEL_NAMES, files, source_options
from patching.text import escaped

if TYPE_CHECKING:
    from mingpt.bpe import PieceWork
    from patching.alignment import ReplacedWords, Row, Suggestion
    from patching.cli.common.models import LoadedTokenizer
    from patching.cli.tokens_beside import Column

COMMAND = "mingpt-tokens"

DESCRIPTION = """\
What does a model read? Shows the tokens of texts, and how they are made.

A text is cut into pieces by a rule that is the same for every model. Each piece starts as
its UTF-8 bytes. Then neighbours are merged, pair by pair in the order of the model's list
of merges, until no pair in the list is left. What remains are the tokens.
With several texts, the first is shown beside each of the others, like a clean and a
corrupt prompt of mingpt-patch, which needs prompts with equally many tokens.
"""
EPILOG = f"""\
what is printed:
  for each text      its pieces, their bytes in hex, the merges in the order made,
                     the ids and the tokens; models side by side
  for two texts      which positions correspond; a star where the tokens differ
  A leading space is shown as \u2423, a byte that is no character by itself as \\xe6.
  A cell that is too long for its column ends in \u2026. --json has it whole, with the
  merges in the alphabet of the model's merges file.

  <|endoftext|> in a text is ordinary text.

--suggest:
  Takes two texts: the clean prompt, then the corrupt one. The two differ in one word, or
  in several words side by side. Each of your words is put in place of it, wherever it
  occurs. A word fits if the new prompt has as many tokens as the clean one and differs
  from it only where the word is.
  Write the words with commas between them, or name a file in UTF-8 with one word a line.
  A value that ends in .txt, contains a / or is the name of a file is read as a file.

other tokenizers:
  --tokenizer FILE shows how a tokenizer of another kind cuts the texts, token by token
  beside the model's; [UNK] and the like, which stand for what it cannot spell, are marked
  with a star. --swap-ids reads each tokenizer's ids with the others' vocabularies: what a
  model would read if it were given the wrong tokenizer's ids.

examples:
  {COMMAND} --model builtin "Michelle Jones was a top-notch student."
  {COMMAND} --model gpt2 --model builtin "The keys to the cabinet"
  {COMMAND} --model gpt2 --suggest "Smith,Brown,Zimmermann" \\
      "Michelle Jones was a top-notch student. Michelle" \\
      "Michelle Papadopoulos was a top-notch student. Michelle"
  {COMMAND} --model builtin --model gpt2 --swap-ids "The keys to the cabinet"
  {COMMAND} --model gpt2 --tokenizer bert/tokenizer.json "unaffable keys"
  {COMMAND} --json "a text" "another text" > tokens.json
  {COMMAND} -- "--a text that begins with a dash"

exit codes: 0 done, whether or not the texts are equally long or a word fits; 2 bad
input, with one line on stderr; 130 interrupted.
"""


OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "model": source_options(
        f"{MODEL_NAMES}. Only the tokenizer is read. Repeat it to see several side by side."
        " Default: gpt2 if its tokenizer is in a cache or can be fetched (1.5 MB, once), else"
        " builtin",
        multiple=True,
    ),
    "other tokenizers": [
        Option(["--tokenizer"], metavar="FILE", multiple=True, shell_complete=files,
               help="a tokenizer.json of any kind (WordPiece, Unigram, ...), shown beside the"
               " model's; repeat it for several (needs the package tokenizers)"),
        Option(["--swap-ids"], is_flag=True,
               help="read each tokenizer's ids with the vocabulary of each other one"),
    ],
    "output": [
        Option(["--suggest"], metavar="LIST|FILE", shell_complete=files,
               help="words to try in place of the second text's word that differs from the"
               " first text's"),
        Option(["--json"], is_flag=True,
               help="print everything as JSON on stdout, the text on stderr"),
        Option(["--quiet"], is_flag=True, help="print lines only, no tables; no progress bar"),
    ],
}, Argument(["texts"], nargs=-1, metavar="TEXT...", shell_complete=files))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """Load the tokenizers and print.

    Raises:
        MinGPTError: anything that the command cannot do, with a message for the user.
    """
    texts = arguments.texts
    _check(texts)
    words = None if arguments.suggest is None else parse_words(arguments.suggest)
    if words is not None and len(texts) != 2:
        raise UsageError(f"--suggest takes two texts, clean and corrupt, not {len(texts)}")

    # Imported after the first checks: the import is slow.
    from patching.alignment import replaced_words, suggest
    from patching.cli.tokens_beside import side_by_side
    from patching.other_tokenizers import OtherTokenizer

    replaced = None if words is None else replaced_words(texts[0], texts[1])
    others = [OtherTokenizer.load(path) for path in dict.fromkeys(arguments.tokenizer or ())]
    say = output.make_say(arguments)
    views = []
    for loaded in load_tokenizers(arguments):
        tokenizer = loaded.tokenizer
        works = [tokenizer.show_work(text) for text in texts]
        suggested = None if words is None else suggest(tokenizer, texts[0], texts[1], words)
        views.append(_View(loaded, works, suggested))
    _print(say, texts, views, replaced)
    columns = side_by_side(texts, [view.loaded for view in views], others)
    for text, of_text in zip(texts, columns, strict=True):
        if others or arguments.swap_ids:
            _print_beside(say, text, of_text, swap_ids=arguments.swap_ids)
    if arguments.json:
        found: dict[str, object] = {
            "texts": list(texts),
            "tokenizers": [view.to_dict() for view in views],
        }
        if others or arguments.swap_ids:
            found["side_by_side"] = [[one.to_dict() for one in of_text] for of_text in columns]
        print_line(json.dumps(found, allow_nan=False), sys.stdout)


def parse_words(asked: str) -> list[str]:
    """Return the words of --suggest, each once, from a list with commas or a file's lines.

    Raises:
        UsageError: there is no word, or the file cannot be read.
    """
    path, is_file = expanded(asked), False
    with contextlib.suppress(OSError):  # such as a name that is too long for a file
        is_file = path.is_file()
    is_file = is_file or asked.endswith(".txt") or "/" in asked or os.sep in asked
    parts = read_lines("--suggest", path).values() if is_file else asked.split(",")
    words = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not words:
        raise UsageError(f"--suggest {asked!r} contains no word")
    return words


@dataclass(frozen=True)
class _View:
    """The texts as one model's tokenizer reads them."""

    loaded: LoadedTokenizer
    works: list[list[PieceWork]]  # the pieces of each text
    suggested: list[Suggestion] | None  # one for each word of --suggest

    @cached_property
    def ids(self) -> list[list[int]]:
        return [[number for work in works for number in work.ids] for works in self.works]

    @cached_property
    def tokens(self) -> list[list[str]]:
        return [[token for work in works for token in work.tokens] for works in self.works]

    def aligned(self, other: int) -> list[Row]:
        """Return the alignment of the first text's positions with those of another text."""
        from patching.alignment import align

        return align(self.ids[0], self.ids[other])

    def to_dict(self) -> dict[str, object]:
        """Return the view in types that JSON has."""
        texts = [
            {"n_tokens": len(ids), "pieces": [{**asdict(w), "data": w.data.hex()} for w in works]}
            for ids, works in zip(self.ids, self.works, strict=True)
        ]
        alignments = [
            {
                "texts": [0, other],
                "equally_long": len(self.ids[0]) == len(self.ids[other]),
                "rows": [asdict(row) for row in self.aligned(other)],
            }
            for other in range(1, len(self.ids))
        ]
        suggestions = None
        if self.suggested is not None:
            suggestions = [{**asdict(one), "n_tokens": len(one.ids)} for one in self.suggested]
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
        except UnicodeEncodeError:  # bytes on the command line that are not UTF-8
            raise UsageError(f"text {number} is not valid Unicode: {text!r}") from None


def _print(
    say: Callable[..., None],
    texts: Sequence[str],
    views: Sequence[_View],
    replaced: ReplacedWords | None,
) -> None:
    from patching.cli import tokens_report

    names = ["clean", "corrupt"]
    if replaced is None:
        names = [f"text {number}" for number in range(1, len(texts) + 1)]
    for view in views:
        say(tokens_report.tokenizer_line(view.loaded), always=True)
    _print_texts(say, texts, names, views)
    for other in range(1, len(texts)):
        for view in views:
            _print_alignment(say, names, view, other)
    if replaced is not None:
        say("")
        _print_suggestions(say, texts[0], views, replaced)
    elif any(len(ids) != len(view.ids[0]) for view in views for ids in view.ids):
        say("")
        say("--suggest finds, in a list of words, those that make two texts equally long")


def _print_beside(
    say: Callable[..., None], text: str, columns: Sequence[Column], *, swap_ids: bool
) -> None:
    """Print one text's tokens by several tokenizers, and ids read with others' vocabularies."""
    from patching.cli import tokens_beside

    counts = {column.name: len(column.ids) for column in columns}
    say("")
    say(tokens_beside.heading(text, counts), always=True)
    say(tokens_beside.beside_table(columns))
    if swap_ids:
        for column in columns:
            for other in columns:
                if other is not column:
                    say("")
                    say(tokens_beside.swapped_line(column, other), always=True)
                    say(tokens_beside.swapped_table(column, other))


def _print_texts(
    say: Callable[..., None], texts: Sequence[str], names: Sequence[str], views: Sequence[_View]
) -> None:
    from patching.cli import tokens_report

    models = [view.loaded for view in views]
    columns = shutil.get_terminal_size().columns
    for number, (name, text) in enumerate(zip(names, texts, strict=True)):
        counts = {view.loaded.name: len(view.ids[number]) for view in views}
        say("")
        say(tokens_report.text_line(name, text, counts), always=True)
        say(tokens_report.piece_table(models, [view.works[number] for view in views], columns))


def _print_alignment(
    say: Callable[..., None], names: Sequence[str], view: _View, other: int
) -> None:
    """Print the first text beside another one."""
    from patching.cli import tokens_report
    from patching.cli.common import tables

    two = (names[0], names[other])
    ids = (view.ids[0], view.ids[other])
    tokens = (view.tokens[0], view.tokens[other])
    say("")
    say(tokens_report.alignment_line(view.loaded.name, two, ids), always=True)
    say(tables.alignment_table(view.aligned(other), ids, tokens, two))


def _print_suggestions(
    say: Callable[..., None], clean: str, views: Sequence[_View], replaced: ReplacedWords
) -> None:
    from patching.cli import tokens_report

    lengths = [len(view.ids[0]) for view in views]
    suggested = [view.suggested or [] for view in views]
    names = [view.loaded.name for view in views]
    places = len(replaced.corrupt_spans)
    where = "" if places == 1 else f", at {places} places"
    say(f"words in place of {escaped(replaced.text)}{where}:", always=True)
    for name, length, found in zip(names, lengths, suggested, strict=True):
        say(tokens_report.suggestion_line(name, clean, length, found), always=True)
    fitting = tokens_report.suggestion_table(names, clean, lengths, suggested)
    if fitting is not None:
        say(fitting)
