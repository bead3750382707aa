"""Pack many runs into one batch: which row belongs to which run and position.

A row is the vector (C,) of one position of one run. The rows (N, C) of all runs
stand one after another, without padding. A run that is in the batch is a
sequence: for each job the base run and the source run, job after job (runs.py);
then the experiments, in the order in which they joined. A sequence has rows of its
own from its first position on. Before that it is the base run, whose rows it reads.

This file works out indices only; forward.py computes with the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mingpt.model import Block
from patching.sweep.engine.layout import AttentionGroup, Layout, window_rows, window_values
from patching.sweep.engine.plan import READ_LATER, Experiment
from patching.sweep.engine.runs import Job, Runs

ATTENTION_ROWS = 16384  # at a time: every run's keys are written out, shared ones too
MLP_ROWS = 4096  # at a time: the MLP's hidden layer is the widest thing in a block
# Of base runs whose experiments join together; a single job may have more. Larger groups are
# hardly faster, and every site's rule holds several tensors of so many rows.
JOINING_ROWS = 1024


@dataclass(frozen=True)
class Joining:
    """Experiments that join the batch together, of jobs with the same number of tokens."""

    jobs: list[int]  # (J,) the jobs' numbers
    experiments: list[Experiment]  # (E,), job after job
    job: np.ndarray  # (E,) of each experiment, the place of its job in `jobs`


@dataclass(frozen=True)
class BlockRuns:
    """The activations of J jobs' base and source runs in the block that was just run.

    The jobs have equally many tokens. After the last block, k and v are there for every
    position, and all other sites for the last position only.
    """

    block: Block | None  # None: the embedding, which has resid_post only
    T: int
    at_top: bool  # True after the last block
    _recorded: dict[str, Tensor]  # site -> the rows of all jobs' base and source runs
    _base: np.ndarray  # (J,) the base runs, as numbers of sequences
    _source: np.ndarray  # (J,) the source runs
    _base_rows: np.ndarray  # (J,) first row of each base run, where every position has a row
    _source_rows: np.ndarray  # (J,) first row of each source run
    _first_differences: np.ndarray  # (J,) the source run's first position with a row of its own
    # (J,) what is put in, in this block: (T, C), of the pattern (nh, T, T). None: the source runs'.
    put_in: Sequence[Tensor] | None = None

    @property
    def first_position(self) -> int:
        """The position of the first row that `base` and `source` return."""
        return self.T - 1 if self.at_top else 0

    @property
    def device(self) -> torch.device:
        """The device of the activations."""
        return self._recorded["resid_post"].device

    def base(self, site: str) -> Tensor:
        """Return the base runs' activation (J, T - first_position, C); of k and v (J, T, nkv hs).

        Of a single job it is a view.
        """
        if self._only_last(site):
            return self._taken(site, self._base[:, None])
        if len(self._base) == 1:
            row = int(self._base_rows[0])
            return self._recorded[site][None, row : row + self.T]
        return self._taken(site, self._base_rows[:, None] + np.arange(self.T))

    def source(self, site: str) -> Tensor:
        """Return what is put in: the source runs' activation, in the shape of the base runs'."""
        if self.put_in is not None:  # of the patched site, the only one that a rule asks for
            begin = self.T - 1 if self._only_last(site) else 0
            return torch.stack([one[begin:] for one in self.put_in])
        if self._only_last(site):
            return self._taken(site, self._source[:, None])
        position, first = np.arange(self.T), self._first_differences[:, None]
        # Before the first difference it is the base run's row.
        of_base = self._base_rows[:, None] + position
        own = self._source_rows[:, None] + position - first
        return self._taken(site, np.where(position < first, of_base, own))

    def put_pattern(self) -> Tensor:
        """Return the patterns that are put in (J, nh, P, T)."""
        return torch.stack([one[:, self.first_position :] for one in self.put_in or ()])

    def positions_of(self, experiments: Sequence[Experiment]) -> tuple[np.ndarray, np.ndarray]:
        """Return two arrays (R,): each row's position, and the number of its experiment."""
        first = [max(one.first_position, self.first_position) for one in experiments]
        return own_positions(first, self.T)

    def _only_last(self, site: str) -> bool:
        return self.at_top and site not in READ_LATER

    def _taken(self, site: str, rows: np.ndarray) -> Tensor:
        """Return a site's rows (J, P, ...) by their numbers (J, P)."""
        taken = rows_of(self._recorded[site], to_device(rows.ravel(), self.device))
        return taken.unflatten(0, rows.shape)


