"""Score attention heads by what they read: the previous token, duplicates, induction.

The scores are averages of attention weights (Elhage et al. 2021, "A Mathematical Framework
for Transformer Circuits"; Olsson et al. 2022, arXiv 2209.11895). Duplicate and induction
scores need a sequence of n random tokens that is repeated once, T = 2n:

    token     a b c a b c          n = 3
    position  0 1 2 3 4 5

    previous    the weight of t on t - 1: 1 on 0, 2 on 1, ...
    duplicate   the weight of t on t - n, the same token: 3 on 0, 4 on 1, 5 on 2
    induction   the weight of t on t - (n - 1), the token after it: 2 on 0, 3 on 1, 4 on 2, ...

As TransformerLens does, induction starts at t = n - 1, the first position that has a t - (n - 1).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mingpt.checks import check_ids, widened
from mingpt.config import GPTConfig
from mingpt.errors import ConfigError
from mingpt.model import GPT
from patching.running import eval_mode, float32_products

SCORES = ("previous_token", "duplicate_token", "induction")
SPECIAL = 100  # ids that are not drawn, at the start of a vocabulary: punctuation and the like


def repeated_ids(config: GPTConfig, n: int, B: int = 2, *, seed: int = 0) -> Tensor:
    """Return B sequences of n random ids, each followed by itself: (B, 2n).

    Args:
        n: at most half of the model's block_size.

    Raises:
        ConfigError: n or B is below 1, or 2n is more than block_size.
    """
    if n < 1 or B < 1 or 2 * n > config.block_size:
        raise ConfigError(
            f"{B} sequences of 2 x {n} tokens cannot be made: the model reads 2 to"
            f" {config.block_size} tokens"
        )
    first = SPECIAL if config.vocab_size > 2 * SPECIAL else 0
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(first, config.vocab_size, (B, n), generator=generator)
    return torch.cat((ids, ids), dim=1)


@torch.no_grad()
def score_heads(model: GPT, ids: Tensor) -> dict[str, np.ndarray]:
    """Return the three scores of every head, each (n_layer, n_head), from 0 to 1.

    Args:
        model: run in eval mode; its mode and its recording stay as they were.
        ids: (B, T), each row n tokens and the same n again; see `repeated_ids`.

    Raises:
        ConfigError: ids that the model cannot read, or that are not repeated.
    """
    check_ids(ids, model.config.block_size)
    n = ids.size(1) // 2
    if ids.size(1) % 2 or not torch.equal(ids[:, :n], ids[:, n:]):
        raise ConfigError("head scores need sequences that are repeated once: n tokens, twice")
    offsets = dict(zip(SCORES, (1, n, n - 1), strict=True))
    found: dict[str, list[Tensor]] = {name: [] for name in SCORES}

    def tap(layer: int, site: str, x: Tensor) -> Tensor:
        if site == "pattern":  # (B, nh, T, T)
            for name, back in offsets.items():
                weights = widened(x).diagonal(-back, dim1=-2, dim2=-1)  # (B, nh, T - back)
                found[name].append(weights.mean((0, 2)))  # (nh,)
        return x

    with eval_mode(model), float32_products(model):
        model.stream(ids.to(model.device), tap)
    return {name: torch.stack(layers).cpu().numpy() for name, layers in found.items()}
