"""Measure one map of senders, or a map of all edges, with the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from mingpt.model import GPT
from patching.errors import PathError
from patching.paths.engine.branches import Received, reads, run_branches
from patching.paths.engine.record import KEPT
from patching.paths.engine.runs import Runs
from patching.paths.engine.senders import Reading, readings
from patching.paths.graph import Paths, Receiver, Sender
from patching.prompts import PromptPair
from patching.sweep.metrics import Metric
from patching.sweep.readout import Measured, bytes_to_read


@torch.no_grad()
def measure_map(
    model: GPT,
    pair: PromptPair,
    paths: Paths,
    direction: str,
    metrics: Sequence[Metric],
    *,
    allowed: int,
    strict: bool = True,
    step: Callable[[int], None],
) -> Measured:
    """Return the metrics of run D for every sender that has a path to a receiver.

    Args:
        model: in eval mode; its recording and last logits stay as they were.
        allowed: bytes that may be held at a time, beside the model.
        strict: True to refuse where a single sender needs more.
        step: called with the number of senders that are done.

    Raises:
        PathError: too little memory is allowed.
    """
    runs = Runs.of(model, pair, direction, metrics)
    values = runs.values(len(paths.senders))
    values[:, paths.sending] = runs.at_base
    for chunk in _chunks(runs, paths, allowed, len(paths.receivers), strict=strict):
        if positions := _changing(pair, paths):
            senders, finals = _received_by_all(runs, paths, chunk, positions)
            values[:, senders] = runs.reader.read(finals)
        step(len(chunk))
    return runs.measured(values)


@torch.no_grad()
def measure_edges(
    model: GPT,
    pair: PromptPair,
    paths: Paths,
    direction: str,
    metrics: Sequence[Metric],
    *,
    allowed: int,
    strict: bool = True,
    step: Callable[[int], None],
) -> Measured:
    """Return the metrics of run D for every sender and every single receiver.

    Args:
        model, allowed, strict: as for measure_map.
        step: called with the number of edges that are done.

    Raises:
        PathError: too little memory is allowed.
    """
    runs = Runs.of(model, pair, direction, metrics)
    values = runs.values(len(paths.senders), len(paths.receivers))
    for chunk in _chunks(runs, paths, allowed, 1, strict=strict):
        for place, receiver in enumerate(paths.receivers):
            linked = [number for number, sender in chunk if receiver.receives_from(sender)]
            values[:, linked, place] = runs.at_base
        positions = _changing(pair, paths)
        for reading in _readings(runs, paths, chunk, positions) if positions else ():
            for place, receiver in enumerate(paths.receivers):
                if reads(receiver, reading) and reading.senders:
                    finals = _received_by(runs, receiver, reading, positions)
                    values[:, [*reading.senders], place] = runs.reader.read(finals)
                if reads(receiver, reading):
                    step(sum(receiver.receives_from(sender) for _, sender in chunk))
    return runs.measured(values)


def _changing(pair: PromptPair, paths: Paths) -> list[int]:
    """Return the positions of receivers from the first on at which something changes.

    Receivers read no sender at some of them. There the loop puts the base run's input in,
    which a lower receiver would have changed.
    """
    changed = [p for p in paths.positions if p >= pair.differing[0]]
    return [p for p in paths.receiver_positions if changed and p >= changed[0]]


def _readings(
    runs: Runs, paths: Paths, senders: Sequence[tuple[int, Sender]], positions: Sequence[int]
) -> Iterator[Reading]:
    """Yield run C of some senders at every place where something may read it."""
    return readings(
        runs.model, runs.base, runs.source, senders, positions,
        sent=[p in paths.sender_positions for p in positions],
        freezes_mlps=paths.freezes_mlps,
    )  # fmt: skip


def _received_by_all(
    runs: Runs, paths: Paths, chunk: Sequence[tuple[int, Sender]], positions: Sequence[int]
) -> tuple[list[int], Tensor]:
    """Return the senders that change something, and run D's final vectors of each (E, C)."""
    received, last = Received(), None
    for reading in _readings(runs, paths, chunk, positions):
        here = [receiver for receiver in paths.receivers if reads(receiver, reading)]
        for receiver in here:
            if receiver.layer is None:
                finals = runs.model.transformer.ln_f(reading.streams[:, -1])
                return [*reading.senders], finals
            if reading.senders:
                received.read(runs.model, receiver, reading)
        last = reading if here else last
        if here and _is_highest(paths, reading):
            break
    if last is None or not received.values:
        return [], runs.base.final[None][:0]
    finals = run_branches(runs.model, runs.base, received, positions, len(last.senders))
    return [*last.senders], finals


def _is_highest(paths: Paths, reading: Reading) -> bool:
    """Return True if no receiver reads above this place."""
    places = [(one.layer or 0, one.kind == "mlp") for one in paths.receivers]
    return (reading.layer, reading.site == "resid_mid") >= max(places)


def _received_by(
    runs: Runs, receiver: Receiver, reading: Reading, positions: Sequence[int]
) -> Tensor:
    """Return run D's final vectors (E, C) where one receiver hears of each sender."""
    if receiver.layer is None:
        return runs.model.transformer.ln_f(reading.streams[:, -1])
    received = Received()
    received.read(runs.model, receiver, reading)
    return run_branches(runs.model, runs.base, received, positions, len(reading.senders))


def _chunks(
    runs: Runs, paths: Paths, allowed: int, at_once: int, *, strict: bool
) -> Iterator[list[tuple[int, Sender]]]:
    """Yield the senders that have a path, as many at a time as the memory allows.

    Args:
        at_once: the number of receivers whose inputs are held together.

    Raises:
        PathError: `strict`, and one sender needs more.
    """
    senders = [(number, paths.senders[number]) for number in paths.sending]
    fixed, each = _bytes(runs, paths, at_once)
    if strict and fixed + each > allowed:
        least = -(-(fixed + each) // 2**20)
        raise PathError(f"max_memory is too little for one sender: {least}M are needed")
    most = max(1, (allowed - fixed) // each)
    for first in range(0, len(senders), most):
        yield senders[first : first + most]


def _bytes(runs: Runs, paths: Paths, at_once: int) -> tuple[int, int]:
    """Return the bytes that are held in any case, and those of each sender's branch.

    Args:
        at_once: as for _chunks.
    """
    model, config, T = runs.model, runs.model.config, len(runs.pair)
    itemsize, C = model.dtype.itemsize, config.n_embd
    recorded = 2 * config.n_layer * T * C * len(KEPT)
    reading = bytes_to_read(runs.reader.metrics, config.vocab_size, itemsize)
    rows = T - paths.positions[0]
    # Of a block: its stream and products; keys and values of all positions, for every head;
    # the MLP's hidden layer before and after its activation.
    block = rows * (10 * C + 2 * config.inner_size) + 5 * T * C
    sent = len(paths.positions) * 4 * C
    sizes = [C if one.kind == "mlp" else config.head_size for one in paths.receivers]
    received = sorted(sizes, reverse=True)[:at_once]
    sent += len(paths.receiver_positions) * sum(received)
    return itemsize * recorded + reading, itemsize * (block + sent)
