"""Two sweeps compared: rank correlation, largest misses, and the figure."""

import dataclasses

import numpy as np
import pytest
from helpers import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from patching import (
    DrawingError,
    PromptPair,
    SweepError,
    compare_sweeps,
    draw_agreement,
    mean_over,
    patch_sweep,
)
from patching.sweep.gaussian import Gaussian
from patching.sweep.result import SweepResult


def test_sweeps_of_other_prompts_put_in_or_other_noise_are_not_compared(model, pair):
    prompts = np.random.default_rng(0).integers(0, 40, (4, 2, 7)).tolist()
    others = [PromptPair.from_ids(clean, corrupt, 11, 22) for clean, corrupt in prompts]
    few, more = (patch_sweep(model, pair, put=mean_over(others[:n])) for n in (2, 4))
    assert compare_sweeps(few, few)
    with pytest.raises(SweepError, match="differ in what is put in: it is taken from other"):
        compare_sweeps(few, more)
    alone = PromptPair.from_ids(pair.clean_ids, None, 11, 22)
    one, other = (patch_sweep(model, alone, corrupt_by=Gaussian((1,), "0.3", seed=seed, draws=2))
                  for seed in (0, 1))  # fmt: skip
    with pytest.raises(SweepError, match="differ in the noise of the corrupt run"):
        compare_sweeps(one, other)


def result_of(values, like: SweepResult) -> SweepResult:
    metrics = {"logit_diff": like.metrics["logit_diff"]._replace(values=np.array(values, float))}
    return dataclasses.replace(like, metrics=metrics)


def brute_force_spearman(x, y) -> float:
    def ranks(values):
        return [sum(v < w for v in values) + (sum(v == w for v in values) - 1) / 2 for w in values]

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


@settings(max_examples=40)
@given(
    both=st.lists(
        st.tuples(st.integers(-3, 3), st.floats(-3, 3, width=16)), min_size=2, max_size=12
    )
)
def test_the_rank_correlation_is_spearmans(both):
    model, pair = make_model(), PromptPair.from_ids([1, 2], [1, 3], 5, 6)
    like = patch_sweep(model, pair, layers=[0])
    x, y = (np.array(values, float)[None] for values in zip(*both, strict=True))
    found = compare_sweeps(result_of(x, like), result_of(y, like))["logit_diff"].rank_correlation
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert found is None
    else:
        assert found == pytest.approx(brute_force_spearman(x[0], y[0]), abs=1e-12)


def test_the_largest_misses_come_first_and_only_swept_cells_count(model, pair):
    like = patch_sweep(model, pair)
    exact = [[0.0, 1.0, np.nan], [2.0, 3.0, 4.0]]
    near = [[0.5, 1.0, np.nan], [2.0, 1.0, 5.0]]
    found = compare_sweeps(result_of(near, like), result_of(exact, like), most=3)["logit_diff"]
    assert [miss.index for miss in found.misses] == [(1, 1), (1, 2), (0, 0)]
    assert [(miss.approximate, miss.exact) for miss in found.misses] == [(1, 3), (5, 4), (0.5, 0)]
    assert found.rank_correlation == pytest.approx(
        brute_force_spearman([0, 1, 2, 3, 4], [0.5, 1, 2, 1, 5])
    )
    some = compare_sweeps(result_of(near, like), result_of(exact, like), most=99)["logit_diff"]
    assert len(some.misses) == 5
    with pytest.raises(SweepError, match="not of the same cells"):
        compare_sweeps(result_of(np.nan_to_num(near), like), result_of(exact, like))


@pytest.mark.parametrize(
    ("site", "change", "message"),
    [
        ("resid_post", {"site": "z"}, "differ in site: resid_post and z"),
        ("resid_post", {"direction": "noise"}, "differ in direction: denoise and noise"),
        ("resid_post", {"metric": "kl"}, "differ in their metrics: logit_diff and kl"),
        ("resid_post", {"layers": [0]}, "not of the same cells"),
        ("mlp_out", {"window": 3}, "differ in window: 1 and 3"),
        ("z", {"put": "zero"}, "differ in put: recorded and zero"),
        ("z", {"by_position": True}, "differ in axes"),
        ("z", {"method": "attribution"}, "the second sweep must be the exact one"),
    ],
)
def test_only_like_is_compared_with_like(model, pair, tmp_path, site, change, message):
    ours = patch_sweep(model, pair, site=site, method="attribution")
    theirs = patch_sweep(model, pair, **{"site": site, **change})
    for act in (compare_sweeps, lambda a, b: draw_agreement(a, b, tmp_path / "x.png")):
        with pytest.raises(SweepError, match=message):
            act(ours, theirs)
    other = PromptPair.from_ids([5, 9, 11, 3, 7, 30, 6], [5, 9, 22, 3, 7, 30, 6], 11, 22)
    with pytest.raises(SweepError, match=r"^the two sweeps differ in pair$"):
        compare_sweeps(ours, patch_sweep(model, other, site=site))
    model.name = "another"
    with pytest.raises(SweepError, match="differ in model name: GPT and another"):
        compare_sweeps(ours, patch_sweep(model, pair, site=site))
    assert not [*tmp_path.iterdir()]


def test_the_picture_of_an_agreement(model, pair, tmp_path):
    for more in ({"site": "z"}, {"site": "v", "by_position": True}, {"layers": [1]}):
        both = [
            patch_sweep(model, pair, metric=["recovery", "kl"], method=method, **more)
            for method in ("attribution", "fast")
        ]
        path = tmp_path / "x.png"
        axes = draw_agreement(*both, path, metric="kl").axes[0]
        assert imread(path).shape[1] >= 800
        near, exact = (one.metrics["kl"].values for one in both)
        points = axes.collections[0].get_offsets()
        swept = np.isfinite(exact)
        np.testing.assert_array_equal(points, np.stack((exact[swept], near[swept]), axis=1))
        assert axes.get_xlabel().endswith("exact")
        assert axes.get_ylabel().endswith("approximate")
    with pytest.raises(DrawingError, match="no metric 'loss' in it; there are recovery, kl"):
        draw_agreement(*both, tmp_path / "x.png", metric="loss")
