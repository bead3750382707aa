"""Pairs as a product of choices, so that they can be counted, and drawn without repeats."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from mingpt.errors import TokenizerError
from patching.errors import PairsError
from patching.prompts import Tokenizer

Row = dict[str, Any]  # column -> value; the prompts may hold marks such as {IO:Mary}


@dataclass(frozen=True)
class Draw:
    """An ordered draw of different options, one for each name."""

    names: tuple[str, ...]
    options: Sequence[Any]

    @property
    def count(self) -> int:
        """The number of draws."""
        return math.perm(len(self.options), len(self.names))

    def at(self, index: int) -> dict[str, Any]:
        """Return draw number `index`, from 0.

        Example:
            Draw(("a", "b"), "xyz").at(3)  # {"a": "y", "b": "z"}
        """
        left, drawn = list(range(len(self.options))), {}
        for taken, name in enumerate(self.names):
            rest = math.perm(len(left) - 1, len(self.names) - taken - 1)
            place, index = divmod(index, rest)
            drawn[name] = self.options[left.pop(place)]
        return drawn


@dataclass(frozen=True)
class Design:
    """All pairs of a family: one for each combination of its draws."""

    draws: tuple[Draw, ...]
    row: Callable[[Mapping[str, Any]], Row]  # from the drawn words to the pair's columns

    @property
    def count(self) -> int:
        """The number of distinct pairs."""
        return math.prod(draw.count for draw in self.draws)

    def at(self, index: int) -> Row:
        """Return pair number `index`, from 0."""
        drawn: dict[str, Any] = {}
        for draw in self.draws:
            index, place = divmod(index, draw.count)
            drawn |= draw.at(place)
        return self.row(drawn)

    def sample(self, n: int, seed: str) -> list[Row]:
        """Return n different pairs in a random order.

        Raises:
            PairsError: there are fewer than n.
        """
        if n > self.count:
            raise PairsError(f"there are {self.count:,} distinct pairs, fewer than {n:,}")
        random = Random(seed)
        if 2 * n > self.count:
            return [self.at(index) for index in random.sample(range(self.count), n)]
        chosen = dict[int, None]()  # in the order drawn
        while len(chosen) < n:  # random.sample takes no range of more than 2**63
            chosen[random.randrange(self.count)] = None
        return [self.at(index) for index in chosen]


def is_token(tokenizer: Tokenizer, text: str) -> bool:
    """Return True if a text is one token, spelt as it is."""
    try:
        return len(tokenizer.encode(text)) == 1
    except TokenizerError:
        return False


def single(
    tokenizer: Tokenizer, what: str, words: Sequence[str], *, least: int = 2, first: bool = False
) -> tuple[str, ...]:
    """Return the words that are one token after a space.

    Args:
        what: what the words are, for the message.
        least: how many the family needs.
        first: they begin a prompt too, so they must be one token without a space as well.

    Raises:
        PairsError: fewer than `least` are.
    """
    kept = tuple(
        word
        for word in words
        if is_token(tokenizer, " " + word) and (not first or is_token(tokenizer, word))
    )
    check_enough(what, len(kept), len(words), least)
    return kept


def check_enough(what: str, kept: int, words: int, least: int) -> None:
    """Raise PairsError unless at least `least` of the `words` are one token each."""
    if kept < least:
        raise PairsError(
            f"only {kept} of {words} {what} are one token each in this tokenizer;"
            f" at least {least} are needed"
        )


def one_of(frames: Sequence[str], number: int | None) -> Sequence[tuple[int, str]]:
    """Return numbered frames: all of them, or the one with a number, from 0.

    Raises:
        PairsError: there is no frame of that number.
    """
    numbered = list(enumerate(frames))
    if number is None:
        return numbered
    if not (type(number) is int and 0 <= number < len(numbered)):
        raise PairsError(f"there are templates 0 to {len(numbered) - 1}, not {number!r}")
    return [numbered[number]]
