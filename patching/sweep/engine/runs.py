"""The base and the source run of every job, and where their rows stand in a batch.

Draws of noise on one prompt are jobs of their own whose clean run is the same: neighbours share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from patching.sweep.engine.plan import Experiment
from patching.sweep.put_values import Noise


@dataclass(frozen=True)
class Job:
    """The experiments on one pair of prompts."""

    base_ids: tuple[int, ...]  # (T,)
    source_ids: tuple[int, ...]  # (T,)
    first_difference: int  # the first position at which the two differ; T if they are the same
    experiments: Sequence[Experiment]  # sorted by first_block
    # What is put in, in place of the source run's activation at the patched site, as
    # put_values.rows_of_values has it: (n_layer, T, C). None: the source run's.
    put_in: Tensor | None = None
    noise: Noise | None = None  # on the embeddings of one of the two runs
    is_base_noised: bool = False  # True: on those of the base run

    @property
    def n_base_rows(self) -> int:
        """Number of rows of the base run."""
        return len(self.base_ids)

    @property
    def n_source_rows(self) -> int:
        """Number of rows of the source run; before the first difference it has the base run's."""
        return len(self.base_ids) - self.first_difference

    def shares_clean_run(self, before: Job | None) -> bool:
        """Return True if the job before it in a batch has the same clean run, beside noise.

        The clean run is then in the batch once: the base run of both, or the source run of both.
        """
        if before is None or self.noise is None or before.noise is None:
            return False
        ours, theirs = (
            (one.base_ids, one.first_difference, one.is_base_noised) for one in (self, before)
        )
        return ours == theirs

    def own_runs(self, before: Job | None) -> tuple[int, int]:
        """Return the numbers of runs and of their rows that the job adds to a batch.

        Args:
            before: the job before it in the batch; None if it is the first.
        """
        if not self.shares_clean_run(before):
            return 2, self.n_base_rows + self.n_source_rows
        return 1, self.n_base_rows if self.is_base_noised else self.n_source_rows


@dataclass(frozen=True)
class Runs:
    """The base and source runs of J jobs: R sequences, R = 2 J unless jobs share a clean run.

    A sequence's rows stand one after another, from its first position on.
    """

    job: list[int]  # (R,) the job that brought the run
    first_position: list[int]  # (R,) 0, or the first difference
    ids: list[tuple[int, ...]]  # (R,) token ids of the rows
    base: np.ndarray  # (J,) each job's base run, as the number of its sequence
    source: np.ndarray  # (J,) ... and its source run
    first_row: np.ndarray  # (R + 1,) the first row of each sequence; the number of all rows

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> Runs:
        """Return the runs of jobs: job after job, the base run before the source run."""
        owner, first, ids = list[int](), list[int](), list[tuple[int, ...]]()
        base, source = list[int](), list[int]()
        before: Job | None = None
        for number, job in enumerate(jobs):
            is_shared = job.shares_clean_run(before)
            for runs, begin, of_run, is_noised in (
                (base, 0, job.base_ids, job.is_base_noised),
                (source, job.first_difference, job.source_ids, not job.is_base_noised),
            ):
                if is_shared and not is_noised:
                    runs.append(runs[-1])
                    continue
                runs.append(len(owner))
                owner.append(number)
                first.append(begin)
                ids.append(of_run[begin:])
            before = job
        ends = np.cumsum([0, *map(len, ids)])
        return cls(owner, first, ids, np.array(base), np.array(source), ends)

    def __len__(self) -> int:
        """Return the number of runs, R."""
        return len(self.job)

    @property
    def n_rows(self) -> int:
        """Number of all runs' rows."""
        return int(self.first_row[-1])

    def rows_of_noise(self, number: int, job: Job) -> list[int]:
        """Return the rows (n,) that a job's noise is added to."""
        if job.noise is None:
            return []
        run = (self.base if job.is_base_noised else self.source)[number]
        row_of_0 = int(self.first_row[run]) - self.first_position[run]
        return [row_of_0 + position for position in job.noise.positions]
