"""Sequences that grow at their ends, token by token, and what the model says comes next.

Up to the context's length a step reads the new tokens alone, beside the keys and
values of those before. A longer sequence is read through a window, its last
block_size tokens. There every token stands one position further left in each
step, so nothing that was worked out before holds, and each step reads the whole
window: minGPT's way, and as slow. Positions are learnt, one by one; there is no
other exact way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mingpt.kvcache import KVCache

if TYPE_CHECKING:
    from torch import Tensor

    from mingpt.model import GPT
    from mingpt.sites import ResolvedPatch


class Sequences:
    """A batch of sequences of one length.

    Args:
        model: what reads them.
        ids: what they begin with (B, T).
        room: tokens that each is going to have, at most.
        use_cache: False reads everything anew in each step: the definition.
        record: sites that the first step records, which reads `ids` alone.
        patches: positions are those of `ids`. They hold for as long as the
            window begins where `ids` does.

    Attributes:
        ids: (B, T) so far.
    """

    def __init__(
        self,
        model: GPT,
        ids: Tensor,
        room: int,
        *,
        use_cache: bool = True,
        record: Sequence[str] = (),
        patches: Sequence[ResolvedPatch] = (),
    ) -> None:
        self.model, self.ids = model, ids
        self._record, self._patches = record, patches
        self._cache = None
        limit = model.config.block_size
        if use_cache and ids.size(1) <= limit:
            like = model.transformer.wte.weight
            self._cache = KVCache(model.config, len(ids), min(room, limit), like)

    def logits(self) -> Tensor:
        """Of each sequence's next token (B, V)."""
        limit = self.model.config.block_size
        if self.ids.size(1) > limit:
            self._cache, self._patches = None, ()
        unread, patches = self.ids[:, -limit:], self._patches
        if self._cache is not None:
            unread = self.ids[:, self._cache.length :]
            self._patches = ()  # what they do to later tokens is in the keys and values
        record, self._record = self._record, ()
        return self.model.next_logits(unread, self._cache, record=record, patches=patches)

    def append(self, tokens: Tensor) -> None:
        """One token (B,) to each."""
        self.ids = torch.cat((self.ids, tokens[:, None]), dim=1)

    def select(self, rows: Tensor) -> None:
        """Go on with these of the sequences, in this order; one may come several times."""
        self.ids = self.ids[rows]
        if self._cache is not None:
            self._cache.select(rows)
