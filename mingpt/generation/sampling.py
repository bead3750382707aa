"""Continuing prompts: several prompts, several samples of each, seeds, places to stop.

A batch changes nothing: prompts of one length are read together, each once, and
what is drawn for a sample depends on its own seed alone. So every sample is the
one that it would be by itself. Beam search is beams.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from mingpt.checks import check_whole, finite, widened
from mingpt.config import GPTConfig
from mingpt.errors import ConfigError
from mingpt.generation.decoding import Decoding, draw, with_penalty
from mingpt.generation.sequences import Sequences
from mingpt.model import GPT

ROOM = 1 << 29  # bytes that a batch may hold, of what grows with it


@dataclass(frozen=True)
class Sample:
    """One continuation of a prompt."""

    prompt: tuple[int, ...]  # token ids
    ids: tuple[int, ...]  # what follows them
    log_probs: tuple[float, ...]  # of each, in nats, by the model itself: nothing cut or changed
    ended: str  # "length"; "end": the end-of-text token, its last; "stop": one of the texts
    seed: int | None = None  # that draws it again; None where nothing was drawn
    score: float | None = None  # of a beam: see beams.py

    @property
    def log_prob(self) -> float:
        """Of all that follows the prompt, in nats."""
        return sum(self.log_probs)


@dataclass(frozen=True)
class Choice:
    """One step of one sample, as it is made. Its tensors are parts of the batch's."""

    prompt: int  # number of the prompt
    sample: int  # number of the sample, of that prompt
    step: int  # tokens before it that the sample has
    logits: Tensor  # (V,) as the model gives them
    ids: Tensor  # (T,) the sequence that they follow
    token: int  # the one chosen
    log_prob: float  # of it, as of Sample
    ended: str | None  # as of Sample, if that was the last


@dataclass(frozen=True)
class Stop:
    """What ends a continuation before its time.

    Raises:
        ConfigError: a text that is empty, or texts without `decode`.
    """

    end: int | None = None  # the id of the end-of-text token
    texts: tuple[str, ...] = ()  # any of them, anywhere in the continuation's text
    decode: Callable[[Sequence[int]], str] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_stop_texts(self.texts)
        if self.texts and self.decode is None:
            raise ConfigError("texts to stop at need a tokenizer's decode")

    def reason(self, generated: Sequence[int]) -> str | None:
        """Why the sample ends here, after its last token; None: it does not."""
        if generated and generated[-1] == self.end:
            return "end"
        if self.texts:
            # Only what the last token can have completed: it is a byte long, or longer, and the
            # first of these may begin in the middle of a character.
            said = self.decode(generated[-max(len(text.encode()) for text in self.texts) - 4 :])
            if any(text in said for text in self.texts):
                return "stop"
        return None


def check_stop_texts(texts: Sequence[str]) -> None:
    """Check the texts that end a continuation.

    Raises:
        ConfigError: one text in place of a tuple, or a text that is empty or not valid Unicode.
    """
    if isinstance(texts, str):
        raise ConfigError(f"texts to stop at are several, in a tuple, not {texts!r}")
    for text in texts:
        if not isinstance(text, str) or not text:
            raise ConfigError(f"a text to stop at is empty, or none: {text!r}")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise ConfigError(f"a text to stop at is not valid Unicode: {text!r}")


