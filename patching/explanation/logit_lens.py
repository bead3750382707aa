"""The logit lens: what the model would say if it stopped after a block.

ln_f and the unembedding are applied to the residual stream on its way
(nostalgebraist 2020, "interpreting GPT: the logit lens"). Shapes: B prompts, T
tokens, L = n_layer, V = vocab_size, 2 = (target, foil).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.checks import widened
from mingpt.model import GPT
from patching.explanation.recording import Seen

# Vectors that meet the unembedding at a time: 39 MB of GPT-2's logits in float32.
MOST_AT_ONCE = 192


@dataclass(frozen=True)
class Lens:
    """What is seen through it.

    Attributes:
        ids: (L, B, T) the likeliest next token after each block.
        probabilities: (L, B, T) its probability.
        trajectory: (L + 1, B, 2) target's and foil's logits at the last
            position: of the embeddings, and after each block.
    """

    ids: Tensor
    probabilities: Tensor
    trajectory: Tensor


def look(
    model: GPT, seen: Seen, answers: Tensor, step: Callable[[int], None] = lambda rows: None
) -> Lens:
    """Look through the lens at every block and position.

    Args:
        answers: (B, 2), target and foil of each prompt.
        step: called with how many of the L * B * T vectors are done, more each time.
    """
    norm, unembedding = model.transformer.ln_f, model.lm_head.weight  # (V, C)
    ids, probabilities = [], []
    stream = torch.stack(seen.resid_post).flatten(0, 2)  # (n, C)
    for x in stream.tensor_split(-(-len(stream) // MOST_AT_ONCE)):
        logits = widened(unembedding @ norm(x).T)  # (V, n), the way round that is quicker
        top = logits.max(dim=0)
        ids.append(top.indices)
        odds = logits.sub_(top.values).exp_()  # of each token against the likeliest
        probabilities.append(1 / odds.sum(0))
        step(len(x))
    shape = (len(seen.resid_post), *seen.embedded.shape[:2])
    ends = torch.stack([x[:, -1] for x in (seen.embedded, *seen.resid_post)])  # (L + 1, B, C)
    return Lens(
        torch.cat(ids).view(shape),
        torch.cat(probabilities).view(shape),
        torch.einsum("lbc,bvc->lbv", norm(ends), unembedding[answers]),
    )
