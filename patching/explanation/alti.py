"""ALTI and ALTI-Logit: which tokens of the prompt make the model prefer one next token.

Ferrando et al. 2023, "Explaining How Transformers Use Context to Build
Predictions" (arXiv 2305.12535), after Ferrando et al. 2022, "Measuring the
Mixing of Contextual Information in the Transformer" (arXiv 2203.04212).

With its statistics held fixed a layer norm is linear. Attention's output at a
position t is then a sum over the positions s that it reads:
    y_t = sum_s R[t, s] + b_O,   R[t, s] = sum_h A[h, t, s] v[h, s] W_O[h] + (s == t) x_t.
ALTI measures how near each R[t, s] is to y_t (`contributions`) and multiplies these
matrices through the blocks (`rollout`). ALTI-Logit takes what attention adds to a
token's logit (logit_attribution.py) and attributes it, block by block, to the tokens
of the prompt (`attribute_to_tokens`).

Shapes: B prompts, T tokens, C channels, L = n_layer, nh heads, nkv heads of keys and
values, hs = C / nh.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.checks import widened
from mingpt.model import CausalSelfAttention
from patching.attention import of_each_query, output_heads

# Values of (t, s, C) held at a time: 32 M of them take 128 MB in float32.
MOST_VALUES = 1 << 25


def rollout(contributions: Sequence[Tensor]) -> Tensor:
    """Return the share of each prompt token in each position after each block.

    Args:
        contributions: (B, T, T) of each block.

    Returns:
        (L, B, T, T): block, prompt, position, token. Rows sum to 1.
    """
    through = [contributions[0]]
    for mixing in contributions[1:]:
        through.append(mixing @ through[-1])
    return torch.stack(through)


def attribute_to_tokens(logit: Tensor, through: Tensor) -> Tensor:
    """Return ALTI-Logit: divide what each position adds among the prompt's tokens.

    Block l reads the residual stream after block l - 1. So the rollout of block l - 1
    gives each token's share in what block l reads. Block 0 reads the tokens themselves.

    Args:
        logit: (L, B, n, T) what attention adds to n logits from each position.
        through: (L, B, T, T) the rollout.

    Returns:
        (L, B, n, T).
    """
    return torch.cat((logit[:1], torch.einsum("lbvj,lbjs->lbvs", logit[1:], through[:-1])))


def contributions(
    attention: CausalSelfAttention, pattern: Tensor, v: Tensor, x: Tensor, y: Tensor
) -> Tensor:
    """Return the share of each position s in y_t, by the L1 distance of R[t, s] from y_t.

    The top of this file defines R and y. If every distance exceeds the L1 norm of y_t,
    the position itself gets the whole share: 1 at s = t. (Ferrando et al. 2022.)

    Args:
        attention: the block's attention; its c_proj is W_O.
        pattern: (B, nh, T, T) attention weights.
        v: (B, nkv, T, hs) values.
        x: (B, T, C) the residual stream before attention.
        y: (B, T, C) the residual stream after attention.

    Returns:
        (B, T, T): prompt, t, s. Rows sum to 1.
    """
    B, T, C = x.shape
    # Nearness is a small difference of large sums: half precision would lose it.
    pattern, v, x, y = map(widened, (pattern, v, x, y))
    written = of_each_query(attention, v) @ widened(output_heads(attention))  # (B, nh, T, C)
    at_a_time = max(1, MOST_VALUES // (B * T * C))  # queries
    rows = []
    for queries in torch.arange(T, device=x.device).split(at_a_time):
        first, last = int(queries[0]), int(queries[-1])
        end = last + 1  # these queries read no position from here on
        # R[t, s]: sum the heads' outputs, each weighted by its attention.
        part = pattern[:, :, first:end, :end].permute(0, 3, 2, 1)  # (B, s, t, nh)
        brought = part @ written[:, :, :end].transpose(1, 2)  # (B, s, t, C)
        brought = brought.transpose(1, 2)  # (B, t, s, C)
        # The residual stream brings x_t to its own position.
        own = torch.arange(end - first, device=x.device)
        brought[:, own, queries] += x[:, queries]
        # Nearness: the L1 norm of y_t minus the distance, but at least 0.
        target = y[:, queries]  # (B, t, C)
        distance = (brought - target[:, :, None]).abs_().sum(-1)  # (B, t, s)
        near = (target.abs().sum(-1, keepdim=True) - distance).clamp_(min=0)
        # Later positions bring nothing; rounding can leave them slightly above 0.
        near = near.masked_fill(queries[:, None] < torch.arange(end, device=x.device), 0)
        rows.append(F.pad(near, (0, T - end)))
    near = torch.cat(rows, dim=1)  # (B, T, T)
    total = near.sum(-1, keepdim=True)
    alone = torch.eye(T, dtype=x.dtype, device=x.device)
    return torch.where(total == 0, alone, near / total)
