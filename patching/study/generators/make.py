"""Make pairs of a family, and write them as a file that read_pairs reads."""

from __future__ import annotations

import csv
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingpt.files import replacing
from patching.errors import PairsError, PromptError
from patching.prompts import PromptPair, Tokenizer
from patching.study.answers import Answers
from patching.study.columns import Columns
from patching.study.generators.design import Design, Row
from patching.study.generators.patterns import docstring, greater_than, induction
from patching.study.generators.sentences import (
    agreement,
    capitals,
    indirect_object,
    opposites,
    pronoun,
    surname,
)
from patching.study.roles import parse_marks, roles_of_marks
from patching.study.row_errors import UnusableRowError
from patching.study.rows import DELIMITERS, FORMATS
from patching.study.rows import Row as FileRow


@dataclass(frozen=True)
class Family:
    """A family of pairs."""

    name: str
    build: Callable[..., Design]  # from a tokenizer and the family's settings
    in_grammar: bool  # the shipped model was trained on its sentences

    @property
    def description(self) -> str:
        """What is asked of the model, in one line."""
        return (inspect.getdoc(self.build) or "").partition("\n")[0]

    @property
    def settings(self) -> dict[str, Any]:
        """The family's settings with their defaults."""
        parameters = inspect.signature(self.build).parameters.values()
        return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


FAMILIES = {
    family.name: family
    for family in (
        Family("ioi", indirect_object, True),
        Family("agreement", agreement, True),
        Family("pronoun", pronoun, True),
        Family("capitals", capitals, True),
        Family("surname", surname, True),
        Family("opposites", opposites, True),
        Family("greater-than", greater_than, False),
        Family("induction", induction, False),
        Family("docstring", docstring, False),
    )
}
COLUMNS = ("clean", "corrupt", "target", "foil", "template", "roles")


@dataclass(frozen=True)
class Made:
    """Pairs of a family."""

    family: str
    rows: tuple[Row, ...]  # column -> value; answers are a word, or a list of words
    distinct: int  # how many distinct pairs the family has with this tokenizer


def make_pairs(
    family: str, tokenizer: Tokenizer, n: int, *, seed: int = 0, **settings: Any
) -> Made:
    """Return n different pairs of a family, all words of which are one token where they vary.

    Each row has the columns clean, corrupt, target, foil, template and roles ("IO:2 S1:4").

    Args:
        family: a name in FAMILIES.
        seed: the same seed, family and tokenizer give the same pairs.
        settings: of the family, as FAMILIES[family].settings lists them.

    Raises:
        PairsError: no such family or setting; a tokenizer that cuts the family's words;
            fewer than n distinct pairs.
    """
    if family not in FAMILIES:
        raise PairsError(f"no family {family!r}; there are {', '.join(FAMILIES)}")
    known = FAMILIES[family].settings
    other = next((name for name in settings if name not in known), None)
    if other is not None:
        raise PairsError(f"{family} has no setting {other!r}; it has {', '.join(known) or 'none'}")
    if not (type(n) is int and n >= 1):
        raise PairsError(f"a number of pairs is 1 or more, not {n!r}")
    try:
        design = FAMILIES[family].build(tokenizer, **settings)
        rows = design.sample(n, f"{family} {seed}")
    except PairsError as error:
        raise PairsError(f"{family}: {error}") from None
    return Made(family, tuple(_finished(tokenizer, family, row) for row in rows), design.count)


def _finished(tokenizer: Tokenizer, family: str, row: Row) -> Row:
    """Return a row with its marks turned into positions, after checking that it is a pair.

    Raises:
        PairsError: the prompts have unequal lengths, or an answer is several tokens.
    """
    clean, spans = parse_marks(row["clean"])
    corrupt, _ = parse_marks(row["corrupt"])
    roles = roles_of_marks(tokenizer, clean, spans)
    written = row | {"clean": clean, "corrupt": corrupt}
    columns = Columns("clean", "corrupt", "target", "foil")
    try:
        target, foil = Answers(tokenizer).ids(columns, FileRow(0, written), clean)
        answers = ([f"id:{number}" for number in ids] for ids in (target, foil))
        pair = PromptPair.from_text(tokenizer, clean, corrupt, *answers)
    except (UnusableRowError, PromptError) as error:
        raise PairsError(f"{family}: the tokenizer cuts {clean!r:.200}: {error}") from None
    if len(pair) - 1 not in {position for at in roles.values() for position in at}:
        roles["end"] = (len(pair) - 1,)
    shown = " ".join(f"{role}:{position}" for role, at in roles.items() for position in at)
    return {name: (written | {"roles": shown})[name] for name in COLUMNS}


def write_rows(path: str | Path, rows: Sequence[Row]) -> Path:
    """Write rows as CSV, TSV, JSONL or JSON, by the path's suffix; return the path.

    Raises:
        PairsError: another suffix, or no rows.
        FileError: the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS or not rows:
        raise PairsError(
            f"{path}: a file of pairs ends in {', '.join(FORMATS)}" if rows else "no rows to write"
        )
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        if suffix in DELIMITERS:
            writer = csv.writer(file, delimiter=DELIMITERS[suffix], lineterminator="\n")
            writer.writerow(rows[0])
            for row in rows:
                cells = (json.dumps(v) if isinstance(v, list) else v for v in row.values())
                writer.writerow(cells)
        elif suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            file.write(json.dumps(list(rows), ensure_ascii=False, indent=1) + "\n")
    return path
