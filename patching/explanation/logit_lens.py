"""The logit lens: what the model would predict if it stopped after a block.

ln_f and the unembedding are applied to the residual stream after each block
(nostalgebraist 2020, "interpreting GPT: the logit lens"). Shapes: B prompts, T
tokens, C channels, L = n_layer, V = vocab_size, 2 = (target, foil).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.checks import widened
from mingpt.model import GPT
from patching.explanation.recording import RecordedRun

# Vectors multiplied by the unembedding at a time: 39 MB of GPT-2's logits in float32.
MOST_AT_ONCE = 192


@dataclass(frozen=True)
class Lens:
    """The predictions of the logit lens.

    Attributes:
        ids: (L, B, T) the likeliest next token after each block.
        probabilities: (L, B, T) its probability.
        trajectory: (L + 1, B, 2) target's and foil's logits at the last position,
            from the embeddings and after each block.
    """

    ids: Tensor
    probabilities: Tensor
    trajectory: Tensor


def logit_lens(
    model: GPT,
    run: RecordedRun,
    answers: Tensor,
    step: Callable[[int], None] = lambda vectors: None,
) -> Lens:
    """Apply the logit lens after every block, at every position.

    Args:
        model: the model that was run.
        run: its recorded activations.
        answers: (B, 2) target and foil of each prompt.
        step: called with the number of vectors done since the last call; L * B * T in all.
    """
    norm, unembedding = model.transformer.ln_f, model.lm_head.weight  # (V, C)
    ids, probabilities = [], []
    stream = torch.stack(run.resid_post).flatten(0, 2)  # (L B T, C)
    for x in stream.tensor_split(math.ceil(len(stream) / MOST_AT_ONCE)):
        # (V, n) rather than (n, V): this product is the faster one.
        logits = widened(unembedding @ norm(x).T)
        top = logits.max(dim=0)
        ids.append(top.indices)
        # The likeliest token's probability: 1 / sum of exp(logit - its logit).
        odds = logits.sub_(top.values).exp_()
        probabilities.append(1 / odds.sum(0))
        step(len(x))
    shape = (len(run.resid_post), *run.embedded.shape[:2])
    ends = torch.stack([x[:, -1] for x in (run.embedded, *run.resid_post)])  # (L + 1, B, C)
    return Lens(
        torch.cat(ids).view(shape),
        torch.cat(probabilities).view(shape),
        torch.einsum("lbc,bvc->lbv", norm(ends), unembedding[answers]),
    )
