"""The requests of this wing. No tensor is touched here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mingpt.config import GPTConfig
from patching.errors import PathError, SweepError
from patching.paths.graph import (
    KINDS,
    LOGITS,
    Paths,
    Receiver,
    check_several,
    parse_receivers,
    placed,
    receivers_of,
    senders_of,
)
from patching.sweep.metrics import Asked, Metric, check_slopes, parse_metrics
from patching.sweep.request import DIRECTIONS, ROWS, indices

MLPS = ("recomputed", "frozen")  # between sender and receiver
METHODS = ("fast", "loop")  # the same numbers
# Of edges: "eap" and "eap-ig" estimate them by gradients, see edge_attribution.py.
EDGE_METHODS = (*METHODS, "eap", "eap-ig")
STEPS = 5  # of eap-ig
STRONGEST, MOST_STRONGEST = 30, 500  # edges of a circuit: by default, and at most
END = "end"  # the last position
Positions = Sequence[int] | str | None


@dataclass(frozen=True)
class PathRequest:
    """The settings of path patching, apart from model and prompts; checked when they are made.

    Raises:
        PathError: an unknown name, a receiver that is none, or settings that do not fit.
        SweepError: an unknown metric.
    """

    receiver: str | Receiver | Sequence[Receiver] = "logits"
    mlps: str = "recomputed"  # or "frozen": between sender and receiver
    direction: str = "denoise"
    metric: Asked | Sequence[Asked] = "logit_diff"
    sender_positions: Positions = None  # None: all; "end": the last; or a list
    receiver_positions: Positions = None
    method: str = "fast"  # or "loop": the definition, two runs of the model for each sender
    max_memory: int | None = None  # bytes beside the model; None: half of the free memory
    rows: int = ROWS  # tokens in each next-token table

    def __post_init__(self) -> None:
        object.__setattr__(self, "receiver", parse_receivers(self.receiver))
        for name in ("metric", "sender_positions", "receiver_positions"):
            value: Any = getattr(self, name)
            if isinstance(value, Iterable) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        check_settings(self.direction, self.metric, self.max_memory, self.rows)
        for what, value, known in (("mlps", self.mlps, MLPS), ("method", self.method, METHODS)):
            if value not in known:
                raise PathError(f"no {what} {value!r}; there are {', '.join(known)}")
        for name in ("sender_positions", "receiver_positions"):
            value = getattr(self, name)
            if isinstance(value, str) and value != END:
                raise PathError(f"{name} is a list of positions, or {END!r}, not {value!r}")
        if LOGITS in self.receivers and self.receiver_positions not in (None, END):
            raise PathError("logits are read at the last position: leave receiver_positions out")

    @property
    def receivers(self) -> tuple[Receiver, ...]:
        """The receivers, in the order of the request."""
        return parse_receivers(self.receiver)

    @property
    def metrics(self) -> list[Metric]:
        """The metrics, in the order of the request."""
        return parse_metrics(self.metric)

    def paths(self, config: GPTConfig, T: int) -> Paths:
        """Return the paths in prompts of T tokens.

        Raises:
            PathError: a layer, head or position that is not there; or no position at which a
                sender and a receiver meet.
        """
        receivers = tuple(placed(one, config) for one in self.receivers)
        check_several(receivers)
        at_receivers = END if LOGITS in receivers else self.receiver_positions
        sent, read = (tuple(_positions(one, T)) for one in (self.sender_positions, at_receivers))
        senders, freezes_mlps = senders_of(config.n_layer, config.n_head), self.mlps == "frozen"
        paths = Paths(config.n_layer, config.n_head, senders, receivers, sent, read, freezes_mlps)
        if not paths.positions:
            raise PathError(
                f"no path: senders write at positions {_listed(sent)} and receivers read"
                f" at {_listed(read)}; attention is frozen between them, so a path stays"
                " at its position"
            )
        return paths


@dataclass(frozen=True)
class EdgeRequest:
    """The settings of a map of edges, apart from model and prompts; checked when they are made.

    MLPs are frozen: an edge is a direct path.

    Raises:
        PathError: an unknown name, or settings that do not fit.
        SweepError: an unknown metric.
    """

    direction: str = "denoise"
    metric: Asked | Sequence[Asked] = "logit_diff"
    receivers: str | Sequence[str] = tuple(KINDS)  # names in KINDS
    positions: Positions = None  # at which receivers read; None: all; "end": the last; or a list
    method: str = "fast"  # a name in EDGE_METHODS
    steps: int = STEPS  # of eap-ig
    max_memory: int | None = None  # bytes beside the model; None: half of the free memory
    rows: int = ROWS  # tokens in each next-token table

    def __post_init__(self) -> None:
        for name in ("metric", "positions"):
            value: Any = getattr(self, name)
            if isinstance(value, Iterable) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "receivers", _kinds(self.receivers))
        check_settings(self.direction, self.metric, self.max_memory, self.rows)
        if self.method not in EDGE_METHODS:
            raise PathError(f"no method {self.method!r}; there are {', '.join(EDGE_METHODS)}")
        if not (type(self.steps) is int and 0 < self.steps < 2**31):
            raise PathError(f"steps is a number of steps, at least 1, not {self.steps!r}")
        if isinstance(self.positions, str) and self.positions != END:
            raise PathError(f"positions is a list of positions, or {END!r}, not {self.positions!r}")
        if self.max_memory is not None and self.method.startswith("eap"):
            raise PathError(f"max_memory is for the method fast, not for {self.method}")
        base, source = DIRECTIONS[self.direction]
        # The run in which alone gradients are taken: of eap-ig with one step, the source run.
        only = {"eap": base, "eap-ig": source if self.steps == 1 else None}
        if self.method in only:
            check_slopes(self.metrics, self.method, only[self.method])

    @property
    def metrics(self) -> list[Metric]:
        """The metrics, in the order of the request."""
        return parse_metrics(self.metric)

    def paths(self, config: GPTConfig, T: int) -> Paths:
        """Return every sender and every receiver of the kinds that are asked for.

        Raises:
            PathError: a position that is not there.
        """
        positions = tuple(_positions(self.positions, T))
        if "logits" in self.receivers and T - 1 not in positions:
            raise PathError(
                f"logits are read at the last position, {T - 1}, which is not among"
                f" {_listed(positions)}: add it, or measure the other kinds alone"
                " (q,k,v,mlp)"
            )
        L, nh = config.n_layer, config.n_head
        receivers = receivers_of(L, nh, config.kv_heads, tuple(self.receivers))
        everywhere = tuple(range(T))
        return Paths(L, nh, senders_of(L, nh), receivers, everywhere, positions, True)


def _kinds(asked: Any) -> tuple[str, ...]:
    """Return kinds of receivers, each once, in the order of KINDS.

    Raises:
        PathError: none, one twice, or an unknown one.
    """
    given = asked.split(",") if isinstance(asked, str) else asked
    if not (isinstance(given, Iterable) and all(isinstance(one, str) for one in given)):
        raise PathError(f"receivers are some of {', '.join(KINDS)}, not {asked!r:.80}")
    names = [one.strip() for one in given]
    other = next((one for one in names if one not in KINDS), None)
    if other is not None or not names:
        raise PathError(f"no kind of receiver {other!r:.80}; there are {', '.join(KINDS)}")
    if len({*names}) < len(names):
        raise PathError("a kind of receiver is given twice")
    return tuple(kind for kind in KINDS if kind in names)


def check_settings(direction: str, metric: Any, max_memory: int | None, rows: int) -> None:
    """Raise PathError or SweepError for an unknown direction or metric, or a wrong number."""
    if direction not in DIRECTIONS:
        raise PathError(f"no direction {direction!r}; there are {', '.join(DIRECTIONS)}")
    parse_metrics(metric)
    if max_memory is not None and not (type(max_memory) is int and 0 < max_memory < 2**63):
        raise PathError(f"max_memory is a number of bytes, not {max_memory!r}")
    if not (type(rows) is int and 0 < rows < 2**63):
        raise PathError(f"rows is a number of tokens, at least 1, not {rows!r}")


def _positions(asked: Positions, T: int) -> list[int]:
    if isinstance(asked, str):  # END
        return [T - 1]
    try:
        return indices("position", asked, T)
    except SweepError as error:
        raise PathError(str(error)) from None


def _listed(positions: Sequence[int]) -> str:
    return ", ".join(map(str, positions))
