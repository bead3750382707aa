"""The same numbers as loop.py's, by the engine: for any number of pairs at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from mingpt.model import GPT
from mingpt.sites import HEAD_SITES
from patching.errors import SweepError, named
from patching.prompts import PromptPair
from patching.sweep.engine.forward import Carried, bytes_needed, carry
from patching.sweep.engine.packing import Job, to_device
from patching.sweep.engine.plan import BASE, SOURCE, Experiment, experiment
from patching.sweep.engine.site_rules import rule
from patching.sweep.metrics import Metric
from patching.sweep.readout import Measured, Reader, bytes_to_read, check_unpatched
from patching.sweep.request import DIRECTIONS, Cell, Grid

CHUNK_ROWS = 65536  # larger ones bring no more speed, and a bar that stands still for longer


def measure(
    model: GPT,
    pairs: Sequence[PromptPair],
    grids: Sequence[Grid],
    direction: str,
    metrics: Sequence[Metric],
    *,
    allowed: int,
    strict: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Read the metrics of the patched run for every cell of every pair's grid.

    Args:
        model: in eval mode.
        grids: of each pair; all of one site and window.
        allowed: bytes that may be held at a time, beside the model.
        strict: whether a single experiment that needs more is refused.
        progress: called with (work done, work in all), in rows times blocks.

    Raises:
        SweepError: too little memory allowed, or a metric that is undefined.
    """
    tasks = [_Task.of(pair, grid, direction) for pair, grid in zip(pairs, grids, strict=True)]
    weight = model.transformer.wte.weight
    # Where PyTorch's attention has no fused kernel it holds its weights.
    fused = weight.device.type == "cpu" or (
        weight.device.type == "cuda" and weight.dtype != torch.float64
    )
    reading = bytes_to_read(metrics, model.config.vocab_size, weight.dtype.itemsize)

    def needed(T: int, sequences: int, rows: int, run_rows: int) -> int:
        shape = (model.config, weight.dtype.itemsize, T, sequences, rows, run_rows)
        heads = grids[0].site in HEAD_SITES
        return reading + bytes_needed(*shape, heads=heads, fused=fused)

    chunks = [*_chunks(tasks, needed, allowed, strict)]
    total = sum(_work(tasks, chunk, model.config.n_layer) for chunk in chunks)
    done = 0

    def passed(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, total)

    passed(0)
    for chunk in chunks:
        jobs = [replace(tasks[number].job, experiments=part) for number, part in chunk]
        results = carry(model, jobs, rule(grids[0].site), passed)
        for (number, _), carried in zip(chunk, results, strict=True):
            with named(number, len(tasks)):
                tasks[number].take(model, carried, metrics)
        for number, _ in chunk[:-1]:  # the last one may go on in the next chunk
            tasks[number].reader = None  # it holds two runs' logits
    passed(total - done)
    return [task.measured for task in tasks]


# The tasks of a chunk by their numbers, each with the experiments that are run.
_Chunk = list[tuple[int, list[Experiment]]]


@dataclass
class _Task:
    """One pair: what is to be run, and what has been read."""

    pair: PromptPair
    direction: str
    grid: Grid
    job: Job
    known: dict[str, list[Cell]]  # whose value, without any run of their own: BASE, SOURCE
    reader: Reader | None = field(default=None, init=False)
    measured: Measured | None = field(default=None, init=False)

    @classmethod
    def of(cls, pair: PromptPair, grid: Grid, direction: str) -> _Task:
        experiments, known = [], {BASE: [], SOURCE: []}
        for cell in grid.cells():
            fate = experiment(grid, cell, pair.differing)
            if isinstance(fate, Experiment):
                experiments.append(fate)
            else:
                known[fate].append(cell)
        ids = {"clean": pair.clean_ids, "corrupt": pair.corrupt_ids}
        base, source = (ids[run] for run in DIRECTIONS[direction])
        job = Job(base, source, pair.differing[0], experiments)
        return cls(pair, direction, grid, job, known)

    def take(self, model: GPT, carried: Carried, metrics: Sequence[Metric]) -> None:
        """Read what one chunk has brought. The first one's unpatched runs count for all."""
        if self.reader is None:
            self._take_unpatched(model, carried, metrics)
        values = self.reader.read(carried.finals)  # (M, E)
        self._put([e.cell for e in carried.experiments], values)
        self._put([e.cell for e in carried.unchanged], self._of_run(BASE)[:, None])

    def _take_unpatched(self, model: GPT, carried: Carried, metrics: Sequence[Metric]) -> None:
        base, source = DIRECTIONS[self.direction]
        finals = {base: carried.base, source: carried.source}
        self.reader = Reader(model, self.pair, metrics, finals["clean"], finals["corrupt"])
        check_unpatched(metrics, self.reader.readout, carried.base.dtype)
        clean, corrupt = self.reader.clean, self.reader.corrupt
        values = clean.new_full((len(metrics), *self.grid.shape), torch.nan)
        self.measured = Measured(values, clean, corrupt, finals["clean"], finals["corrupt"])
        for whose, cells in self.known.items():
            self._put(cells, self._of_run(whose)[:, None])

    def _of_run(self, whose: str) -> torch.Tensor:
        """The metrics of the base or the source run (M,)."""
        run = DIRECTIONS[self.direction][(BASE, SOURCE).index(whose)]
        return {"clean": self.measured.clean, "corrupt": self.measured.corrupt}[run]

    def _put(self, cells: Sequence[Cell], values: torch.Tensor) -> None:
        """Write values (M, len(cells)), or (M, 1) for all of them, into the grid."""
        if cells:
            flat = np.ravel_multi_index(np.array([c.index for c in cells]).T, self.grid.shape)
            self.measured.values.flatten(1)[:, to_device(flat, values.device)] = values


def _chunks(
    tasks: Sequence[_Task], needed: Callable[..., int], allowed: int, strict: bool
) -> Iterator[_Chunk]:
    """Cut the tasks' experiments into portions that fit, in order; every task is in one.

    Args:
        needed: bytes of so many tokens, sequences, rows, and rows of runs.
    """
    chunk: _Chunk = []
    T = sequences = rows = run_rows = 0
    for number, task in enumerate(tasks):
        length = len(task.job.base_ids)
        runs = 2 * length - task.job.start
        # None stands for a task without experiments: its two runs alone.
        for one in task.job.experiments or (None,):
            own = 0 if one is None else length - one.start
            is_new = not chunk or chunk[-1][0] != number
            size = (
                max(T, length),
                sequences + 1 + 2 * is_new,
                rows + own + runs * is_new,
                run_rows + runs * is_new,
            )
            if chunk and (needed(*size) > allowed or size[2] > CHUNK_ROWS):
                yield chunk
                chunk, is_new = [], True
                size = (length, 3, runs + own, runs)
            if strict and needed(*size) > allowed:
                raise SweepError(
                    f"{allowed / 1024**2:.4g} MiB is too little memory: this sweep needs at"
                    f" least {needed(*size) / 1024**2:.4g} MiB beside the model"
                )
            T, sequences, rows, run_rows = size
            if is_new:
                chunk.append((number, []))
            if one is not None:
                chunk[-1][1].append(one)
    yield chunk


def _work(tasks: Sequence[_Task], chunk: _Chunk, n_layer: int) -> int:
    """Rows times the blocks that they pass."""
    work = 0
    for number, experiments in chunk:
        job = tasks[number].job
        T = len(job.base_ids)
        work += n_layer * (2 * T - job.start)
        work += sum((n_layer - e.stage) * (T - e.start) for e in experiments)
    return work
