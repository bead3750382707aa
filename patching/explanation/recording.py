"""One forward pass, and what of it `explain` takes apart: as little as will do, block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from mingpt.model import GPT
from patching.explanation import alti


@dataclass
class Seen:
    """What a run of ids (B, T) leaves behind; lists have an entry for each block.

    Of pattern and MLPs the last position alone is kept, whose next token is explained.
    """

    embedded: Tensor = field(init=False)  # (B, T, C) the stream as it enters block 0
    pattern: list[Tensor] = field(default_factory=list)  # (B, nh, T) of the last query
    v: list[Tensor] = field(default_factory=list)  # (B, nkv, T, hs)
    mlp_out: list[Tensor] = field(default_factory=list)  # (B, C)
    resid_post: list[Tensor] = field(default_factory=list)  # (B, T, C)
    contributions: list[Tensor] = field(default_factory=list)  # (B, T, T); none unless asked for

    @property
    def final(self) -> Tensor:
        """The last position before ln_f (B, C)."""
        return self.resid_post[-1][:, -1]


def watch(
    model: GPT,
    ids: Tensor,
    *,
    mixing: bool,
    step: Callable[[int], None] = lambda vectors: None,
) -> Seen:
    """Run the model once; its recording and last logits stay as they were.

    Args:
        model: in eval mode, and where no gradient is taken.
        ids: (B, T) on the model's device.
        mixing: whether ALTI's contributions are worked out as each block passes.
        step: called after each block with how many vectors have passed it.
    """
    seen, block = Seen(), {}

    def tap(layer: int, site: str, x: Tensor) -> Tensor:
        block[site] = x
        if site == "resid_pre" and layer == 0:
            seen.embedded = x
        elif site == "resid_post":
            seen.pattern.append(block["pattern"][:, :, -1].clone())  # not a view of all queries
            seen.v.append(block["v"].contiguous())  # nor one of q, k and v together
            seen.mlp_out.append(block["mlp_out"][:, -1].clone())
            seen.resid_post.append(x)
            if mixing:
                parts = (block[name] for name in ("pattern", "v", "resid_pre", "resid_mid"))
                attention = model.transformer.h[layer].attn
                seen.contributions.append(alti.contributions(attention, *parts))
            step(ids.numel())
        return x

    model.stream(ids, tap)
    return seen
