"""Random prompts and cells, by a seed, on which the identities are checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mingpt.config import GPTConfig
from mingpt.model import GPT
from mingpt.sites import HEAD_SITES, heads_at
from patching.errors import VerificationError
from patching.prompts import PromptPair

TOKENS = (12, 7, 10)  # of the three pairs, fewer where the model reads fewer
LAYERS = 2  # that a sample of cells is in


@dataclass(frozen=True)
class Sample:
    """Three pairs of random tokens, and a choice of cells.

    Attributes:
        pairs: of different lengths where the model's block_size allows it.
        size: cells of each site, about.
    """

    pairs: tuple[PromptPair, ...]
    size: int
    seed: int

    @classmethod
    def draw(cls, config: GPTConfig, *, size: int, seed: int) -> Sample:
        """Draw the pairs from a model's vocabulary; about a third of their positions differ.

        Raises:
            VerificationError: the vocabulary has fewer than 4 tokens, or the model reads
                fewer than 2.
        """
        if config.vocab_size < 4 or config.block_size < 2:
            raise VerificationError(
                "the identities need a model of at least 4 tokens that reads at least 2; this one"
                f" has {config.vocab_size} and reads {config.block_size}"
            )
        random = np.random.default_rng(seed)
        lengths = (min(T, config.block_size) for T in TOKENS)
        return cls(tuple(_pair(random, config.vocab_size, T) for T in lengths), size, seed)

    @property
    def pair(self) -> PromptPair:
        """The first pair, the longest."""
        return self.pairs[0]

    def ids(self, model: GPT, run: str) -> Tensor:
        """Return the first pair's ids (1, T) of a run, on the model's device."""
        return torch.tensor([self.pair.ids(run)], device=model.device)

    def layers(self, n_layer: int) -> list[int]:
        """Return LAYERS layers at random, or all of fewer."""
        return self._some(n_layer, LAYERS, 0)

    def cells(self, config: GPTConfig, site: str, by_position: bool) -> dict[str, Any]:
        """Return layers, heads and positions of about `size` cells, as patch_sweep takes them."""
        chosen: dict[str, Any] = {"layers": self.layers(config.n_layer)}
        rest = max(1, self.size // LAYERS)
        if site in HEAD_SITES:
            heads = heads_at(site, config)
            chosen["heads"] = self._some(heads, rest if not by_position else 2, 1)
            rest = max(1, rest // 2)
        if by_position or site not in HEAD_SITES:
            chosen["positions"] = self._positions(rest)
        return chosen

    def _positions(self, count: int) -> list[int]:
        """Return the last position and others from the first difference on, which can change."""
        first, last = self.pair.differing[0], len(self.pair) - 1
        others = self._some(last - first, count - 1, 2) if count > 1 and last > first else []
        return [*(first + one for one in others), last]

    def _some(self, size: int, count: int, salt: int) -> list[int]:
        random = np.random.default_rng((self.seed, salt))
        return sorted(random.choice(size, min(size, count), replace=False).tolist())


def _pair(random: np.random.Generator, vocab_size: int, T: int) -> PromptPair:
    clean = random.integers(vocab_size, size=T)
    # Position 0 stays, where T allows it, so that there is one before the first difference.
    places = random.choice(np.arange(1, T), max(1, T // 3), replace=False)
    corrupt = clean.copy()
    corrupt[places] = (corrupt[places] + random.integers(1, vocab_size, size=len(places))) % (
        vocab_size
    )
    target, foil = random.choice(vocab_size, 2, replace=False).tolist()
    return PromptPair.from_ids(clean.tolist(), corrupt.tolist(), target, foil)
