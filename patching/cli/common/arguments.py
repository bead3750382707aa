"""The values of options: lists of indices and of numbers, files of lines, texts of a prompt."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from patching.cli.common.command import UsageError
from patching.index_list import indices_of, wrong_part

MOST_BYTES = 64 * 2**20  # of a file of prompts or words
TABLES = (".csv", ".tsv", ".xlsx", ".parquet")  # suffixes of files that are no lines of text
NONE = "none"  # a value of some lists of numbers: no limit


def parse_texts(
    arguments: SimpleNamespace, example: dict[str, str], *, optional: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the text options that were given, or the example if none was.

    Args:
        arguments: the parsed options. A text, or a tuple of texts where an option can be
            repeated.
        example: option's name -> text; "target" and "foil" are among them.
        optional: names that may be missing where others are given.

    Raises:
        UsageError: some are missing, one is empty, or target and foil share one.
    """
    given = {name: getattr(arguments, name) for name in example}
    missing = [name for name, text in given.items() if text in (None, ())]
    if len(missing) == len(example):
        return {**example}
    if needed := [f"--{name}" for name in missing if name not in optional]:
        raise UsageError(
            f"{', '.join(needed)} missing: give them too, or none of"
            f" {', '.join(f'--{name}' for name in example)} for the example"
        )
    found = {name: text for name, text in given.items() if name not in missing}
    several = {name: (text,) if isinstance(text, str) else text for name, text in found.items()}
    for name, texts in several.items():
        if not all(texts):
            raise UsageError(f"--{name} is empty")
    same = [text for text in several["target"] if text in several.get("foil", ())]
    if same:
        raise UsageError(f"--target and --foil are the same: {same[0]!r}")
    return found


def parse_rows(arguments: SimpleNamespace, default: int) -> int:
    """Return the value of --rows, or of its old name --top-k.

    Args:
        default: the value of --rows that was not given.

    Raises:
        UsageError: both were given.
    """
    if arguments.top_k is None:
        rows: int = arguments.rows
        return rows
    if arguments.rows != default:
        raise UsageError("--top-k is the old name of --rows: give one of the two")
    return int(arguments.top_k)


def read_lines(option: str, path: Path) -> dict[int, str]:
    """Return the lines of a text file that are not blank, by line number from 1.

    Args:
        option: named in messages.
        path: the file.

    Raises:
        UsageError: the file cannot be read, is too large, is not UTF-8, or has only blank lines.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
                raise UsageError(f"{option} {path} is neither a file nor a pipe")
            data = file.read(MOST_BYTES + 1)  # a pipe may have no end
        if path.suffix.lower() in TABLES:
            raise UsageError(
                f"{option} {path} is a table, and {option} reads one text a line: save its column"
                " of texts as .txt, without the heading"
            )
        if len(data) > MOST_BYTES:
            raise UsageError(f"{option} {path} has more than {MOST_BYTES // 2**20} MiB")
        # Not splitlines, which also splits at U+2028 and others that a prompt may contain.
        lines = data.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{option} {path} is not UTF-8 text") from None
    found = {
        number: line.removesuffix("\r") for number, line in enumerate(lines, 1) if line.strip()
    }
    if not found:
        raise UsageError(f"{option} {path} is empty")
    return found


@dataclass(frozen=True)
class IndexList:
    """A list of indices as a user writes it: "0,3,5-7"; negative ones count from the end.

    Raises:
        click.BadParameter: the text is not such a list.
    """

    text: str

    def __post_init__(self) -> None:
        part = wrong_part(self.text)
        if part is not None:
            raise click.BadParameter(
                f"{part!r} is neither a number nor a range; write a list like 0,3,5-7 or -1"
            )

    def of(self, what: str, size: int) -> list[int]:
        """Return the indices in [0, size), sorted, each once.

        Args:
            what: what is counted, e.g. "layer"; named in messages.
            size: how many there are.

        Raises:
            UsageError: a range runs backwards, or an index is out of range.
        """
        return indices_of(self.text, what, size, UsageError)


def number_list(
    kind: type, fits: Callable[[Any], bool], what: str, *, none: bool = False, zero: str = ""
) -> Callable[[str], list[float | int | None]]:
    """Return a function that reads "1,0.5": numbers with commas between them, each once.

    Args:
        kind: int or float.
        fits: returns True for a number in the range.
        what: the range in words, for the message of its click.BadParameter.
        none: True if the text "none" may stand for a number; it becomes None.
        zero: what to type in place of 0, which other tools take.
    """

    def read(text: str) -> list[float | int | None]:
        numbers: dict[float | int | None, None] = {}
        for part in map(str.strip, text.split(",")):
            number = None
            try:
                number = None if none and part == NONE else kind(part)
                wrong = number is not None and not fits(number)
            except ValueError:
                wrong = True
            if wrong:
                hint = ""
                if re.fullmatch(r"\d+,\d+", text, re.ASCII):
                    hint = f"; commas separate numbers: write {text.replace(',', '.')}"
                elif zero and number == 0:
                    hint = f": {zero}"
                or_none = f", or {NONE}" * none
                raise click.BadParameter(f"{part!r} is not {what}{or_none}{hint}")
            numbers[number] = None
        return [*numbers]

    return read
