"""Checks of numbers: counts, indices from the end, token ids, finite logits."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from mingpt.errors import ConfigError, GenerationError

if TYPE_CHECKING:
    from torch import Tensor


def check_whole(what: str, value: object, least: int) -> None:
    """Raise ConfigError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{what} must be a whole number of at least {least}, not {value!r}")


def is_real(value: object) -> bool:
    """Return True for a real number, and False for True and False."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_positive(what: str, value: Any) -> None:
    """Raise ConfigError unless `value` is a finite number above 0."""
    if not (is_real(value) and 0 < value < math.inf):
        raise ConfigError(f"{what} must be a number above 0, not {value!r}")


def from_the_end(what: str, number: int, size: int, error: type[Exception]) -> int:
    """Turn an index in [-size, size), negative from the end, into one in [0, size).

    Args:
        what: the name of the axis for the error's message, such as "layer".
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


def check_ids(idx: Tensor, most: int) -> None:
    """Raise ConfigError unless `idx` is token ids (B, T) with 1 <= T <= `most`."""
    if not hasattr(idx, "dim"):
        hint = "tokenizer(text)" if isinstance(idx, str) else "torch.tensor([ids])"
        raise ConfigError(
            f"ids must be an integer tensor (B, T), not {type(idx).__name__} {idx!r:.40}:"
            f" pass {hint}"
        )
    if idx.dim() != 2 or str(idx.dtype) not in ("torch.int64", "torch.int32"):
        hint = ": pass ids[None]" if idx.dim() == 1 else ""
        raise ConfigError(
            f"ids must be an integer tensor (B, T), not {idx.dtype} {tuple(idx.shape)}{hint}"
        )
    B, T = idx.shape
    if B < 1 or not 1 <= T <= most:
        raise ConfigError(
            f"ids are {B} x {T}; the model reads at least one sequence of 1 to {most} tokens"
        )


def widened(x: Tensor) -> Tensor:
    """Return `x` in float32 where it is in half precision; otherwise `x` itself.

    Use it before sums, differences and exponentials of logits.
    """
    import torch  # not at the top: commands check their numbers before PyTorch is imported

    return x if x.dtype == torch.float64 else x.float()


def finite(logits: Tensor) -> Tensor:
    """Return `logits` unchanged, after checking that they are finite.

    Raises:
        GenerationError: a logit is infinite or not a number.
    """
    if not logits.isfinite().all():
        dtype = str(logits.dtype).removeprefix("torch.")
        raise GenerationError(f"the model's logits are not finite in {dtype}")
    return logits
