"""Continuations as text: the samples of each prompt, saved as JSON and read back.

One file can hold the results of several models and settings, as mingpt-generate writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from mingpt.errors import ConfigError
from mingpt.generation.sampling import Sample
from patching.continuation.request import GenerationSettings
from patching.continuation.saved import check_file
from patching.errors import ResultError
from patching.frames import frame
from patching.notebook import HasPage
from patching.result_checks import FieldError
from patching.result_files import read_fields, refused, result_paths, save_text, to_json_lists
from patching.text import counted, shortened

if TYPE_CHECKING:
    import pandas

WHAT = "continuation"  # in messages about files
MOST_SHOWN = 4  # prompts in a repr
LONGEST_SHOWN = 60  # characters of a prompt or a continuation in a repr


def sample_name(number: int, seed: int | None, *, is_beam: bool = False) -> str:
    """Return the name of a sample in texts and figures: "seed 5", "beam 1" or "greedy".

    Args:
        number: of the sample among its prompt's, from 0.
        seed: None if nothing was drawn.
        is_beam: True if a beam search found it.
    """
    if is_beam:
        return f"beam {number + 1}"
    return "greedy" if seed is None else f"seed {seed}"


@dataclass(frozen=True)
class Continuation:
    """One sample as text."""

    model_name: str
    prompt: str
    text: str  # the continuation, without the prompt and the end-of-text token
    tokens: tuple[str, ...]  # its tokens, as BPETokenizer.token gives them
    sample: Sample
    settings: GenerationSettings

    def to_dict(self) -> dict[str, Any]:
        """Return the sample in types that JSON has: text, ids, log_probs, seed, settings."""
        sample = self.sample
        return {
            "model": self.model_name,
            "prompt": self.prompt,
            "text": self.text,
            "ids": list(sample.ids),
            "tokens": list(self.tokens),
            "log_probs": to_json_lists(sample.log_probs),  # of -inf, None
            "log_prob": to_json_lists(sample.log_prob),
            "score": None if sample.score is None else to_json_lists(sample.score),
            "ended": sample.ended,
            "seed": sample.seed,
            "prompt_ids": list(sample.prompt),
            "settings": self.settings.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Continuation:
        """Read what `to_dict` returned, and ignore any other field."""
        settings = GenerationSettings.from_dict(fields["settings"])
        score = fields["score"]
        if score is None and settings.num_beams is not None:
            score = -math.inf
        sample = Sample(
            tuple(fields["prompt_ids"]),
            tuple(fields["ids"]),
            tuple(-math.inf if one is None else one for one in fields["log_probs"]),
            fields["ended"],
            fields["seed"],
            score,
        )
        return cls(
            fields["model"],
            fields["prompt"],
            fields["text"],
            tuple(fields["tokens"]),
            sample,
            settings,
        )


@dataclass(frozen=True, repr=False)
class Continuations(HasPage, Sequence[tuple[Continuation, ...]]):
    """The samples of every prompt, by one model with one choice of settings.

    Example:
        result = continue_prompts(model, tokenizer, ["The keys to the cabinet"], num_samples=3)
        result[0][2].text  # the first prompt's third sample
        result.save("keys")  # keys.json; Continuations.load("keys") reads it
    """

    model_name: str
    settings: GenerationSettings
    samples: tuple[tuple[Continuation, ...], ...]  # of each prompt, one or more
    versions: dict[str, str] = field(default_factory=dict)  # of packages; device, dtype, threads
    created: str = field(  # ISO 8601, UTC
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )
    notes: tuple[str, ...] = ()  # remarks for readers of the figures
    command: dict[str, Any] | None = None  # options of the command that ran it
    checksum: str | None = None  # SHA-256 of the model's weights; the command sets it

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, in their order."""
        return tuple(of_prompt[0].prompt for of_prompt in self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, prompt: int) -> tuple[Continuation, ...]: ...
    @overload
    def __getitem__(self, prompt: slice) -> tuple[tuple[Continuation, ...], ...]: ...
    def __getitem__(
        self, prompt: int | slice
    ) -> tuple[Continuation, ...] | tuple[tuple[Continuation, ...], ...]:
        return self.samples[prompt]

    def __repr__(self) -> str:
        count = sum(map(len, self.samples))
        lines = [
            f"Continuations by {self.model_name}: {counted(len(self), 'prompt')},"
            f" {counted(count, 'sample')}; {self.settings.describe()}"
        ]
        for of_prompt in self.samples[:MOST_SHOWN]:
            prompt, text = (
                shortened(repr(text), LONGEST_SHOWN)
                for text in (of_prompt[0].prompt, of_prompt[0].text)
            )
            more = f" (+{len(of_prompt) - 1})" if len(of_prompt) > 1 else ""
            lines.append(f"  {prompt} \u2192 {text}{more}")
        if len(self) > MOST_SHOWN:
            lines.append("  \u2026")
        return "\n".join(lines)

    def _repr_png_(self) -> bytes | None:
        """Draw the first prompt's samples, for Jupyter."""
        from patching.continuation.figures import draw_paths
        from patching.drawing.style import png_bytes

        return png_bytes(draw_paths(self)) if self.samples else None

    # ----------------------------------------------------------------- tables and files

    def to_frame(self) -> pandas.DataFrame:
        """Return a table with a row for each sample.

        Columns: model, prompt, sample (its number, from 0), seed, text, ended, log_prob (in
        nats), score (of beam search), and the lists ids, tokens and log_probs. A row for
        each token is `result.to_frame().explode(["ids", "tokens", "log_probs"])`.

        Raises:
            ResultError: pandas is not installed.
        """
        rows = [
            {
                "model": one.model_name,
                "prompt": one.prompt,
                "sample": number,
                "seed": one.sample.seed,
                "text": one.text,
                "ended": one.sample.ended,
                "log_prob": one.sample.log_prob,
                "score": one.sample.score,
                "ids": list(one.sample.ids),
                "tokens": list(one.tokens),
                "log_probs": list(one.sample.log_probs),
            }
            for of_prompt in self.samples
            for number, one in enumerate(of_prompt)
        ]
        return frame({name: [row[name] for row in rows] for name in rows[0]} if rows else {})

    def to_dict(self) -> dict[str, Any]:
        """Return what `save` writes, in types that JSON has."""
        return _to_fields([self])

    def save(self, path: str | Path) -> Path:
        """Write the result as JSON, and return the file's path, which ends in .json."""
        return self.save_all(path, [self])

    @classmethod
    def load(cls, path: str | Path) -> Continuations:
        """Read a result that `save` or mingpt-generate wrote.

        Raises:
            ResultError: there is no such file, it holds something else or was changed, or it
                holds several results.
        """
        results = cls.load_all(path)
        if len(results) != 1:
            raise ResultError(
                f"{path} holds {len(results)} results, one for each model and settings:"
                " read them with Continuations.load_all"
            )
        return results[0]

    @staticmethod
    def save_all(path: str | Path, results: Sequence[Continuations], **more: Any) -> Path:
        """Write several results and further fields to one JSON file, and return its path."""
        _, path = result_paths(path)
        fields = _to_fields(results)
        values = fields.pop("values")  # long, so it comes last
        return save_text(path, {**fields, **more, "values": values})

    @staticmethod
    def load_all(path: str | Path) -> list[Continuations]:
        """Read all results of a file: one for each model and settings.

        Raises:
            ResultError: there is no such file, it holds something else, or it was changed.
        """
        file = path if Path(path).is_file() else result_paths(path)[1]
        fields = read_fields(file, WHAT, new_field="results")
        with refused(file, WHAT, (FieldError, ConfigError)):
            check_file(fields)
            return list(_from_fields(fields))


