"""Whose rows are which in the engine's packed batch. Indices only: no arithmetic on activations.

The sequences are, for each job, the base run, the source run, and then, in the
order in which they joined, its experiments. A sequence's own rows are those
from its `start` on; before them it is the base run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mingpt.model import Block
from patching.sweep.engine.plan import Experiment

ATTENTION_ROWS = 16384  # at a time: every run's keys are written out, shared ones too


@dataclass(frozen=True)
class Job:
    """The experiments on one pair of prompts."""

    base_ids: tuple[int, ...]  # (T,)
    source_ids: tuple[int, ...]  # (T,)
    start: int  # the first position at which they differ
    experiments: Sequence[Experiment]  # in the order of their stages


@dataclass(frozen=True)
class Passage:
    """What one job's base and source run did in the block that was just passed.

    After the last block everything but k and v is there for the last position
    alone.
    """

    block: Block | None  # None: the embedding, which has a resid_post only
    T: int
    at_top: bool  # whether that was the last block
    _seen: dict[str, Tensor]  # site -> the rows of all jobs' runs
    _start: int
    _row: int  # of this job's base run, where every position has one
    _number: int  # of the job

    @property
    def first(self) -> int:
        """The position of the first row."""
        return self.T - 1 if self.at_top else 0

    def base(self, site: str) -> Tensor:
        """(T - first, C); of k and v (T, C)."""
        rows = self._seen[site]
        if self._only_last(site):
            return rows[2 * self._number, None]
        return rows[self._row : self._row + self.T]

    def source(self, site: str) -> Tensor:
        """As `base`. Before the first difference the source run is the base run."""
        rows = self._seen[site]
        if self._only_last(site):
            return rows[2 * self._number + 1, None]
        own = rows[self._row + self.T :][: self.T - self._start]
        return torch.cat((rows[self._row :][: self._start], own))

    def _only_last(self, site: str) -> bool:
        return self.at_top and site not in ("k", "v")


@dataclass(frozen=True)
class Attended:
    """Some sequences of equal length T, whose attention is worked out together."""

    T: int
    sequences: Tensor  # (E,)
    read: Tensor  # (E * T,) where each position of each has its query, key and value
    own: Tensor  # (n,) which of these positions are a sequence's own
    rows: Tensor  # (n,) and in which rows they stand


@dataclass(frozen=True)
class Layout:
    """Where everything stands while a block is passed."""

    n_rows: int
    n_run_rows: int  # the base and source runs', which come first
    n_runs: int
    projected: Tensor | None  # the rows that need their own q, k, v; None: all do
    last: Tensor  # (sequences,) the row of each one's last position
    attended: list[Attended]
    overrides: tuple[Tensor, Tensor] | None  # a window's rows, and those that they become
    last_overrides: tuple[Tensor, Tensor] | None  # likewise, of last positions, by sequence


class Batch:
    """The sequences that are in the batch, and the experiments that wait to join."""

    def __init__(self, jobs: Sequence[Job], device: torch.device) -> None:
        self.jobs, self.device = jobs, device
        self.waiting = [list(job.experiments) for job in jobs]
        self.unchanged: list[list[Experiment]] = [[] for _ in jobs]
        self.owner = [number for number in range(len(jobs)) for _ in range(2)]  # by sequence
        self.starts = [start for job in jobs for start in (0, job.start)]
        self.experiments: list[Experiment | None] = [None] * (2 * len(jobs))
        self.T = np.array([len(job.base_ids) for job in jobs])
        lengths = [2 * len(job.base_ids) - job.start for job in jobs]
        self.first_row = [0, *np.cumsum(lengths).tolist()]  # of each job's base run

    def ids_and_positions(self) -> tuple[Tensor, Tensor]:
        """Of every row of the base and source runs (N,)."""
        ids: list[int] = []
        positions: list[int] = []
        for job in self.jobs:
            for run, start in ((job.base_ids, 0), (job.source_ids, job.start)):
                ids += run[start:]
                positions += range(start, len(run))
        return to_device(np.array(ids), self.device), to_device(np.array(positions), self.device)

    def joining(self, stage: int) -> list[tuple[int, list[Experiment]]]:
        """The jobs that have experiments for this stage, and these."""
        found = []
        for number, waiting in enumerate(self.waiting):
            count = next((i for i, e in enumerate(waiting) if e.stage != stage), len(waiting))
            if count:
                found.append((number, waiting[:count]))
                del waiting[:count]
        return found

    def passage(
        self, number: int, block: Block | None, seen: dict[str, Tensor], at_top: bool
    ) -> Passage:
        """What a job's runs did in `block`, from what all runs did in it."""
        T, start = int(self.T[number]), self.jobs[number].start
        return Passage(block, T, at_top, seen, start, self.first_row[number], number)

    def without_equal(
        self, number: int, passage: Passage, joining: list[Experiment], rows: Tensor
    ) -> tuple[list[Experiment], Tensor]:
        """Leave out experiments whose rows are the base run's bit for bit."""
        starts = [max(e.start, passage.first) for e in joining]
        positions, owner = spans(starts, passage.T)
        base = rows_of(passage.base("resid_post"), torch.from_numpy(positions - passage.first))
        differs = (rows != base).any(1).numpy()  # (R,)
        kept = np.array([e.end > e.stage for e in joining])  # a window goes on patching
        np.logical_or.at(kept, owner, differs)
        if kept.all():
            return joining, rows
        both = [*zip(joining, kept, strict=True)]
        self.unchanged[number] += [e for e, keep in both if not keep]
        return [e for e, keep in both if keep], rows[torch.from_numpy(kept[owner])]

    def add(self, number: int, joining: list[Experiment]) -> None:
        """Let a job's experiments join, at the end."""
        self.owner += [number] * len(joining)
        self.starts += [e.start for e in joining]
        self.experiments += joining

    def layout(self, layer: int) -> Layout:
        """The places for a pass through block `layer`."""
        owner, starts = np.array(self.owner), np.array(self.starts)
        T = self.T[owner]
        lengths = T - starts
        first = np.cumsum(lengths) - lengths
        # Just after a lone experiment has joined, only at `start` is it not the base run yet.
        is_new = [e is not None and e.is_lone and e.stage == layer for e in self.experiments]
        own_inputs = np.where(is_new, 1, lengths)  # rows of each sequence, from its start
        is_projected = np.repeat(first + own_inputs, lengths) > np.arange(lengths.sum())
        place = np.cumsum(is_projected) - 1  # of a row among those that are projected
        attended = []
        for length in np.unique(T):
            members = np.flatnonzero(length == T)
            for part in np.array_split(members, -(-len(members) * length // ATTENTION_ROWS)):
                position, start = np.arange(length), starts[part, None]
                own = position >= start  # (E, T)
                differs = own & (position < start + own_inputs[part, None])
                whose = np.where(differs, part[:, None], 2 * owner[part, None])
                read = place[(first - starts)[whose] + position]
                rows = ((first - starts)[part, None] + position)[own]
                attended.append(
                    Attended(
                        int(length),
                        *(
                            to_device(numbers, self.device)
                            for numbers in (part, read.ravel(), np.flatnonzero(own), rows)
                        ),
                    )
                )
        patched = np.array(
            [s for s, e in enumerate(self.experiments) if e is not None and layer < e.end],
            dtype=np.int64,
        )
        source = 2 * owner[patched] + 1
        at_last = patched[starts[patched] == T[patched] - 1]
        return Layout(
            n_rows=len(place),
            n_run_rows=self.first_row[-1],
            n_runs=2 * len(self.jobs),
            projected=(
                to_device(np.flatnonzero(is_projected), self.device) if any(is_new) else None
            ),
            last=to_device(first + lengths - 1, self.device),
            attended=attended,
            overrides=self._pair(first[patched], first[source] + starts[patched] - starts[source]),
            last_overrides=self._pair(at_last, 2 * owner[at_last] + 1),
        )

    def _pair(self, to: np.ndarray, taken: np.ndarray) -> tuple[Tensor, Tensor] | None:
        return (to_device(to, self.device), to_device(taken, self.device)) if len(to) else None

    def results(self, number: int) -> tuple[list[Experiment], Tensor]:
        """A job's experiments, and the sequences that they are (E,)."""
        members = np.flatnonzero(np.array(self.owner) == number)[2:]  # after its two runs
        return [self.experiments[s] for s in members], to_device(members, self.device)


def spans(starts: Sequence[int], T: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions start..T-1 of each sequence, one after another, and whose they are."""
    starts = np.asarray(starts, dtype=np.int64)
    lengths = T - starts
    owner = np.repeat(np.arange(len(starts)), lengths)
    offset = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - (offset - starts)[owner], owner


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """x[index] for whole rows, which on a CPU is several times as fast this way."""
    return x.index_select(0, index)


def to_device(numbers: np.ndarray, device: torch.device) -> Tensor:
    """Indices on the device, without waiting for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
