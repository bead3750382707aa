"""Statistics over pairs, against scipy and plain definitions; simulations where asked for."""

from itertools import product

import numpy as np
import pytest
import scipy.stats

from patching.errors import StudyError
from patching.study import statistics
from patching.study.statistics import (
    benjamini_hochberg,
    bootstrap,
    bootstrap_ratio,
    compare,
    pair_ratios,
    sign_flips,
    split_half,
)

LITTLE = 60_000  # bytes: some columns at a time


def sample(n: int, cells: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.exponential(1, (n, cells)) * random.uniform(0.2, 3, cells) - 0.5


# --------------------------------------------------------------------- intervals


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("n", [5, 30])
def test_intervals_are_those_of_scipy(method, n):
    values = np.round(64 * sample(n, 7)) / 64  # exact sums, so that scipy sees ties as well
    found = bootstrap(values, method=method, draws=999, seed=3, confidence=0.9)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=999, confidence_level=0.9, method=method,
        rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    assert np.allclose(found.mean, values.mean(axis=0))
    assert np.allclose(found.low, expected.low, rtol=1e-9, atol=0)
    assert np.allclose(found.high, expected.high, rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_a_ratio_of_means_has_the_interval_of_scipy(method):
    above, below = sample(20, 3), sample(20, 1, seed=1)[:, 0] + 2
    found = bootstrap_ratio(above, below, method=method, draws=500, seed=1)
    for cell in range(3):
        expected = scipy.stats.bootstrap(
            (above[:, cell], below), lambda a, b, axis: a.mean(axis) / b.mean(axis), paired=True,
            n_resamples=500, vectorized=True, method=method, rng=np.random.default_rng(1),
        ).confidence_interval  # fmt: skip
        assert np.isclose(found.mean[cell], above[:, cell].mean() / below.mean())
        assert np.allclose([found.low[cell], found.high[cell]], expected, rtol=1e-9)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_blocks_of_columns_change_nothing(method):
    values = sample(40, 50)
    whole = bootstrap(values, method=method, draws=300)
    cut = bootstrap(values, method=method, draws=300, max_memory=LITTLE)
    assert np.allclose(cut.low, whole.low, rtol=1e-12)
    assert np.allclose(cut.high, whole.high, rtol=1e-12)
    tests, again = sign_flips(values), sign_flips(values, max_memory=LITTLE)
    assert np.array_equal(tests.p, again.p) and np.array_equal(tests.p_corrected, again.p_corrected)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_interval_of_a_constant_has_no_width(method):
    values = sample(9, 2)
    values[:, 1] = 0.1
    found = bootstrap(values, method=method, draws=100)
    assert found.low[1] == found.high[1] == found.mean[1] and found.low[0] < found.mean[0]


def test_a_ratio_whose_denominator_can_be_zero_has_no_interval():
    below = np.array([1.0, -1.0, 1.0, -1.0, 0.5])
    found = bootstrap_ratio(sample(5, 2), below)
    assert np.isfinite(found.mean).all() and np.isnan(found.low).all()
    assert np.isnan(bootstrap_ratio(sample(4, 2), below[:4]).mean).all()


def test_pairs_of_a_small_gap_are_left_out_of_a_mean_of_ratios():
    ratios, kept = pair_ratios(np.array([[1.0], [2.0], [3.0]]), np.array([2.0, 0.01, -1.5]), 0.1)
    assert ratios.tolist() == [[0.5], [-2.0]] and kept.tolist() == [True, False, True]


# --------------------------------------------------------------------- tests


def plain_flips(effects: np.ndarray) -> tuple[list[float], list[float]]:
    """Return p and corrected p by the definition: every pattern of signs, Student's t."""
    n, cells = effects.shape
    patterns = [np.array(signs)[:, None] for signs in product((1, -1), repeat=n)]
    found = [np.abs(scipy.stats.ttest_1samp(effects * signs, 0).statistic) for signs in patterns]
    least = found[0] * (1 - 1e-9)
    alone = [np.mean([t[k] >= least[k] for t in found]) for k in range(cells)]
    corrected = [np.mean([t.max() >= least[k] for t in found]) for k in range(cells)]
    return alone, corrected


def test_all_flips_of_few_pairs_give_the_p_of_the_definition():
    effects = sample(8, 4)
    found = sign_flips(effects)
    alone, corrected = plain_flips(effects)
    assert (found.exact, found.flips) == (True, 256)
    assert found.p.tolist() == alone and found.p_corrected.tolist() == corrected
    assert (found.p_corrected >= found.p).all() and (found.p_corrected > found.p).any()


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 9])
def test_all_flips_are_those_of_mne(n):
    stats = pytest.importorskip("mne.stats", reason="needs MNE: pip install '.[ci]'")
    effects = sample(n, 5) - 0.4
    # Of "all", MNE 1.13 leaves out one flip; by a number, it tries every one.
    t, p_corrected, _ = stats.permutation_t_test(effects, n_permutations=2**n, verbose=False)
    assert np.allclose(t, scipy.stats.ttest_1samp(effects, 0).statistic)
    assert np.allclose(sign_flips(effects).p_corrected, p_corrected, rtol=1e-12)


