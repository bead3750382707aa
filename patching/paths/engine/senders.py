"""Carry what each sender changes to the places where receivers read: the loop's run C.

Attention is frozen, so what a sender changes stays at its position, and only MLPs carry it
on. Run C is the base run plus a difference for each sender, (E, n, C) at n positions:

    delta of a head   (source z - base z) W_O[head]
    of an MLP         source mlp_out - base mlp_out
    of the embedding  source - base
    through an MLP    delta += mlp(ln_2(base resid_mid + delta)) - base mlp_out   (recomputed)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.model import GPT
from patching.attention import output_heads
from patching.paths.engine.record import Recorded
from patching.paths.graph import Sender


@dataclass(frozen=True)
class Reading:
    """The streams of run C at a place where receivers read: one for each sender so far."""

    layer: int  # n_layer for the logits
    site: str  # "resid_pre", "resid_mid" or "resid_post"
    senders: tuple[int, ...]  # their numbers, in the order of `streams`
    streams: Tensor  # (E, n, C)


def readings(
    model: GPT,
    base: Recorded,
    source: Recorded,
    senders: Sequence[tuple[int, Sender]],
    positions: Sequence[int],
    *,
    sent: Sequence[bool],
    freezes_mlps: bool,
) -> Iterator[Reading]:
    """Yield run C at every place where something may read it, in the order of the pass.

    A sender whose output is the same in both runs, at every position, is left out: it changes
    nothing.

    Args:
        senders: numbers and senders, in the order in which they write.
        positions: those of receivers, sorted (n,).
        sent: for each position, True if the senders' output is taken from the source run (n,).
    """
    at = torch.tensor(positions, device=model.device)
    none = base.at["resid_pre"][0].new_empty(0, len(positions), model.config.n_embd)
    carried = _Carried(none, torch.tensor(sent, device=model.device))
    for layer, block in enumerate(model.transformer.h):
        of_layer = [(number, one) for number, one in senders if max(one.layer, 0) == layer]
        here = {kind: [(number, one) for number, one in of_layer if one.kind == kind]
                for kind in ("embedding", "head", "mlp")}  # fmt: skip
        pre, mid, mlp_out = (base.at[site][layer][at] for site in
                             ("resid_pre", "resid_mid", "mlp_out"))  # (n, C) each  # fmt: skip
        if here["embedding"]:
            carried.join(here["embedding"], (source.at["resid_pre"][0][at] - pre)[None])
        yield carried.reading(layer, "resid_pre", pre)
        if here["head"]:
            heads = [one.head for _, one in here["head"]]
            z = source.at["z"][layer] - base.at["z"][layer]  # (nh, T, hs)
            carried.join(here["head"], z[heads][:, at] @ output_heads(block.attn)[heads])
        yield carried.reading(layer, "resid_mid", mid)
        if not freezes_mlps and len(carried.delta):
            carried.delta += block.mlp(block.ln_2(mid + carried.delta)) - mlp_out
        if here["mlp"]:
            carried.join(here["mlp"], (source.at["mlp_out"][layer][at] - mlp_out)[None])
    last = base.at["resid_post"][-1][at]
    yield carried.reading(model.config.n_layer, "resid_post", last)


class _Carried:
    """The differences of the senders that have written so far."""

    def __init__(self, delta: Tensor, sent: Tensor) -> None:
        self.delta = delta  # (E, n, C)
        self.sent = sent  # (n,) True where senders write
        self.senders: tuple[int, ...] = ()

    def join(self, senders: Sequence[tuple[int, Sender]], delta: Tensor) -> None:
        """Add senders (numbers and senders) with their differences (len(senders), n, C)."""
        delta = delta * self.sent[:, None]
        kept = delta.flatten(1).any(1).tolist()
        self.senders += tuple(
            number for (number, _), keep in zip(senders, kept, strict=True) if keep
        )
        self.delta = torch.cat((self.delta, delta[kept]))

    def reading(self, layer: int, site: str, base: Tensor) -> Reading:
        """Return the streams: the base run's (n, C) plus each difference."""
        return Reading(layer, site, self.senders, base + self.delta)
