"""The owner of each row: the worked example above Batch.layout, number by number."""

import doctest
from dataclasses import replace

import numpy as np
import pytest
import torch

from patching.sweep.engine import packing
from patching.sweep.engine.packing import Batch, BlockRuns, Job, by_rows
from patching.sweep.engine.plan import Experiment
from patching.sweep.put_values import Noise
from patching.sweep.request import Cell

CPU = torch.device("cpu")


def experiment(first_block: int, first_position: int, **more) -> Experiment:
    cell = Cell((first_block - 1, first_position), first_block - 1, None, first_position)
    known = {"single_position": True, "window_end": first_block, **more}
    return Experiment(cell, first_block, first_position, **known)


def batch_at(layer: int, *experiments: Experiment) -> Batch:
    """Return the batch that block `layer` gets, of one pair of 4 tokens that differ at 1."""
    batch = Batch([Job((5, 6, 7, 8), (5, 9, 7, 8), 1, experiments)], CPU)
    for block in range(layer + 1):
        for joining in batch.joining(block):
            batch.add(joining)
    return batch


def numbers(pair: tuple[torch.Tensor, torch.Tensor] | None) -> list[list[int]] | None:
    return None if pair is None else [index.tolist() for index in pair]


def test_the_worked_example():
    layout = batch_at(1, experiment(1, 2)).layout(1)
    assert layout.n_rows == 9
    assert (layout.n_run_rows, layout.n_runs) == (7, 2)
    assert layout.last.tolist() == [3, 6, 8]
    assert layout.projected.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    (group,) = layout.groups
    assert group.T == 4
    assert group.sequences.tolist() == [0, 1, 2]
    assert group.read.view(3, 4).tolist() == [[0, 1, 2, 3], [0, 4, 5, 6], [0, 1, 7, 3]]
    assert group.own.tolist() == [0, 1, 2, 3, 5, 6, 7, 10, 11]
    assert group.rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert layout.overrides is layout.last_overrides is None


def test_the_worked_example_one_block_later():
    layout = batch_at(2, experiment(1, 2)).layout(2)
    assert layout.projected is None
    (group,) = layout.groups
    assert group.read.view(3, 4).tolist() == [[0, 1, 2, 3], [0, 4, 5, 6], [0, 1, 7, 8]]


def test_the_worked_example_with_a_window():
    layout = batch_at(1, experiment(1, 2, window_end=2)).layout(1)
    assert numbers(layout.overrides) == [[7], [5]]
    assert layout.last_overrides is None
    layout = batch_at(1, experiment(1, 3, window_end=2)).layout(1)
    assert numbers(layout.overrides) == [[7], [6]]
    assert numbers(layout.last_overrides) == [[2], [1]]
    assert batch_at(2, experiment(1, 3, window_end=2)).layout(2).overrides is None


def test_read_counts_projected_rows_only():
    """Rows 7 and 8 belong to one experiment, 9 to another; 8 is not projected, so 9 is ninth."""
    layout = batch_at(1, experiment(1, 2), experiment(1, 3)).layout(1)
    assert layout.projected.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    (group,) = layout.groups
    assert group.read.view(4, 4)[2:].tolist() == [[0, 1, 7, 3], [0, 1, 2, 8]]
    assert group.rows.tolist() == list(range(10))


def test_every_position_of_an_experiment_that_patches_all_is_projected():
    layout = batch_at(1, experiment(1, 2, single_position=False)).layout(1)
    assert layout.projected is None


def test_two_jobs_of_unequal_lengths():
    """Runs first, job after job; experiments read their own job's base run."""
    jobs = [
        Job((5, 6), (5, 7), 1, [experiment(1, 1)]),
        Job((1, 2, 3), (4, 2, 3), 0, [experiment(1, 2)]),
    ]
    batch = Batch(jobs, CPU)
    ids, positions = batch.ids_and_positions()
    assert ids.tolist() == [5, 6, 7, 1, 2, 3, 4, 2, 3]
    assert positions.tolist() == [0, 1, 1, 0, 1, 2, 0, 1, 2]
    assert batch.joining(0) == []
    for joining in batch.joining(1):
        batch.add(joining)
    assert batch.joining(1) == []
    layout = batch.layout(2)
    two, three = layout.groups
    assert two.sequences.tolist() == [0, 1, 4]
    assert two.read.view(3, 2).tolist() == [[0, 1], [0, 2], [0, 9]]
    assert three.sequences.tolist() == [2, 3, 5]
    assert three.read.view(3, 3).tolist() == [[3, 4, 5], [6, 7, 8], [3, 4, 10]]
    assert layout.last.tolist() == [1, 2, 5, 8, 9, 10]
    experiments, sequences = batch.results(1)
    assert (experiments, sequences.tolist()) == (list(jobs[1].experiments), [5])


NOISE = [Noise((1,), torch.ones(1, 2)), Noise((1,), torch.zeros(1, 2))]


