"""A small GPT-2 that can record its residual stream and be patched.

Example:
    model, tokenizer = mingpt.load("builtin")
    model(tokenizer("The capital of France is"), record=True)
    model.activations.shape, model.last_logits.shape
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names as _HOME's, for editors and type checkers
    from mingpt.bpe import BPETokenizer as BPETokenizer
    from mingpt.config import PRESETS as PRESETS
    from mingpt.config import GPTConfig as GPTConfig
    from mingpt.errors import CheckpointError as CheckpointError
    from mingpt.errors import ConfigError as ConfigError
    from mingpt.errors import DownloadError as DownloadError
    from mingpt.errors import GenerationError as GenerationError
    from mingpt.errors import MinGPTError as MinGPTError
    from mingpt.errors import PatchError as PatchError
    from mingpt.errors import TokenizerError as TokenizerError
    from mingpt.generation.beams import beam_search as beam_search
    from mingpt.generation.decoding import Decoding as Decoding
    from mingpt.generation.sampling import Sample as Sample
    from mingpt.generation.sampling import Stop as Stop
    from mingpt.generation.sampling import generate as generate
    from mingpt.kvcache import KVCache as KVCache
    from mingpt.loading.model_files import load as load
    from mingpt.loading.model_files import load_tokenizer as load_tokenizer
    from mingpt.loading.model_files import save as save
    from mingpt.model import GPT as GPT
    from mingpt.sites import SITES as SITES
    from mingpt.sites import Patch as Patch
    from mingpt.trainer import Trainer as Trainer
    from mingpt.trainer import TrainerConfig as TrainerConfig
    from mingpt.version import __version__ as __version__


# Name -> the module it lives in; imported when it is first used.
_HOME = {
    "GPT": "mingpt.model",
    "GPTConfig": "mingpt.config",
    "Patch": "mingpt.sites",
    "SITES": "mingpt.sites",
    "PRESETS": "mingpt.config",
    "BPETokenizer": "mingpt.bpe",
    "load": "mingpt.loading.model_files",
    "load_tokenizer": "mingpt.loading.model_files",
    "save": "mingpt.loading.model_files",
    "generate": "mingpt.generation.sampling",
    "beam_search": "mingpt.generation.beams",
    "Sample": "mingpt.generation.sampling",
    "Stop": "mingpt.generation.sampling",
    "Decoding": "mingpt.generation.decoding",
    "KVCache": "mingpt.kvcache",
    "Trainer": "mingpt.trainer",
    "TrainerConfig": "mingpt.trainer",
    "__version__": "mingpt.version",
    "MinGPTError": "mingpt.errors",
    "CheckpointError": "mingpt.errors",
    "ConfigError": "mingpt.errors",
    "DownloadError": "mingpt.errors",
    "GenerationError": "mingpt.errors",
    "PatchError": "mingpt.errors",
    "TokenizerError": "mingpt.errors",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> object:
    from mingpt.lazy import public_name  # here, so that `import mingpt.model` does not load it

    return public_name(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
