"""Pairs for the tests of studies."""

import random

from helpers import last

from patching import PromptPair
from patching.study.pairs_file import Pairs


def some_pairs(count: int, lengths=(6,), at=2, seed: int = 0) -> list[PromptPair]:
    """Return pairs of random tokens for make_model(); they differ at one position."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        clean = [draw.randrange(30) for _ in range(lengths[number % len(lengths)])]
        corrupt = [*clean[:at], (clean[at] + 1) % 30, *clean[at + 1 :]]
        pairs.append(PromptPair.from_ids(clean, corrupt, 30 + number % 5, 35 + number % 5))
    return pairs


def answered(model, pairs) -> list[PromptPair]:
    """Return the pairs with answers that the model tells apart: the gap has one sign."""
    found = []
    for pair in pairs:
        apart = last(model, pair.clean_ids) - last(model, pair.corrupt_ids)
        ids = int(apart.argmax()), int(apart.argmin())
        found.append(PromptPair.from_ids(pair.clean_ids, pair.corrupt_ids, *ids))
    return found


def with_roles(pairs, roles) -> Pairs:
    return Pairs(tuple(pairs), tuple(range(len(pairs))), {}, tuple(roles))
