"""Activation patching on mingpt's GPT: prompt pairs, sweeps, results, heatmaps.

Example:
    model, tokenizer = mingpt.load("builtin")
    pair = PromptPair.from_text(tokenizer, clean, corrupt, target="Jones", foil="Smith")
    result = patch_sweep(model, pair)
    heatmap(result, "figures/michelle.png")
"""

from __future__ import annotations

import importlib

# As in mingpt/__init__.py: nothing is imported before it is used.
_HOME = {
    "PromptPair": "patching.prompts",
    "answer_id": "patching.prompts",
    "METRICS": "patching.metrics",
    "patch_sweep": "patching.sweep",
    "SweepResult": "patching.result",
    "heatmap": "patching.plot",
    "PromptError": "patching.errors",
    "SweepError": "patching.errors",
    "ResultError": "patching.errors",
    "DrawingError": "patching.errors",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
