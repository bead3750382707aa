"""Chunks: none holds more than is allowed, and their numbers are those of one pass."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_cases import VARIANTS, base_of, several_pairs, variant_id
from helpers import make_model
from torch.profiler import ProfilerActivity, profile

from mingpt.sites import HEAD_SITES
from patching import PromptPair, SweepError, patch_sweep
from patching.sweep.engine import measure
from patching.sweep.engine.chunks import Size, bytes_needed, cut, work
from patching.sweep.engine.packing import Job
from patching.sweep.engine.plan import Experiment
from patching.sweep.put_values import Noise
from patching.sweep.request import Cell, Request


@pytest.fixture
def several() -> list[PromptPair]:
    return several_pairs()


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_little_memory_means_several_passes_and_the_same_numbers(several, variant):
    model = make_model().double()
    passes = []
    model.transformer.h[0].ln_1.register_forward_hook(lambda *_: passes.append(1))
    wide = patch_sweep(model, several, **variant)
    assert len(passes) == 1
    heads = variant["site"] in HEAD_SITES
    enough = bytes_needed(model.config, 8, Size(12, 8, 60, 24), heads=heads)
    narrow = patch_sweep(model, several, max_memory=enough, **variant)
    assert len(passes) > 3
    for a, b in zip(wide, narrow, strict=True):
        np.testing.assert_allclose(a.values, b.values, rtol=0, atol=1e-9)
        unchanged = a.values == base_of(a, "logit_diff")
        assert (b.values[unchanged] == base_of(b, "logit_diff")).all()


@pytest.fixture
def jobs(several) -> list[Job]:
    """Return the experiments of `v` by position, of several pairs, in 3 layers of 2 heads."""
    request, config = Request("v", by_position=True), make_model().config
    grids = [request.grid(config, len(pair)) for pair in several]
    return [plan.job for plan in measure.plan_pairs(several, grids, "denoise")]


def test_a_chunk_never_holds_more_than_is_allowed(jobs):
    config = make_model().config

    def needed(size: Size) -> int:
        return bytes_needed(config, 4, size, heads=True)

    allowed = needed(Size(12, 9, 50, 24))
    chunks = list(cut(jobs, needed, allowed, strict=True))
    assert len(chunks) > 5
    for chunk in chunks:
        lengths = [len(jobs[number].base_ids) for number, _ in chunk]
        runs = sum(2 * len(jobs[n].base_ids) - jobs[n].first_difference for n, _ in chunk)
        own = sum(len(jobs[n].base_ids) - e.first_position for n, part in chunk for e in part)
        sequences = sum(2 + len(part) for _, part in chunk)
        assert needed(Size(max(lengths), sequences, runs + own, runs)) <= allowed
    run = [(number, e.cell) for chunk in chunks for number, part in chunk for e in part]
    asked = [(number, e.cell) for number, job in enumerate(jobs) for e in job.experiments]
    assert run == asked


def test_a_job_without_experiments_is_in_a_chunk(jobs):
    empty = replace(jobs[0], experiments=[])
    (chunk,) = cut([empty, jobs[1], empty], lambda size: 0, 0, strict=True)
    assert [number for number, _ in chunk] == [0, 1, 2]
    assert chunk[0][1] == chunk[2][1] == []


def test_the_size_of_draws_that_share_a_run_counts_their_own_copies_too():
    """A rule holds a copy of the clean run for each draw; the batch has it once."""
    experiments = [Experiment(Cell((0, 2), 0, None, 2), 1, 2, True, 1)]
    noise = Noise((3,), torch.zeros(1, 2))
    ids = (5, 6, 7, 8)
    one = Job(ids, ids, 3, experiments, None, noise)
    size = Size().plus_all(one, None).plus_all(one, one)
    assert size == Size(4, 3 + 2, 4 + 1 + 1 + 2 * 2, 4 + 1 + 1, 2 * (4 + 1))
    by_one = Size().plus(one, experiments[0], None, is_new=True)
    assert by_one.plus(one, experiments[0], one, is_new=True) == size
    assert by_one.plus(one, experiments[0], None, is_new=False).job_rows == 5
    config, wide = make_model().config, size._replace(job_rows=64)
    assert bytes_needed(config, 4, wide, heads=True) > bytes_needed(config, 4, size, heads=True)


def test_work_is_rows_times_blocks():
    """Base run 4 rows, source run 3, both in 3 blocks; 2 rows in 2 blocks and 1 row in 1."""
    cell = Cell((0, 2), 0, None, 2)
    experiments = [Experiment(cell, 1, 2, True, 1), Experiment(cell, 2, 3, True, 2)]
    job = Job((5, 6, 7, 8), (5, 9, 7, 8), 1, experiments)
    assert work([job], [(0, experiments)], 3) == 7 * 3 + 2 * 2 + 1 * 1


@pytest.mark.parametrize(
    "request_", [{"site": "resid_post"}, {"site": "v", "by_position": True, "layers": [1, 2]}]
)
def test_a_sweep_holds_no_more_than_it_says(request_, monkeypatch):
    """Compare with the peak of PyTorch's own count of allocated bytes."""
    for name in ("ATTENTION_ROWS", "MLP_ROWS"):  # small, so that the rows decide the peak
        monkeypatch.setattr(f"patching.sweep.engine.packing.{name}", 512)
    model = make_model(n_layer=4, n_embd=64, n_head=4, block_size=128)
    ids = torch.randint(40, (100,), generator=torch.Generator().manual_seed(0)).tolist()
    pair = PromptPair.from_ids([1, *ids], [2, *ids], 3, 4)
    patch_sweep(model, pair, **request_)
    for allowed in (8 * 2**20, 14 * 2**20):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            patch_sweep(model, pair, max_memory=allowed, **request_)
        held = most = 0
        for event in sorted(profiler.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        assert allowed / 3 < most <= allowed


def test_too_little_memory_is_refused(model, pair):
    model = make_model(n_embd=256)
    message = r"256 KiB is too little memory: this sweep needs at least (\d+)K beside the model"
    with pytest.raises(SweepError, match=message) as caught:
        patch_sweep(model, pair, max_memory=2**18)
    least = 1024 * int(re.search(message, str(caught.value)).group(1))
    assert str(caught.value).endswith(f"in Python max_memory={least})")
    assert patch_sweep(model, pair, max_memory=least).cells == 21
    with pytest.raises(SweepError, match="too little memory"):
        patch_sweep(model, pair, max_memory=least - 1025)
