"""Sample continuations of several prompts, several for each, with seeds and places to stop.

Prompts of one length are run together, and each is read once. The batch has no
influence on a sample, because its draws depend on its own seed alone. This holds in
float32 and float64. In half precision the batch, and the cache too, move the rounding
of the logits, which now and then changes a token. Beam search
is in beams.py; the definition by a plain loop is GPT.generate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from mingpt.checks import check_whole, finite, widened
from mingpt.config import GPTConfig
from mingpt.errors import ConfigError, PatchError
from mingpt.generation.decoding import Decoding, draw, with_penalty
from mingpt.generation.sequences import Sequences
from mingpt.model import GPT
from mingpt.sites import Patch, PatchLike, as_patches

BATCH_BYTES = 1 << 29  # for a batch's cache, attention scores and logits together


@dataclass(frozen=True)
class Sample:
    """One continuation of a prompt."""

    prompt: tuple[int, ...]  # token ids
    ids: tuple[int, ...]  # the tokens that follow
    log_probs: tuple[float, ...]  # of each of `ids`, in nats, by the model's own logits
    ended: str  # "length"; "end": its last token is the end of text; "stop": see Stop.texts
    seed: int | None = None  # draws this sample again; None where nothing was drawn
    score: float | None = None  # of a beam: see beams.py

    @property
    def log_prob(self) -> float:
        """Log-probability of all tokens that follow the prompt, in nats."""
        return sum(self.log_probs)


@dataclass(frozen=True)
class Choice:
    """The token chosen in one step of one sample. The tensors are views of the batch's."""

    prompt: int  # number of the prompt, from 0
    sample: int  # number of the sample among its prompt's, from 0
    step: int  # tokens that the sample had before
    logits: Tensor  # (V,) as the model gives them
    ids: Tensor  # (T,) the sequence before the step
    token: int  # the chosen token
    log_prob: float  # of the chosen token, as in Sample
    ended: str | None  # as in Sample, if this step was the sample's last


@dataclass(frozen=True)
class Stop:
    """Conditions that end a sample before it has max_new_tokens tokens.

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
        """Return why a sample ends after its last token: "end", "stop", or None if it goes on."""
        if generated and generated[-1] == self.end:
            return "end"
        if self.texts and self.decode is not None:
            # Earlier steps have looked for texts that end earlier. A token has at least one
            # byte, so a text is in the last `longest` tokens; 4 more, because the first of
            # them may begin in the middle of a character.
            longest = max(len(text.encode()) for text in self.texts)
            said = self.decode(generated[-longest - 4 :])
            if any(text in said for text in self.texts):
                return "stop"
        return None


def check_stop_texts(texts: Sequence[str]) -> None:
    """Raise ConfigError unless `texts` is a sequence of non-empty, valid texts."""
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
    patch: PatchLike | None = None,
    use_cache: bool = True,
    observe: Callable[[Choice], None] | None = None,
) -> list[list[Sample]]:
    """Sample continuations of each prompt; return each prompt's samples in the order of seeds.

    Args:
        model: in eval mode. Its last_logits are the last step's afterwards.
        prompts: token ids, 1 to block_size for each prompt.
        max_new_tokens: of each sample. Beyond block_size tokens in all, each
            step reads the last block_size again (see sequences.py).
        decoding: changes the distribution before a token is drawn; None: no change.
        num_samples: of each prompt.
        seed: of each prompt's first sample; the next samples have the next
            numbers. All prompts share the seeds, so that a prompt's samples do
            not depend on the other prompts.
        greedy: take the likeliest token each time; num_samples must be 1, and of
            `decoding` only the repetition penalty is used.
        stop: ends samples early.
        patch: as in GPT.generate. With several prompts, every patch needs a value
            of its own, not one from the recording.
        use_cache: False reads the whole sequence in each step: slower, and the
            definition of the result.
        observe: called with each choice as it is made: step by step for all
            samples of a batch, one batch after another.

    Raises:
        ConfigError: a number out of its range, no prompt, an empty one, or one
            that is too long or has an id that the model does not have.
        GenerationError: logits that are not finite.
        PatchError: as GPT.generate.
    """
    check(model.config, prompts, max_new_tokens, seed=seed, num_samples=num_samples)
    if greedy and num_samples > 1:
        raise ConfigError(f"greedy has one continuation of a prompt, not {num_samples}")
    decoding, stop = decoding or Decoding(), stop or Stop()
    patches = [] if patch is None else as_patches(patch)
    if len(prompts) > 1 and any(one.value is None for one in patches):
        raise PatchError("patches from a recording are for one prompt; give patches with values")
    samples: list[dict[int, Sample]] = [{} for _ in prompts]
    run = _Run(model, max_new_tokens, decoding, stop, patches, use_cache, observe)
    for batch in _batches(model, prompts, max_new_tokens, num_samples, use_cache):
        for row in batch:
            row.random = None if greedy else np.random.default_rng(seed + row.sample)
        run.batch(batch)
        for row in batch:
            used = None if greedy else seed + row.sample
            samples[row.prompt][row.sample] = row.finished(used)
    return [[found[number] for number in range(num_samples)] for found in samples]


@torch.no_grad()
def log_likelihood(model: GPT, ids: Sequence[int]) -> list[float]:
    """Return ln p, in nats, of each token but the first, given the tokens before it.

    Raises:
        ConfigError: no ids, too many, or an id that the model does not have.
        GenerationError: logits that are not finite.
    """
    check(model.config, [ids], 0)
    idx = torch.tensor([list(ids)], device=model.device)
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
    """Raise ConfigError for arguments that `generate` refuses; no model is run."""
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
    """Return how many sequences fit in a batch of BATCH_BYTES; arguments as for bytes_each."""
    return max(1, BATCH_BYTES // bytes_each(config, read, length, itemsize))


def bytes_each(config: GPTConfig, read: int, length: int, itemsize: int) -> int:
    """Return the bytes that a sequence takes in a batch: cache, attention scores and logits.

    Args:
        read: most tokens that one step reads.
        length: tokens of a finished sequence.
        itemsize: bytes of a number in the model's dtype.
    """
    T = min(length, config.block_size)
    cached = 2 * config.n_layer * config.kv_heads * config.head_size * T  # keys and values
    if length > T:  # beyond block_size, each step reads the whole window
        read = T
    scores = 3 * config.n_head * read * T  # of attention
    candidates = 48 * config.vocab_size  # bytes: logits, scores, masks and sorted copies
    return itemsize * (cached + scores) + candidates


def log_probs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return ln p of tokens (B,) by logits (B, V), in nats."""
    wide = widened(logits)
    return wide.gather(-1, tokens[:, None])[:, 0] - wide.logsumexp(-1)


