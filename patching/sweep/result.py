"""What a sweep found, and how it is kept on disk.

A result is saved as two files: an .npz that loads without pickle and whose keys
are the field names, to compute with; and a .json of the same content, to read.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mingpt.sites import RESIDUAL_SITES
from patching.next_tokens import NextTokens, TokenScore
from patching.prompts import PromptPair
from patching.result_files import open_result, save, to_json_lists

if TYPE_CHECKING:
    from torch import Tensor

    from mingpt.model import GPT

TOP_K = 20  # rows of the next-token tables unless more are asked for


@dataclass(frozen=True, eq=False)
class Unpatched:
    """The model and where its two unpatched runs ended: what later questions are answered from.

    A sweep keeps this instead of the answers: a checksum of GPT-2's weights can
    take longer than a sweep, and logits of the whole vocabulary are much of one.
    """

    model: GPT
    pair: PromptPair
    clean_final: Tensor  # (C,) ln_f's output at the last position
    corrupt_final: Tensor  # (C,)
    _weights: tuple = field(init=False, repr=False)  # changes when the parameters do

    def __post_init__(self) -> None:
        object.__setattr__(self, "_weights", _fingerprint(self.model))

    def is_current(self) -> bool:
        """Whether the model's weights are still those of the runs."""
        return _fingerprint(self.model) == self._weights

    def checksum(self) -> str | None:
        """SHA-256 of the model's weights; None if they were changed since the runs."""
        return self.model.checksum() if self.is_current() else None

    def next_tokens(self, run: str, k: int) -> NextTokens | None:
        """What the "clean" or the "corrupt" run predicts, with its `k` likeliest tokens.

        None if the weights were changed since the runs.

        Raises:
            SweepError: logits that overflow.
        """
        from patching.running import float32_products
        from patching.sweep.readout import check_finite

        if not self.is_current():
            return None
        final = {"clean": self.clean_final, "corrupt": self.corrupt_final}[run]
        with float32_products(self.model):
            logits = self.model.lm_head.weight @ final
        check_finite(logits, final.dtype)
        return NextTokens.of(logits, k, self.pair.target_id, self.pair.foil_id, self.pair.text_of)


class MetricValues(NamedTuple):
    """One metric of a sweep, in its unit."""

    values: np.ndarray  # the grid; NaN where nothing was patched
    clean: float  # of the unpatched clean run
    corrupt: float  # of the unpatched corrupt run


