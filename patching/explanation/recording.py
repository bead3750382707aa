"""Run the model once and keep, block by block, only what `explain` needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from mingpt.model import GPT
from patching.explanation import alti


@dataclass
class RecordedRun:
    """The activations of one run of ids (B, T); each list has one entry for each block.

    The pattern and the MLP output are kept at the last position only, because only the
    token after it is explained; `patterns` are of all positions.
    """

    embedded: Tensor = field(init=False)  # (B, T, C) the residual stream before block 0
    pattern: list[Tensor] = field(default_factory=list)  # (B, nh, T) of the last query
    v: list[Tensor] = field(default_factory=list)  # (B, nkv, T, hs)
    mlp_out: list[Tensor] = field(default_factory=list)  # (B, C)
    resid_post: list[Tensor] = field(default_factory=list)  # (B, T, C)
    contributions: list[Tensor] = field(default_factory=list)  # (B, T, T); empty if not asked for
    patterns: list[Tensor] = field(default_factory=list)  # (B, nh, T, T); empty if not asked for

    @property
    def final(self) -> Tensor:
        """The residual stream (B, C) that ln_f reads at the last position."""
        return self.resid_post[-1][:, -1]


def record_run(
    model: GPT,
    ids: Tensor,
    *,
    with_contributions: bool,
    with_patterns: bool = False,
    ablate: tuple[int, int] | None = None,
    step: Callable[[int], None] = lambda vectors: None,
) -> RecordedRun:
    """Run the model once and return its activations.

    `model.recording` and `model.last_logits` do not change.

    Args:
        model: must be in eval mode, and gradients must be off.
        ids: (B, T) on the model's device.
        with_contributions: work out ALTI's contributions while each block runs.
        with_patterns: keep the attention weights of all positions.
        ablate: (layer, head) of a head that reads nothing at any position, so that its z is 0.
        step: called after each block with the number of vectors that the block processed.
    """
    run = RecordedRun()
    block: dict[str, Tensor] = {}  # the sites of the block that runs now

    def tap(layer: int, site: str, x: Tensor) -> Tensor:
        if ablate is not None and site == "pattern" and layer == ablate[0]:
            # Its pattern, not its v, which other heads may share.
            x = x.clone()
            x[:, ablate[1]] = 0
        block[site] = x
        if site == "resid_pre" and layer == 0:
            run.embedded = x
        elif site == "resid_post":
            # Copies, where a view would keep a larger tensor in memory: the pattern
            # of all queries, or q, k and v together.
            run.pattern.append(block["pattern"][:, :, -1].clone())
            run.v.append(block["v"].contiguous())
            run.mlp_out.append(block["mlp_out"][:, -1].clone())
            run.resid_post.append(x)
            if with_contributions:
                sites = (block[name] for name in ("pattern", "v", "resid_pre", "resid_mid"))
                attention = model.transformer.h[layer].attn
                run.contributions.append(alti.contributions(attention, *sites))
            if with_patterns:
                run.patterns.append(block["pattern"].clone())
            step(ids.numel())
        return x

    model.stream(ids, tap)
    return run
