"""Errors of the experiment; mingpt.MinGPTError is the base of these too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mingpt.errors import MinGPTError


class PromptError(MinGPTError, ValueError):
    """Prompts or answer tokens that no patching experiment can be made of."""


class SweepError(MinGPTError, ValueError):
    """A sweep that does not fit its model, or whose metric is undefined."""


class ResultError(MinGPTError):
    """A saved result that cannot be read."""


class ExplanationError(MinGPTError, ValueError):
    """A prediction that cannot be explained, or whose terms do not add up."""


class CountError(MinGPTError, ValueError):
    """A pattern that cannot be counted."""


class DrawingError(MinGPTError, ValueError):
    """A figure that cannot be drawn as asked."""


@contextlib.contextmanager
def named(number: int, count: int) -> Iterator[None]:
    """Let a SweepError say which of several pairs it is about, counted from 0."""
    try:
        yield
    except SweepError as error:
        if count == 1:
            raise
        raise SweepError(f"pair {number} (from 0): {error}") from None
