"""Errors of the experiment; mingpt.MinGPTError is the base of these too."""

from mingpt.errors import MinGPTError


class PromptError(MinGPTError, ValueError):
    """Prompts or answer tokens that no patching experiment can be made of."""


class SweepError(MinGPTError, ValueError):
    """A sweep that does not fit its model, or whose metric is undefined."""


class ResultError(MinGPTError):
    """A saved result that cannot be read."""


class DrawingError(MinGPTError, ValueError):
    """A figure that cannot be drawn as asked."""
