"""The engine against the plain loop, for every site; and the identities that it must keep."""

import itertools

import numpy as np
import pytest
import torch
from engine_cases import (
    METRICS,
    VARIANTS,
    base_of,
    both,
    pairs,
    put_of,
    several_pairs,
    shapes,
    variant_id,
)
from helpers import make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.sites import HEAD_SITES
from patching import PromptPair, patch_sweep
from patching.sweep.engine import measure
from patching.sweep.engine.plan import BASE, SOURCE, plan_cell
from patching.sweep.put import PUTS
from patching.sweep.request import Request


@pytest.mark.parametrize("request_", VARIANTS, ids=variant_id)
@settings(max_examples=6)
@given(
    shape=shapes(), pair=pairs(), direction=st.sampled_from(["denoise", "noise"]),
    what=st.sampled_from(PUTS),
)  # fmt: skip
def test_the_fast_sweep_is_the_loop(request_, shape, pair, direction, what):
    model = make_model(**shape).double()
    quick, slow = both(
        model, pair, metric=METRICS, direction=direction, put=put_of(what, pair), **request_
    )
    assert quick.values.shape == slow.values.shape
    for name in METRICS:
        got, expected = quick.metrics[name], slow.metrics[name]
        np.testing.assert_allclose(got.values, expected.values, rtol=0, atol=1e-9)
        np.testing.assert_allclose(got[1:], expected[1:], rtol=0, atol=1e-9)
        # A cell that the loop leaves equal to the base run, bit for bit, is no experiment here.
        unchanged = expected.values == base_of(slow, name)
        assert (got.values[unchanged] == base_of(quick, name)).all()


@pytest.mark.parametrize("request_", VARIANTS, ids=variant_id)
@settings(max_examples=4)
@given(
    shape=shapes(), pair=pairs(), direction=st.sampled_from(["denoise", "noise"]),
    what=st.sampled_from(PUTS),
)  # fmt: skip
def test_float32_is_within_1e_5_of_the_largest_logit_read(request_, shape, pair, direction, what):
    model = make_model(**shape)

    def largest(logits):
        return logits.abs().max()

    asked = ["logit_diff", "target_logit", largest]
    quick, slow = both(
        model, pair, metric=asked, direction=direction, put=put_of(what, pair), **request_
    )
    top = max(slow.metrics["largest"].values.max(), *slow.metrics["largest"][1:])
    for name in ("logit_diff", "target_logit"):
        apart = np.abs(quick.metrics[name].values - slow.metrics[name].values).max()
        assert apart <= 1e-5 * top


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_cells_that_cannot_change_have_the_unpatched_value_bit_for_bit(
    pair, dtype, direction, variant
):
    model = make_model().to(dtype)
    result = patch_sweep(model, pair, metric=METRICS, direction=direction, **variant)
    grid = Request(direction=direction, **variant).grid(model.config, len(pair))
    fates = {cell.index: plan_cell(grid, cell, pair.differing) for cell in grid.cells()}
    assert BASE in fates.values() or variant in ({"site": site} for site in HEAD_SITES)
    for name, (values, clean, corrupt) in result.metrics.items():
        base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
        for index, fate in fates.items():
            expected = {BASE: base, SOURCE: source}.get(fate, values[index])
            assert values[index] == values.dtype.type(expected), (name, index)
    if variant["site"] == "resid_post":
        for name, (values, clean, corrupt) in result.metrics.items():
            source = clean if direction == "denoise" else corrupt
            assert values[-1, -1] == values.dtype.type(source), name


def test_progress_counts_rows_times_blocks(model, pair):
    seen = []
    patch_sweep(model, pair, progress=lambda *step: seen.append(step))
    assert seen == [(0, 81), (12, 81), (39, 81), (81, 81), (81, 81)]


# --------------------------------------------------------------------- on a GPU


@pytest.fixture
def several() -> list[PromptPair]:
    return several_pairs()


@settings(max_examples=20)
@given(shape=shapes(), several=st.lists(pairs(), min_size=2, max_size=4), data=st.data())
def test_pairs_of_any_lengths_in_one_call_are_the_loop(shape, several, data):
    model = make_model(**shape).double()
    request = data.draw(st.sampled_from(VARIANTS))
    direction = data.draw(st.sampled_from(["denoise", "noise"]))
    together, looped = both(model, several, direction=direction, **request)
    for quick, slow in zip(together, looped, strict=True):
        np.testing.assert_allclose(quick.values, slow.values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_pairs_in_one_call_are_as_each_alone(several, variant):
    model = make_model().double()
    together = patch_sweep(model, several, metric=METRICS, **variant)
    for pair, result in zip(several, together, strict=True):
        alone = patch_sweep(model, pair, metric=METRICS, **variant)
        assert result.pair == pair
        assert result.clean_next.top[0].id == alone.clean_next.top[0].id
        for name in METRICS:
            for got, expected in zip(result.metrics[name], alone.metrics[name], strict=True):
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


def test_a_list_of_one_gives_a_list_of_one(model, pair):
    (result,) = patch_sweep(model, [pair])
    assert np.array_equal(result.values, patch_sweep(model, pair).values)


# --------------------------------------------------------------------- on a GPU


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_cuda_agrees_with_the_cpu_and_never_waits(several, variant):
    model = make_model()
    expected = patch_sweep(model, several, metric=METRICS, **variant)
    model = model.cuda()
    patch_sweep(model, several, metric=METRICS, **variant)  # the first call sets libraries up
    run_packed = measure.run_packed

    def strict(*args, **settings):
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return run_packed(*args, **settings)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "run_packed", strict)
        got = patch_sweep(model, several, metric=METRICS, **variant)
    for (a, b), name in itertools.product(zip(got, expected, strict=True), METRICS):
        np.testing.assert_allclose(
            a.metrics[name].values, b.metrics[name].values, rtol=1e-4, atol=1e-4
        )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_tf32_is_off_unless_it_is_asked_for(pair):
    model = make_model(n_embd=64).cuda()
    exact = patch_sweep(model, pair).values
    torch.set_float32_matmul_precision("high")
    try:
        assert np.array_equal(patch_sweep(model, pair).values, exact)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    rounded = patch_sweep(model, pair, tf32=True)
    assert rounded.tf32
    assert "TF32" in rounded.notes[0]
    assert not np.array_equal(rounded.values, exact)
