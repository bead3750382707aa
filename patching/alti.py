"""ALTI and ALTI-Logit: which tokens of the prompt make the model prefer one next word.

Ferrando et al. 2023, "Explaining How Transformers Use Context to Build
Predictions" (arXiv 2305.12535), after Ferrando et al. 2022, "Measuring the
Mixing of Contextual Information in the Transformer" (arXiv 2203.04212).

A layer norm whose statistics are kept as they were is linear, and so attention's
output at a position t is a sum over the positions s that it reads,
    y_t = sum_s R[t, s] + b_O,   R[t, s] = sum_h A[h, t, s] v[h, s] W_O[h] + (s == t) x_t.
ALTI says how near each R[t, s] comes to y_t (`contributions`), and follows that
through the blocks (`rollout`). ALTI-Logit adds up what attention writes towards
a token's logit, block by block, and hands it on to the tokens of the prompt by
the rollout of the blocks below.

Shapes: B prompts, T tokens, L = n_layer, nh heads, hs = C / nh, 2 = (target, foil).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.model import GPT, Block

# Values of (t, s, C) that are held at a time: 32 M of them are 128 MB in float32.
MOST_VALUES = 1 << 25
SITES = ("resid_pre", "v", "pattern", "resid_mid", "mlp_out", "resid_post")


@dataclass(frozen=True)
class Terms:
    """What target's and foil's logits at the last position are made of, and ALTI's matrices.

    Attributes:
        attention: (L, B, 2, T) what attention writes towards a logit, of each
            position that it reads.
        heads: (L, B, 2, nh) the same of each head, over all positions.
        initial: (B, 2) the embeddings.
        mlp: (L, B, 2) each MLP, its bias included.
        bias: (L, B, 2) c_proj's bias in each block's attention.
        final_bias: (B, 2) ln_f's bias.
        logits: (B, 2) as the model has them.
        contributions: (L, B, T, T) of position s (last axis) to position t.
        rollout: (L, B, T, T) of the prompt's tokens to position t after a block.
    """

    attention: Tensor
    heads: Tensor
    initial: Tensor
    mlp: Tensor
    bias: Tensor
    final_bias: Tensor
    logits: Tensor
    contributions: Tensor
    rollout: Tensor

    def total(self) -> Tensor:
        """The sum of the terms (B, 2): the logits, up to rounding."""
        blocks = self.attention.sum(-1) + self.mlp + self.bias  # (L, B, 2)
        return blocks.sum(0) + self.initial + self.final_bias

    def magnitude(self) -> Tensor:
        """The sum of the terms' absolute values (B, 2), which rounding is measured by."""
        blocks = self.attention.abs().sum(-1) + self.mlp.abs() + self.bias.abs()
        return blocks.sum(0) + self.initial.abs() + self.final_bias.abs()

    def token_attributions(self) -> tuple[Tensor, Tensor]:
        """Logit and ALTI-Logit of each block (L, B, 3, T): target, foil, target minus foil.

        ALTI-Logit hands on what block l's attention writes of a position to the
        tokens of the prompt, by the rollout of the blocks below it.
        """
        logit = torch.cat((self.attention, self.attention[:, :, :1] - self.attention[:, :, 1:]), 2)
        below = torch.einsum("lbvj,lbjs->lbvs", logit[1:], self.rollout[:-1])
        return logit, torch.cat((logit[:1], below))


def terms(model: GPT, ids: Tensor, answers: Tensor) -> Terms:
    """Take the logits of `answers` after `ids` apart.

    Args:
        model: in eval mode; its recording and last logits stay as they were.
        ids: (B, T) on the model's device.
        answers: (B, 2), target and foil of each prompt.
    """
    kept = model.recording, model.last_logits
    try:
        model(ids, record=SITES)
        seen, last_logits = model.recording, model.last_logits
    finally:
        model.recording, model.last_logits = kept
    final = model.transformer.ln_f
    unembedding = model.lm_head.weight[answers]  # (B, 2, C)
    x = seen["resid_post"][-1, :, -1]  # (B, C)
    towards = _through_frozen(final, unembedding, x)  # (B, 2, C)
    attention, heads, mlp, bias, contributions, rollout = [], [], [], [], [], []
    for layer, block in enumerate(model.transformer.h):
        pattern, v = seen["pattern"][layer], seen["v"][layer]
        read = _written_towards(block, pattern[:, :, -1], v, towards)  # (B, 2, nh, T)
        attention.append(read.sum(2))
        heads.append(read.sum(3))
        mlp.append(_dot(towards, seen["mlp_out"][layer, :, -1]))
        bias.append(_dot(towards, _or_zeros(block.attn.c_proj.bias, x).expand_as(x)))
        mixing = _contributions(
            block, pattern, v, seen["resid_pre"][layer], seen["resid_mid"][layer]
        )
        contributions.append(mixing)
        rollout.append(mixing @ rollout[-1] if rollout else mixing)
    return Terms(
        attention=torch.stack(attention),
        heads=torch.stack(heads),
        initial=_dot(towards, seen["resid_pre"][0, :, -1]),
        mlp=torch.stack(mlp),
        bias=torch.stack(bias),
        final_bias=_dot(unembedding, _or_zeros(final.bias, x).expand_as(x)),
        logits=last_logits.gather(1, answers),
        contributions=torch.stack(contributions),
        rollout=torch.stack(rollout),
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
    """(B, 2, C) and (B, C) -> (B, 2)."""
    return (towards @ x[..., None]).squeeze(-1)


def _or_zeros(bias: Tensor | None, x: Tensor) -> Tensor:
    return x.new_zeros(x.size(-1)) if bias is None else bias


def _output_heads(block: Block) -> Tensor:
    """W_O head by head (nh, hs, C): what c_proj does to each head's part of its input."""
    weight = block.attn.c_proj.weight  # (C, C), out x in
    return weight.t().unflatten(0, (block.attn.n_head, -1))


def _written_towards(block: Block, pattern: Tensor, v: Tensor, towards: Tensor) -> Tensor:
    """What each head writes towards each answer, of each position that it reads.

    pattern (B, nh, T) of the last query, v (B, nh, T, hs), towards (B, 2, C)
    -> (B, 2, nh, T).
    """
    directions = torch.einsum("hdc,bvc->bvhd", _output_heads(block), towards)  # (B, 2, nh, hs)
    values = torch.einsum("bhsd,bvhd->bvhs", v, directions)
    return pattern[:, None] * values


def _contributions(block: Block, pattern: Tensor, v: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """How much of y_t comes from position s (B, T, T); the rows sum to 1.

    Nearness by the L1 distance, as Ferrando et al. 2022 has it. A row in which
    every distance is longer than y_t itself is the token's own: 1 at s = t.

    pattern (B, nh, T, T), v (B, nh, T, hs), x and y (B, T, C).
    """
    B, T, C = x.shape
    written = v @ _output_heads(block)  # (B, nh, T, C)
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
    return torch.where(total > 0, near / total, alone)
