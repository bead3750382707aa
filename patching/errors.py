"""The errors of patching. All of them are a mingpt.MinGPTError."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mingpt.errors import MinGPTError


class PromptError(MinGPTError, ValueError):
    """Prompts or answer tokens that an experiment cannot use."""


class SweepError(MinGPTError, ValueError):
    """A sweep that does not fit its model, or whose metric is undefined."""


class PairSweepError(SweepError):
    """A SweepError of one of several pairs, with the pair's number, from 0."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, reason)
        self.number, self.reason = number, reason

    def __str__(self) -> str:
        return f"pair {self.number} (from 0): {self.reason}"


class PathError(MinGPTError, ValueError):
    """Paths that a model does not have, or a map of paths that cannot be computed."""


class ResultError(MinGPTError):
    """A saved result that cannot be read."""


class ExplanationError(MinGPTError, ValueError):
    """A prediction that cannot be explained, or whose terms do not add up."""


class VerificationError(MinGPTError, ValueError):
    """A verification that cannot be run."""


class PairsError(MinGPTError, ValueError):
    """A file of prompt pairs that cannot be read, or a family that cannot be made."""


class StudyError(MinGPTError, ValueError):
    """A study that cannot be run or read, or statistics of too few pairs."""


class EmbeddingsError(MinGPTError, ValueError):
    """A look at embeddings that cannot be taken: too many words, a number out of its range."""


class CountError(MinGPTError, ValueError):
    """A pattern that cannot be counted."""


class DrawingError(MinGPTError, ValueError):
    """A figure that cannot be drawn as asked."""


class LiveError(MinGPTError, ValueError):
    """A request of the live page that cannot be met."""


def check_result(value: object, kind: type, error: type[MinGPTError]) -> None:
    """Raise `error` unless `value` is one result of that class, such as SweepResult.

    Args:
        error: the type of the error.
    """
    if not isinstance(value, kind):
        hint = "; pass one of its items" if isinstance(value, list | tuple) else ""
        raise error(f"expected {kind.__name__}, not {type(value).__name__}{hint}")


@contextlib.contextmanager
def named(number: int, count: int) -> Iterator[None]:
    """Put the pair's number before the message of a SweepError of the block.

    A single pair gets no number.

    Args:
        number: the number of the pair that the block works on, from 0.
        count: how many pairs there are.
    """
    try:
        yield
    except SweepError as error:
        if count == 1:
            raise
        raise PairSweepError(number, str(error)) from None
