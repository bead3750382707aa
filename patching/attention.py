"""Single steps of CausalSelfAttention.forward, for code outside a forward pass.

The sweep's engine (sweep/engine) and the explanations compute projections, shared
heads and patterns with them.
Shapes are those of mingpt/model.py.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mingpt.model import CausalSelfAttention


def split(attention: CausalSelfAttention, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split c_attn's output into q (..., C), k and v (..., nkv hs)."""
    q, k, v = qkv.split(attention.sizes, dim=-1)
    return q, k, v


def queries(attention: CausalSelfAttention, x: Tensor) -> Tensor:
    """Return the q part of c_attn's output alone: (..., C) -> (..., C)."""
    return _part_of_c_attn(attention, x, slice(None, x.size(-1)))


def keys_values(attention: CausalSelfAttention, x: Tensor) -> Tensor:
    """Return the k and v parts of c_attn's output: (..., C) -> (..., 2 nkv hs)."""
    return _part_of_c_attn(attention, x, slice(x.size(-1), None))


def pattern_of(attention: CausalSelfAttention, q: Tensor, k: Tensor, future: Tensor) -> Tensor:
    """Return each query's weights over the keys (..., nh, queries, T); they sum to 1.

    Args:
        q, k: (..., nh, queries, hs) and (..., nkv, T, hs).
        future: (queries, T), True where a key comes after the query.
    """
    scores = attention.scores(q, k).masked_fill(future, float("-inf"))
    return F.softmax(scores, dim=-1).to(q.dtype)


def of_each_query(attention: CausalSelfAttention, x: Tensor) -> Tensor:
    """Repeat k or v (..., nkv, T, hs) for the query heads that share it: (..., nh, T, hs)."""
    shared = attention.n_head // x.size(-3)
    return x if shared == 1 else x.repeat_interleave(shared, dim=-3)


def output_heads(attention: CausalSelfAttention) -> Tensor:
    """Return W_O, the part of c_proj's weight for each head's z, as a view (nh, hs, C)."""
    return attention.c_proj.weight.t().unflatten(0, (attention.n_head, -1))


def _part_of_c_attn(attention: CausalSelfAttention, x: Tensor, rows: slice) -> Tensor:
    bias = attention.c_attn.bias
    return F.linear(x, attention.c_attn.weight[rows], None if bias is None else bias[rows])
