"""Keys and values of what has been read, so that a longer sequence reads its new tokens only.

A position's keys and values depend on the tokens up to it and on where it
stands, and on nothing that follows: they are kept for as long as no position
moves. A sequence that outgrows the context is moved along in it, and has to be
read anew in every step (see sequences.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mingpt.errors import ConfigError
from mingpt.sites import SHARED_SITES, recorded_shape

if TYPE_CHECKING:
    from torch import Tensor

    from mingpt.config import GPTConfig
    from mingpt.model import LayerTap


class KVCache:
    """Room for the keys and values of B sequences in every block, filled from the left.

    Args:
        config: the model's.
        B: how many sequences.
        room: tokens that each may have, at most block_size.
        like: a tensor of the model's dtype, on its device.

    Attributes:
        length: tokens whose keys and values are in it, the same of all sequences.

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
        """How many sequences."""
        return self._kept[SHARED_SITES[0]].size(1)

    @property
    def room(self) -> int:
        """Tokens that fit in."""
        return self._kept[SHARED_SITES[0]].size(-2)

    @property
    def nbytes(self) -> int:
        """What it holds, in bytes."""
        return sum(kept.nbytes for kept in self._kept.values())

    def after(self, tap: LayerTap) -> LayerTap:
        """A tap by which k and v of new tokens, as `tap` leaves them, become those of all."""

        def grown(layer: int, site: str, x: Tensor) -> Tensor:
            x = tap(layer, site, x)
            return self._extended(layer, site, x) if site in SHARED_SITES else x

        return grown

    def _extended(self, layer: int, site: str, x: Tensor) -> Tensor:
        """Keep (B, nkv, T, hs) of new tokens; what there is now: (B, nkv, length + T, hs)."""
        kept, end = self._kept[site][layer], self.length + x.size(-2)
        kept[:, :, self.length : end] = x.detach()  # or it would hold the graph of every step
        return kept[:, :, :end]

    def select(self, rows: Tensor) -> None:
        """Go on with these of the sequences, in this order; one may come several times."""
        if torch.equal(rows, torch.arange(self.B, device=rows.device)):
            return
        for site, kept in self._kept.items():
            chosen = kept.new_empty(len(kept), len(rows), *kept.shape[2:])
            for layer, old in zip(chosen, kept, strict=True):  # a copy of one at a time
                layer[:, :, : self.length] = old[rows, :, : self.length]
            self._kept[site] = chosen
