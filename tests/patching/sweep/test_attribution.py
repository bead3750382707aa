"""Attribution patching against derivatives of patched runs."""

import numpy as np
import pytest
import torch
from helpers import make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt import SITES
from mingpt.sites import HEAD_SITES
from patching import (
    METRICS,
    PromptPair,
    SweepError,
    patch_sweep,
)
from patching.sweep.metrics import Metric, Readout
from patching.sweep.request import DIRECTIONS, WINDOW_SITES, Request

STEP = 1e-5  # the fraction of the way from the base's activation to the source's


def derivative(model, pair, request: Request, metric: str) -> np.ndarray:
    """Return the base metric plus the slope of patched runs there, by central differences.

    No gradient code is used: the model's own patching puts in activations slightly on
    either side of the base run's. For a window, the layers are patched one at a time and
    their slopes are added.
    """
    base, source = ([list(getattr(pair, f"{run}_ids"))] for run in DIRECTIONS[request.direction])
    recorded, last = [], {}
    for run, ids in zip(DIRECTIONS[request.direction], (base, source), strict=True):
        model(torch.tensor(ids), record=request.site)
        recorded.append(model.recording[request.site])
        last[run] = model.last_logits[0]
    readout = Readout(pair.target_ids, pair.foil_ids, last["clean"], last["corrupt"])
    there, put_in = recorded

    def read(logits: torch.Tensor) -> float:
        return METRICS[metric].read(logits, readout)[0].item()

    grid = request.grid(model.config, len(pair))
    values = np.full(grid.shape, np.nan)
    for cell in grid.cells():
        values[cell.index] = read(last[DIRECTIONS[request.direction][0]][None])
        for patch in grid.patches(cell):
            sides = []
            for step in (STEP, -STEP):
                model.recording = {request.site: there + step * (put_in - there)}
                model(torch.tensor(base), patch=patch)
                sides.append(read(model.last_logits))
            values[cell.index] += (sides[0] - sides[1]) / (2 * STEP)
    return values


@st.composite
def requests(draw):
    site = draw(st.sampled_from([*SITES]))
    chosen = {"site": site, "direction": draw(st.sampled_from([*DIRECTIONS]))}
    if site in HEAD_SITES:
        chosen["by_position"] = draw(st.booleans())
    elif site in WINDOW_SITES:
        chosen["window"] = draw(st.integers(1, 4))
    if draw(st.booleans()):
        chosen["layers"] = (0, -1)
    return chosen


@settings(max_examples=40)
@given(
    chosen=requests(),
    metric=st.sampled_from([*METRICS]),
    seed=st.integers(0, 99),
    T=st.integers(1, 6),
)
@torch.no_grad()
def test_it_is_the_first_order_of_the_patched_runs(chosen, metric, seed, T):
    model = make_model(seed).double()
    ids = torch.randint(40, (2, T), generator=torch.Generator().manual_seed(seed)).tolist()
    ids[0][T // 2], ids[1][T // 2] = 11, 22
    pair = PromptPair.from_ids(*ids, 11, 22)
    if (metric, chosen["direction"]) == ("kl", "noise"):
        with pytest.raises(SweepError, match="kl is at its minimum in the clean run"):
            patch_sweep(model, pair, **chosen, metric=metric, method="attribution")
        return
    found = patch_sweep(model, pair, **chosen, metric=metric, method="attribution")
    expected = derivative(model, pair, Request(**chosen), metric)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-6)
    exact = patch_sweep(model, pair, **chosen, metric=metric)
    assert (found.clean_value, found.corrupt_value) == pytest.approx(
        (exact.clean_value, exact.corrupt_value), abs=1e-9
    )
    assert found.is_approximate
    assert not exact.is_approximate


def test_several_metrics_and_pairs_are_one_by_one(model, pair):
    other = PromptPair.from_ids([1, 2, 3], [1, 4, 3], 5, 6)
    settings = {"site": "z", "method": "attribution"}
    together = patch_sweep(model, [pair, other], metric=["kl", "logit_diff"], **settings)
    for one, result in zip((pair, other), together, strict=True):
        for name in ("kl", "logit_diff"):
            alone = patch_sweep(model, one, metric=name, **settings)
            # They differ by rounding: PyTorch may add in another order for several vectors.
            np.testing.assert_allclose(
                result.metrics[name].values, alone.values, rtol=1e-5, atol=1e-6
            )


