"""A cache of keys and values, so that each step of generation reads the new tokens only.

A token's keys and values depend on its position and on the tokens up to it, not on
later ones. They stay valid as long as the token keeps its position. In a sequence
longer than block_size every token moves in each step, so nothing can be cached
(generation/sequences.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mingpt.errors import ConfigError
from mingpt.sites import SHARED_SITES, recorded_shape

if TYPE_CHECKING:
    from torch import Tensor

    from mingpt.config import GPTConfig
    from mingpt.sites import LayerTap


class KVCache:
    """Keys and values of B sequences in every block, filled from the left.

    Args:
        config: the model's.
        B: number of sequences.
        room: most tokens of a sequence, at most block_size.
        like: a tensor of the model's dtype, on its device.

    Attributes:
        length: tokens cached so far, the same for all sequences.

    Raises:
        ConfigError: more room than the model has positions, or none.
    """

    def __init__(self, config: GPTConfig, B: int, room: int, like: Tensor) -> None:
        if not 1 <= room <= config.block_size:
            raise ConfigError(f"a cache has room for 1 to {config.block_size} tokens, not {room}")
        self.length = 0
        self._kept = {  # (n_layer, B, nkv, room, hs)
            site: like.new_empty(tuple(recorded_shape(site, config, B, room).values()))
            for site in SHARED_SITES
        }

    @property
    def B(self) -> int:  # noqa: N802 (the field's name for it)
        """Number of sequences."""
        return self._kept[SHARED_SITES[0]].size(1)

    @property
    def room(self) -> int:
        """Most tokens of a sequence."""
        return self._kept[SHARED_SITES[0]].size(-2)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(kept.nbytes for kept in self._kept.values())

    def check_room(self, B: int, T: int) -> None:
        """Raise ConfigError unless there is room for T more tokens of B sequences."""
        if self.B != B:
            raise ConfigError(f"{B} sequences for a cache of {self.B}")
        if self.length + T > self.room:
            raise ConfigError(
                f"the cache has room for {self.room} tokens, not for {self.length} and {T} more"
            )

    def after(self, tap: LayerTap) -> LayerTap:
        """Wrap `tap` so that attention sees the cached keys and values followed by the new ones."""

        def grown(layer: int, site: str, x: Tensor) -> Tensor:
            x = tap(layer, site, x)
            return self._extended(layer, site, x) if site in SHARED_SITES else x

        return grown

    def _extended(self, layer: int, site: str, x: Tensor) -> Tensor:
        """Cache (B, nkv, T, hs) of new tokens; return all tokens' (B, nkv, length + T, hs)."""
        kept, end = self._kept[site][layer], self.length + x.size(-2)
        kept[:, :, self.length : end] = x.detach()  # detached, so that no step's graph is kept
        return kept[:, :, :end]

    def select(self, rows: Tensor) -> None:
        """Keep the sequences in `rows`, in this order; a sequence may be repeated."""
        if torch.equal(rows, torch.arange(self.B, device=rows.device)):
            return
        for site, kept in self._kept.items():
            chosen = kept.new_empty(len(kept), len(rows), *kept.shape[2:])
            for layer, old in zip(chosen, kept, strict=True):  # one layer at a time, to save memory
                layer[:, :, : self.length] = old[rows, :, : self.length]
            self._kept[site] = chosen
