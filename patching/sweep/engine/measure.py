"""Measure the cells of any number of pairs with the engine: plan, run in chunks, read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mingpt.model import GPT
from mingpt.sites import HEAD_SITES
from patching.errors import named
from patching.prompts import PromptPair
from patching.sweep.engine.chunks import Size, bytes_needed, cut, work
from patching.sweep.engine.forward import PackedRuns, run_packed
from patching.sweep.engine.packing import to_device
from patching.sweep.engine.plan import BASE, SOURCE, Experiment, plan_cell
from patching.sweep.engine.runs import Job
from patching.sweep.metrics import Metric
from patching.sweep.put_values import PutValues, Values, bytes_of, rows_of_values
from patching.sweep.readout import (
    RUNS_AT_ONCE,
    Measured,
    NextOfCells,
    Reader,
    bytes_to_read,
    check_unpatched,
)
from patching.sweep.request import DIRECTIONS, Cell, Grid, Request


def measure(
    model: GPT,
    pairs: Sequence[PromptPair],
    grids: Sequence[Grid],
    direction: str,
    metrics: Sequence[Metric],
    *,
    allowed: int,
    strict: bool = True,
    next_tokens: int = 0,
    values: Sequence[Values] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Return the metrics of the patched run for every cell of every pair's grid.

    Args:
        model: in eval mode.
        grids: the grid of each pair; all have the same site and window, and those of pairs of
            the same length are equal.
        allowed: bytes that may be held at a time, beside the model.
        strict: True to refuse an experiment that needs more by itself; False runs it alone.
        next_tokens: how many of the likeliest next tokens are kept of each cell's run.
        values: what is put in, for each pair; None: the source runs' activations.
        progress: called with (work done, work in all), in rows times blocks.

    Raises:
        SweepError: too little memory is allowed, or a metric is undefined for a pair.
    """
    site = grids[0].site
    plans = plan_pairs(pairs, grids, direction, values)
    jobs = [plan.job for plan in plans]
    held = [job.put_in for job in jobs] + [one.tensor for one in values or ()]
    needed = _memory(model, metrics, site, next_tokens, bytes_of(held))
    chunks = list(cut(jobs, needed, allowed, strict=strict))
    total = sum(work(jobs, chunk, model.config.n_layer) for chunk in chunks)
    done = 0

    def passed(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, total)

    passed(0)
    measured: list[Measured] = []
    for chunk in chunks:
        parts = [replace(jobs[number], experiments=part) for number, part in chunk]
        results = run_packed(model, parts, site, passed)
        for (number, _), runs in zip(chunk, results, strict=True):
            with named(number, len(plans)):
                if number == len(measured):  # the pair's first chunk
                    reader = plans[number].reader(model, runs, metrics)
                    measured.append(plans[number].unpatched(reader, runs))
                    if next_tokens:
                        plans[number].begin_next(measured[number], model, next_tokens)
                plans[number].fill(measured[number], reader, runs)
                if next_tokens:
                    plans[number].fill_next(measured[number], model, runs)
    passed(total - done)  # the work of the unchanged experiments, which were not run
    return measured


def check_memory(
    model: GPT,
    pairs: Sequence[PromptPair],
    grids: Sequence[Grid],
    request: Request,
    source: PutValues,
) -> None:
    """Check a limit that was given, before the values that are put in are computed.

    Raises:
        SweepError: the sweep, its values, or the computing of them need more.
    """
    if request.method != "fast" or request.max_memory is None or request.put_in.is_recorded:
        return
    held, computing = source.bytes_at_least(pairs, request.site)
    needed = _memory(model, request.metrics, request.site, request.next_tokens, held)
    jobs = [plan.job for plan in plan_pairs(pairs, grids, request.direction)]
    for _ in cut(jobs, lambda size: max(needed(size), computing), request.max_memory, strict=True):
        pass


def _memory(
    model: GPT, metrics: Sequence[Metric], site: str, next_tokens: int, held: int
) -> Callable[[Size], int]:
    """Return a function from a batch's size to the bytes that running and reading it takes.

    Args:
        held: bytes of the values that are put in, which are held all the time.
    """
    itemsize = model.dtype.itemsize
    # Without a fused kernel, PyTorch's attention holds its weights (T, T).
    on_cpu, on_cuda = (model.device.type == device for device in ("cpu", "cuda"))
    fused = on_cpu or (on_cuda and model.dtype != torch.float64)
    vocab_size = model.config.vocab_size
    reading = bytes_to_read(metrics, vocab_size, itemsize, next_tokens=next_tokens > 0) + held

    def needed(size: Size) -> int:
        heads = site in HEAD_SITES
        return reading + bytes_needed(model.config, itemsize, size, heads=heads, fused=fused)

    return needed


def plan_pairs(
    pairs: Sequence[PromptPair],
    grids: Sequence[Grid],
    direction: str,
    values: Sequence[Values] | None = None,
) -> list[PairPlan]:
    """Return each pair's plan. Pairs of one length that differ at the same positions share it.

    Args:
        values: as measure.
    """
    cells: dict[tuple[int, tuple[int, ...]], _CellPlan] = {}
    plans = []
    values = values or [Values(None)] * len(pairs)
    put_in = rows_of_values(values, grids[0].site)
    for pair, grid, value, rows in zip(pairs, grids, values, put_in, strict=True):
        differing = pair.differing if value.noise is None else value.noise.positions
        key = len(pair), differing
        if key not in cells:
            cells[key] = _CellPlan.of(grid, differing)
        base_ids, source_ids = (pair.ids(run) for run in DIRECTIONS[direction])
        first = differing[0] if differing else len(pair)
        is_base_noised = DIRECTIONS[direction][0] == "corrupt"
        job = Job(
            base_ids, source_ids, first, cells[key].experiments, rows, value.noise, is_base_noised
        )
        plans.append(PairPlan(pair, direction, cells[key], job))
    return plans


