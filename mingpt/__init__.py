"""A small GPT-2 that can record its residual stream and be patched.

Example:
    model, tokenizer = mingpt.load("builtin")
    model(tokenizer("The capital of France is"), record=True)
    model.activations.shape, model.last_logits.shape
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mingpt.lazy import lazy_names

if TYPE_CHECKING:  # the same names as _HOME's, for editors and type checkers
    from mingpt.beams import beam_search as beam_search
    from mingpt.bpe import BPETokenizer as BPETokenizer
    from mingpt.config import PRESETS as PRESETS
    from mingpt.config import GPTConfig as GPTConfig
    from mingpt.decoding import Decoding as Decoding
    from mingpt.errors import CheckpointError as CheckpointError
    from mingpt.errors import ConfigError as ConfigError
    from mingpt.errors import DownloadError as DownloadError
    from mingpt.errors import GenerationError as GenerationError
    from mingpt.errors import MinGPTError as MinGPTError
    from mingpt.errors import PatchError as PatchError
    from mingpt.errors import TokenizerError as TokenizerError
    from mingpt.generation import Sample as Sample
    from mingpt.generation import Stop as Stop
    from mingpt.generation import generate as generate
    from mingpt.kvcache import KVCache as KVCache
    from mingpt.loading import load as load
    from mingpt.loading import load_tokenizer as load_tokenizer
    from mingpt.model import GPT as GPT
    from mingpt.sites import SITES as SITES
    from mingpt.sites import Patch as Patch

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
