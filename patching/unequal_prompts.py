"""Say why two prompts have different numbers of tokens: which are too many, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from patching.alignment import align
from patching.text import SPACE, counted, shortened, visible

MOST_SHOWN = 8  # tokens of a prompt in the message
LONGEST_SHOWN = 40  # characters of a word in the message


def unequal(clean: Sequence[int], corrupt: Sequence[int], text_of: Callable[[int], str]) -> str:
    """Return a message about two prompts of different lengths.

    It names the first place where one prompt has more tokens, and the likely cause.

    Args:
        clean, corrupt: ids of the two prompts.
        text_of: returns a token's text.
    """
    head = (
        f"the prompts must have the same number of tokens, but clean has {len(clean)} and corrupt"
        f" {len(corrupt)}"
    )
    for differs, group in groupby(align(clean, corrupt), key=lambda row: row.differs):
        rows = list(group)
        a = [row.a for row in rows if row.a is not None]
        b = [row.b for row in rows if row.b is not None]
        if differs and len(a) != len(b):
            break
    sides = [
        ("clean", [text_of(clean[at]) for at in a], a, len(clean)),
        ("corrupt", [text_of(corrupt[at]) for at in b], b, len(corrupt)),
    ]
    longer, shorter = sorted(sides, key=lambda side: len(side[1]), reverse=True)
    name, tokens, places, length = longer
    where = f"{name} has {_shown(tokens)} at position {places[0]}"
    if len(places) > 1:
        where = f"{name} has {_shown(tokens)} at positions {places[0]} to {places[-1]}"
    where += f", {shorter[0]} has {_shown(shorter[1]) if shorter[1] else 'nothing there'}"
    return f"{head}: {where}. {_cause(tokens, shorter[1], ends=places[-1] == length - 1)}"


def _cause(longer: Sequence[str], shorter: Sequence[str], *, ends: bool) -> str:
    """Return the likely cause of the surplus, and what to do.

    Args:
        longer, shorter: the tokens of both prompts where they differ.
        ends: the longer prompt ends there.
    """
    if not longer[-1].strip() and ends:
        return "A space at the end of a prompt is a token of its own: remove it"
    if any(not token.strip() for token in longer):
        return "A second space is a token of its own: remove it"
    if shorter:
        word, other = (
            shortened(visible("".join(side).strip()), LONGEST_SHOWN) for side in (longer, shorter)
        )
        return (
            f"{word} is {counted(len(longer), 'token')}, {other} {len(shorter)}: choose words of"
            " equal length (mingpt-tokens --suggest)"
        )
    return "Remove it there, or add as many tokens to the other prompt"


def _shown(tokens: Sequence[str]) -> str:
    """Return tokens with bars between them, the spaces visible; of many, the first ones."""
    shown = "|".join(visible(token).replace(" ", SPACE) for token in tokens[:MOST_SHOWN])
    return shown + "|\u2026" * (len(tokens) > MOST_SHOWN)