def test_draws_of_noise_share_the_clean_run():
    """Two draws on three tokens: of the base run in the one direction, the source in the other."""
    ids = (5, 6, 7)
    for is_base_noised, rows, first_rows, noise_rows in (
        (True, [0, 1, 2, 1, 2, 0, 1, 2], [0, 3, 5], [1, 6]),  # base, source; base
        (False, [0, 1, 2, 1, 2, 1, 2], [0, 3, 5], [3, 5]),  # base, source; source
    ):
        jobs = [Job(ids, ids, 1, [experiment(1, 2)], None, one, is_base_noised) for one in NOISE]
        batch = Batch(jobs, CPU)
        assert batch.ids_and_positions()[1].tolist() == rows
        assert batch.noise()[0].tolist() == noise_rows
        for joining in batch.joining(1):
            batch.add(joining)
        layout = batch.layout(2)
        assert (layout.n_run_rows, layout.n_runs) == (len(rows), 3)
        (group,) = layout.groups
        own = first_rows[2] if is_base_noised else 0  # the first row of the second job's base run
        assert group.read.view(5, 3).tolist()[3:] == [
            [0, 1, len(rows)],
            [own, own + 1, len(rows) + 1],
        ]
        assert batch.results(1)[1].tolist() == [4]
        of_runs = torch.arange(5.0)[:, None]
        expected = (2, 1) if is_base_noised else (0, 2)
        assert tuple(int(one) for one in batch.finals(of_runs, 1)) == expected
    other = Job((5, 6, 8), (5, 6, 8), 1, [], None, NOISE[0], False)
    assert not other.shares_clean_run(jobs[1])
    assert not replace(jobs[1], noise=None).shares_clean_run(jobs[0])


@pytest.mark.parametrize(("rows", "parts"), [(12, [3]), (11, [2, 1]), (4, [1, 1, 1]), (1, [1] * 3)])
def test_attention_groups_hold_so_many_rows(monkeypatch, rows, parts):
    monkeypatch.setattr(packing, "ATTENTION_ROWS", rows)
    layout = batch_at(1, experiment(1, 2)).layout(1)
    assert [len(group.sequences) for group in layout.groups][: len(parts)] == parts


def test_base_and_source_before_and_at_the_top():
    """The source run's rows before the first difference are the base run's."""
    every = torch.arange(14.0).view(14, 1)  # job 0 has rows 0 to 6, job 1 rows 7 to 13
    last = torch.arange(4.0).view(4, 1)  # one row a run

    def at(jobs: list[int]) -> tuple[np.ndarray, ...]:  # runs, first rows, first differences
        job = np.array(jobs)
        return 2 * job, 2 * job + 1, 7 * job, 7 * job + 4, np.ones_like(job)

    recorded = {"q": every, "k": every, "resid_post": every}
    runs = BlockRuns(None, 4, False, recorded, *at([1]))
    assert runs.base("q").flatten().tolist() == [7, 8, 9, 10]
    assert runs.source("q").flatten().tolist() == [7, 11, 12, 13]
    together = BlockRuns(None, 4, False, recorded, *at([0, 1]))
    assert together.base("q")[..., 0].tolist() == [[0, 1, 2, 3], [7, 8, 9, 10]]
    assert together.source("q")[..., 0].tolist() == [[0, 4, 5, 6], [7, 11, 12, 13]]
    top = BlockRuns(None, 4, True, {**recorded, "q": last}, *at([1]))
    assert (top.base("q").tolist(), top.source("q").tolist()) == ([[[2.0]]], [[[3.0]]])
    assert top.source("k").flatten().tolist() == [7, 11, 12, 13]
    two = [experiment(1, 2), experiment(1, 3)]
    assert [part.tolist() for part in runs.positions_of(two)] == [[2, 3, 3], [0, 0, 1]]
    assert [part.tolist() for part in top.positions_of(two)] == [[3, 3], [0, 1]]


def test_jobs_of_one_length_join_together_as_many_as_the_rows_allow(monkeypatch):
    lengths = (4, 3, 4, 4)
    jobs = [
        Job((5, 6, 7, 8)[:T], (5, 9, 7, 8)[:T], 1, [experiment(1, 1), experiment(1, 2)])
        for T in lengths
    ]
    monkeypatch.setattr(packing, "JOINING_ROWS", 8)
    found = Batch(jobs, CPU).joining(1)
    assert [(one.jobs, one.job.tolist()) for one in found] == [
        ([0, 2], [0, 0, 1, 1]),
        ([3], [0, 0]),
        ([1], [0, 0]),
    ]


def test_rows_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(packing, "MLP_ROWS", 2)
    sizes = []
    x = torch.arange(10.0).view(5, 2)
    assert torch.equal(by_rows(lambda part: sizes.append(len(part)) or 2 * part, x), 2 * x)
    assert sizes == [2, 2, 1]


def test_the_example_in_a_docstring():
    assert doctest.testmod(packing).attempted == 1
    assert doctest.testmod(packing).failed == 0
