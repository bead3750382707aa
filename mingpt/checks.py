"""Checks of numbers: counts, indices from the end, logits that must be finite."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

from mingpt.errors import ConfigError, GenerationError

if TYPE_CHECKING:
    from torch import Tensor


def check_whole(what: str, value: object, least: int) -> None:
    """Raise ConfigError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{what} must be a whole number of at least {least}, not {value!r}")


def from_the_end(what: str, number: int, size: int, error: type[Exception]) -> int:
    """Return `number` in [-size, size), counted as Python counts, as a number in [0, size).

    Args:
        what: names what is counted, in the error's message.
        error: the type of the error.

    Raises:
        error: `number` is out of range.
    """
    if not -size <= number < size:
        raise error(
            f"{what} {number} is out of range: there are {size}, 0 to {size - 1}"
            f" (or -{size} to -1, from the end)"
        )
    return number % size


def widened(x: Tensor) -> Tensor:
    """Return `x` in float32 where it is in half precision; otherwise `x` itself.

    Sums, differences and exponentials of logits are taken of the widened ones.
    """
    import torch  # not at the top: commands check their numbers before PyTorch is imported

    return x if x.dtype == torch.float64 else x.float()


def finite(logits: Tensor) -> Tensor:
    """Return `logits` once they are known to be finite.

    Raises:
        GenerationError: a logit is infinite or not a number.
    """
    if not logits.isfinite().all():
        dtype = str(logits.dtype).removeprefix("torch.")
        raise GenerationError(f"the model's logits are not finite in {dtype}")
    return logits
