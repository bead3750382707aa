"""The requests of this wing: senders, receivers, and the paths between them. No tensor here."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mingpt.checks import from_the_end
from mingpt.config import GPTConfig
from mingpt.sites import heads_at
from patching.errors import PathError, SweepError
from patching.sweep.metrics import Asked, Metric, check_slopes, parse_metrics
from patching.sweep.request import DIRECTIONS, ROWS, indices

# Receiver's kind -> what is received there.
KINDS = {
    "logits": "the stream that ln_f reads at the last position",
    "q": "a head's queries",
    "k": "a head's keys",
    "v": "a head's values",
    "mlp": "the input of an MLP",
}
HEAD_KINDS = ("q", "k", "v")
MLPS = ("recomputed", "frozen")  # between sender and receiver
METHODS = ("fast", "loop")  # the same numbers
# Of edges: "eap" and "eap-ig" estimate them by gradients, see edge_attribution.py.
EDGE_METHODS = (*METHODS, "eap", "eap-ig")
STEPS = 5  # of eap-ig
END = "end"  # the last position
Positions = Sequence[int] | str | None


@dataclass(frozen=True, order=True)
class Sender:
    """A part of the model whose output is taken from the other run."""

    layer: int  # -1 for the embeddings
    kind: str  # "embedding", "head" or "mlp"
    head: int = 0

    @property
    def name(self) -> str:
        """Its name in tables and in MIB's files: "input", "a0.h1" or "m0"."""
        if self.kind == "embedding":
            return "input"
        return f"a{self.layer}.h{self.head}" if self.kind == "head" else f"m{self.layer}"


@dataclass(frozen=True)
class Receiver:
    """A part of the model whose input is changed. Negative layers and heads count from the end.

    k and v have nkv heads, each of which several query heads may read.

    Raises:
        PathError: an unknown kind, or a layer or head that is missing or too many.
    """

    kind: str  # a name in KINDS
    layer: int | None = None  # None for logits
    head: int | None = None  # None for logits and mlp

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PathError(f"no receiver {self.kind!r}; there are {', '.join(KINDS)}")
        for what, number, is_needed in (
            ("layer", self.layer, self.kind != "logits"),
            ("head", self.head, self.kind in HEAD_KINDS),
        ):
            if (number is not None) != is_needed:
                an = "needs a" if is_needed else "has no"
                raise PathError(f"the receiver {self.kind} {an} {what}: write {EXAMPLES}")
            if number is not None:
                try:
                    object.__setattr__(self, what, operator.index(number))
                except TypeError:
                    raise PathError(f"a {what} is a whole number, not {number!r}") from None

    @property
    def place(self) -> str:
        """Layer and head as text: "9.10"; "9" for an MLP, "" for the logits."""
        parts = (self.layer, self.head)
        return ".".join(str(part) for part in parts if part is not None)

    @property
    def name(self) -> str:
        """Its name in tables and in MIB's files: "a9.h10<q>", "m9" or "logits"."""
        if self.kind == "logits":
            return "logits"
        return (
            f"m{self.layer}" if self.kind == "mlp" else f"a{self.layer}.h{self.head}<{self.kind}>"
        )

    def receives_from(self, sender: Sender) -> bool:
        """Return True if there is a path: the sender has written before the receiver reads."""
        if self.layer is None:
            return True
        # In a block, the heads write before the MLP reads.
        same = self.kind == "mlp" and sender.kind == "head"
        return sender.layer <= self.layer if same else sender.layer < self.layer


EXAMPLES = "logits, q:9.9,9.6,10.0 (layer.head) or mlp:8,9"
LOGITS = Receiver("logits")


def parse_receivers(asked: str | Receiver | Iterable[Receiver]) -> tuple[Receiver, ...]:
    """Return receivers from their text, or from a list of them.

    Args:
        asked: "logits", or places with commas between them. "q:", "k:", "v:" or "mlp:" stands
            before the first place and holds until the next such word: "q:9.9,9.6,mlp:8".

    Raises:
        PathError: not such a text, one receiver twice, or logits with others.
    """
    if isinstance(asked, str):
        found = _from_text(asked)
    else:
        found = [*asked] if isinstance(asked, Iterable) else [asked]
        others = [one for one in found if not isinstance(one, Receiver)]
        for other in others[:1]:
            raise PathError(
                f"a receiver is a text such as {EXAMPLES}, or a Receiver, not {other!r}"
            )
    if not found:
        raise PathError(f"no receiver: write {EXAMPLES}")
    _check_several(found)
    return tuple(found)