@dataclass(frozen=True)
class _CellPlan:
    """The cells of a grid: those that are run, and those that need no run of their own."""

    grid: Grid
    experiments: list[Experiment]
    known: dict[str, list[Cell]]  # BASE, SOURCE -> the cells that have that run's value
    places: dict[tuple[int, ...], int]  # a cell's index -> its place in the flattened grid

    @classmethod
    def of(cls, grid: Grid, differing: tuple[int, ...]) -> _CellPlan:
        experiments: list[Experiment] = []
        known: dict[str, list[Cell]] = {BASE: [], SOURCE: []}
        for cell in grid.cells():
            planned = plan_cell(grid, cell, differing)
            if isinstance(planned, Experiment):
                experiments.append(planned)
            else:
                known[planned].append(cell)
        indices = [cell.index for cell in grid.cells()]
        places = np.ravel_multi_index(np.array(indices).T, grid.shape).tolist()
        return cls(grid, experiments, known, dict(zip(indices, places, strict=True)))


@dataclass(frozen=True)
class PairPlan:
    """The job of one pair, and how its results are read."""

    pair: PromptPair
    direction: str
    cells: _CellPlan
    job: Job

    def reader(self, model: GPT, runs: PackedRuns, metrics: Sequence[Metric]) -> Reader:
        """Return the reader of this pair's metrics, after checking its unpatched runs."""
        reader = Reader(model, self.pair, metrics, *self._clean_and_corrupt(runs))
        check_unpatched(metrics, reader.readout, runs.base.dtype)
        return reader

    def unpatched(self, reader: Reader, runs: PackedRuns) -> Measured:
        """Return the values of the cells in `known`, with NaN in all others."""
        clean, corrupt = reader.clean, reader.corrupt  # (M,)
        values = clean.new_full((len(clean), *self.cells.grid.shape), torch.nan)
        measured = Measured(values, clean, corrupt, *self._clean_and_corrupt(runs))
        for run, cells in self.cells.known.items():
            self._put(measured, cells, self._value_of(run, measured))
        return measured

    def fill(self, measured: Measured, reader: Reader, runs: PackedRuns) -> None:
        """Write the metrics of a chunk's experiments into their cells."""
        self._put(measured, [e.cell for e in runs.experiments], reader.read(runs.finals))
        self._put(measured, [e.cell for e in runs.unchanged], self._value_of(BASE, measured))

    def begin_next(self, measured: Measured, model: GPT, k: int) -> None:
        """Write the likeliest next tokens of the cells in `known`."""
        measured.next = NextOfCells.empty(measured.values[0], k)
        for run, cells in self.cells.known.items():
            self._put_next(measured, cells, model.lm_head(self._final_of(run, measured)[None]))

    def fill_next(self, measured: Measured, model: GPT, runs: PackedRuns) -> None:
        """Write the likeliest next tokens of a chunk's experiments."""
        experiments = [one.cell for one in runs.experiments]
        for first in range(0, len(experiments), RUNS_AT_ONCE):
            some = slice(first, first + RUNS_AT_ONCE)
            self._put_next(measured, experiments[some], model.lm_head(runs.finals[some]))
        unchanged = [one.cell for one in runs.unchanged]
        self._put_next(measured, unchanged, model.lm_head(self._final_of(BASE, measured)[None]))

    def _final_of(self, run: str, measured: Measured) -> torch.Tensor:
        """Return the final vector (C,) of the unpatched run `run`, BASE or SOURCE."""
        return measured.clean_final if self._name_of(run) == "clean" else measured.corrupt_final

    def _name_of(self, run: str) -> str:
        """Return "clean" or "corrupt", which BASE or SOURCE is."""
        return dict(zip((BASE, SOURCE), DIRECTIONS[self.direction], strict=True))[run]

    def _put_next(self, measured: Measured, cells: Sequence[Cell], logits: torch.Tensor) -> None:
        """Write the likeliest tokens by logits (len(cells), V), or (1, V) for all of them."""
        if cells and measured.next is not None:
            measured.next.put(self._flat(cells, logits.device), logits)

    def _clean_and_corrupt(self, runs: PackedRuns) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the final vectors (C,) of the clean and of the corrupt run."""
        of = dict(zip(DIRECTIONS[self.direction], (runs.base, runs.source), strict=True))
        return of["clean"], of["corrupt"]

    def _value_of(self, run: str, measured: Measured) -> torch.Tensor:
        """Return the metrics (M, 1) of the unpatched run `run`, BASE or SOURCE."""
        values = measured.clean if self._name_of(run) == "clean" else measured.corrupt
        return values[:, None]

    def _put(self, measured: Measured, cells: Sequence[Cell], values: torch.Tensor) -> None:
        """Write values (M, len(cells)), or (M, 1) for all of them, into the grid."""
        if cells:
            measured.values.flatten(1)[:, self._flat(cells, values.device)] = values

    def _flat(self, cells: Sequence[Cell], device: torch.device) -> torch.Tensor:
        """Return the cells' places in the flattened grid (len(cells),)."""
        return to_device(np.array([self.cells.places[cell.index] for cell in cells]), device)
