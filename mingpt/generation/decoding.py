"""Choose the next token from its logits: penalty, temperature, top-k, top-p, draw.

The order is transformers'. This file has no model and no state: a draw is a
function of the logits and of a number in [0, 1).

Shapes: B sequences, T tokens of each so far, V = vocab_size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.checks import check_positive, check_whole, is_real, widened
from mingpt.errors import ConfigError

LARGEST_PENALTY = 1000.0


@dataclass(frozen=True)
class Decoding:
    """Settings that change the distribution of the next token before a token is drawn.

    Raises:
        ConfigError: a number that is out of its range.
    """

    temperature: float = 1.0  # logits are divided by it; below 1 sharpens, above 1 flattens
    top_k: int | None = None  # keep the k likeliest, and those that tie with the last; None: all
    # Keep the smallest set whose probability reaches p, with the token that crosses p
    # (Holtzman et al. 2020, arXiv 1904.09751, section 3.1); None: all.
    top_p: float | None = None
    # The logit of each token that has occurred is divided by it if positive, multiplied if
    # negative (Keskar et al. 2019, arXiv 1909.05858, section 4.1). 1 changes nothing.
    # From 1 / LARGEST_PENALTY to LARGEST_PENALTY.
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_penalty(self.repetition_penalty)
        if self.top_k is not None:
            check_whole("top_k", self.top_k, 1)
        if self.top_p is not None and not (is_real(self.top_p) and 0 < self.top_p <= 1):
            raise ConfigError(f"top_p must be a number in (0, 1], not {self.top_p!r}")

    def scores(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Return the logits (B, V) after penalty and temperature, each row's largest moved to 0.

        Args:
            logits: (B, V), as the model gives them.
            ids: the sequences so far (B, T), prompts included.
        """
        wide = widened(logits)
        penalised = with_penalty(wide, ids, self.repetition_penalty)
        # The largest becomes 0 and stays 0 at any temperature; the others may overflow to -inf.
        lowered = penalised - penalised.amax(-1, keepdim=True)
        return lowered / max(self.temperature, torch.finfo(wide.dtype).tiny)

    def keep(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return two masks (B, V), True for kept tokens: by top-k, and by top-k and top-p."""
        by_k = torch.ones_like(scores, dtype=torch.bool)
        if self.top_k is not None:
            by_k = within_top_k(scores, self.top_k)
        if self.top_p is None or self.top_p == 1:
            return by_k, by_k
        return by_k, by_k & within_top_p(scores.masked_fill(~by_k, -math.inf), self.top_p)

    def filtered(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Return the scores (B, V), with -inf for the tokens that top-k or top-p removes.

        Args:
            logits, ids: as for `scores`.
        """
        scores = self.scores(logits, ids)
        return scores.masked_fill(~self.keep(scores)[1], -math.inf)


def check_penalty(penalty: float) -> None:
    """Raise ConfigError unless `penalty` is a repetition penalty in its range."""
    if not (is_real(penalty) and 1 / LARGEST_PENALTY <= penalty <= LARGEST_PENALTY):
        raise ConfigError(
            f"repetition_penalty must be a number from {1 / LARGEST_PENALTY:g} to"
            f" {LARGEST_PENALTY:g}, not {penalty!r}"
        )


def with_penalty(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Return the logits (B, V) after the repetition penalty on the tokens in `ids` (B, T)."""
    if penalty == 1:
        return logits
    there = logits.gather(-1, ids)
    return logits.scatter(-1, ids, torch.where(there < 0, there * penalty, there / penalty))


def within_top_k(scores: Tensor, k: int) -> Tensor:
    """Return a mask (B, V): True for a row's k largest scores and those equal to the k-th."""
    return scores >= scores.topk(min(k, scores.size(-1))).values[:, -1:]


def within_top_p(scores: Tensor, p: float) -> Tensor:
    """Return a mask (B, V): True for the smallest set of a row whose probability reaches p.

    Of equal scores at the edge of the set, only as many are kept as are needed.
    Probabilities are summed from the least likely token up, as in transformers,
    so that rounding at the edge decides in the same way.
    """
    candidates = int(scores.isfinite().sum(-1).max())
    if candidates < scores.size(-1):  # after top-k, sorting the few that are left is faster
        rising, order = (part.flip(-1) for part in scores.topk(candidates))
    else:
        rising, order = scores.sort(dim=-1)
    kept = rising.softmax(-1).cumsum(-1) > 1 - p
    kept[:, -1] = True  # the likeliest, however small p is
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, kept)


def draw(scores: Tensor, uniform: Tensor) -> Tensor:
    """Draw tokens (B,): in each row the first whose cumulative probability exceeds `uniform`.

    The sums are float64, so that the same numbers draw the same tokens on every device.

    Args:
        scores: (B, V), -inf where a token cannot be drawn.
        uniform: (B,) in [0, 1), float64, on the CPU.
    """
    if scores.device.type == "mps":  # it has no float64
        scores = scores.cpu()
    total = scores.double().softmax(-1).cumsum(-1)
    wanted = uniform.to(total.device)[:, None] * total[:, -1:]
    return torch.searchsorted(total, wanted, right=True).squeeze(-1)
