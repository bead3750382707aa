"""Beam search: a search for the likeliest continuations that keeps the best few in each step.

The search ends when no running beam can beat those that have ended (Graves 2012,
arXiv 1211.3711, section 3). A continuation's score is its log-probability divided
by a power of its length (Wu et al. 2016, arXiv 1609.08144, divide by another
function of it). The candidates of a step and the rule for the end are those of
transformers with early_stopping=False, so that the two give the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mingpt.checks import check_whole, finite, is_real, widened
from mingpt.errors import ConfigError, GenerationError
from mingpt.generation.decoding import check_penalty, with_penalty
from mingpt.generation.sampling import Sample, Stop, bytes_each, check
from mingpt.generation.sequences import Sequences
from mingpt.memory import lack
from mingpt.model import GPT

LARGEST_LENGTH_PENALTY = 10


@dataclass(frozen=True)
class BeamCandidate:
    """One continuation that a step of a beam search considers: a beam and one more token."""

    beam: int  # the running beam that it continues, numbered from 0 by rank
    token: int
    log_prob: float  # of the token, by the model, in nats
    total: float  # sum over the generated tokens, the repetition penalty applied
    score: float  # the total divided by a power of the length
    ended: str | None  # why it ends here: "length", "end" or "stop"; None: it could go on
    kept_as: int | None  # its beam in the next step; None: not kept, or ended


@dataclass(frozen=True)
class BeamStep:
    """One step of a beam search: its candidates, ranked by total, the best first."""

    step: int  # from 0
    candidates: tuple[BeamCandidate, ...]  # 2 * num_beams, or as many as there are


@dataclass(frozen=True)
class _Beam:
    """An unfinished continuation, and the total that the search ranks it by."""

    total: float  # sum of the tokens' log-probabilities, the repetition penalty applied
    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    row: int = 0  # the sequence in the batch that it continues
    ended: str = "length"

    def score(self, length_penalty: float) -> float:
        """Return the total divided by a power of the number of generated tokens."""
        return self.total / len(self.ids) ** length_penalty

    def finished(self, prompt: Sequence[int], length_penalty: float) -> Sample:
        score = self.score(length_penalty)
        return Sample(tuple(prompt), self.ids, self.log_probs, self.ended, score=score)


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
    observe: Callable[[BeamStep], None] = lambda step: None,
) -> list[Sample]:
    """Return the `num_samples` best continuations of a prompt, the best first.

    Args:
        model, prompt, max_new_tokens, stop, use_cache: as for sampling.generate.
        num_beams: continuations kept in each step; 1 takes the likeliest token each
            time, apart from the repetition penalty.
        num_samples: continuations returned, at most num_beams.
        length_penalty: n tokens score log-probability / n ** length_penalty:
            0 favours short continuations, above 1 long ones.
        repetition_penalty: as in Decoding, but applied to log-probabilities.
        step: called with the number of tokens done since its last call: 1 after
            each step, and at the end the rest of max_new_tokens.
        observe: called after each step with its candidates.

    Returns:
        Samples ranked by `score`; `log_probs` are the model's own. Fewer than
        asked for if a small vocabulary or a text to stop at leaves no more.

    Raises:
        ConfigError: as sampling.generate; or no beams, more samples than beams, a
            penalty out of its range.
        GenerationError: as sampling.generate; or the beams need more memory than is free.
    """
    check(model.config, [prompt], max_new_tokens, num_samples=num_samples)
    check_beams(num_beams, num_samples, length_penalty, repetition_penalty)
    if max_new_tokens == 0:
        return [Sample(tuple(prompt), (), (), "length", score=0.0)]
    stop = stop or Stop()
    _check_memory(model, len(prompt), max_new_tokens, num_beams, use_cache=use_cache)
    idx = torch.tensor([list(prompt)], device=model.device)
    sequences = Sequences(model, idx, idx.size(1) + max_new_tokens, use_cache=use_cache)
    running, finished = [_Beam(0.0)], list[_Beam]()
    for length in range(1, max_new_tokens + 1):
        logits = finite(sequences.logits())  # (beams, V)
        candidates = _candidates(running, logits, sequences.ids, 2 * num_beams, repetition_penalty)
        running, ended = _parted(candidates, stop, num_beams, is_last=length == max_new_tokens)
        finished = _best(finished + ended, num_beams, length_penalty)
        observe(BeamStep(length - 1, _seen(candidates, running, ended, length_penalty)))
        if not running or _is_over(running[0], finished, num_beams, length_penalty):
            step(max_new_tokens - length + 1)
            break
        step(1)
        sequences.select(idx.new_tensor([beam.row for beam in running]))
        sequences.append(idx.new_tensor([beam.ids[-1] for beam in running]))
    return [beam.finished(prompt, length_penalty) for beam in finished[:num_samples]]


def _best(finished: Sequence[_Beam], num_beams: int, length_penalty: float) -> list[_Beam]:
    return sorted(finished, key=lambda beam: -beam.score(length_penalty))[:num_beams]


def _parted(
    candidates: Sequence[_Beam], stop: Stop, num_beams: int, *, is_last: bool
) -> tuple[list[_Beam], list[_Beam]]:
    """Return the candidates that go on, and those that end here and rank among the best beams."""
    going_on, ended = [], []
    for rank, beam in enumerate(candidates):
        reason = stop.reason(beam.ids) or ("length" if is_last else None)
        if reason is None:
            going_on.append(beam)
        elif rank < num_beams:  # candidates ranked lower may only go on
            ended.append(replace(beam, ended=reason))
    return going_on[:num_beams], ended


def _seen(
    candidates: Sequence[_Beam],
    running: Sequence[_Beam],
    ended: Sequence[_Beam],
    length_penalty: float,
) -> tuple[BeamCandidate, ...]:
    """Return a step's candidates with what became of each."""
    kept = {beam.ids: number for number, beam in enumerate(running)}
    reasons = {beam.ids: beam.ended for beam in ended}
    return tuple(
        BeamCandidate(
            beam=beam.row,
            token=beam.ids[-1],
            log_prob=beam.log_probs[-1],
            total=beam.total,
            score=beam.score(length_penalty),
            ended=reasons.get(beam.ids),
            kept_as=kept.get(beam.ids),
        )
        for beam in candidates
    )


