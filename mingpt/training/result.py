"""The result of a training run: its history, and how well it does on the test part."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingpt.errors import TrainingError
from mingpt.files import read_text, replacing
from mingpt.training.request import TrainingRequest

NAME = "training.json"
MOST_BYTES = 64 * 2**20
# Why a run ended.
ENDS = {
    "steps": "all steps are done",
    "patience": "the validation loss no longer falls",
    "interrupted": "it was interrupted",
}


@dataclass(frozen=True)
class Evaluation:
    """The losses at one moment of a run, in nats a token."""

    step: int
    train_loss: float | None  # mean over the steps since the last evaluation; None at step 0
    val_loss: float
    learning_rate: float


@dataclass(frozen=True)
class TrainingResult:
    """What a run has done; its model is in the same folder."""

    request: TrainingRequest
    history: tuple[Evaluation, ...]  # by step
    ended: str  # a key of ENDS
    n_parameters: int
    vocab_size: int
    tokens: dict[str, int]  # part -> its tokens
    checksum: str  # SHA-256 of the files of text
    test_loss: float | None = None  # of the best weights, in nats a token; None: not measured
    test_bytes_per_token: float | None = None
    # Of the test part's first pairs: "pairs" (their number), "exact" (share), "bleu", "chrf".
    translation: dict[str, float] | None = None
    tokens_per_second: float = math.nan  # of training, without evaluations
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def best(self) -> Evaluation:
        """The evaluation with the least validation loss, whose weights are kept."""
        return min(self.history, key=lambda one: one.val_loss)

    @property
    def test_perplexity(self) -> float | None:
        """exp of the test part's loss: the number of equally likely tokens with that loss."""
        if self.test_loss is None:
            return None
        return math.exp(self.test_loss) if self.test_loss < 700 else math.inf

    @property
    def test_bits_per_byte(self) -> float | None:
        """The test part's loss in bits a byte, which does not depend on the vocabulary."""
        if self.test_loss is None or not self.test_bytes_per_token:
            return None
        return self.test_loss / math.log(2) / self.test_bytes_per_token

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in types that JSON has; None for a number that is not finite."""
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        fields |= {
            "request": self.request.to_dict(),
            "history": [dataclasses.asdict(one) for one in self.history],
            "test_perplexity": self.test_perplexity,
            "test_bits_per_byte": self.test_bits_per_byte,
        }
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in fields.items()
        }

    def save(self, directory: str | Path) -> Path:
        """Write training.json into a run's folder; return its path."""
        path = Path(directory) / NAME
        with replacing(path) as temporary:
            text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, directory: str | Path) -> TrainingResult:
        """Read training.json from a run's folder.

        Raises:
            TrainingError: there is none, or it is not one that `save` wrote.
        """
        path = Path(directory) / NAME
        text = read_text(path, MOST_BYTES, TrainingError)
        try:
            fields = json.loads(text)
            known = {one.name: fields[one.name] for one in dataclasses.fields(cls)}
            known["history"] = tuple(Evaluation(**one) for one in known["history"])
            known["request"] = TrainingRequest.from_dict(known["request"])
            if known["tokens_per_second"] is None:
                known["tokens_per_second"] = math.nan
            if known["ended"] not in ENDS or not known["history"]:
                raise ValueError("no such end, or no history")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TrainingError(f"{path} is no result of a training run: {error}") from None
        return cls(**known)
