"""The shape and constants of a model, and the shapes that have names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from mingpt.errors import ConfigError

ACTIVATIONS = ("gelu_new", "gelu", "relu")
FLAGS = (
    "bias",
    "tie_word_embeddings",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
)
LARGEST_SIZE = 2**24  # no model is larger in any one size; a larger number means a damaged file


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class GPTConfig:
    """Shape and constants of a GPT-2 style transformer.

    Raises:
        ConfigError: a size that is no whole number from 1 to LARGEST_SIZE;
            n_embd not divisible by n_head, or n_head by n_kv_head; a dropout
            outside [0, 1); an epsilon or a range that is no positive number; a
            flag that is no bool; an unknown activation.
    """

    n_layer: int = 12  # transformer blocks
    n_head: int = 12  # attention heads in each block
    n_embd: int = 768  # width of the residual stream (C)
    vocab_size: int = 50257  # rows of the embedding and of the unembedding (V)
    block_size: int = 1024  # longest sequence the model can read, in tokens
    # Heads of keys and values, each read by n_head / n_kv_head query heads; None is n_head.
    # 1 is multi-query attention (Shazeer 2019, arXiv 1911.02150), a number between 1 and
    # n_head grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245).
    n_kv_head: int | None = None
    n_inner: int | None = None  # width of the MLP's hidden layer; None is 4 * n_embd
    activation: str = "gelu_new"  # of the MLP: gelu_new (tanh form), gelu (exact) or relu
    layer_norm_epsilon: float = 1e-5  # added to the variance in every layer norm
    bias: bool = True  # of linear layers and layer norms; nanoGPT's models may have none
    tie_word_embeddings: bool = True  # the unembedding is the embedding's own matrix
    scale_attn_weights: bool = True  # attention scores are divided by sqrt(hs)
    scale_attn_by_inverse_layer_idx: bool = False  # ... and by the block's number, from 1
    reorder_and_upcast_attn: bool = False  # scores and softmax in float32 at least
    embd_pdrop: float = 0.1  # dropout probability on the embeddings, in training only
    resid_pdrop: float = 0.1  # ... on what attention and MLP add to the residual stream
    attn_pdrop: float = 0.1  # ... on the attention pattern
    initializer_range: float = 0.02  # standard deviation of freshly drawn weights

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd", "vocab_size", "block_size"):
            self._check_size(name, getattr(self, name))
        for name in ("n_kv_head", "n_inner"):
            if getattr(self, name) is not None:
                self._check_size(name, getattr(self, name))
        if self.n_embd % self.n_head:
            raise ConfigError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}")
        if self.n_head % self.kv_heads:
            raise ConfigError(
                f"n_head {self.n_head} is not divisible by n_kv_head {self.n_kv_head}"
            )
        if not isinstance(self.activation, str) or self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"activation {self.activation!r} is unknown; there are {', '.join(ACTIVATIONS)}"
            )
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, not {getattr(self, name)!r}")
        for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < 1):
                raise ConfigError(f"{name} must be a number in [0, 1), not {value!r}")
        for name in ("layer_norm_epsilon", "initializer_range"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 < value < LARGEST_SIZE):
                raise ConfigError(f"{name} must be a number above 0, not {value!r}")

    @staticmethod
    def _check_size(name: str, value: object) -> None:
        if type(value) is not int or not 1 <= value <= LARGEST_SIZE:
            raise ConfigError(
                f"{name} must be a whole number from 1 to {LARGEST_SIZE}, not {value!r}"
            )

    @property
    def head_size(self) -> int:
        """Width of one attention head (hs)."""
        return self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values (nkv)."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def inner_size(self) -> int:
        """Width of the MLP's hidden layer."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> GPTConfig:
        """Return the configuration called `name` in PRESETS, with fields replaced.

        Raises:
            ConfigError: no preset of that name.
        """
        if name not in PRESETS:
            raise ConfigError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
        return dataclasses.replace(PRESETS[name], **overrides)


# The first five are published models: Radford et al. 2019, "Language Models are
# Unsupervised Multitask Learners", table 2, and Sanh et al. 2019 (distilgpt2).
# The last three are minGPT's sizes for training from scratch.
PRESETS = {
    "gpt2": GPTConfig(n_layer=12, n_head=12, n_embd=768),  # 124M parameters
    "gpt2-medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),  # 350M
    "gpt2-large": GPTConfig(n_layer=36, n_head=20, n_embd=1280),  # 774M
    "gpt2-xl": GPTConfig(n_layer=48, n_head=25, n_embd=1600),  # 1558M
    "distilgpt2": GPTConfig(n_layer=6, n_head=12, n_embd=768),  # 82M
    "gpt-mini": GPTConfig(n_layer=6, n_head=6, n_embd=192),
    "gpt-micro": GPTConfig(n_layer=4, n_head=4, n_embd=128),
    "gpt-nano": GPTConfig(n_layer=3, n_head=3, n_embd=48),
}