# --------------------------------------------------------------------- the fields of a file


def _to_fields(results: Sequence[Continuations]) -> dict[str, Any]:
    """Return the fields of a file: each model once, and all samples in one list."""
    models: list[dict[str, Any]] = []
    parts = []
    for result in results:
        model = {
            "name": result.model_name,
            "checksum": result.checksum,
            "notes": list(result.notes),
            "versions": result.versions,
        }
        if model not in models[-1:]:
            models.append(model)
        parts.append(
            {
                "model": len(models) - 1,
                "created": result.created,
                "samples": list(map(len, result.samples)),
            }
        )
    return {
        "command": results[0].command if results else None,
        "models": models,
        "results": parts,
        "values": [
            one.to_dict() for result in results for of_prompt in result for one in of_prompt
        ],
    }


def _from_fields(fields: dict[str, Any]) -> Iterator[Continuations]:
    """Yield the results that the fields of a file describe."""
    known: dict[GenerationSettings, GenerationSettings] = {}  # equal settings become one object
    values = []
    for saved in fields["values"]:
        one = Continuation.from_dict(saved)
        values.append(replace(one, settings=known.setdefault(one.settings, one.settings)))
    if "results" not in fields:
        yield from _from_version_01(fields, values)
        return
    waiting = iter(values)
    for part in fields["results"]:
        samples = tuple(tuple(islice(waiting, count)) for count in part["samples"])
        yield _result(samples, fields, fields["models"][part["model"]], created=part["created"])


def _from_version_01(
    fields: dict[str, Any], values: Iterable[Continuation]
) -> Iterator[Continuations]:
    """Yield the results of a file that version 0.1 wrote.

    Such a file has one list of samples, sorted by model, settings and prompt. A new
    result begins where model or settings change.
    """
    fields = {**fields, "command": fields.get("arguments")}
    models = {model["name"]: model for model in fields.get("models", ())}
    for (name, _), group in groupby(values, key=lambda one: (one.model_name, one.settings)):
        samples = tuple(
            tuple(of_prompt) for _, of_prompt in groupby(group, key=lambda one: one.prompt)
        )
        yield _result(samples, fields, models.get(name, {}), created="")


def _result(
    samples: tuple[tuple[Continuation, ...], ...],
    fields: dict[str, Any],
    model: dict[str, Any],
    created: str,
) -> Continuations:
    """Return one result of a file; `model` is what the file says about its model."""
    first, command = samples[0][0], fields["command"]
    return Continuations(
        model.get("name", first.model_name),
        first.settings,
        samples,
        dict(model.get("versions", {})),
        created,
        tuple(model.get("notes", ())),
        None if command is None else dict(command),
        model.get("checksum"),
    )
