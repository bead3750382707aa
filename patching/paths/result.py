"""The results of path patching, and their two files: a map of senders, and a map of edges.

The .npz, to compute with, loads without pickle: it has each metric's arrays, as
`heads_logit_diff`, and the other fields. The .json, to read, has the same content.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from patching.errors import PathError
from patching.frames import frame
from patching.next_tokens import NextTokens
from patching.notebook import HasPage
from patching.paths.graph import Receiver, receiver_named
from patching.paths.saved import TABLES
from patching.prompts import PromptPair
from patching.result_checks import check_fields
from patching.result_files import read_arrays, refused, save, scalar, structured, to_json_lists
from patching.sweep.request import DIRECTIONS, ROWS
from patching.sweep.result import PAIR_FIELDS, with_tuples
from patching.text import counted, escaped

if TYPE_CHECKING:
    import pandas


class PathValues(NamedTuple):
    """One metric of a map of senders, in its unit: of run D for each sender."""

    heads: np.ndarray  # (n_layer, n_head); NaN where there is no path
    mlps: np.ndarray  # (n_layer,)
    embedding: np.ndarray  # (1,)
    clean: float  # of the unpatched clean run
    corrupt: float  # of the unpatched corrupt run


class EdgeValues(NamedTuple):
    """One metric of a map of edges, in its unit: of run D for each sender and receiver."""

    edges: np.ndarray  # (senders, receivers); NaN where there is no path
    clean: float  # of the unpatched clean run
    corrupt: float  # of the unpatched corrupt run


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PathsFound(HasPage):
    """The fields that a map of senders and a map of edges share."""

    KIND: ClassVar[str]  # in messages about files
    VALUES: ClassVar[type]  # of a metric

    direction: str  # "denoise": clean put into corrupt; "noise": corrupt put into clean
    metrics: dict[str, Any]  # by name, in the order they were asked for
    captions: dict[str, str]  # metric -> what it measures in words
    diverging: tuple[str, ...] = ()  # metrics that are centred on the base run's value
    pair: PromptPair
    model_name: str
    method: str = "fast"
    max_memory: int | None = None  # bytes that the engine was allowed, if a limit was given
    checksum: str | None = None  # SHA-256 of the model's weights
    clean_next: NextTokens | None = None  # the clean run's next tokens
    corrupt_next: NextTokens | None = None  # the corrupt run's next tokens
    rows: int = ROWS  # tokens in these two tables
    versions: dict[str, str] = field(default_factory=dict)  # of packages; device, dtype, threads
    seconds: float = 0.0  # wall-clock time to the last number
    created: str = field(  # ISO 8601, UTC
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )
    notes: tuple[str, ...] = ()  # remarks for a reader of the figure
    command: dict[str, Any] | None = None  # options of the command

    @property
    def metric(self) -> str:
        """The first metric's name."""
        return next(iter(self.metrics))

    @property
    def clean_value(self) -> float:
        """The first metric of the unpatched clean run."""
        return float(self.metrics[self.metric].clean)

    @property
    def corrupt_value(self) -> float:
        """The first metric of the unpatched corrupt run."""
        return float(self.metrics[self.metric].corrupt)

    def base_value(self, metric: str | None = None) -> float:
        """Return a metric of the unpatched base run; None for the first metric."""
        found = self.metrics[self._checked(metric)]
        return float(getattr(found, DIRECTIONS[self.direction][0]))

    @property
    def is_approximate(self) -> bool:
        """True for estimates by gradients, False for numbers of patched runs."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """Return every field in types that JSON has, with None for a number that is not finite."""
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return fields | {
            "metric": self.metric,
            "metrics": {
                name: {key: to_json_lists(value) for key, value in found._asdict().items()}
                for name, found in self.metrics.items()
            },
            "pair": {name: getattr(self.pair, name) for name in (*PAIR_FIELDS, "differing")},
            "clean_next": self.clean_next and dataclasses.asdict(self.clean_next),
            "corrupt_next": self.corrupt_next and dataclasses.asdict(self.corrupt_next),
        }

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write `path` with the suffixes .npz and .json; return the two paths."""
        fields = self.to_dict()
        ends = {name: {"clean": m.clean, "corrupt": m.corrupt} for name, m in self.metrics.items()}
        arrays: dict[str, Any] = {
            name: json.dumps(value) if name in STRUCTURED else value
            for name, value in (fields | {"metrics": ends}).items()
        }
        arrays |= {
            f"{key}_{name}": value
            for name, found in self.metrics.items()
            for key, value in found._asdict().items()
            if isinstance(value, np.ndarray)
        }
        return save(path, arrays, fields)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a result that `save` wrote, from its .npz.

        Raises:
            ResultError: there is no such file, it holds no such result, it was changed, or the
                .json beside it is of another run.
        """
        arrays = read_arrays(path, cls.KIND, old_field="(none)")
        table, check = TABLES[cls.KIND]
        with refused(path, cls.KIND):
            saved = {
                name: (structured if name in STRUCTURED else scalar)(arrays, name) for name in table
            }
            check_fields(saved, table)
            check(saved, arrays)
        saved["metrics"] = {
            name: cls.VALUES(
                *(arrays[f"{key}_{name}"] for key in cls.VALUES._fields[:-2]),  # type: ignore[attr-defined]
                ends["clean"],
                ends["corrupt"],
            )
            for name, ends in saved["metrics"].items()
        }
        pair = {name: saved["pair"][name] for name in PAIR_FIELDS}
        saved["pair"] = PromptPair(**with_tuples(pair))
        saved |= {run: NextTokens.from_dict(saved[run]) for run in ("clean_next", "corrupt_next")}
        return cls(**with_tuples(saved))

    def _repr_png_(self) -> bytes:
        """Return the figure of the first metric, for Jupyter."""
        from patching.drawing.style import png_bytes
        from patching.paths.figures import draw_paths

        return png_bytes(draw_paths(self))

    def _checked(self, metric: str | None) -> str:
        if metric is not None and metric not in self.metrics:
            raise PathError(f"no metric {metric!r} in it; there are {', '.join(self.metrics)}")
        return metric or self.metric


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PathResult(PathsFound):
    """The metric of run D for every sender, with the settings, prompts and model it belongs to."""

    KIND = "paths"
    VALUES = PathValues

    metrics: dict[str, PathValues]
    receiver: str  # as parse_receivers reads it: "logits", "q:9.9,9.6"
    mlps: str  # between sender and receiver: "recomputed" or "frozen"
    sender_positions: tuple[int, ...]
    receiver_positions: tuple[int, ...]
    n_embd: int
    shared_by: int = 1  # query heads that read each head of k and v

    @property
    def values(self) -> np.ndarray:
        """The first metric of each head (n_layer, n_head); NaN where it has no path."""
        return self.metrics[self.metric].heads

    @property
    def mlp_values(self) -> np.ndarray:
        """The first metric of each MLP (n_layer,); NaN where it has no path."""
        return self.metrics[self.metric].mlps

    @property
    def embedding_value(self) -> float:
        """The first metric with the embeddings as the sender."""
        return float(self.metrics[self.metric].embedding[0])

    def by_sender(self, metric: str | None = None) -> list[tuple[str, float]]:
        """Return the name and the value of each sender that has a path, in order of writing.

        Senders have MIB's names: "input", "a0.h1", "m0".
        """
        return _senders(self.metrics[self._checked(metric)])

    def percent_change(self, metric: str | None = None) -> PathValues:
        """Return 100 (value - base) / base, as the papers report it (Wang et al. 2022).

        Args:
            metric: None for the first.

        Returns:
            The numbers in percent; `clean` and `corrupt` are the unpatched runs' own changes.

        Raises:
            PathError: the base run's value is 0, or there is no such metric.
        """
        metric = self._checked(metric)
        base = self.base_value(metric)
        if base == 0:
            raise PathError(f"the percent change of {metric} is undefined: the base run has 0")
        heads, mlps, embedding, clean, corrupt = self.metrics[metric]

        def change(value: Any) -> Any:
            return 100 * (value - base) / base

        return PathValues(*map(change, (heads, mlps, embedding, clean, corrupt)))

    def __repr__(self) -> str:
        base, source = DIRECTIONS[self.direction]
        found, name = self.metrics[self.metric], self.metric
        count = sum(int(np.isfinite(part).sum()) for part in found[:3])
        lines = [
            f"PathResult of {escaped(self.model_name)}: {counted(count, 'sender')} ->"
            f" {self.receiver}, {source} into {base} ({self.direction}), MLPs {self.mlps}",
            f"  {name}: clean {found.clean:.4f}, corrupt {found.corrupt:.4f};"
            f" {self._largest(found)}",
        ]
        return "\n".join([*lines, *(f"  note: {escaped(note)}" for note in self.notes)])

    def _largest(self, found: PathValues) -> str:
        """Describe the sender whose path changes the metric most."""
        rows = [
            (abs(value - self.base_value()), sender, value) for sender, value in _senders(found)
        ]
        if not rows:
            return "no sender has a path"
        _, sender, value = max(rows)
        return f"the largest change is of {sender}: {value:.4f}"

    def to_frame(self) -> pandas.DataFrame:
        """Return a table with a row for each sender that has a path: sender, and each metric.

        Senders have MIB's names: "input", "a0.h1", "m0".

        Raises:
            ResultError: pandas is not installed.
        """
        columns: dict[str, Any] = {
            name: [value for _, value in self.by_sender(name)] for name in self.metrics
        }
        senders = [sender for sender, _ in self.by_sender()]
        return frame({"sender": senders, **columns})


def _senders(found: PathValues) -> list[tuple[str, float]]:
    """Return the name and the value of each sender that has a path."""
    named = [("input", found.embedding[0])]
    for layer, (heads, mlp) in enumerate(zip(found.heads, found.mlps, strict=True)):
        named += [(f"a{layer}.h{head}", value) for head, value in enumerate(heads)]
        named.append((f"m{layer}", mlp))
    return [(name, float(value)) for name, value in named if np.isfinite(value)]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EdgeResult(PathsFound):
    """The metric of run D for every sender and every single receiver; MLPs are frozen."""

    KIND = "edges"
    VALUES = EdgeValues

    metrics: dict[str, EdgeValues]
    senders: tuple[str, ...]  # MIB's names: "input", "a0.h1", "m0"
    receivers: tuple[str, ...]  # "a0.h1<q>", "m0", "logits"
    positions: tuple[int, ...]  # at which they read
    n_layer: int
    n_head: int
    kv_heads: int
    n_embd: int
    steps: int = 1  # of eap-ig

    @property
    def values(self) -> np.ndarray:
        """The first metric (senders, receivers); NaN where there is no path."""
        return self.metrics[self.metric].edges

    @property
    def is_approximate(self) -> bool:
        """True for estimates by gradients, False for numbers of patched runs."""
        return self.method.startswith("eap")

    @cached_property
    def hearing(self) -> tuple[Receiver, ...]:
        """The receivers, in the order of `receivers`."""
        return tuple(map(receiver_named, self.receivers))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of receivers: names in KINDS."""
        return tuple(dict.fromkeys(one.kind for one in self.hearing))

    @property
    def count(self) -> int:
        """The number of edges."""
        return int(np.isfinite(self.values).sum())

    def effects(self, metric: str | None = None) -> np.ndarray:
        """Return value - base (senders, receivers) of a metric; None for the first."""
        metric = self._checked(metric)
        return self.metrics[metric].edges - self.base_value(metric)

    def strongest(self, count: int, metric: str | None = None) -> list[tuple[str, str, float]]:
        """Return the edges with the largest effects: (sender, receiver, effect), largest first."""
        if count < 0:
            raise PathError(f"a number of edges is at least 0, not {count}")
        effects = self.effects(metric)
        order = np.argsort(-np.abs(np.nan_to_num(effects)), axis=None, kind="stable")[:count]
        places = zip(*np.unravel_index(order, effects.shape), strict=True)
        return [
            (self.senders[s], self.receivers[r], float(effects[s, r]))
            for s, r in places
            if np.isfinite(effects[s, r])
        ]

    def __repr__(self) -> str:
        base, source = DIRECTIONS[self.direction]
        found = self.metrics[self.metric]
        approximate = f", approximate by {self.method}" if self.is_approximate else ""
        sender, receiver, effect = (self.strongest(1) or [("", "", 0.0)])[0]
        lines = [
            f"EdgeResult of {escaped(self.model_name)}: {counted(self.count, 'edge')},"
            f" {source} into {base} ({self.direction}){approximate}",
            f"  {self.metric}: clean {found.clean:.4f}, corrupt {found.corrupt:.4f};"
            f" the largest effect is of {sender} -> {receiver}: {effect:+.4f}",
        ]
        return "\n".join([*lines, *(f"  note: {escaped(note)}" for note in self.notes)])

    def to_frame(self) -> pandas.DataFrame:
        """Return a table with a row for each edge: sender, receiver, and each metric.

        Raises:
            ResultError: pandas is not installed.
        """
        at = np.nonzero(np.isfinite(self.values))
        columns: dict[str, Any] = {
            "sender": [self.senders[s] for s in at[0]],
            "receiver": [self.receivers[r] for r in at[1]],
        }
        return frame(columns | {name: found.edges[at] for name, found in self.metrics.items()})


STRUCTURED = (  # JSON text in the .npz
    "metrics", "captions", "diverging", "pair", "max_memory", "checksum", "clean_next",
    "corrupt_next", "versions", "notes", "command", "sender_positions", "receiver_positions",
    "senders", "receivers", "positions",
)  # fmt: skip
