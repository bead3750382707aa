"""Direct logit attribution: what each part of the model adds to a logit by itself.

The residual stream is the sum of what the embeddings, heads, MLPs and biases write.
With its statistics held fixed, the final layer norm is linear. So a logit is a sum
too, with one term for each part (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"). Ferrando et al. 2023 (arXiv 2305.12535) split the heads' terms
by position.

Shapes: B prompts, T tokens, C channels, L = n_layer, nh heads, nkv heads of keys and
values, hs = C / nh, 2 = (target, foil).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.model import GPT
from patching.attention import of_each_query, output_heads
from patching.explanation.recording import RecordedRun


@dataclass(frozen=True)
class LogitTerms:
    """The terms of target's and foil's logits at the last position.

    Attributes:
        attention: (L, B, 2, T) attention, by the position that it reads.
        heads: (L, B, 2, nh) attention, by head.
        initial: (B, 2) the embeddings.
        mlp: (L, B, 2) each MLP, with its bias.
        bias: (L, B, 2) c_proj's bias in each block's attention.
        final_bias: (B, 2) ln_f's bias.
        products: (B, 2) absolute values of the products of unembedding and final layer norm
            (and of its bias), summed over the channels.
    """

    attention: Tensor
    heads: Tensor
    initial: Tensor
    mlp: Tensor
    bias: Tensor
    final_bias: Tensor
    products: Tensor

    def total(self) -> Tensor:
        """Return the sum of the terms (B, 2): the logits, up to rounding."""
        blocks = self.attention.sum(-1) + self.mlp + self.bias  # (L, B, 2)
        return blocks.sum(0) + self.initial + self.final_bias

    def magnitude(self) -> Tensor:
        """Return the scale of the rounding (B, 2): all that is added, in absolute values.

        The model rounds what the blocks write, and then the products that a logit sums.
        Either can cancel, so that the other is much larger.
        """
        blocks = self.attention.abs().sum(-1) + self.mlp.abs() + self.bias.abs()
        return blocks.sum(0) + self.initial.abs() + self.final_bias.abs() + self.products


def logit_terms(model: GPT, run: RecordedRun, answers: Tensor) -> LogitTerms:
    """Split the logits of `answers` (B, 2), target and foil, into their terms.

    Large terms can cancel. So the terms are in float64 (float32 on MPS, which has no
    float64), and only the rounding of the model's own arithmetic remains.
    """
    norm = model.transformer.ln_f
    is_mps = run.final.device.type == "mps"

    def wide(x: Tensor) -> Tensor:
        return x.float() if is_mps else x.double()

    unembedding = wide(model.lm_head.weight[answers])  # (B, 2, C)
    towards = through_fixed_norm(norm, unembedding, wide(run.final))  # (B, 2, C)
    read, bias = [], []
    for block, pattern, v in zip(model.transformer.h, run.pattern, run.v, strict=True):
        heads = wide(output_heads(block.attn))  # (nh, hs, C)
        values = of_each_query(block.attn, wide(v))  # (B, nh, T, hs)
        read.append(_head_terms(heads, wide(pattern), values, towards))
        bias.append(_dot(towards, _or_zeros(block.attn.c_proj.bias, towards)))
    by_head = torch.stack(read)  # (L, B, 2, nh, T)
    return LogitTerms(
        attention=by_head.sum(3),
        heads=by_head.sum(4),
        initial=_dot(towards, wide(run.embedded[:, -1])),
        mlp=torch.stack([_dot(towards, wide(out)) for out in run.mlp_out]),
        bias=torch.stack(bias),
        final_bias=_dot(unembedding, _or_zeros(norm.bias, towards)),
        products=_products(norm, unembedding, wide(run.final)),
    )


def _products(norm: torch.nn.LayerNorm, unembedding: Tensor, x: Tensor) -> Tensor:
    """Return sum over the channels of |u n| + |u b| (B, 2).

    Args:
        norm: its output is n + b, with its bias b.
        unembedding: u (B, 2, C).
        x: the norm's input (B, C).
    """
    normal = (x - x.mean(-1, keepdim=True)) * norm.weight / _std(norm, x)[:, None]  # (B, C)
    return _dot(unembedding.abs(), normal.abs() + _or_zeros(norm.bias, x).abs())


def _std(norm: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    return (x.var(-1, unbiased=False) + norm.eps).sqrt()  # (B,)


def through_fixed_norm(norm: torch.nn.LayerNorm, rows: Tensor, x: Tensor) -> Tensor:
    """Return `rows` (B, n, C) pulled back through a layer norm with the statistics of x (B, C).

    The dot product of a returned row with a part of x is what this part adds to the
    dot product of the original row with the norm's output, without the norm's bias.
    """
    scaled = rows * norm.weight
    return (scaled - scaled.mean(-1, keepdim=True)) / _std(norm, x)[:, None, None]


def _dot(towards: Tensor, x: Tensor) -> Tensor:
    """Return the products (B, 2) of `towards` (B, 2, C) and x, (B, C) or (C,)."""
    return (towards @ x[..., None]).squeeze(-1)


def _or_zeros(bias: Tensor | None, like: Tensor) -> Tensor:
    return like.new_zeros(like.size(-1)) if bias is None else bias.to(like.dtype)


def _head_terms(heads: Tensor, pattern: Tensor, v: Tensor, towards: Tensor) -> Tensor:
    """Return what each head adds to each answer from each position: (B, 2, nh, T).

    Args:
        heads: (nh, hs, C) each head's rows of c_proj.
        pattern: (B, nh, T) of the last query.
        v: (B, nh, T, hs) values, one for each head of queries.
        towards: (B, 2, C) the direction of each answer.
    """
    directions = torch.einsum("hdc,bvc->bvhd", heads, towards)
    values = torch.einsum("bhsd,bvhd->bvhs", v, directions)
    return pattern[:, None] * values
