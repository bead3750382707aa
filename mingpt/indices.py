"""Layers and positions as Python counts them: negative numbers from the end."""

from __future__ import annotations


def from_the_end(what: str, number: int, size: int, error: type[Exception]) -> int:
    """`number` in [-size, size) as a number in [0, size).

    Raises:
        error: it is out of range; `what` says what was counted.
    """
    if not -size <= number < size:
        raise error(
            f"{what} {number} is out of range: there are {size}, 0 to {size - 1}"
            f" (or -{size} to -1, from the end)"
        )
    return number % size
