"""Read lists of indices as a user writes them: "0,3,5-7"; negative ones count from the end."""

from __future__ import annotations

import re

from mingpt.checks import from_the_end
from mingpt.errors import MinGPTError


def wrong_part(text: str) -> str | None:
    """Return the first part of a list that is neither a number nor a range; None if all are."""
    return next((part for part in text.split(",") if _ends(part) is None), None)


def indices_of(text: str, what: str, size: int, error: type[MinGPTError]) -> list[int]:
    """Return the indices in [0, size) that a list names, sorted, each once.

    Args:
        text: a list without a wrong part.
        what: what is counted, e.g. "layer"; named in messages.
        size: how many there are.
        error: the type of the error.

    Raises:
        `error`: a range runs backwards, or an index is out of range.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        ends = [from_the_end(what, one, size, error) for one in _ends(part) or ()]
        first, last = ends[0], ends[-1]
        if first > last:
            raise error(f"{what}s {text!r}: the range {part!r} runs backwards")
        chosen.update(range(first, last + 1))
    return sorted(chosen)


def _ends(part: str) -> list[int] | None:
    """Return a number, or both ends of a range; None if `part` is neither."""
    match = re.fullmatch(r"\s*(-?\d{1,9})(?:-(-?\d{1,9}))?\s*", part, re.ASCII)
    return None if match is None else [int(one) for one in match.groups() if one is not None]