def test_flips_of_one_cell_are_those_of_scipy():
    effects = sample(11, 1) - 0.3
    expected = scipy.stats.permutation_test(
        (effects[:, 0],), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert np.isclose(sign_flips(effects).p[0], expected.pvalue, rtol=1e-12)


def test_random_flips_agree_with_all_of_them(monkeypatch):
    effects = sample(12, 5) - 0.2
    exact = sign_flips(effects)
    monkeypatch.setattr(statistics, "MOST_ENUMERATED", 4)
    drawn = sign_flips(effects)
    assert (drawn.exact, drawn.flips) == (False, 10_000)
    spread = np.sqrt(exact.p_corrected * (1 - exact.p_corrected) / 10_000)
    assert (np.abs(drawn.p_corrected - exact.p_corrected) < 5 * spread + 2e-4).all()
    assert np.isclose(drawn.p * 10_001, np.round(drawn.p * 10_001)).all()
    assert sign_flips(sample(40, 2) + 50).p.tolist() == [1 / 10_001] * 2  # no flip reaches it


def test_cells_that_cannot_change_are_no_part_of_the_family():
    effects = np.insert(sample(8, 3), 1, 0, axis=1)
    found, alone = sign_flips(effects), sign_flips(effects[:, [0, 2, 3]])
    assert np.isnan(found.p[1]) and np.isnan(found.p_corrected[1])
    assert found.p_corrected[[0, 2, 3]].tolist() == alone.p_corrected.tolist()
    one = sign_flips(effects, cells=np.array([True, False, False, False]))
    assert one.p_corrected[0] == one.p[0] == found.p[0] and np.isnan(one.p[2])


def test_benjamini_hochberg_is_that_of_scipy():
    p = np.random.default_rng(0).uniform(0, 1, 30) ** 3
    expected = scipy.stats.false_discovery_control(p)
    found = benjamini_hochberg(np.insert(p, 4, np.nan))
    assert np.isnan(found[4])
    assert np.allclose(np.delete(found, 4), expected, rtol=1e-12)


# --------------------------------------------------------------------- stability, comparison


def test_halves_agree_where_the_map_is_far_above_the_noise():
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, (40, 30))
    clear = split_half(noise + random.normal(0, 10, 30))
    assert clear.min() > 0.98
    assert abs(split_half(noise).mean()) < 0.3
    assert len(split_half(noise, splits=7)) == 7
    with pytest.raises(StudyError, match="4 pairs and 2 cells"):
        split_half(noise[:, :1])


def test_studies_of_the_same_pairs_are_compared_pair_by_pair():
    a = sample(30, 3)
    b = a - np.array([0, 0.3, 0]) + np.random.default_rng(1).normal(0, 0.1, (30, 3))
    paired, apart = compare(a, b, paired=True), compare(a, b, paired=False)
    assert paired.flips.p_corrected[1] < 0.001 < paired.flips.p_corrected[0]
    assert apart.flips is None and np.allclose(apart.difference.mean, paired.difference.mean)
    widths = [found.difference.high - found.difference.low for found in (paired, apart)]
    assert (widths[0] < widths[1] / 3).all()
    with pytest.raises(StudyError, match="cannot be compared"):
        compare(a, b[1:], paired=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(sample(1, 2)), "at least 2 pairs"),
        (lambda: bootstrap(sample(5, 2), method="t"), "no interval 't'; there are percentile, bca"),
        (lambda: bootstrap(sample(5, 2), confidence=95), "between 0 and 1, not 95"),
        (lambda: bootstrap(sample(5, 2), draws=0), "at least 1 resample"),
        (lambda: sign_flips(sample(5, 2), flips=0), "at least 1 flip"),
        (lambda: sign_flips(sample(5, 2)[:, 0]), "array of shape"),
    ],
)
def test_settings_out_of_range_are_refused(call, message):
    with pytest.raises(StudyError, match=message):
        call()


# --------------------------------------------------------------------- simulations

DISTRIBUTIONS = {
    "normal": (lambda random, shape: random.normal(0, 1, shape), 0.0),
    "skewed": (lambda random, shape: random.lognormal(0, 1, shape), float(np.exp(0.5))),
}


def coverage(kind: str, n: int, method: str) -> float:
    """Return the share of 2,000 samples whose 95 % interval holds the mean."""
    draw, mean = DISTRIBUTIONS[kind]
    values = draw(np.random.default_rng(1), (n, 2_000))
    found = bootstrap(values, method=method, draws=1_000)
    return float(((found.low <= mean) & (mean <= found.high)).mean())


@pytest.mark.slow
def test_intervals_cover_the_mean_as_often_as_they_say(capsys):
    assert abs(coverage("normal", 200, "percentile") - 0.95) <= 0.015
    assert abs(coverage("normal", 200, "bca") - 0.95) <= 0.015
    with capsys.disabled():
        for kind in DISTRIBUTIONS:
            for n in (8, 20, 50, 200):
                found = [f"{m} {coverage(kind, n, m):.1%}" for m in ("percentile", "bca")]
                print(f"\ncoverage of 95 %, {kind}, n = {n}: {', '.join(found)}", end="")


@pytest.mark.slow
def test_maps_without_an_effect_alarm_in_one_of_twenty(capsys):
    """Correlated cells, as the layers of a residual stream are, and heavy tails."""
    random = np.random.default_rng(2)
    mixing = np.eye(60) + 0.5 * np.eye(60, k=1) + 0.25 * np.eye(60, k=2)
    alarms = {"corrected": 0, "alone": 0}
    for seed in range(1_000):
        effects = random.standard_t(5, (30, 60)) @ mixing
        found = sign_flips(effects, flips=1_000, seed=seed)
        alarms["corrected"] += found.p_corrected.min() <= 0.05
        alarms["alone"] += found.p.min() <= 0.05
    with capsys.disabled():
        print(f"\nmaps with a false alarm, of 1,000: {alarms}", end="")
    assert alarms["corrected"] <= 65
    assert alarms["alone"] > 500
