"""The candidates of one step: which tokens could have come next, what was cut, what was chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mingpt.generation.decoding import Decoding
from mingpt.generation.sampling import Choice
from patching.next_tokens import text_or_id

CUT_BY_K, CUT_BY_P = "top-k", "top-p"


@dataclass(frozen=True)
class Candidate:
    """One token that could have come next."""

    rank: int  # 1 is the likeliest, after penalty and temperature
    id: int
    token: str
    logit: float  # as the model gives it
    probability: float  # after repetition penalty and temperature, before the cuts
    cumulative: float  # sum of the probabilities up to this one, of those that top-k kept
    cut: str | None  # "top-k" or "top-p": what cut it; None: kept
    drawn_with: float  # probability after the cuts, with which it is drawn; 0 if cut
    is_chosen: bool


def keep_first(
    known: dict[int, Candidate],
    choice: Choice,
    decoding: Decoding,
    k: int,
    text_of: Callable[[int], str],
    *,
    greedy: bool,
) -> None:
    """Add the candidates for a prompt's first token to those that are known from other samples.

    After all samples, the known ones are the `k` likeliest tokens and those that samples
    begin with.

    Args:
        known: id -> candidate; changed in place.
        choice: the first step of one sample.
        decoding, k, text_of, greedy: as for step_candidates.
    """
    if choice.token in known:
        return
    for one in step_candidates(choice, decoding, k, text_of, greedy=greedy):
        known.setdefault(one.id, one)


def step_candidates(
    choice: Choice, decoding: Decoding, k: int, text_of: Callable[[int], str], *, greedy: bool
) -> list[Candidate]:
    """Return the `k` likeliest tokens of a step, and after them the chosen one if it is missing.

    Args:
        choice: the step.
        decoding: the decoding that the choice was made with.
        k: number of tokens.
        text_of: returns a token's text; an id without a token is written "id:50300".
        greedy: True if the likeliest token was taken; then nothing was cut or drawn.
    """
    scores = decoding.scores(choice.logits[None], choice.ids[None])
    by_k, by_p = (kept[0].cpu() for kept in decoding.keep(scores))  # (V,) each, True: kept
    scores = scores[0].cpu().double()  # to the CPU first: MPS has no float64
    probability = scores.softmax(-1)
    if greedy:
        by_k = by_p = torch.arange(len(scores)) == choice.token
    drawn_with = scores.masked_fill(~by_p, -math.inf).softmax(-1)
    order = scores.argsort(descending=True, stable=True)  # ids, the likeliest first
    # top-p cuts what top-k has left, so its sum counts those tokens only: where top-k keeps
    # 0.4 and 0.1 of the probability, cumulative is 0.8 and 1.
    left = probability if greedy else probability.masked_fill(~by_k, 0)
    cumulative = (left / left.sum())[order].cumsum(-1)
    rows = list(range(min(k, len(order))))
    chosen_at = int((order == choice.token).nonzero())
    if chosen_at >= k:
        rows.append(chosen_at)
    ids = order[rows]
    columns = [x[ids].tolist() for x in (choice.logits.cpu(), probability, drawn_with, by_k, by_p)]
    found = []
    for at, number, total, logit, share, drawn, in_k, in_p in zip(
        rows, ids.tolist(), cumulative[rows].tolist(), *columns, strict=True
    ):
        cut = None if in_p or greedy else CUT_BY_P if in_k else CUT_BY_K
        found.append(
            Candidate(
                rank=at + 1,
                id=number,
                token=text_or_id(text_of, number),
                logit=logit,
                probability=share,
                cumulative=min(total, 1.0),
                cut=cut,
                drawn_with=drawn,
                is_chosen=number == choice.token,
            )
        )
    return found