def _from_text(text: str) -> list[Receiver]:
    kind, found = "", []
    for part in text.split(","):
        name, colon, place = part.strip().rpartition(":")
        kind = name if colon else kind
        if place == "logits" and not colon:
            found.append(LOGITS)
            continue
        # The text is read digit by digit: as a number, 9.10 would be 9.1.
        numbers = place.split(".")
        wanted = 1 if kind == "mlp" else 2
        known = kind in KINDS and kind != "logits" and len(numbers) == wanted
        if not (known and all(re.fullmatch(r"-?\d{1,6}", one, re.ASCII) for one in numbers)):
            raise PathError(f"no receiver {part.strip()!r:.80}: write {EXAMPLES}")
        if not all(one.removeprefix("-").isascii() and one.removeprefix("-").isdigit()
                   for one in numbers):  # fmt: skip
            raise PathError(f"no receiver {part.strip()!r}: write {EXAMPLES}")
        found.append(Receiver(kind, *map(int, numbers)))
    return found


def _check_several(found: Sequence[Receiver]) -> None:
    again = next((one for i, one in enumerate(found) if one in found[:i]), None)
    if again is not None:
        raise PathError(f"the receiver {again.name} is given twice")
    if LOGITS in found and len(found) > 1:
        raise PathError(
            "logits is the only receiver where it is one: every path to the others goes on to it"
        )


def text_of(receivers: Sequence[Receiver]) -> str:
    """Return receivers as the text that parse_receivers reads: "q:9.9,9.6"."""
    parts, kind = [], ""
    for one in receivers:
        parts.append("logits" if one == LOGITS else one.place if one.kind == kind
                     else f"{one.kind}:{one.place}")  # fmt: skip
        kind = one.kind
    return ",".join(parts)


@dataclass(frozen=True)
class Paths:
    """The paths of one pair of prompts: senders, receivers and positions, all of them checked."""

    n_layer: int
    n_head: int
    senders: tuple[Sender, ...]  # in the order in which they write
    receivers: tuple[Receiver, ...]
    sender_positions: tuple[int, ...]
    receiver_positions: tuple[int, ...]
    freezes_mlps: bool

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions of paths: attention is frozen, so sender and receiver share them."""
        return tuple(p for p in self.sender_positions if p in self.receiver_positions)

    @property
    def count(self) -> int:
        """The number of edges: pairs of a sender and a receiver with a path."""
        return sum(r.receives_from(s) for r in self.receivers for s in self.senders)

    @property
    def sending(self) -> list[int]:
        """The senders, by number, that have a path to a receiver."""
        return [
            number
            for number, sender in enumerate(self.senders)
            if any(receiver.receives_from(sender) for receiver in self.receivers)
        ]


def senders_of(n_layer: int, n_head: int) -> tuple[Sender, ...]:
    """Return the embeddings, and each block's heads and MLP, in the order in which they write."""
    found = [Sender(-1, "embedding")]
    for layer in range(n_layer):
        found += [Sender(layer, "head", head) for head in range(n_head)]
        found.append(Sender(layer, "mlp"))
    return tuple(found)


def receivers_of(
    n_layer: int, n_head: int, kv_heads: int, kinds: Sequence[str] = tuple(KINDS)
) -> tuple[Receiver, ...]:
    """Return every receiver of some kinds, in the order in which they read."""
    found = []
    for layer in range(n_layer):
        for kind, heads in (("q", n_head), ("k", kv_heads), ("v", kv_heads)):
            if kind in kinds:
                found += [Receiver(kind, layer, head) for head in range(heads)]
        found += [Receiver("mlp", layer)] * ("mlp" in kinds)
    return (*found, *[LOGITS] * ("logits" in kinds))


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
        _check_several(receivers)
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


def placed(receiver: Receiver, config: GPTConfig) -> Receiver:
    """Return a receiver with its layer and head counted from 0.

    Raises:
        PathError: there is no such layer or head.
    """
    if receiver.layer is None:
        return receiver
    layer = from_the_end("layer", receiver.layer, config.n_layer, PathError)
    if receiver.head is None:
        return replace(receiver, layer=layer)
    what = f"{receiver.kind} head"
    head = from_the_end(what, receiver.head, heads_at(receiver.kind, config), PathError)
    return replace(receiver, layer=layer, head=head)


def _positions(asked: Positions, T: int) -> list[int]:
    if isinstance(asked, str):  # END
        return [T - 1]
    try:
        return indices("position", asked, T)
    except SweepError as error:
        raise PathError(str(error)) from None


def _listed(positions: Sequence[int]) -> str:
    return ", ".join(map(str, positions))
