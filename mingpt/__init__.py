"""A small GPT-2 that can record its residual stream and be patched.

Example:
    model, tokenizer = mingpt.load("builtin")
    model(tokenizer("The capital of France is"), record=True)
    model.activations.shape, model.last_logits.shape
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Name -> the module it lives in. Imported when first used, because PyTorch takes
# a second: a command's --help and a mistyped option should not wait for it.
_HOME = {
    "GPT": "mingpt.model",
    "GPTConfig": "mingpt.config",
    "PRESETS": "mingpt.config",
    "BPETokenizer": "mingpt.bpe",
    "load": "mingpt.loading",
    "MinGPTError": "mingpt.errors",
    "CheckpointError": "mingpt.errors",
    "ConfigError": "mingpt.errors",
    "DownloadError": "mingpt.errors",
    "PatchError": "mingpt.errors",
    "TokenizerError": "mingpt.errors",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
