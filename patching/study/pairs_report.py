"""What reading a file of pairs found: columns, rows left out and why, lengths, differences."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patching.prompts import PromptPair
from patching.study.rows import Table, listed, named_columns
from patching.text import escaped, shortened

MOST_COUNTS = 12  # lengths or positions that a line lists
MOST_WORDS = 10  # words that a line lists
MOST_VALUES = 3  # of a column, in a message


@dataclass(frozen=True)
class LeftOut:
    """Rows that are well formed and cannot be used, with one reason."""

    reason: str
    places: tuple[int, ...]  # lines or rows, ascending


@dataclass(frozen=True)
class PairsReport:
    """What was found in a file of pairs, before any forward pass."""

    path: str
    format: str  # "csv", "tsv", "jsonl" or "json"
    unit: str  # what places count: "line" or "row"
    sha256: str  # of the file's bytes, hex
    columns: dict[str, str]  # "clean" and so on -> the column's name
    kept: tuple[str, ...]  # further columns, kept beside the pairs
    rows: int  # rows read
    pairs: int  # rows that are pairs
    left_out: tuple[LeftOut, ...]  # most frequent reason first
    lengths: dict[int, int]  # tokens of a prompt -> pairs
    # Of the tokens that differ; of the subject's, where `columns` names one:
    differing: dict[int, int]  # number of these tokens -> pairs
    positions: dict[int, int]  # position -> pairs that have one there
    spaced: tuple[str, ...]  # words that got a leading space, each once
    decoded: dict[str, list[str]]  # column of ids -> some of them with their tokens
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        table: Table,
        columns: Mapping[str, str],
        kept: Sequence[str],
        pairs: Sequence[PromptPair],
        left_out: Mapping[str, Sequence[int]],
        differing: Sequence[Sequence[int]],
        **more: Any,
    ) -> PairsReport:
        """Count what the pairs of a table are like.

        Args:
            differing: the positions of each pair that differ, or those of its subject.
        """
        reasons = sorted(left_out.items(), key=lambda item: (-len(item[1]), item[0]))
        return cls(
            path=str(table.path),
            format=table.format,
            unit=table.unit,
            sha256=table.sha256,
            columns=dict(columns),
            kept=tuple(kept),
            rows=len(table.rows),
            pairs=len(pairs),
            left_out=tuple(LeftOut(reason, tuple(places)) for reason, places in reasons),
            lengths=_counted(map(len, pairs)),
            differing=_counted(map(len, differing)),
            positions=_counted(position for positions in differing for position in positions),
            **more,
        )

    @property
    def is_uniform(self) -> bool:
        """True if all pairs have the same length and differ at the same positions."""
        return len(self.lengths) == 1 and {*self.positions.values()} == {self.pairs}

    def lines(self) -> list[str]:
        """Return the report as lines of text, safe to print."""
        taken = ", ".join(
            name if name == found else f"{name} from {escaped(found)}"
            for name, found in self.columns.items()
        )
        lines = [f"{self.rows:,} rows read, {self.pairs:,} pairs ({taken})"]
        for one in self.left_out:
            where = listed(one.places, self.unit)
            lines.append(f"  left out: {len(one.places):,}, {one.reason} ({where})")
        lines.append(f"tokens of a prompt: {_shares(self.lengths, self.pairs)}")
        which = "of the subject" if "subject" in self.columns else "that differ"
        if {"corrupt", "subject"} & {*self.columns}:
            lines.append(f"tokens {which}: {_shares(self.differing, self.pairs)}")
            lines.append(f"positions {which}: {_shares(self.positions, self.pairs)}")
        if self.spaced:
            words = ", ".join(escaped(shortened(word, 20)) for word in self.spaced[:MOST_WORDS])
            more = len(self.spaced) - MOST_WORDS
            words += f" and {more} more" if more > 0 else ""
            lines.append(f"answers that got a leading space: {words}")
        for name, shown in self.decoded.items():
            lines.append(f"{escaped(name)} holds token ids: {', '.join(shown)}")
        if self.kept:
            lines.append(f"further columns, kept: {named_columns(self.kept)}")
        return lines + list(self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Return every field in types that JSON has."""
        fields = dataclasses.asdict(self)
        for name in ("lengths", "differing", "positions"):
            fields[name] = {str(key): count for key, count in fields[name].items()}
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> PairsReport:
        """Read what `to_dict` returned."""
        read = dict(fields)
        for name in ("lengths", "differing", "positions"):
            read[name] = {int(key): int(count) for key, count in read[name].items()}
        for name in ("kept", "spaced", "notes"):
            read[name] = tuple(read[name])
        left_out = read["left_out"]
        read["left_out"] = tuple(LeftOut(one["reason"], tuple(one["places"])) for one in left_out)
        return cls(**read)


def _counted(values: Any) -> dict[int, int]:
    return dict(sorted(Counter(values).items()))


def _shares(counts: Mapping[int, int], pairs: int) -> str:
    """Return counts in words: "15 everywhere", or "14 (20 pairs), 15 (80 pairs)"."""
    if len(counts) == 1 and next(iter(counts.values())) == pairs:
        return f"{next(iter(counts))} everywhere"
    if counts and {*counts.values()} == {pairs}:
        return f"{', '.join(map(str, counts))} everywhere"
    shown = [f"{key} ({count:,} pairs)" for key, count in list(counts.items())[:MOST_COUNTS]]
    more = len(counts) - MOST_COUNTS
    return ", ".join(shown + [f"{more} others"] * (more > 0))
