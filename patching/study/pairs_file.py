"""Read pairs of prompts from a file, and say what was left out and why.

A row that is well formed but cannot be used is left out and counted. A malformed row ends the
reading: the file is then not what its reader believes it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from mingpt.errors import TokenizerError
from patching.errors import PairsError
from patching.prompts import PromptPair, Tokenizer
from patching.study.answers import Answers, check_indices
from patching.study.columns import Columns, choose_columns
from patching.study.pairs_report import PairsReport
from patching.study.roles import (
    MARKS,
    Roles,
    check_disjoint,
    parse_marks,
    roles_of_cell,
    roles_of_marks,
)
from patching.study.row_errors import MalformedCellError, UnusableRowError
from patching.study.rows import Row, Table, listed, named_columns, read_rows
from patching.study.subjects import Subjects
from patching.text import squeezed


@dataclass(frozen=True)
class Pairs(Sequence[PromptPair]):
    """Pairs of prompts from a file, with what the file says of each."""

    pairs: tuple[PromptPair, ...]
    places: tuple[int, ...]  # each pair's line or row in the file
    columns: dict[str, tuple[Any, ...]]  # further columns: name -> a value for each pair
    roles: tuple[Roles, ...] | None  # each pair's roles, where they were read
    report: PairsReport | None = None  # of the whole file
    # The positions of each pair's subject, where they were read; the pairs are then clean prompts.
    subjects: tuple[tuple[int, ...], ...] | None = None

    @overload
    def __getitem__(self, index: int) -> PromptPair: ...

    @overload
    def __getitem__(self, index: slice) -> Pairs: ...

    def __getitem__(self, index: int | slice) -> PromptPair | Pairs:
        if not isinstance(index, slice):
            return self.pairs[index]
        return Pairs(  # without the report, which is of other pairs
            self.pairs[index],
            self.places[index],
            {name: values[index] for name, values in self.columns.items()},
            None if self.roles is None else self.roles[index],
            subjects=None if self.subjects is None else self.subjects[index],
        )

    def __len__(self) -> int:
        return len(self.pairs)


def read_pairs(
    tokenizer: Tokenizer,
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    roles: str | None = None,
    subject: str | None = None,
    with_corrupt: bool = True,
    most_tokens: int | None = None,
    strict: bool = False,
) -> tuple[Pairs, PairsReport]:
    """Read pairs of prompts from a CSV, TSV, JSONL or JSON file.

    Columns go by their names (columns.py lists them). An answer is a word, a list of
    words, or, in a column whose name ends in `_idx`, a token's id. A word gets a
    leading space; digits after a prompt that ends in a digit go on with that number.

    Args:
        columns: "clean", "corrupt", "target" or "foil" -> the name of its column.
        roles: "marks" to read marks such as {IO:Mary} in the prompts, or a column that
            gives each role's positions, as in "IO:2 S1:4".
        subject: of noise: a column of words, or a role. No corrupt prompts are read then.
        with_corrupt: False to read no corrupt prompts, for ablations of the clean runs.
        most_tokens: the model's block_size; longer prompts are left out.
        strict: raise an error where a row would be left out.

    Returns:
        The pairs in the order of the file, and a report of what was found.

    Raises:
        PairsError: a file that cannot be read as rows, or misses a column; a cell of
            the wrong kind; ids of another vocabulary; no row that can be used; with
            `strict`, a row that cannot be used.
    """
    table = read_rows(path)
    chosen = choose_columns(table, columns, with_corrupt=with_corrupt and subject is None)
    if roles not in (None, MARKS) and not _has_roles(table, str(roles)):
        raise PairsError(
            f"{table.path} has no column {roles!r}; found {named_columns(table.columns)}"
        )
    subjects = None if subject is None else Subjects.of(table, subject, roles)
    decoded = check_indices(tokenizer, table, chosen)
    reader = _Reader(tokenizer, chosen, roles, subjects, most_tokens)
    pairs = reader.read(table)
    kept = reader.further(table)
    report = PairsReport.of(
        table,
        chosen.to_dict() | ({"subject": subject} if subject else {}),
        kept,
        pairs,
        reader.left_out,
        differing=reader.subjects_of_pairs if subjects else [pair.differing for pair in pairs],
        spaced=tuple(reader.answers.spaced),
        decoded=decoded,
        notes=tuple(_notes(reader, pairs)),
    )
    if strict or not pairs:
        _check_used(report)
    return reader.with_columns(table, pairs, kept, report), report


@dataclass
class _Reader:
    """Turns the rows of a table into pairs, and collects what is left out."""

    tokenizer: Tokenizer
    columns: Columns
    roles: str | None
    subjects: Subjects | None
    most_tokens: int | None
    answers: Answers = field(init=False)
    left_out: dict[str, list[int]] = field(default_factory=dict)  # reason -> places
    numbers: list[int] = field(default_factory=list)  # of the rows that are pairs, from 0
    roles_of_pairs: list[Roles] = field(default_factory=list)
    subjects_of_pairs: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answers = Answers(self.tokenizer)

    def read(self, table: Table) -> list[PromptPair]:
        """Return the pairs of all rows that can be used."""
        pairs: list[PromptPair] = []
        seen = set()
        for number, row in enumerate(table.rows):
            try:
                pair, roles = self._pair(row)
                subject = None
                if self.subjects is not None:
                    subject = self.subjects.positions(self.tokenizer, row, pair.clean_text, roles)
                key = (pair.clean_ids, pair.corrupt_ids, pair.target_ids, pair.foil_ids, subject)
                if key in seen:
                    raise UnusableRowError("the same pair as an earlier row")
            except UnusableRowError as reason:
                self.left_out.setdefault(str(reason), []).append(row.place)
                continue
            except MalformedCellError as error:
                raise PairsError(f"{table.path} {table.unit} {row.place}: {error}") from None
            seen.add(key)
            pairs.append(pair)
            self.numbers.append(number)
            self.roles_of_pairs.append(roles)
            if subject is not None:
                self.subjects_of_pairs.append(subject)
        return pairs

    def with_columns(
        self,
        table: Table,
        pairs: Sequence[PromptPair],
        kept: Sequence[str],
        report: PairsReport,
    ) -> Pairs:
        """Return the pairs with their places, roles, the columns `kept`, and the report."""
        rows = [table.rows[number] for number in self.numbers]
        return Pairs(
            pairs=tuple(pairs),
            places=tuple(row.place for row in rows),
            columns={name: tuple(row.cells.get(name) for row in rows) for name in kept},
            roles=tuple(self.roles_of_pairs) if self.roles else None,
            report=report,
            subjects=None if self.subjects is None else tuple(self.subjects_of_pairs),
        )

    def further(self, table: Table) -> list[str]:
        """Return the columns that make neither pairs nor roles."""
        taken = {*self.columns.to_dict().values()}
        if self.subjects is not None and self.subjects.column is not None:
            taken.add(self.subjects.column)
        of_roles = f"{self.roles}."  # a JSON object of roles became several columns
        return [
            name
            for name in table.columns
            if name not in taken and not f"{name}.".startswith(of_roles)
        ]

    def _pair(self, row: Row) -> tuple[PromptPair, Roles]:
        texts, marks = [], []
        for what in ("clean", "corrupt"):
            column = getattr(self.columns, what)
            if column is None:
                continue
            text = row.cells.get(column)
            if not isinstance(text, str):
                raise MalformedCellError(f"the {what} prompt is a text, not {text!r:.40}")
            plain, spans = parse_marks(text) if self.roles == MARKS else (text, {})
            texts.append(plain)
            marks.append(spans)
        clean, corrupt = texts[0], texts[1] if len(texts) > 1 else None
        self._check_prompts(texts)
        target, foil = self.answers.ids(self.columns, row, clean)
        names = [[f"id:{number}" for number in ids] for ids in (target, foil)]
        pair = PromptPair.from_text(self.tokenizer, clean, corrupt, names[0], names[1])
        return pair, self._roles(row, pair, marks)

    def _check_prompts(self, texts: Sequence[str]) -> None:
        for text in texts:
            if not text:
                raise UnusableRowError("an empty prompt")
            if self.most_tokens and self.tokenizer.fewest_tokens(text) > self.most_tokens:
                raise UnusableRowError(
                    f"longer than the {self.most_tokens} tokens that the model reads"
                )
        try:
            ids = [self.tokenizer.encode(text) for text in texts]
        except TokenizerError:
            raise UnusableRowError("a prompt that is not valid Unicode") from None
        if len(ids) > 1 and ids[0] == ids[1]:
            raise UnusableRowError("the same prompt twice")
        if len(ids[0]) != len(ids[-1]):
            raise UnusableRowError("prompts of unequal lengths")
        if self.most_tokens and len(ids[0]) > self.most_tokens:
            raise UnusableRowError(
                f"longer than the {self.most_tokens} tokens that the model reads"
            )

    def _roles(self, row: Row, pair: PromptPair, marks: Sequence[Mapping[str, Any]]) -> Roles:
        """Return the positions of each role; of marks, the clean prompt's."""
        if self.roles is None:
            return {}
        if self.roles == MARKS:
            texts = (pair.clean_text, pair.corrupt_text)[: len(marks)]
            found, *others = (
                roles_of_marks(self.tokenizer, text, spans)
                for text, spans in zip(texts, marks, strict=True)
            )
            if any(other and other != found for other in others):
                raise UnusableRowError("other tokens are marked in the corrupt prompt")
        else:
            cell = row.cells.get(self.roles)
            if self.roles not in row.cells:
                before = f"{self.roles}."
                inner = {k: v for k, v in row.cells.items() if k.startswith(before)}
                cell = {name.removeprefix(before): value for name, value in inner.items()}
            found = roles_of_cell(cell, len(pair))
        if not found:
            raise UnusableRowError("no role")
        check_disjoint(found)
        return found


