"""Whole numbers: counts, and layers and positions as Python counts them."""

from __future__ import annotations

from numbers import Integral

from mingpt.errors import ConfigError


def check_whole(what: str, value: object, least: int) -> None:
    """Raises ConfigError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{what} must be a whole number of at least {least}, not {value!r}")


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