@dataclass(eq=False)
class SweepResult:
    """The grids of a patching sweep with all that is needed to understand them later.

    Saved and loaded field by field; `checksum`, `clean_next` and
    `corrupt_next` are worked out when they are first asked for.
    """

    site: str  # a name in mingpt.SITES
    direction: str  # "denoise": clean put into corrupt; "noise": corrupt put into clean
    metrics: dict[str, MetricValues]  # by name, in the order they were asked for
    captions: dict[str, str]  # each metric in words, for a colour bar
    diverging: tuple[str, ...]  # metrics whose colours part at the value of the patched run
    pair: PromptPair
    model_name: str
    arguments: dict[str, Any]  # of the sweep, and under "command" of the command that ran it
    versions: dict[str, str]  # of Python and packages; device, dtype, threads
    seconds: float  # wall-clock time of the call, which pairs swept together share
    created: str = field(  # ISO 8601, UTC
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )
    notes: tuple[str, ...] = ()  # what a reader of the figure must know
    top_k: int = TOP_K  # rows of the next-token tables
    unpatched: Unpatched | None = field(default=None, repr=False)  # None in a loaded result

    @property
    def metric(self) -> str:
        """The first metric's name."""
        return next(iter(self.metrics))

    @property
    def values(self) -> np.ndarray:
        """The first metric's grid: (n_layer, T), (n_layer, heads) or (n_layer, heads, T)."""
        return self.metrics[self.metric].values

    @property
    def clean_value(self) -> float:
        """The first metric of the unpatched clean run."""
        return self.metrics[self.metric].clean

    @property
    def corrupt_value(self) -> float:
        """The first metric of the unpatched corrupt run."""
        return self.metrics[self.metric].corrupt

    @property
    def cells(self) -> int:
        """How many cells were patched."""
        return int(np.isfinite(self.values).sum())

    @property
    def window(self) -> int:
        """How many layers were patched at once."""
        return self.arguments.get("window", 1)

    @property
    def shared_by(self) -> int:
        """How many query heads read each head of the site: more than 1 of shared k and v alone."""
        return self.arguments.get("shared_by", 1)

    @property
    def is_approximate(self) -> bool:
        """Whether the values are attribution patching's, not those of patched runs."""
        return self.arguments.get("method") == "attribution"

    @property
    def axes(self) -> tuple[str, ...]:
        """What the axes of `values` are."""
        if self.site in RESIDUAL_SITES:
            return ("layer", "position")
        return ("layer", "head", "position")[: self.values.ndim]

    @cached_property
    def checksum(self) -> str | None:
        """SHA-256 of the model's weights; None if they were changed before it was asked for."""
        return None if self.unpatched is None else self.unpatched.checksum()

    @cached_property
    def clean_next(self) -> NextTokens | None:
        """The clean run's `top_k` likeliest next tokens, target and foil."""
        return None if self.unpatched is None else self.unpatched.next_tokens("clean", self.top_k)

    @cached_property
    def corrupt_next(self) -> NextTokens | None:
        """The corrupt run's `top_k` likeliest next tokens, target and foil."""
        return None if self.unpatched is None else self.unpatched.next_tokens("corrupt", self.top_k)

    def to_dict(self) -> dict[str, Any]:
        """Every saved field, in types that JSON has; what is not finite becomes None."""
        saved: dict[str, Any] = {}
        for name in _SAVED:
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                value = to_json_lists(value)
            elif name == "metrics":
                value = {
                    metric: {"values": to_json_lists(found.values), "clean": found.clean,
                             "corrupt": found.corrupt}
                    for metric, found in value.items()
                }  # fmt: skip
            elif isinstance(value, PromptPair):
                value = {name: getattr(value, name) for name in (*_PAIR_FIELDS, "differing")}
            elif isinstance(value, NextTokens):
                value = dataclasses.asdict(value)
            saved[name] = value
        return saved

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write `path` with the suffixes .npz and .json; return the two paths.

        In the .npz, `values` is the first metric's array and `values_<name>`
        each metric's; numbers and names are such; what has a structure of its
        own is JSON text.
        """
        saved = self.to_dict()
        arrays = {
            name: json.dumps(value) if name in _STRUCTURED else value
            for name, value in saved.items()
        }
        ends = {name: {"clean": m.clean, "corrupt": m.corrupt} for name, m in self.metrics.items()}
        arrays["metrics"] = json.dumps(ends)
        arrays["values"] = self.values
        arrays |= {f"values_{name}": found.values for name, found in self.metrics.items()}
        return save(path, arrays, saved)

    @classmethod
    def load(cls, path: str | Path) -> SweepResult:
        """A result that `save` wrote, from its .npz.

        Raises:
            ResultError: no such file, or not one that `save` wrote.
        """
        with open_result(path, "sweep") as arrays:
            saved: dict[str, Any] = {name: arrays[name].item() for name in _FIELDS}
            for name in _STRUCTURED:
                saved[name] = json.loads(saved[name])
            saved["metrics"] = {
                name: MetricValues(arrays[f"values_{name}"], ends["clean"], ends["corrupt"])
                for name, ends in saved["metrics"].items()
            }
            saved["pair"].pop("differing")
            saved["pair"] = PromptPair(
                **{k: tuple(v) if isinstance(v, list) else v for k, v in saved["pair"].items()}
            )
            for name in ("notes", "diverging"):
                saved[name] = tuple(saved[name])
            cached = {"checksum": saved.pop("checksum")}
            for name in ("clean_next", "corrupt_next"):
                tables = saved.pop(name)
                cached[name] = tables and NextTokens(
                    tuple(TokenScore(**row) for row in tables["top"]),
                    TokenScore(**tables["target"]),
                    TokenScore(**tables["foil"]),
                )
            result = cls(**saved)
        vars(result).update(cached)  # what the cached properties would have worked out
        return result


# Kept as JSON text in the .npz: they have a structure of their own, or can be None.
_STRUCTURED = (
    *("metrics", "captions", "diverging", "pair", "arguments", "versions", "notes"),
    *("checksum", "clean_next", "corrupt_next"),
)
_PAIR_FIELDS = tuple(f.name for f in dataclasses.fields(PromptPair) if f.name != "text_of")
_FIELDS = (
    *(f.name for f in dataclasses.fields(SweepResult) if f.name != "unpatched"),
    "checksum",
    "clean_next",
    "corrupt_next",
)
_SAVED = ("metric", "values", "clean_value", "corrupt_value", *_FIELDS)  # the first metric in front


def _fingerprint(model: GPT) -> tuple:
    return tuple(
        (p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version) for p in model.parameters()
    )
