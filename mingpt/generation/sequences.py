"""A batch of sequences that grow token by token, and the logits of their next tokens.

Up to block_size tokens, a step reads the new tokens only and takes the keys and
values of the others from a cache. A longer sequence is read through a window,
its last block_size tokens. In each step every token of the window moves one
position to the left, so nothing cached is valid and the whole window is read
again. With GPT-2's absolute position embeddings there is no other exact way.
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
        model: predicts the next tokens.
        ids: the prompts (B, T).
        room: most tokens that a sequence will have.
        use_cache: False reads the whole sequence in each step: the definition.
        patches: positions count in `ids`; applied until the window leaves out the
            first token.

    Attributes:
        ids: (B, T), the prompts and the tokens appended so far.
    """

    def __init__(
        self,
        model: GPT,
        ids: Tensor,
        room: int,
        *,
        use_cache: bool = True,
        patches: Sequence[ResolvedPatch] = (),
    ) -> None:
        self.model, self.ids = model, ids
        self._patches = patches
        self._cache: KVCache | None = None
        limit = model.config.block_size
        if use_cache and ids.size(1) <= limit:
            like = model.transformer.wte.weight
            self._cache = KVCache(model.config, len(ids), min(room, limit), like)

    def logits(self) -> Tensor:
        """Return the logits of each sequence's next token (B, V)."""
        limit = self.model.config.block_size
        if self.ids.size(1) > limit:
            self._cache, self._patches = None, ()
        unread, patches = self.ids[:, -limit:], self._patches
        if self._cache is not None:
            unread = self.ids[:, self._cache.length :]
            self._patches = ()  # later tokens read the patched keys and values in the cache
        return self.model.next_logits(unread, self._cache, patches=patches)

    def append(self, tokens: Tensor) -> None:
        """Append one token to each sequence (B,)."""
        self.ids = torch.cat((self.ids, tokens[:, None]), dim=1)

    def select(self, rows: Tensor) -> None:
        """Keep the sequences in `rows`, in this order; a sequence may be repeated."""
        self.ids = self.ids[rows]
        if self._cache is not None:
            self._cache.select(rows)