@dataclass(frozen=True)
class _Rows:
    """The place of each sequence's rows: arrays over the sequences (S,) and the rows (N,)."""

    job: np.ndarray  # (S,)
    T: np.ndarray  # (S,)
    first_position: np.ndarray  # (S,)
    first_row: np.ndarray  # (S,) the row of first_position
    n_changed: np.ndarray  # (S,) rows, from the first on, that differ from the base run's
    is_projected: np.ndarray  # (N,)


class Batch:
    """The sequences that are in the batch, and the experiments that have yet to join.

    Attributes:
        unchanged: of each job, the experiments that were left out because their
            patch changes nothing.
    """

    def __init__(self, jobs: Sequence[Job], device: torch.device) -> None:
        self.jobs, self.device = jobs, device
        self.unchanged: list[list[Experiment]] = [[] for _ in jobs]
        self._waiting = [list(job.experiments) for job in jobs]
        self._runs = Runs.of(jobs)
        # Of each sequence: the number of its job, its first position, its experiment.
        self._job_of = list(self._runs.job)
        self._first_positions = list(self._runs.first_position)
        self._experiments: list[Experiment | None] = [None] * len(self._runs)
        self._T = np.array([len(job.base_ids) for job in jobs])

    def ids_and_positions(self) -> tuple[Tensor, Tensor]:
        """Return token ids (N,) and positions (N,) of the rows of all base and source runs."""
        ids: list[int] = []
        positions: list[int] = []
        for run, first in zip(self._runs.ids, self._runs.first_position, strict=True):
            ids += run
            positions += range(first, first + len(run))
        return to_device(np.array(ids), self.device), to_device(np.array(positions), self.device)

    def noise(self) -> tuple[Tensor, Tensor] | None:
        """Return rows (n,) and the noise (n, C) that is added to their embeddings, if any is."""
        rows = [self._runs.rows_of_noise(number, job) for number, job in enumerate(self.jobs)]
        values = [job.noise.rows for job in self.jobs if job.noise is not None]
        if not values:
            return None
        return to_device(np.concatenate(rows), self.device), torch.cat(values)

    def finals(self, finals: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return the rows of a job's base and source run, of rows (sequences, C); no views."""
        base, source = (int(runs[number]) for runs in (self._runs.base, self._runs.source))
        return finals[base].clone(), finals[source].clone()

    def joining(self, layer: int) -> list[Joining]:
        """Take the experiments whose first block is `layer` out of the queue.

        Jobs of equal length are taken together, as many as JOINING_ROWS allows.
        """
        found: dict[int, list[list[int]]] = {}  # tokens -> groups of jobs
        taken: dict[int, list[Experiment]] = {}
        for number, waiting in enumerate(self._waiting):
            others = (i for i, one in enumerate(waiting) if one.first_block != layer)
            count = next(others, len(waiting))
            if not count:
                continue
            taken[number] = waiting[:count]
            del waiting[:count]
            T = int(self._T[number])
            groups = found.setdefault(T, [[]])
            if groups[-1] and (len(groups[-1]) + 1) * T > JOINING_ROWS:
                groups.append([])
            groups[-1].append(number)
        return [
            Joining(
                jobs=group,
                experiments=[one for number in group for one in taken[number]],
                job=np.repeat(np.arange(len(group)), [len(taken[number]) for number in group]),
            )
            for groups in found.values()
            for group in groups
        ]

    def block_runs(
        self,
        jobs: Sequence[int],
        block: Block | None,
        recorded: dict[str, Tensor],
        *,
        at_top: bool,
        patched_layer: int = 0,
    ) -> BlockRuns:
        """Return the activations in `block` of both runs of jobs with equally many tokens.

        Args:
            patched_layer: the layer whose values are put in, where a job has some.
        """
        given = [self.jobs[number].put_in for number in jobs]
        values = [one[patched_layer] for one in given if one is not None]
        base, source = (runs[list(jobs)] for runs in (self._runs.base, self._runs.source))
        return BlockRuns(
            block,
            int(self._T[jobs[0]]),
            at_top,
            recorded,
            base,
            source,
            self._runs.first_row[base],
            self._runs.first_row[source],
            np.array([self.jobs[number].first_difference for number in jobs]),
            values or None,
        )

    def add(self, joining: Joining) -> None:
        """Append experiments to the sequences."""
        self._job_of += [joining.jobs[place] for place in joining.job]
        self._first_positions += [one.first_position for one in joining.experiments]
        self._experiments += joining.experiments

    def results(self, number: int) -> tuple[list[Experiment], Tensor]:
        """Return the experiments (E) of job `number` that were run, and their sequences (E,)."""
        sequences = np.flatnonzero(np.array(self._job_of) == number)
        sequences = sequences[sequences >= len(self._runs)]
        experiments = [one for s in sequences if (one := self._experiments[s]) is not None]
        return experiments, to_device(sequences, self.device)

    # A worked example: two prompts of 4 tokens that differ at position 1. One experiment
    # patches resid_post of block 0 at position 2. Block 1 runs this batch:
    #
    #     position                 0  1  2  3
    #     sequence 0, base         0  1  2  3     the numbers of its rows
    #     sequence 1, source       .  4  5  6     first position 1
    #     sequence 2, experiment   .  .  7  8     first position 2
    #
    # Rows: first_row is 0 4 7, there are 9 rows, and the last positions' rows are 3 6 8.
    # The patch has changed row 7. Row 8 is still equal to the base run's row 3, because
    # no attention has been computed since. So row 8 needs no q, k, v of its own: the
    # projected rows are 0 1 2 3 4 5 6 7. From block 2 on, all 9 are.
    #
    # Attention: every sequence is written out whole. Each position reads q, k, v of
    #
    #     base         0  1  2  3
    #     source       0  4  5  6     0 is the base run's
    #     experiment   0  1  7  3     0 1 3 are the base run's; from block 2 on 0 1 7 8
    #
    # These 12 entries are `read`. (They count projected rows only, which makes a
    # difference where a row that is not projected stands before one that is.) Of the 12
    # results, those at entries 0 1 2 3, 5 6 7, 10 11 are `own`, and go to rows 0 to 8.
    #
    # Overrides: if the experiment's window patches block 1 too, row 7 gets what row 5,
    # the source run's position 2, has computed there: overrides is (7, 5). In the last
    # block each sequence has its last position only, and 2 is not the last one, so
    # last_overrides is None. If it were, it would be (2, 1): sequence 2 from sequence 1.

    def layout(self, layer: int) -> Layout:
        """Return the indices by which block `layer` is run."""
        rows = self._rows(layer)
        all_projected = rows.is_projected.all()
        patched = self._windowed(layer)
        source = self._runs.source[rows.job[patched]]
        copies = window_rows(rows.T, rows.first_position, rows.first_row, patched, source)
        overrides, last_overrides = (
            (self._index(to), self._index(taken)) if len(to) else None for to, taken in copies
        )
        values, last_values = None, None
        if self.jobs[0].put_in is not None and len(patched):
            values, at_last = window_values(
                [job.put_in for job in self.jobs], layer, rows.job[patched],
                rows.first_position[patched],
            )  # fmt: skip
            last_values = rows_of(values, self._index(at_last))
        return Layout(
            n_rows=len(rows.is_projected),
            n_run_rows=self._runs.n_rows,
            n_runs=len(self._runs),
            projected=None if all_projected else self._index(np.flatnonzero(rows.is_projected)),
            last=self._index(rows.first_row + rows.T - rows.first_position - 1),
            groups=self._attention_groups(rows),
            overrides=overrides,
            last_overrides=last_overrides,
            values=values,
            last_values=last_values,
        )

    def _rows(self, layer: int) -> _Rows:
        job, first_position = np.array(self._job_of), np.array(self._first_positions)
        T = self._T[job]
        n_own = T - first_position
        # The sequences' own rows stand one after another.
        first_row = np.cumsum(n_own) - n_own
        # An experiment that has just joined, and patches one position, differs in that row only.
        is_new = [
            one is not None and one.single_position and one.first_block == layer
            for one in self._experiments
        ]
        n_changed = np.where(is_new, 1, n_own)
        # The rows that differ from the base run's are projected, and all of base and source run.
        is_projected = np.arange(n_own.sum()) < np.repeat(first_row + n_changed, n_own)
        return _Rows(job, T, first_position, first_row, n_changed, is_projected)

    def _attention_groups(self, rows: _Rows) -> list[AttentionGroup]:
        groups = []
        row_of_0 = rows.first_row - rows.first_position  # plus a position: that position's row
        among_projected = np.cumsum(rows.is_projected) - 1  # a row's number among these
        for T in np.unique(rows.T):
            members = np.flatnonzero(rows.T == T)
            n_parts = math.ceil(len(members) * T / ATTENTION_ROWS)
            for sequences in np.array_split(members, n_parts):
                position = np.arange(T)  # (T,)
                sequence = sequences[:, None]  # (E, 1)
                first = rows.first_position[sequence]
                is_own = position >= first  # (E, T)
                # Where a position is not the sequence's own, or equal to the base run's,
                # the base run's row is read.
                is_changed = is_own & (position < first + rows.n_changed[sequence])
                whose = np.where(is_changed, sequence, self._runs.base[rows.job[sequence]])
                read = among_projected[row_of_0[whose] + position]  # (E, T)
                group = AttentionGroup(
                    T=int(T),
                    sequences=self._index(sequences),
                    read=self._index(read.ravel()),
                    own=self._index(np.flatnonzero(is_own)),
                    rows=self._index((row_of_0[sequence] + position)[is_own]),
                )
                groups.append(group)
        return groups

    def _windowed(self, layer: int) -> np.ndarray:
        """Return the sequences whose window patches block `layer` too."""
        numbers = [
            s for s, e in enumerate(self._experiments) if e is not None and layer < e.window_end
        ]
        return np.array(numbers, dtype=np.int64)

    def _index(self, numbers: np.ndarray) -> Tensor:
        return to_device(numbers, self.device)


def own_positions(first_positions: Sequence[int], T: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions first..T-1 of all sequences, and each position's sequence.

    >>> own_positions([2, 0, 3], 4)
    (array([2, 3, 0, 1, 2, 3, 3]), array([0, 0, 1, 1, 1, 1, 2]))
    """
    first = np.asarray(first_positions, dtype=np.int64)
    lengths = T - first
    owner = np.repeat(np.arange(len(first)), lengths)
    begins = np.cumsum(lengths) - lengths  # where each sequence's positions begin
    return np.arange(lengths.sum()) - (begins - first)[owner], owner


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """Return x[index] by index_select, which on a CPU is several times as fast."""
    return x.index_select(0, index)


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return function(x) of x (N, C), computed MLP_ROWS rows at a time to bound its memory."""
    if len(x) <= MLP_ROWS:
        return function(x)
    return torch.cat([function(part) for part in x.split(MLP_ROWS)])


def to_device(numbers: np.ndarray, device: torch.device) -> Tensor:
    """Copy indices to the device without waiting for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
