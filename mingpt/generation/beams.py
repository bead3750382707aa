"""Beam search: the continuations that the model finds likeliest, as far as a beam sees.

Of all continuations of the best beams, the best are kept, step by step, until
those that have ended can no longer be beaten (Graves 2012, arXiv 1211.3711,
section 3; the length penalty divides as in Wu et al. 2016, arXiv 1609.08144, but
by a plain power of the length). Which candidates are looked at, and when the
search is over, is as in transformers with early_stopping=False, so that the two
give the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real

import torch
from torch import Tensor

from mingpt.checks import check_whole, finite, widened
from mingpt.errors import ConfigError
from mingpt.generation.decoding import Decoding, with_penalty
from mingpt.generation.sampling import Sample, Stop, check
from mingpt.generation.sequences import Sequences
from mingpt.model import GPT

LARGEST_PENALTY = 10


@dataclass(frozen=True)
class _Beam:
    """A continuation, and the sum of its tokens' log-probabilities as the search ranks them."""

    total: float
    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    row: int = 0  # of the sequence that it goes on from
    ended: str | None = None

    def score(self, length_penalty: float) -> float:
        """The total over a power of the number of generated tokens."""
        return self.total / len(self.ids) ** length_penalty


@torch.no_grad()
def beam_search(
    model: GPT,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    num_beams: int,
    num_samples: int = 1,
    length_penalty: float = 1.0,
    repetition_penalty: float = 1.0,
    stop: Stop | None = None,
    use_cache: bool = True,
    step: Callable[[int], None] = lambda tokens: None,
) -> list[Sample]:
    """The `num_samples` best continuations of a prompt, the best first.

    Args:
        model, prompt, max_new_tokens, stop, use_cache: as of
            mingpt.generation.generate.
        num_beams: how many are followed at a time; 1 is greedy, but for the
            repetition penalty.
        num_samples: how many of them are wanted, at most num_beams.
        length_penalty: the score of a continuation of n tokens is its
            log-probability / n ** length_penalty: 0 favours short ones, above 1
            long ones.
        repetition_penalty: see mingpt.generation.decoding. It changes log-probabilities
            then, not logits, and they need no longer add up to 1.
        step: called after each step with how many tokens further the search
            is: 1, and at its end all that are left of max_new_tokens.

    Returns:
        Samples whose `score` is what they are ranked by; `log_probs` are the
        model's own. Fewer than asked for, if a small vocabulary or a text to
        stop at leaves no more.

    Raises:
        ConfigError, GenerationError: as `generate`; or no beams, more samples
            than beams, a penalty that is out of its range.
    """
    check(model.config, [prompt], max_new_tokens, num_samples=num_samples)
    check_beams(num_beams, num_samples, length_penalty, repetition_penalty)
    if max_new_tokens == 0:
        return [Sample(tuple(prompt), (), (), "length", score=0.0)]
    stop = stop or Stop()
    idx = torch.tensor([[*prompt]], device=model.device)
    sequences = Sequences(model, idx, idx.size(1) + max_new_tokens, use_cache=use_cache)
    running, finished = [_Beam(0.0)], []
    for length in range(1, max_new_tokens + 1):
        logits = finite(sequences.logits())  # (beams, V)
        candidates = _candidates(running, logits, sequences.ids, 2 * num_beams, repetition_penalty)
        going_on: list[_Beam] = []
        for rank, beam in enumerate(candidates):
            ended = stop.reason(beam.ids) or ("length" if length == max_new_tokens else None)
            if ended is None:
                going_on.append(beam)
            elif rank < num_beams:  # the others are there only to go on
                finished.append(replace(beam, ended=ended))
        running = going_on[:num_beams]
        finished = sorted(finished, key=lambda beam: -beam.score(length_penalty))[:num_beams]
        if not running or _is_over(running[0], finished, num_beams, length_penalty):
            step(max_new_tokens - length + 1)
            break
        step(1)
        rows = torch.tensor([beam.row for beam in running], device=idx.device)
        sequences.select(rows)
        sequences.append(torch.tensor([beam.ids[-1] for beam in running], device=idx.device))
    return [
        Sample(
            tuple(prompt), beam.ids, beam.log_probs, beam.ended, score=beam.score(length_penalty)
        )
        for beam in finished[:num_samples]
    ]


def check_beams(
    num_beams: int, num_samples: int, length_penalty: float, repetition_penalty: float
) -> None:
    """Raises ConfigError as `beam_search` says."""
    check_whole("num_beams", num_beams, 1)
    check_whole("num_samples", num_samples, 1)
    if num_samples > num_beams:
        raise ConfigError(f"{num_beams} beams cannot give {num_samples} continuations")
    is_number = isinstance(length_penalty, Real) and not isinstance(length_penalty, bool)
    if not (is_number and abs(length_penalty) <= LARGEST_PENALTY):
        raise ConfigError(
            f"length_penalty must be from -{LARGEST_PENALTY} to {LARGEST_PENALTY},"
            f" not {length_penalty!r}"
        )
    Decoding(repetition_penalty=repetition_penalty)  # which has its range


def _candidates(
    running: Sequence[_Beam], logits: Tensor, ids: Tensor, most: int, penalty: float
) -> list[_Beam]:
    """The best continuations by one token of all beams together, the best first."""
    own = widened(logits).log_softmax(-1)  # (beams, V)
    ranked = with_penalty(own, ids, penalty)
    totals = ranked.new_tensor([beam.total for beam in running])
    V = own.size(-1)
    best = (totals[:, None] + ranked).flatten().topk(min(most, len(running) * V))
    values = own.flatten()[best.indices].tolist()
    beams = []
    for total, at, value in zip(best.values.tolist(), best.indices.tolist(), values, strict=True):
        row, token = divmod(at, V)
        before = running[row]
        beams.append(_Beam(total, (*before.ids, token), (*before.log_probs, value), row))
    return beams


def _is_over(best: _Beam, finished: Sequence[_Beam], num_beams: int, penalty: float) -> bool:
    """Whether the best beam, ended as it is, could not get among those that have ended."""
    return len(finished) == num_beams and best.score(penalty) <= finished[-1].score(penalty)
