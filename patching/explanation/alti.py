"""ALTI and ALTI-Logit: which tokens of the prompt make the model prefer one next word.

Ferrando et al. 2023, "Explaining How Transformers Use Context to Build
Predictions" (arXiv 2305.12535), after Ferrando et al. 2022, "Measuring the
Mixing of Contextual Information in the Transformer" (arXiv 2203.04212).

A layer norm whose statistics are kept as they were is linear, and so attention's
output at a position t is a sum over the positions s that it reads,
    y_t = sum_s R[t, s] + b_O,   R[t, s] = sum_h A[h, t, s] v[h, s] W_O[h] + (s == t) x_t.
ALTI says how near each R[t, s] comes to y_t (`contributions`), and follows that
through the blocks (`rollout`). ALTI-Logit takes what attention writes towards a
token's logit (logit_attribution.py) and hands it on, block by block, to the tokens of the
prompt (`handed_on`).

Shapes: B prompts, T tokens, L = n_layer, nh heads, hs = C / nh.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.checks import widened
from mingpt.model import CausalSelfAttention

# Values of (t, s, C) that are held at a time: 32 M of them are 128 MB in float32.
MOST_VALUES = 1 << 25


def rollout(contributions: Sequence[Tensor]) -> Tensor:
    """Of the prompt's tokens to each position after each block: (L, B, T, T), rows sum to 1."""
    through = [contributions[0]]
    for mixing in contributions[1:]:
        through.append(mixing @ through[-1])
    return torch.stack(through)


def handed_on(logit: Tensor, through: Tensor) -> Tensor:
    """ALTI-Logit (L, B, n, T) from Logit, the same shape, and the rollout.

    What block l's attention writes of a position goes to the tokens of the
    prompt by the rollout of the blocks below it.
    """
    return torch.cat((logit[:1], torch.einsum("lbvj,lbjs->lbvs", logit[1:], through[:-1])))


def contributions(
    attention: CausalSelfAttention, pattern: Tensor, v: Tensor, x: Tensor, y: Tensor
) -> Tensor:
    """How much of y_t comes from position s (B, T, T); the rows sum to 1.

    Nearness by the L1 distance, as Ferrando et al. 2022 has it. A row in which
    every distance is longer than y_t itself is the token's own: 1 at s = t.

    pattern (B, nh, T, T), v (B, nkv, T, hs), x and y (B, T, C).
    """
    B, T, C = x.shape
    pattern, v, x, y = map(widened, (pattern, v, x, y))  # near is a small difference of large sums
    written = attention.of_each_query(v) @ widened(attention.output_heads())  # (B, nh, T, C)
    at_a_time = max(1, MOST_VALUES // (B * T * C))
    rows = []
    for queries in torch.arange(T, device=x.device).split(at_a_time):
        first, last = int(queries[0]), int(queries[-1])
        end = last + 1  # no query of these reads further
        part = pattern[:, :, first:end, :end].permute(0, 3, 2, 1)  # (B, s, t, nh)
        brought = part @ written[:, :, :end].transpose(1, 2)  # (B, s, t, C)
        brought = brought.transpose(1, 2)  # (B, t, s, C)
        own = torch.arange(end - first, device=x.device)
        brought[:, own, queries] += x[:, queries]
        target = y[:, queries]  # (B, t, C)
        distance = (brought - target[:, :, None]).abs_().sum(-1)  # (B, t, s)
        near = (target.abs().sum(-1, keepdim=True) - distance).clamp_(min=0)
        # What is not read is as far as y_t is long, but for rounding.
        near = near.masked_fill(queries[:, None] < torch.arange(end, device=x.device), 0)
        rows.append(F.pad(near, (0, T - end)))
    near = torch.cat(rows, dim=1)  # (B, T, T)
    total = near.sum(-1, keepdim=True)
    alone = torch.eye(T, dtype=x.dtype, device=x.device)
    return torch.where(total == 0, alone, near / total)
