"""Direct logit attribution: what each part of the model adds to a logit by itself.

The residual stream is a sum of what embedding, heads, MLPs and biases have
written, and the final layer norm, its statistics kept as they were, is linear.
So a logit is a sum too, a term for each part (Elhage et al. 2021, "A
Mathematical Framework for Transformer Circuits"; Ferrando et al. 2023, arXiv
2305.12535, take the heads' further apart by position).

Shapes: B prompts, T tokens, L = n_layer, nh heads, hs = C / nh, 2 = (target, foil).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.model import GPT
from patching.explanation.recording import Seen


@dataclass(frozen=True)
class Terms:
    """What target's and foil's logits at the last position are made of.

    Attributes:
        attention: (L, B, 2, T) what attention writes towards a logit, of each
            position that it reads.
        heads: (L, B, 2, nh) the same of each head, over all positions.
        initial: (B, 2) the embeddings.
        mlp: (L, B, 2) each MLP, its bias included.
        bias: (L, B, 2) c_proj's bias in each block's attention.
        final_bias: (B, 2) ln_f's bias.
    """

    attention: Tensor
    heads: Tensor
    initial: Tensor
    mlp: Tensor
    bias: Tensor
    final_bias: Tensor

    def total(self) -> Tensor:
        """The sum of the terms (B, 2): the logits, up to rounding."""
        blocks = self.attention.sum(-1) + self.mlp + self.bias  # (L, B, 2)
        return blocks.sum(0) + self.initial + self.final_bias

    def magnitude(self) -> Tensor:
        """The sum of the terms' absolute values (B, 2), which rounding is measured by."""
        blocks = self.attention.abs().sum(-1) + self.mlp.abs() + self.bias.abs()
        return blocks.sum(0) + self.initial.abs() + self.final_bias.abs()


def terms(model: GPT, seen: Seen, answers: Tensor) -> Terms:
    """Take the logits of `answers` (B, 2), target and foil, apart.

    In float64, where the device has it: of large terms that cancel, nothing is
    to be missing but what the model's own arithmetic has rounded.
    """
    norm = model.transformer.ln_f
    is_mps = seen.final.device.type == "mps"

    def wide(x: Tensor) -> Tensor:
        return x.float() if is_mps else x.double()

    unembedding = wide(model.lm_head.weight[answers])  # (B, 2, C)
    towards = _through_frozen(norm, unembedding, wide(seen.final))  # (B, 2, C)
    read, bias = [], []
    for block, pattern, v in zip(model.transformer.h, seen.pattern, seen.v, strict=True):
        heads = wide(block.attn.output_heads())  # (nh, hs, C)
        values = block.attn.of_each_query(wide(v))
        read.append(_written_towards(heads, wide(pattern), values, towards))
        bias.append(_dot(towards, _or_zeros(block.attn.c_proj.bias, towards)))
    by_head = torch.stack(read)  # (L, B, 2, nh, T)
    return Terms(
        attention=by_head.sum(3),
        heads=by_head.sum(4),
        initial=_dot(towards, wide(seen.embedded[:, -1])),
        mlp=torch.stack([_dot(towards, wide(out)) for out in seen.mlp_out]),
        bias=torch.stack(bias),
        final_bias=_dot(unembedding, _or_zeros(norm.bias, towards)),
    )


def _through_frozen(norm: torch.nn.LayerNorm, rows: Tensor, x: Tensor) -> Tensor:
    """`rows` (B, n, C) seen from before a layer norm whose input is x (B, C).

    The product of a result with any part of x is what that part adds to the
    product of the row with the norm's output, the bias aside.
    """
    scaled = rows * norm.weight
    std = (x.var(-1, unbiased=False) + norm.eps).sqrt()  # (B,)
    return (scaled - scaled.mean(-1, keepdim=True)) / std[:, None, None]


def _dot(towards: Tensor, x: Tensor) -> Tensor:
    """(B, 2, C) and (B, C) or (C,) -> (B, 2)."""
    return (towards @ x[..., None]).squeeze(-1)


def _or_zeros(bias: Tensor | None, like: Tensor) -> Tensor:
    return like.new_zeros(like.size(-1)) if bias is None else bias.to(like.dtype)


def _written_towards(heads: Tensor, pattern: Tensor, v: Tensor, towards: Tensor) -> Tensor:
    """What each head writes towards each answer, of each position that it reads.

    heads (nh, hs, C), pattern (B, nh, T) of the last query, v (B, nh, T, hs),
    towards (B, 2, C) -> (B, 2, nh, T).
    """
    directions = torch.einsum("hdc,bvc->bvhd", heads, towards)
    values = torch.einsum("bhsd,bvhd->bvhs", v, directions)
    return pattern[:, None] * values