def check_beams(
    num_beams: int, num_samples: int, length_penalty: float, repetition_penalty: float
) -> None:
    """Raise ConfigError for settings that `beam_search` refuses."""
    check_whole("num_beams", num_beams, 1)
    check_whole("num_samples", num_samples, 1)
    if num_samples > num_beams:
        raise ConfigError(f"{num_beams} beams cannot give {num_samples} continuations")
    if not (is_real(length_penalty) and abs(length_penalty) <= LARGEST_LENGTH_PENALTY):
        raise ConfigError(
            f"length_penalty must be from -{LARGEST_LENGTH_PENALTY} to {LARGEST_LENGTH_PENALTY},"
            f" not {length_penalty!r}"
        )
    check_penalty(repetition_penalty)


def _check_memory(
    model: GPT, T: int, max_new_tokens: int, num_beams: int, *, use_cache: bool
) -> None:
    """Raise GenerationError if a search needs more memory than is free."""
    need = bytes_needed(model, T, max_new_tokens, num_beams, use_cache=use_cache)
    missing = lack(need, model.device)
    if missing is not None:
        raise GenerationError(f"num_beams {num_beams} (--num-beams) {missing}; search fewer beams")


def bytes_needed(
    model: GPT, T: int, max_new_tokens: int, num_beams: int, *, use_cache: bool = True
) -> int:
    """Return about how many bytes a search takes beside the model.

    Args:
        model, max_new_tokens, num_beams, use_cache: as for beam_search.
        T: tokens of the prompt.
    """
    V, width = model.config.vocab_size, 1
    for _ in range(min(max_new_tokens - 1, 64)):  # there is one beam at first, then V, ...
        width = min(num_beams, width * V)
    read = 1 if use_cache else T + max_new_tokens  # tokens of a beam, in a step
    each = bytes_each(model.config, read, T + max_new_tokens, model.dtype.itemsize)
    # Candidates, running and finished beams: the object, and two numbers a token.
    objects = 4 * min(num_beams, width * V) * (450 + 16 * max_new_tokens)
    return width * each + objects


def _candidates(
    running: Sequence[_Beam], logits: Tensor, ids: Tensor, most: int, penalty: float
) -> list[_Beam]:
    """Return the best continuations of all beams by one token, the best first."""
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
    """Return True if the best running beam, ended now, would not rank among the finished."""
    return len(finished) == num_beams and best.score(penalty) <= finished[-1].score(penalty)
