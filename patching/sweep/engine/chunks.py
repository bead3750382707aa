"""Cut the experiments of many pairs into chunks that fit into memory; count bytes and work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mingpt.config import GPTConfig
from patching.errors import SweepError
from patching.sweep.engine import packing
from patching.sweep.engine.plan import Experiment
from patching.sweep.engine.runs import Job

CHUNK_ROWS = 65536  # larger chunks are not faster, and would move the progress bar less often

# The numbers of the chunk's jobs, each with its experiments that are in the chunk.
Chunk = list[tuple[int, list[Experiment]]]


class Size(NamedTuple):
    """The size of a batch once all its experiments have joined."""

    T: int = 0  # tokens of the longest prompt
    sequences: int = 0
    rows: int = 0
    run_rows: int = 0  # how many of `rows` are the base and source runs'
    job_rows: int = 0  # how many these would be if no jobs shared a run

    def plus_all(self, job: Job, before: Job | None) -> Size:
        """Return the size after adding a job with all its experiments.

        Args:
            before: the job before it in the batch; None if it is the first.
        """
        T, experiments = len(job.base_ids), job.experiments
        own = sum(T - one.first_position for one in experiments)
        runs, rows = job.own_runs(before)
        return Size(
            max(self.T, T),
            self.sequences + runs + max(len(experiments), 1),
            self.rows + own + rows,
            self.run_rows + rows,
            self.job_rows + job.n_base_rows + job.n_source_rows,
        )

    def plus(
        self, job: Job, experiment: Experiment | None, before: Job | None, *, is_new: bool
    ) -> Size:
        """Return the size after adding one experiment.

        Args:
            experiment: None if the job has none; counts as a sequence without rows.
            before: as plus_all.
            is_new: True to add the job's base and source run too.
        """
        T = len(job.base_ids)
        own = 0 if experiment is None else T - experiment.first_position
        runs, rows = job.own_runs(before) if is_new else (0, 0)
        return Size(
            max(self.T, T),
            self.sequences + runs + 1,
            self.rows + own + rows,
            self.run_rows + rows,
            self.job_rows + (job.n_base_rows + job.n_source_rows) * is_new,
        )


def cut(
    jobs: Sequence[Job], needed: Callable[[Size], int], allowed: int, *, strict: bool
) -> Iterator[Chunk]:
    """Yield chunks of the jobs' experiments, in order; every job is in at least one.

    Args:
        needed: returns the bytes that a batch of a size takes.
        allowed: the bytes that a chunk may take.
        strict: True to refuse an experiment that takes more by itself; False to run
            it alone.

    Raises:
        SweepError: `strict`, and one experiment takes more.
    """
    chunk: Chunk = []
    size = Size()
    for number, job in enumerate(jobs):
        before = jobs[chunk[-1][0]] if chunk else None
        whole = size.plus_all(job, before)
        if whole.rows <= CHUNK_ROWS and needed(whole) <= allowed:  # the usual case, quickly
            chunk.append((number, list(job.experiments)))
            size = whole
            continue
        # A job without experiments is run too, because its two runs are read.
        for one in job.experiments or (None,):
            is_new = not chunk or chunk[-1][0] != number
            larger = size.plus(job, one, before, is_new=is_new)
            if chunk and (larger.rows > CHUNK_ROWS or needed(larger) > allowed):
                yield chunk
                chunk, is_new = [], True
                larger = Size().plus(job, one, None, is_new=True)
            if strict and needed(larger) > allowed:
                least = math.ceil(_largest(jobs, needed) / 1024)  # rounded up: this is enough
                raise SweepError(
                    f"{allowed / 1024:.4g} KiB is too little memory: this sweep needs at"
                    f" least {least}K beside the model (--max-memory {least}K, in Python"
                    f" max_memory={1024 * least})"
                )
            size = larger
            if is_new:
                chunk.append((number, []))
            if one is not None:
                chunk[-1][1].append(one)
    yield chunk


def _largest(jobs: Sequence[Job], needed: Callable[[Size], int]) -> int:
    """Return the bytes that the largest experiment of all jobs takes by itself."""
    return max(
        needed(Size().plus(job, one, None, is_new=True))
        for job in jobs
        for one in job.experiments or (None,)
    )


def bytes_needed(
    config: GPTConfig, itemsize: int, size: Size, *, heads: bool, fused: bool = True
) -> int:
    """Return the bytes that run_packed holds at most, beside the model.

    Args:
        itemsize: bytes of a number in the model's dtype.
        heads: True if the site is one of the attention heads'.
        fused: True if PyTorch's attention kernel does not hold the weights (T, T).
    """
    T, sequences, rows, run_rows, job_rows = size
    C = config.n_embd
    # In each row: x twice, ln_1's output, qkv, z, and attention's or the MLP's output.
    of_rows = rows * (8 * C + (3 * T if heads else 0))
    recorded = run_rows * 7 * C
    written_out = min(sequences * T, max(packing.ATTENTION_ROWS, T))  # positions at a time
    attention = written_out * (7 * C + (0 if fused else 3 * config.n_head * T))
    patterns = 8 * config.n_head * T * T if heads else 0
    # Of several jobs whose experiments join together: each has its own copy of a shared run.
    joining = min(max(run_rows, job_rows), packing.JOINING_ROWS)
    if joining > 2 * T:  # a single job's rows are views
        patterns += joining * (6 * C + (4 * config.n_head * T if heads else 0))
    mlp = min(rows, packing.MLP_ROWS) * (2 * config.inner_size + 3 * C)
    indices = 8 * (4 * rows + 4 * sequences * T)
    return itemsize * (of_rows + recorded + attention + patterns + mlp) + indices


def work(jobs: Sequence[Job], chunk: Chunk, n_layer: int) -> int:
    """Return a chunk's work: the number of rows times the blocks that each passes."""
    total, before = 0, None
    for number, experiments in chunk:
        job = jobs[number]
        T, (_, rows) = len(job.base_ids), job.own_runs(before)
        total += n_layer * rows
        total += sum((n_layer - e.first_block) * (T - e.first_position) for e in experiments)
        before = job
    return total
