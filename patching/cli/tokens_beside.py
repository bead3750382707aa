"""The tokens of one text by several tokenizers, side by side; ids read with other vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from patching.cli.common.tables import table, token_cell
from patching.text import counted, escaped, shortened

if TYPE_CHECKING:
    from patching.cli.common.models import LoadedTokenizer
    from patching.other_tokenizers import OtherTokenizer

NOT_THERE = "(none)"  # for an id that a vocabulary does not have
MOST_NAME = 24  # characters of a tokenizer's name over its column


@dataclass(frozen=True, eq=False)
class Column:
    """One tokenizer's tokens of a text."""

    name: str
    kind: str
    size: int  # tokens of the vocabulary
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    unknown: tuple[bool, ...]  # the token stands for what the vocabulary cannot spell
    token_of: Callable[[int], str | None]  # an id -> its token, None if there is none

    def to_dict(self) -> dict[str, object]:
        """Return the column in types that JSON has."""
        return {
            "name": self.name,
            "kind": self.kind,
            "ids": list(self.ids),
            "tokens": list(self.tokens),
            "unknown": list(self.unknown),
        }


def side_by_side(
    texts: Sequence[str], models: Sequence[LoadedTokenizer], others: Sequence[OtherTokenizer]
) -> list[list[Column]]:
    """Return for each text the tokens by each tokenizer, those of the models first.

    Raises:
        TokenizerError: a tokenizer cannot cut a text.
    """
    return [
        [_of_model(model, text) for model in models] + [_of_other(one, text) for one in others]
        for text in texts
    ]


def _of_model(loaded: LoadedTokenizer, text: str) -> Column:
    tokenizer = loaded.tokenizer
    ids = tuple(tokenizer.encode(text))
    known = {*tokenizer.vocab.values()}

    def token_of(number: int) -> str | None:
        return tokenizer.token(number) if number in known else None

    tokens = tuple(map(tokenizer.token, ids))
    size = len(tokenizer.vocab)
    return Column(
        loaded.name, "byte-level BPE", size, ids, tokens, (False,) * len(ids), token_of
    )  # fmt: skip


def _of_other(other: OtherTokenizer, text: str) -> Column:
    found = other.encode(text)
    return Column(
        other.name,
        other.kind,
        other.size,
        tuple(one.id for one in found),
        tuple(one.token for one in found),
        tuple(one.is_unknown for one in found),
        other.token,
    )


def heading(text: str, counts: Mapping[str, int]) -> str:
    """Return a line with a text and each tokenizer's number of tokens."""
    said = ", ".join(f"{escaped(name)} {count}" for name, count in counts.items())
    return f"side by side, tokens by {said}: {escaped(shortened(text, 80))}"


def beside_table(columns: Sequence[Column]) -> str:
    """Return the tokens by position, a pair of columns for each tokenizer; a star is unknown."""
    rows: list[Sequence[str]] = [
        ["", *chain.from_iterable((_name(one), "") for one in columns)],
        ["", *chain.from_iterable((f"{one.kind}, {one.size:,}", "") for one in columns)],
        ["pos", *("id", "token") * len(columns)],
    ]
    cells = [
        [
            (str(number), token_cell(token) + " *" * unknown)
            for number, token, unknown in zip(one.ids, one.tokens, one.unknown, strict=True)
        ]
        for one in columns
    ]
    for position, row in enumerate(zip_longest(*cells, fillvalue=("", ""))):
        rows.append([str(position), *chain.from_iterable(row)])
    return table(rows, right=(0,))


def swapped_line(column: Column, other: Column) -> str:
    """Return a line that says how many of a tokenizer's ids another vocabulary has."""
    there = sum(other.token_of(number) is not None for number in column.ids)
    same = sum(
        other.token_of(number) == token
        for number, token in zip(column.ids, column.tokens, strict=True)
    )
    return (
        f"{counted(len(column.ids), 'id')} of {escaped(column.name)} read with the vocabulary of"
        f" {escaped(other.name)}: {there} there, {same} the same token"
    )


def swapped_table(column: Column, other: Column) -> str:
    """Return a tokenizer's ids with its own token, and the other vocabulary's."""
    rows = [("id", _name(column), _name(other))]
    for number, token in zip(column.ids, column.tokens, strict=True):
        read = other.token_of(number)
        rows.append(
            (str(number), token_cell(token), NOT_THERE if read is None else token_cell(read))
        )
    return table(rows, right=(0,))


def _name(column: Column) -> str:
    """Return a tokenizer's name; of a long one, which is a path, the end."""
    name = escaped(column.name)
    return name if len(name) <= MOST_NAME else "\u2026" + name[1 - MOST_NAME :]
