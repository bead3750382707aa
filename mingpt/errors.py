"""Every error that mingpt raises on purpose.

The library raises one of these with a short fact as its message. A command
turns these errors, and OSError, into one line on stderr. Any other exception
keeps its traceback, because it is a bug.
"""


class MinGPTError(Exception):
    """Base of all errors raised on purpose: catch this one at a program's edge."""


class ConfigError(MinGPTError, ValueError):
    """A model configuration, or an argument of the model, out of its range."""


class PatchError(MinGPTError, ValueError):
    """A patch that cannot be applied: nothing recorded, wrong shape, out of range."""


class GenerationError(MinGPTError):
    """A continuation that cannot be made: the logits are not finite, or memory ran out."""


class TokenizerError(MinGPTError, ValueError):
    """Text, ids or tokenizer files that the tokenizer cannot work with."""


class CheckpointError(MinGPTError):
    """A checkpoint that is missing, damaged, or does not fit its configuration."""


class FileError(MinGPTError, OSError):
    """A file that cannot be written."""


class DownloadError(MinGPTError):
    """A file that could not be fetched, or is not the file that was expected."""


class TrainingError(MinGPTError, ValueError):
    """A training run that cannot be made: its text, its settings or its folder."""
