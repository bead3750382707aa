"""The settings of a continuation and their checks, and the encoding of prompts.

No model runs here. PyTorch is imported only by the checks that need it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mingpt.checks import check_whole
from mingpt.errors import ConfigError, TokenizerError
from patching.errors import PromptError
from patching.text import counted, shortened

if TYPE_CHECKING:
    from mingpt.bpe import BPETokenizer
    from mingpt.generation.decoding import Decoding

MOST_SAMPLES = 10**6  # of a prompt, in one call
MOST_NEW_TOKENS = 10**6  # of a sample


def _unchanged() -> Decoding:
    from mingpt.generation.decoding import Decoding

    return Decoding()


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of a continuation: its length, how tokens are chosen, and what ends it.

    The seed is not one of them: it is an argument of `continue_prompts`.

    Raises:
        ConfigError: greedy and beam search at once, or a number out of its range.
    """

    max_new_tokens: int = 30  # of each sample
    decoding: Decoding = dataclasses.field(default_factory=_unchanged)
    greedy: bool = False  # take the likeliest token in each step; nothing is drawn
    num_beams: int | None = None  # width of a beam search, which draws nothing; None: no search
    length_penalty: float = 1.0  # beam search divides ln p by length ** length_penalty
    stop: tuple[str, ...] = ()  # texts that end a sample, as the end-of-text token does

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def is_drawn(self) -> bool:
        """True if tokens are drawn at random, so that seeds matter."""
        return not self.greedy and self.num_beams is None

    def describe(self) -> str:
        """Return the settings in words, for a heading."""
        decoding = self.decoding
        parts = []
        if self.greedy:
            parts.append("greedy")
        elif self.num_beams is not None:
            parts.append(
                f"{counted(self.num_beams, 'beam')}, length penalty {self.length_penalty:g}"
            )
        else:
            parts.append(f"temperature {decoding.temperature:g}")
            parts += [f"top-k {decoding.top_k}"] if decoding.top_k is not None else []
            parts += [f"top-p {decoding.top_p:g}"] if decoding.top_p is not None else []
        if decoding.repetition_penalty != 1:
            parts.append(f"repetition penalty {decoding.repetition_penalty:g}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as one flat dictionary, in types that JSON has."""
        fields = dataclasses.asdict(self)
        return {**fields.pop("decoding"), **fields, "stop": list(self.stop)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> GenerationSettings:
        """Read what `to_dict` returned, and ignore any other field."""
        from mingpt.generation.decoding import Decoding

        decoding = {f.name: fields[f.name] for f in dataclasses.fields(Decoding)}
        names = (f.name for f in dataclasses.fields(cls) if f.name != "decoding")
        own = {name: fields[name] for name in names}
        if isinstance(own["stop"], list):
            own["stop"] = tuple(own["stop"])
        return cls(**own, decoding=Decoding(**decoding))


def check_settings(settings: GenerationSettings) -> None:
    """Check the settings that depend neither on a model nor on a number of samples.

    Raises:
        ConfigError: greedy and beam search at once, or a number out of its range.
    """
    from mingpt.generation.sampling import check_stop_texts

    if settings.greedy and settings.num_beams is not None:
        raise ConfigError("greedy and num_beams exclude each other; choose one")
    check_whole("max_new_tokens", settings.max_new_tokens, 1)
    if settings.max_new_tokens > MOST_NEW_TOKENS:
        raise ConfigError(
            f"max_new_tokens must be at most {MOST_NEW_TOKENS}, not {settings.max_new_tokens}"
        )
    check_stop_texts(settings.stop)
    check_num_samples(settings, 1)


def check_num_samples(settings: GenerationSettings, num_samples: int) -> None:
    """Check that the settings can give `num_samples` samples of each prompt.

    Raises:
        ConfigError: they cannot, or a setting of beam search is out of range.
    """
    from mingpt.generation.beams import check_beams

    check_whole("num_samples", num_samples, 1)
    if num_samples > MOST_SAMPLES:
        raise ConfigError(f"at most {MOST_SAMPLES} samples of a prompt, not {num_samples}")
    if settings.greedy and num_samples > 1:
        raise ConfigError(f"greedy has one continuation of a prompt, not {num_samples}")
    if settings.num_beams is not None:
        penalty = settings.decoding.repetition_penalty
        check_beams(settings.num_beams, num_samples, settings.length_penalty, penalty)


def encode_prompts(
    tokenizer: BPETokenizer, prompts: Sequence[str], most_tokens: int | None = None
) -> list[list[int]]:
    """Return the token ids of each prompt.

    Args:
        most_tokens: the model's block_size. A prompt that is certainly longer is
            refused before it is tokenized.

    Raises:
        PromptError: a prompt is empty, not a text, or not valid Unicode.
        ConfigError: a prompt is certainly too long.
    """
    if isinstance(prompts, str):
        raise PromptError(f"prompts must be a list of texts, not {shortened(repr(prompts), 80)}")
    ids = []
    for number, prompt in enumerate(prompts, 1):
        which = "the prompt" if len(prompts) == 1 else f"prompt {number}"
        if not isinstance(prompt, str):
            raise PromptError(f"{which} is not a text: {prompt!r}")
        if not prompt:
            raise PromptError(f"{which} is empty")
        if most_tokens is not None and (fewest := tokenizer.fewest_tokens(prompt)) > most_tokens:
            raise ConfigError(
                f"{which} has at least {fewest} tokens, the model reads 1 to {most_tokens}"
            )
        try:
            ids.append(tokenizer.encode(prompt))
        except TokenizerError as error:
            raise PromptError(f"{which}: {error}") from None
    return ids