@torch.no_grad()
def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    decoding: Decoding | None = None,
    num_samples: int = 1,
    seed: int = 0,
    greedy: bool = False,
    stop: Stop | None = None,
    use_cache: bool = True,
    observe: Callable[[Choice], None] | None = None,
) -> list[list[Sample]]:
    """Samples of what follows each prompt.

    Args:
        model: in eval mode. Its last_logits are left as the last step had them.
        prompts: token ids, each 1 to block_size of them.
        max_new_tokens: of each sample. Beyond block_size tokens in all, the
            model reads the last block_size, and a step takes as long as a
            forward of them (sequences.py says why).
        decoding: what is changed before a token is drawn; None: nothing.
        num_samples: of each prompt.
        seed: of each prompt's first sample; the next ones have the next
            numbers. The same for all prompts, so that a prompt's samples do not
            depend on the others.
        greedy: take the likeliest token instead, of one sample; of `decoding`,
            only the repetition penalty can change it.
        stop: where to end before that.
        use_cache: False reads everything anew in each step: the definition,
            which gives the same.
        observe: called with each choice as it is made; samples of one batch take
            turns, and a batch follows when the one before is done.

    Returns:
        For each prompt its samples, in the order of their seeds.

    Raises:
        ConfigError: a number out of its range, no prompt, or an empty one, or
            one that is too long or has ids that the model has not.
        GenerationError: logits that are not finite.
    """
    check(model.config, prompts, max_new_tokens, seed=seed, num_samples=num_samples)
    if greedy and num_samples > 1:
        raise ConfigError(f"greedy has one continuation of a prompt, not {num_samples}")
    decoding, stop = decoding or Decoding(), stop or Stop()
    samples: list[list[Sample | None]] = [[None] * num_samples for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for T, numbers in groupby(by_length, key=lambda number: len(prompts[number])):
        waiting = [_Row(n, sample, prompts[n]) for n in numbers for sample in range(num_samples)]
        read = T if use_cache else T + max_new_tokens
        most = at_once(model.config, read, T + max_new_tokens, model.lm_head.weight.dtype.itemsize)
        for first in range(0, len(waiting), most):
            batch = waiting[first : first + most]
            for row in batch:
                row.random = None if greedy else np.random.default_rng(seed + row.sample)
            _run(model, batch, max_new_tokens, decoding, stop, use_cache, observe)
            for row in batch:
                used = None if greedy else seed + row.sample
                samples[row.prompt][row.sample] = row.finished(used)
    return samples


def log_likelihood(model: GPT, ids: Sequence[int]) -> list[float]:
    """Of each token of a text given those before it, in nats; the first has none.

    Raises:
        ConfigError: as `generate`.
        GenerationError: likewise.
    """
    check(model.config, [ids], 0)
    idx = torch.tensor([[*ids]], device=model.device)
    with torch.no_grad():
        logits = finite(model(idx)[0][0, :-1])  # (T - 1, V)
    return log_probs_of(logits, idx[0, 1:]).tolist()


def check(
    config: GPTConfig,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    seed: int = 0,
    num_samples: int = 1,
) -> None:
    """Raises ConfigError as `generate` says, before anything is run."""
    check_whole("max_new_tokens", max_new_tokens, 0)
    check_whole("num_samples", num_samples, 1)
    check_whole("seed", seed, 0)
    if len(prompts) == 0:
        raise ConfigError("there is no prompt")
    for number, ids in enumerate(prompts):
        which = "the prompt" if len(prompts) == 1 else f"prompt {number + 1}"
        if not (hasattr(ids, "__len__") and all(hasattr(one, "__index__") for one in ids)):
            raise ConfigError(f"{which} is no sequence of token ids: {ids!r}")
        if not 1 <= len(ids) <= config.block_size:
            raise ConfigError(
                f"{which} has {len(ids)} tokens, the model reads 1 to {config.block_size}"
            )
        if min(ids) < 0 or max(ids) >= config.vocab_size:
            raise ConfigError(f"{which} has ids that are not from 0 to {config.vocab_size - 1}")


def at_once(config: GPTConfig, read: int, length: int, itemsize: int) -> int:
    """How many sequences a batch may have of `length` tokens, `read` of them at a time."""
    T = min(length, config.block_size)
    kept = 2 * config.n_layer * config.kv_heads * config.head_size * T
    if length > T:  # where the window moves along, all of it is read in each step
        read = T
    weights = 3 * config.n_head * read * T
    candidates = 48 * config.vocab_size  # bytes: logits, scores, masks, and what is sorted
    return max(1, ROOM // (itemsize * (kept + weights) + candidates))


def log_probs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of tokens (B,) by logits (B, V), in nats."""
    wide = widened(logits)
    return wide.gather(-1, tokens[:, None])[:, 0] - wide.logsumexp(-1)


@dataclass
class _Row:
    """One sample on its way."""

    prompt: int
    sample: int
    prompt_ids: Sequence[int]
    random: np.random.Generator | None = None
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    ended: str = "length"

    def finished(self, seed: int | None) -> Sample:
        """What has come of it."""
        ids = (tuple(map(int, self.prompt_ids)), tuple(self.ids), tuple(self.log_probs))
        return Sample(*ids, self.ended, seed)


def _run(
    model: GPT,
    rows: Sequence[_Row],
    max_new_tokens: int,
    decoding: Decoding,
    stop: Stop,
    use_cache: bool,
    observe: Callable[[Choice], None] | None,
) -> None:
    """Take rows whose prompts are equally long to their ends."""
    device = model.device
    prompts = {row.prompt: row.prompt_ids for row in rows}  # each is read once
    row_of = {number: row for row, number in enumerate(prompts)}
    idx = torch.tensor([[*ids] for ids in prompts.values()], device=device)
    sequences = Sequences(model, idx, idx.size(1) + max_new_tokens, use_cache=use_cache)
    copies = torch.tensor([row_of[row.prompt] for row in rows], device=device)
    for step in range(max_new_tokens):
        logits = finite(sequences.logits())  # (B, V)
        if step == 0:
            logits = logits[copies]
            sequences.select(copies)
        tokens = _choose(logits, sequences.ids, rows, decoding)
        log_probs = log_probs_of(logits, tokens)
        going_on = []
        for at, (row, token, log_prob) in enumerate(
            zip(rows, tokens.tolist(), log_probs.tolist(), strict=True)
        ):
            row.ids.append(token)
            row.log_probs.append(log_prob)
            ended = stop.reason(row.ids)
            if ended is not None:
                row.ended = ended
            elif step + 1 < max_new_tokens:
                going_on.append(at)
            if observe is not None:
                is_last = ended or (row.ended if step + 1 == max_new_tokens else None)
                choice = (logits[at], sequences.ids[at], token, log_prob, is_last)
                observe(Choice(row.prompt, row.sample, step, *choice))
        if not going_on:
            return
        sequences.append(tokens)
        if len(going_on) < len(rows):
            sequences.select(torch.tensor(going_on, device=device))
            rows = [rows[at] for at in going_on]


def _choose(logits: Tensor, ids: Tensor, rows: Sequence[_Row], decoding: Decoding) -> Tensor:
    """The next token of each row (B,)."""
    if rows[0].random is None:
        return with_penalty(logits, ids, decoding.repetition_penalty).argmax(-1)
    uniform = torch.tensor([row.random.random() for row in rows], dtype=torch.float64)
    return draw(decoding.filtered(logits, ids), uniform).to(logits.device)
