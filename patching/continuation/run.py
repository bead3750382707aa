"""What a model says next, as text: samples of prompts with all that it takes to draw them again.

Tokens are mingpt's business (sampling.py, beams.py); here are the texts, the
settings, and how both are kept.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mingpt.bpe import END_OF_TEXT
from mingpt.checks import check_whole
from mingpt.errors import ConfigError, GenerationError, TokenizerError
from mingpt.files import replacing
from mingpt.generation.beams import beam_search, check_beams
from mingpt.generation.decoding import Decoding
from mingpt.generation.sampling import Choice, Sample, Stop, check, generate
from patching.errors import PromptError, ResultError
from patching.next_tokens import text_or_id
from patching.result_files import readable_json
from patching.running import ready
from patching.text import shortened

if TYPE_CHECKING:
    from mingpt.bpe import BPETokenizer
    from mingpt.model import GPT

MOST_SAMPLES = 10**6  # of a prompt, in one call
OUT_OF_MEMORY = "not enough memory for these samples: fewer tokens, or a smaller model"


@dataclass(frozen=True)
class Settings:
    """How prompts are continued, but for the seed.

    Raises:
        ConfigError: greedy and beams at once, or a number out of its range.
    """

    max_new_tokens: int = 30
    decoding: Decoding = dataclasses.field(default_factory=Decoding)
    greedy: bool = False  # the likeliest token in each step; nothing is drawn
    num_beams: int | None = None  # beam search, that many wide; nothing is drawn
    length_penalty: float = 1.0  # of beam search
    stop: tuple[str, ...] = ()  # texts that end a sample, beside the end-of-text token

    def __post_init__(self) -> None:
        if self.greedy and self.num_beams is not None:
            raise ConfigError("greedy and beam search are two ways; choose one")
        check_whole("max_new_tokens", self.max_new_tokens, 1)
        Stop(texts=self.stop, decode=str)  # whose texts they are going to be
        self.check(1)

    def check(self, num_samples: int) -> None:
        """Raises ConfigError if there are not so many continuations of a prompt."""
        check_whole("num_samples", num_samples, 1)
        if num_samples > MOST_SAMPLES:
            raise ConfigError(f"at most {MOST_SAMPLES} samples of a prompt, not {num_samples}")
        if self.greedy and num_samples > 1:
            raise ConfigError(f"greedy has one continuation of a prompt, not {num_samples}")
        if self.num_beams is not None:
            check_beams(
                self.num_beams, num_samples, self.length_penalty, self.decoding.repetition_penalty
            )

    @property
    def is_drawn(self) -> bool:
        """Whether tokens are drawn, so that seeds matter."""
        return not self.greedy and self.num_beams is None

    def describe(self) -> str:
        """In words, for a heading."""
        decoding = self.decoding
        parts = []
        if self.greedy:
            parts.append("greedy")
        elif self.num_beams is not None:
            parts.append(f"{self.num_beams} beams, length penalty {self.length_penalty:g}")
        else:
            parts.append(f"temperature {decoding.temperature:g}")
            parts += [f"top-k {decoding.top_k}"] if decoding.top_k is not None else []
            parts += [f"top-p {decoding.top_p:g}"] if decoding.top_p is not None else []
        if decoding.repetition_penalty != 1:
            parts.append(f"repetition penalty {decoding.repetition_penalty:g}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Flat, in types that JSON has."""
        fields = dataclasses.asdict(self)
        return {**fields.pop("decoding"), **fields, "stop": list(self.stop)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Settings:
        """What `to_dict` gave."""
        own = dict(fields)
        decoding = {f.name: own.pop(f.name) for f in dataclasses.fields(Decoding)}
        return cls(**{**own, "decoding": Decoding(**decoding), "stop": _all(str, own["stop"])})


@dataclass(frozen=True)
class Continuation:
    """One sample as text."""

    model: str  # its name
    prompt: str
    text: str  # what follows the prompt, the end-of-text token left out
    tokens: tuple[str, ...]  # each of them, as BPETokenizer.token has it
    sample: Sample
    settings: Settings

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has: text, ids, log_probs, seed, settings and what they belong to."""
        sample = self.sample
        return {
            "model": self.model,
            "prompt": self.prompt,
            "text": self.text,
            "ids": list(sample.ids),
            "tokens": list(self.tokens),
            "log_probs": list(sample.log_probs),
            "log_prob": sample.log_prob,
            "score": sample.score,
            "ended": sample.ended,
            "seed": sample.seed,
            "prompt_ids": list(sample.prompt),
            "settings": self.settings.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Continuation:
        """What `to_dict` gave; whatever else is there is passed over."""
        sample = Sample(
            _all(int, fields["prompt_ids"]),
            _all(int, fields["ids"]),
            _all((int, float), fields["log_probs"]),
            fields["ended"],
            fields["seed"],
            fields["score"],
        )
        texts = _all(str, [fields[name] for name in ("model", "prompt", "text")])
        tokens = _all(str, fields["tokens"])
        return cls(*texts, tokens, sample, Settings.from_dict(fields["settings"]))


def continue_prompts(
    model: GPT,
    tokenizer: BPETokenizer,
    prompts: Sequence[str],
    settings: Settings | None = None,
    *,
    num_samples: int = 1,
    seed: int = 0,
    observe: Callable[[Choice], None] | None = None,
    step: Callable[[int], None] = lambda tokens: None,
) -> list[list[Continuation]]:
    """What the model says after each prompt.

    A sample depends on model, prompt, settings and its own seed, and not on
    what else is asked for in the same call.

    Args:
        model: put in eval mode meanwhile.
        prompts: texts; "<|endoftext|>" in one is spelt out like any other text.
        settings: None for plain samples of 30 tokens.
        num_samples: of each prompt; of beam search the best, of which there are
            at most num_beams; of greedy 1.
        seed: of each prompt's first sample; the next ones have the next numbers.
        observe: called with each step of each sample, but for beam search.
        step: called with how many tokens more are done, of num_samples *
            max_new_tokens for each prompt; what ends early is done at once.

    Returns:
        For each prompt its samples: in the order of their seeds, or the best
        first.

    Raises:
        PromptError: an empty prompt, or one that is no Unicode.
        ConfigError: a prompt longer than the model's context, or a number that
            is out of its range.
        GenerationError: logits that are not finite, or not enough memory.
    """
    settings = settings or Settings()
    settings.check(num_samples)
    ids = encoded(tokenizer, prompts)
    check(model.config, ids, settings.max_new_tokens, seed=seed, num_samples=num_samples)
    end = tokenizer.vocab.get(END_OF_TEXT)
    stop = Stop(end, settings.stop, tokenizer.decode)
    most = settings.max_new_tokens

    def seen(choice: Choice) -> None:
        if observe is not None:
            observe(choice)
        step(1 if choice.ended is None else most - choice.step)

    with ready(model, GenerationError(OUT_OF_MEMORY)):
        if settings.num_beams is None:
            found = generate(
                model,
                ids,
                most,
                decoding=settings.decoding,
                greedy=settings.greedy,
                num_samples=num_samples,
                seed=seed,
                stop=stop,
                observe=seen,
            )
        else:
            found = [
                beam_search(
                    model,
                    one,
                    most,
                    num_beams=settings.num_beams,
                    num_samples=num_samples,
                    length_penalty=settings.length_penalty,
                    repetition_penalty=settings.decoding.repetition_penalty,
                    stop=stop,
                    step=lambda left: step(num_samples * left),
                )
                for one in ids
            ]
    return [
        [_as_text(model.name, tokenizer, prompt, sample, settings) for sample in samples]
        for prompt, samples in zip(prompts, found, strict=True)
    ]


def encoded(tokenizer: BPETokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """The prompts' token ids.

    Raises:
        PromptError: an empty prompt, or one that is no Unicode.
    """
    if isinstance(prompts, str):
        raise PromptError(f"prompts are several, in a list, not {shortened(repr(prompts), 80)}")
    ids = []
    for number, prompt in enumerate(prompts, 1):
        which = "the prompt" if len(prompts) == 1 else f"prompt {number}"
        if not isinstance(prompt, str):
            raise PromptError(f"{which} is no text: {prompt!r}")
        if not prompt:
            raise PromptError(f"{which} is empty")
        try:
            ids.append(tokenizer.encode(prompt))
        except TokenizerError as error:
            raise PromptError(f"{which}: {error}") from None
    return ids


def save(path: str | Path, continuations: Sequence[Continuation], **more: Any) -> Path:
    """Write them, and what else is given, as JSON; `load` reads them back."""
    path = Path(path)
    fields = {**more, "values": [one.to_dict() for one in continuations]}
    with replacing(path) as temporary:
        temporary.write_text(readable_json(fields), encoding="utf-8")
    return path


def load(path: str | Path) -> list[Continuation]:
    """Continuations that `save` wrote.

    Raises:
        ResultError: no such file, or not one that `save` wrote.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        return [Continuation.from_dict(one) for one in _all(dict, fields["values"])]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ResultError(f"{path} holds no saved continuations: {error}") from None


def _all(kind: type | tuple[type, ...], values: object) -> tuple[Any, ...]:
    """A list that a file holds, all of one kind.

    Raises:
        TypeError: it is something else.
    """
    if not (isinstance(values, list) and all(isinstance(one, kind) for one in values)):
        raise TypeError(f"{values!r} in a wrong place")
    return tuple(values)


def _as_text(
    name: str, tokenizer: BPETokenizer, prompt: str, sample: Sample, settings: Settings
) -> Continuation:
    said = sample.ids[:-1] if sample.ended == "end" else sample.ids
    tokens = tuple(text_or_id(tokenizer.token, number) for number in sample.ids)
    return Continuation(name, prompt, tokenizer.decode(said), tokens, sample, settings)