def test_what_does_not_differ_is_the_base_run_exactly(model, pair):
    for direction, base in (("denoise", "corrupt_value"), ("noise", "clean_value")):
        found = patch_sweep(model, pair, direction=direction, method="attribution")
        assert (found.values[:, : pair.differing[0]] == getattr(found, base)).all()
        assert (found.values[:-1, pair.differing[0]] != getattr(found, base)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(model, pair, dtype):
    wide = patch_sweep(model, pair, method="attribution").values
    half = patch_sweep(model.to(dtype), pair, method="attribution").values
    assert half.dtype == np.float32
    assert np.abs(half - wide).max() < 0.1 * np.ptp(wide)


def test_float16_does_not_lose_small_gradients(model, pair):
    def tiny(logits):
        return 1e-7 * logits[pair.foil_ids[0]]

    def own(logits):
        return logits[pair.foil_ids[0]]

    model.half()
    small, large = patch_sweep(
        model, pair, site="z", metric=[tiny, own], method="attribution"
    ).metrics.values()
    effects = [found.values - found.corrupt for found in (small, large)]
    np.testing.assert_allclose(1e7 * effects[0], effects[1], rtol=0.02, atol=1e-3)


def test_the_model_stays_as_it_was_and_needs_no_gradients(model, pair):
    whole = patch_sweep(model, pair, method="attribution").values
    model(torch.arange(4)[None], record="z")
    recording, logits = model.recording, model.last_logits
    model.requires_grad_(False).train()
    for context in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with context:
            again = patch_sweep(model, pair, method="attribution").values
        np.testing.assert_array_equal(again, whole)
    assert model.recording is recording
    assert model.last_logits is logits
    assert model.training
    model.requires_grad_(True)
    patch_sweep(model, pair, method="attribution")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_function_of_your_own(model, pair):
    def foil_logit(logits):
        return logits[pair.foil_ids[0]]

    def own(logits):
        return logits[pair.target_ids[0]]

    metrics = [foil_logit, "logit_diff"]
    settings = {"method": "attribution", "direction": "denoise"}
    foil, difference = patch_sweep(model, pair, metric=metrics, **settings).metrics.values()
    target = patch_sweep(model, pair, metric=[own], **settings).values
    np.testing.assert_allclose(foil.values - difference.values, target, rtol=1e-4, atol=1e-5)

    def likeliest(logits):
        return logits.argmax()

    def constant(logits):
        return torch.ones((), requires_grad=True)

    whole = Metric("whole", lambda logits, readout: logits.argmax(-1))
    for metric in (
        likeliest, constant, whole, lambda logits: logits.sum().item(),
        lambda logits: logits.numpy().max(),
    ):  # fmt: skip
        with pytest.raises(SweepError, match=r"(likeliest|constant|whole|custom) has no gradient"):
            patch_sweep(model, pair, metric=["logit_diff", metric], method="attribution")


def test_a_model_that_has_no_gradients(pair):
    with torch.inference_mode():
        model = make_model()
    with pytest.raises(SweepError, match=r"made in torch\.inference_mode: load it outside"):
        patch_sweep(model, pair, method="attribution")


def test_logits_that_overflow_are_an_error(model, pair):
    with torch.no_grad():
        model.transformer.ln_f.weight *= 1e39
    with pytest.raises(SweepError, match="the model's logits are not finite in float32"):
        patch_sweep(model, pair, method="attribution")


def test_errors_say_which_pair(model, pair):
    same = PromptPair.from_ids([1, 2], [1, 3], 5, 6)
    with torch.no_grad():  # clean and corrupt runs are equal: only the position embeddings are left
        model.transformer.wte.weight[3] = model.transformer.wte.weight[2]
    with pytest.raises(SweepError, match=r"pair 1 \(from 0\): recovery is undefined"):
        patch_sweep(model, [pair, same], metric="recovery", method="attribution")


def test_progress_counts_passes(model, pair):
    seen = []
    patch_sweep(
        model, [pair, pair], metric=["kl", "recovery"], method="attribution",
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert seen == [(done, 8) for done in range(9)]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_agrees_with_the_cpu(model, pair):
    for site in SITES:
        cpu, cuda = (
            patch_sweep(model.to(device), pair, site=site, method="attribution").values
            for device in ("cpu", "cuda")
        )
        np.testing.assert_allclose(cuda, cpu, rtol=1e-4, atol=1e-4)
