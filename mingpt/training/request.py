"""The request of a training run, checked before a file is read."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from mingpt.checks import check_positive, check_whole
from mingpt.config import GPTConfig
from mingpt.errors import TrainingError

PRECISIONS = ("auto", "float32", "bfloat16")
# The knobs of a model that a request may set; the vocabulary gives vocab_size.
KNOBS = tuple(field.name for field in dataclasses.fields(GPTConfig) if field.name != "vocab_size")
# More than anybody waits for, or any memory holds.
MOST = {"steps": 10**8, "batch_size": 2**16, "accumulate": 2**16, "eval_every": 10**8}
DROPOUTS = ("embd_pdrop", "resid_pdrop", "attn_pdrop")


@dataclass(frozen=True)
class Preset:
    """A size of model, and how long to train it."""

    model: str  # a name in mingpt.PRESETS
    block_size: int  # tokens that the model reads
    steps: int
    batch_size: int
    learning_rate: float


PRESETS = {
    "nano": Preset("gpt-nano", block_size=64, steps=1500, batch_size=32, learning_rate=3e-3),
    "micro": Preset("gpt-micro", block_size=128, steps=1500, batch_size=32, learning_rate=2e-3),
    "mini": Preset("gpt-mini", block_size=128, steps=3000, batch_size=16, learning_rate=1e-3),
}
DEFAULT_PRESET = "nano"


@dataclass(frozen=True)
class TrainingRequest:
    """What to train, on what, and for how long.

    Fields that are None take the preset's value.

    Raises:
        TrainingError: neither texts nor pairs, or both; or a value out of its range.
        ConfigError: a knob of the model out of its range.
    """

    texts: tuple[str, ...] = ()  # paths of text files
    pairs: str | None = None  # path of a file with a pair of sentences in each line
    start: str | None = None  # name or directory of a model to go on from; None: a fresh one
    preset: str = DEFAULT_PRESET
    knobs: dict[str, Any] = field(default_factory=dict)  # field of GPTConfig -> value
    vocab: str = "bytes"  # "bytes", "bpe:N" or "gpt2"
    steps: int | None = None  # optimizer steps, at most
    batch_size: int | None = None  # sequences in a batch
    accumulate: int = 1  # batches in a step
    learning_rate: float | None = None  # the highest
    warmup_steps: int | None = None  # None: a twentieth of the steps
    weight_decay: float = 0.1
    grad_norm_clip: float = 1.0
    val_fraction: float = 0.1  # of the text or the pairs, for early stopping
    test_fraction: float = 0.1  # for the perplexity at the end
    eval_every: int | None = None  # steps between evaluations; None: a twentieth of the steps
    patience: int = 5  # evaluations without a new best before the run stops; 0: never
    precision: str = "auto"  # of matrix products; "auto": bfloat16 where the device has it
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.texts) == (self.pairs is not None):
            raise TrainingError("a run needs texts, or a file of pairs: one of the two")
        if self.preset not in PRESETS:
            raise TrainingError(f"no preset {self.preset!r}; there are {', '.join(PRESETS)}")
        if self.precision not in PRECISIONS:
            raise TrainingError(
                f"no precision {self.precision!r}; there are {', '.join(PRECISIONS)}"
            )
        if unknown := [name for name in self.knobs if name not in KNOBS]:
            raise TrainingError(f"no knob {unknown[0]!r} of a model; there are {', '.join(KNOBS)}")
        merges_asked(self.vocab)
        check_whole("patience", self.patience, 0)
        for name in ("steps", "batch_size", "accumulate", "eval_every"):
            value = getattr(self, name)
            if value is not None:
                check_whole(name, value, 1)
                if value > MOST[name]:
                    raise TrainingError(f"{name} must be at most {MOST[name]:,}, not {value!r:.20}")
        if self.learning_rate is not None:
            check_positive("learning_rate", self.learning_rate)
        for name in ("val_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 0.5:
                raise TrainingError(
                    f"{name} must be a number between 0 and 0.5, not {getattr(self, name)!r}"
                )
        if self.start is None:
            self.config(vocab_size=257)  # a wrong knob is found before a file is read

    @property
    def _preset(self) -> Preset:
        return PRESETS[self.preset]

    @property
    def step_count(self) -> int:
        """The most optimizer steps of the run."""
        return self._preset.steps if self.steps is None else self.steps

    @property
    def rows(self) -> int:
        """Sequences in a batch."""
        return self._preset.batch_size if self.batch_size is None else self.batch_size

    @property
    def highest_rate(self) -> float:
        """The learning rate after the warm-up; by default a tenth of the preset's with `start`."""
        if self.learning_rate is not None:
            return self.learning_rate
        return self._preset.learning_rate * (1 if self.start is None else 0.1)

    @property
    def interval(self) -> int:
        """Steps between two evaluations."""
        return max(1, self.step_count // 20) if self.eval_every is None else self.eval_every

    @property
    def warmup(self) -> int:
        """Steps in which the learning rate rises."""
        return self.step_count // 20 if self.warmup_steps is None else self.warmup_steps

    def config(self, vocab_size: int) -> GPTConfig:
        """Return the fresh model's configuration.

        Raises:
            ConfigError: a knob out of its range.
        """
        preset = {"block_size": self._preset.block_size, **self.knobs}
        return GPTConfig.preset(self._preset.model, vocab_size=vocab_size, **preset)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in types that JSON has."""
        return {**dataclasses.asdict(self), "texts": list(self.texts)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TrainingRequest:
        """Return the request that `to_dict` described.

        Raises:
            TrainingError: a field is missing or has no such value.
        """
        names = {one.name for one in dataclasses.fields(cls)}
        if not (isinstance(fields, dict) and fields.keys() == names):
            raise TrainingError("the saved request has other fields than this version's")
        try:
            return cls(**{**fields, "texts": tuple(fields["texts"])})
        except TypeError as error:
            raise TrainingError(f"the saved request cannot be read: {error}") from None


def merges_asked(vocab: str) -> int | None:
    """Return N of the vocabulary "bpe:N", its size in tokens; None for another vocabulary.

    Raises:
        TrainingError: no such vocabulary, or an N too small for the 256 bytes.
    """
    if vocab in ("bytes", "gpt2"):
        return None
    match = re.fullmatch(r"bpe:(\d{1,7})", vocab, re.ASCII)
    if match is None:
        raise TrainingError(
            f"no vocabulary {vocab!r}; write bytes, gpt2 or bpe:N, such as bpe:2000"
        )
    size = int(match[1])
    if size <= 257:
        raise TrainingError(f"{vocab}: a vocabulary needs more than 257 tokens, one for each byte")
    return size
