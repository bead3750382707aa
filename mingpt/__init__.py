"""A small GPT-2 that can record its residual stream and be patched.

Example:
    model, tokenizer = mingpt.load("builtin")
    model(tokenizer("The capital of France is"), record=True)
    model.activations.shape, model.last_logits.shape
"""

from __future__ import annotations

from mingpt.lazy import lazy_names

__version__ = "0.1.0"

# Name -> the module it lives in; imported when it is first used.
_HOME = {
    "GPT": "mingpt.model",
    "GPTConfig": "mingpt.config",
    "Patch": "mingpt.sites",
    "SITES": "mingpt.sites",
    "PRESETS": "mingpt.config",
    "BPETokenizer": "mingpt.bpe",
    "load": "mingpt.loading",
    "load_tokenizer": "mingpt.loading",
    "generate": "mingpt.generation",
    "beam_search": "mingpt.beams",
    "Sample": "mingpt.generation",
    "Stop": "mingpt.generation",
    "Decoding": "mingpt.decoding",
    "KVCache": "mingpt.kvcache",
    "MinGPTError": "mingpt.errors",
    "CheckpointError": "mingpt.errors",
    "ConfigError": "mingpt.errors",
    "DownloadError": "mingpt.errors",
    "GenerationError": "mingpt.errors",
    "PatchError": "mingpt.errors",
    "TokenizerError": "mingpt.errors",
}
__all__ = ["__version__", *_HOME]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
