"""Run a prompt once and keep the activations that paths need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.model import GPT

KEPT = ("resid_pre", "resid_mid", "mlp_out", "resid_post", "z", "k", "v")


@dataclass(frozen=True)
class Recorded:
    """The activations of one run, without the batch's axis."""

    at: dict[str, list[Tensor]]  # site -> of each block (T, C), or head by head (heads, T, hs)
    final: Tensor  # (C,) ln_f's output at the last position


def record(model: GPT, ids: Sequence[int]) -> Recorded:
    """Run a prompt; the model's own recording and last logits stay as they were."""
    at: dict[str, list[Tensor]] = {site: [] for site in KEPT}

    def tap(layer: int, site: str, x: Tensor) -> Tensor:
        if site in at:
            at[site].append(x[0].detach().clone())
        return x

    stream = model.stream(torch.tensor([ids], device=model.device), tap)  # (1, T, C)
    return Recorded(at, model.transformer.ln_f(stream[0, -1]))