def _has_roles(table: Table, name: str) -> bool:
    return any(f"{column}.".startswith(f"{name}.") for column in table.columns)


def _check_used(report: PairsReport) -> None:
    """Raise PairsError if any row was left out."""
    if not report.left_out:
        return
    why = "; ".join(f"{one.reason} ({listed(one.places, report.unit)})" for one in report.left_out)
    what = "no row can be used"
    if report.pairs:
        what = f"{report.rows - report.pairs} of {report.rows} rows cannot be used"
    raise PairsError(f"{report.path}: {what}: {why}")


def _notes(reader: _Reader, pairs: Sequence[PromptPair]) -> Iterator[str]:
    """Yield what a reader of the numbers should know of the pairs."""
    if reader.columns.years:
        yield "answers: target, every later year of the century; foil, the others"
    elif reader.columns.foil is None:
        yield "no column for the foil: metrics that compare target and foil cannot be read"
    if reader.answers.joined:
        yield "answers of digits go on with the number that the prompt ends in: no space added"
    ending = next(
        (p for p in pairs for t in (p.clean_text, p.corrupt_text) if t != t.rstrip()), None
    )
    if ending is not None:
        yield (
            "some prompts end in white space, where GPT-2 expects the next word's own space:"
            f" {squeezed(ending.clean_text, 60)!r}"
        )