# --------------------------------------------------------------------- one batch


@dataclass
class _Row:
    """One sample while it is being made."""

    prompt: int
    sample: int
    prompt_ids: Sequence[int]
    random: np.random.Generator | None = None  # None: the likeliest token is taken
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    ended: str = "length"

    def finished(self, seed: int | None) -> Sample:
        prompt = tuple(map(int, self.prompt_ids))
        return Sample(prompt, tuple(self.ids), tuple(self.log_probs), self.ended, seed)


def _batches(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    num_samples: int,
    use_cache: bool,
) -> Iterator[list[_Row]]:
    """Yield batches of samples that fit into BATCH_BYTES, each of prompts of one length."""
    by_length = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for T, numbers in groupby(by_length, key=lambda number: len(prompts[number])):
        rows = [_Row(n, sample, prompts[n]) for n in numbers for sample in range(num_samples)]
        read = T if use_cache else T + max_new_tokens
        most = at_once(model.config, read, T + max_new_tokens, model.dtype.itemsize)
        for first in range(0, len(rows), most):
            yield rows[first : first + most]


@dataclass(frozen=True)
class _Run:
    """The settings that all batches of one call share."""

    model: GPT
    max_new_tokens: int
    decoding: Decoding
    stop: Stop
    patches: Sequence[Patch]
    use_cache: bool
    observe: Callable[[Choice], None] | None

    def batch(self, rows: Sequence[_Row]) -> None:
        """Make the samples of rows whose prompts have one length."""
        device = self.model.device
        prompts = {row.prompt: row.prompt_ids for row in rows}  # each is read once
        row_of = {number: row for row, number in enumerate(prompts)}
        idx = torch.tensor([list(ids) for ids in prompts.values()], device=device)
        patches = self.model.resolve(idx, self.patches) if self.patches else ()
        room = idx.size(1) + self.max_new_tokens
        sequences = Sequences(self.model, idx, room, use_cache=self.use_cache, patches=patches)
        copies = torch.tensor([row_of[row.prompt] for row in rows], device=device)
        for step in range(self.max_new_tokens):
            logits = finite(sequences.logits())  # (B, V)
            if step == 0:  # each prompt has been read once; now one sequence per sample
                logits = logits[copies]
                sequences.select(copies)
            tokens = _choose(logits, sequences.ids, rows, self.decoding)  # (B,)
            going_on = self._take(step, rows, logits, sequences.ids, tokens)
            if not going_on:
                return
            sequences.append(tokens)
            if len(going_on) < len(rows):
                sequences.select(torch.tensor(going_on, device=device))
                rows = [rows[at] for at in going_on]

    def _take(
        self, step: int, rows: Sequence[_Row], logits: Tensor, ids: Tensor, tokens: Tensor
    ) -> list[int]:
        """Append each row's token (B,) to it; return the indices of the rows that go on."""
        is_last = step + 1 == self.max_new_tokens
        log_probs, going_on = log_probs_of(logits, tokens).tolist(), []
        for at, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            row.ids.append(token)
            row.log_probs.append(log_probs[at])
            ended = self.stop.reason(row.ids)
            if ended is not None:
                row.ended = ended
            elif not is_last:
                going_on.append(at)
            if self.observe is not None:
                last = row.ended if is_last or ended is not None else None
                choice = (logits[at], ids[at], token, log_probs[at], last)
                self.observe(Choice(row.prompt, row.sample, step, *choice))
        return going_on


def _choose(logits: Tensor, ids: Tensor, rows: Sequence[_Row], decoding: Decoding) -> Tensor:
    """Return the next token of each row (B,): drawn, or the likeliest."""
    numbers = [row.random.random() for row in rows if row.random is not None]
    if not numbers:
        return with_penalty(logits, ids, decoding.repetition_penalty).argmax(-1)
    uniform = torch.tensor(numbers, dtype=torch.float64)
    return draw(decoding.filtered(logits, ids), uniform).to(logits.device)
