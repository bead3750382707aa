"""Senders, receivers, and the paths between them. No tensor is touched here."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mingpt.checks import from_the_end
from mingpt.config import GPTConfig
from mingpt.sites import heads_at
from patching.errors import PathError

# Receiver's kind -> what is received there.
KINDS = {
    "logits": "the stream that ln_f reads at the last position",
    "q": "a head's queries",
    "k": "a head's keys",
    "v": "a head's values",
    "mlp": "the input of an MLP",
}
HEAD_KINDS = ("q", "k", "v")


@dataclass(frozen=True)
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
    check_several(found)
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
        found.append(Receiver(kind, *map(int, numbers)))
    return found


def check_several(found: Sequence[Receiver]) -> None:
    """Raise PathError for a receiver given twice, or logits with others."""
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


def receiver_named(name: str) -> Receiver:
    """Return the receiver of a name: "a9.h10<q>", "m9" or "logits"."""
    if name == "logits":
        return LOGITS
    layer, head, kind = re.findall(r"\d+|[qkv](?=>)", name) if "<" in name else (name[1:], None, "")
    return Receiver(kind or "mlp", int(layer), None if head is None else int(head))


def layer_named(sender: str) -> int | None:
    """Return the layer of a sender by its name: "a9.h10" and "m9" -> 9; "input" -> None."""
    return None if sender == "input" else int(sender[1:].partition(".")[0])


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
