"""Train the same request with several values of one knob of the model, and compare the models.

Its first use is multi-query attention: what do fewer heads of keys and values cost in quality,
and save in the cache?
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mingpt.bpe import BPETokenizer
from mingpt.errors import TrainingError
from mingpt.files import read_text, replacing
from mingpt.generation.sampling import generate, log_likelihood
from mingpt.kvcache import KVCache
from mingpt.loading.model_files import load
from mingpt.model import GPT
from mingpt.training.request import KNOBS, TrainingRequest
from mingpt.training.result import TrainingResult
from mingpt.training.run import train

NAME = "comparison.json"
ROUNDS = 5  # of each timing
MOST_BYTES = 2**26  # of comparison.json


@dataclass(frozen=True)
class Compared:
    """One of the models."""

    value: Any  # of the knob
    n_parameters: int
    val_loss: float  # the least, in nats a token
    test_loss: float | None
    cache_bytes: int  # of keys and values, for each token
    ms_cached: float  # a token, with the cache: median of 5 continuations
    ms_uncached: float  # a token, when each step reads all tokens again
    log_likelihoods: tuple[float, ...]  # of each sentence, in nats, without its first token


@dataclass(frozen=True)
class Comparison:
    """The models side by side."""

    knob: str
    sentences: tuple[str, ...]
    models: tuple[Compared, ...]

    def save(self, directory: str | Path) -> Path:
        """Write comparison.json into a folder; return its path."""
        path = Path(directory) / NAME
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, directory: str | Path) -> Comparison:
        """Read comparison.json from a folder.

        Raises:
            TrainingError: there is none, or it is not one that `save` wrote.
        """
        path = Path(directory) / NAME
        try:
            fields = json.loads(read_text(path, MOST_BYTES, TrainingError))
            models = tuple(
                Compared(**{**one, "log_likelihoods": tuple(one["log_likelihoods"])})
                for one in fields["models"]
            )
            return cls(fields["knob"], tuple(fields["sentences"]), models)
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{path} is no comparison: {error}") from None


def check_comparison(request: TrainingRequest, knob: str, values: Sequence[Any]) -> None:
    """Check every value of the knob before the first run.

    Raises:
        TrainingError: no such knob, fewer than two values or one twice, or a model to go on from.
        ConfigError: a value out of its range.
    """
    if knob not in KNOBS:
        raise TrainingError(f"no knob {knob!r} of a model; there are {', '.join(KNOBS)}")
    if request.start is not None:
        raise TrainingError("a comparison trains fresh models, and goes on from none")
    if len(values) < 2 or len({*values}) < len(values):
        raise TrainingError(f"a comparison needs two different values of {knob} at least")
    for value in values:
        replace(request, knobs={**request.knobs, knob: value})


def compare(
    request: TrainingRequest,
    directory: str | Path,
    knob: str,
    values: Sequence[Any],
    *,
    sentences: Sequence[str] = (),
    **how: Any,
) -> Comparison:
    """Train a model for each value, each in a folder of its own; return and save the comparison.

    Args:
        request: what to train, apart from the knob.
        directory: gets the folders KNOB-VALUE and comparison.json.
        sentences: whose log-likelihood each model states.
        how: further arguments of `train`.

    Raises:
        TrainingError, ConfigError: as check_comparison and `train`.
    """
    check_comparison(request, knob, values)
    directory = Path(directory)
    models = []
    for value in values:
        asked = replace(request, knobs={**request.knobs, knob: value})
        folder = directory / f"{knob}-{value}"
        result = train(asked, folder, **how)
        if result.ended == "interrupted":
            raise TrainingError(f"interrupted in {folder}")
        model, tokenizer = load(folder)
        models.append(measure(model, tokenizer, value, result, sentences))
    found = Comparison(knob, tuple(sentences), tuple(models))
    found.save(directory)
    return found


def measure(
    model: GPT,
    tokenizer: BPETokenizer,
    value: Any,
    result: TrainingResult,
    sentences: Sequence[str],
) -> Compared:
    """Return a trained model's losses, the size of its cache, and its times."""
    one = KVCache(model.config, 1, 1, model.transformer.wte.weight)
    times = {use_cache: _milliseconds(model, use_cache=use_cache) for use_cache in (True, False)}
    with torch.no_grad():
        likelihoods = [sum(log_likelihood(model, tokenizer.encode(text))) for text in sentences]
    return Compared(
        value=value,
        n_parameters=result.n_parameters,
        val_loss=result.best.val_loss,
        test_loss=result.test_loss,
        cache_bytes=one.nbytes,
        ms_cached=times[True],
        ms_uncached=times[False],
        log_likelihoods=tuple(likelihoods),
    )


def _milliseconds(model: GPT, *, use_cache: bool) -> float:
    """Return the time of a token, in ms: the median of some continuations up to the context."""
    n, times = max(1, model.config.block_size - 2), []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        generate(model, [[0, 1]], n, greedy=True, use_cache=use_cache)
        times.append(1000 * (time.perf_counter() - started) / n)
    return statistics.median(times[1:])  # the first one warms up
