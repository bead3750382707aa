"""The statistics of a study: means over pairs, how sure they are, which cells survive.

All functions take values (n, K): n pairs, K cells of one map. They say nothing of models or
sites. Resampled pairs and flipped signs are the same for all cells, and cells are computed
together: counts (draws, n) or signs (flips, n) times values (n, K).

- Intervals are bootstrap intervals over pairs (Efron & Tibshirani 1993, chapters 13 and 14).
- p is by sign flips. They assume that pairs are independent, and that an effect is
  symmetric about 0 where there is none.
- p is corrected over the cells of one map by max-t: each |t| is compared with the largest |t|
  of every flip (Westfall & Young 1993). That controls the chance of any false alarm in the map.
  Several maps are not corrected for one another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from patching.errors import StudyError
from patching.study.resampling import (
    DRAWS_AT_ONCE,
    MEMORY,
    MOST_ENUMERATED,
    all_signs,
    column_blocks,
    resamples,
    signs,
)

DRAWS = 5_000  # resamples of an interval
FLIPS = 10_000  # random sign flips, where not all are tried
CONFIDENCE = 0.95
METHODS = ("percentile", "bca")
TIE = 100 * np.finfo(float).eps  # relative; |t| this close to the observed one is equal to it


@dataclass(frozen=True)
class Interval:
    """Means over pairs with a bootstrap interval, in the values' units."""

    mean: np.ndarray  # (K,)
    low: np.ndarray  # (K,)
    high: np.ndarray  # (K,)


@dataclass(frozen=True)
class SignFlips:
    """The probability of as large an effect by chance, for each cell."""

    p: np.ndarray  # (K,) of the cell alone; NaN where it cannot change
    p_corrected: np.ndarray  # (K,) corrected over the map's cells by max-t
    flips: int  # patterns of signs that were compared
    exact: bool  # all patterns were


@dataclass(frozen=True)
class Comparison:
    """The difference a - b of two studies' effects, for each cell."""

    paired: bool
    n: tuple[int, int]  # pairs of a and of b
    difference: Interval
    flips: SignFlips | None  # None where the pairs are not the same


# --------------------------------------------------------------------- intervals


def bootstrap(
    values: np.ndarray,
    *,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    method: str = "percentile",
    seed: int = 0,
    max_memory: int = MEMORY,
) -> Interval:
    """Return the mean (K,) of values (n, K) over pairs, with its bootstrap interval.

    Args:
        method: "percentile", or "bca" (bias-corrected and accelerated).
        max_memory: bytes to hold beside `values`.

    Raises:
        StudyError: fewer than 2 pairs, or a setting out of its range.
    """
    return bootstrap_ratio(
        values,
        np.ones(len(values)),
        confidence=confidence,
        draws=draws,
        method=method,
        seed=seed,
        max_memory=max_memory,
    )


def bootstrap_ratio(
    numerator: np.ndarray,
    denominator: np.ndarray,
    *,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    method: str = "percentile",
    seed: int = 0,
    max_memory: int = MEMORY,
) -> Interval:
    """Return mean(numerator) / mean(denominator) over pairs, with its bootstrap interval.

    Pairs are resampled, numerator and denominator together. Where a resample's mean
    denominator has another sign than the mean, or is 0, the ratio can be any number: the
    interval is NaN.

    Args:
        numerator: (n, K).
        denominator: (n,), the same for all cells.

    Raises:
        StudyError: as `bootstrap`.
    """
    n, cells = _shape(numerator)
    _check_settings(n, confidence, draws, method)
    total = denominator.sum()
    mean, low, high = (np.full(cells, np.nan) for _ in range(3))
    for block in column_blocks(cells, 3 * draws + n, max_memory):
        some = np.asarray(numerator[:, block], dtype=float)
        drawn = np.empty((draws, some.shape[1]))
        below = np.empty(draws)
        at = 0
        for counts in resamples(n, draws, seed):
            drawn[at : at + len(counts)] = counts @ some
            below[at : at + len(counts)] = counts @ denominator
            at += len(counts)
        if total == 0:
            continue
        mean[block] = some.sum(axis=0) / total
        if (below * total <= 0).any():
            continue
        drawn /= below[:, None]
        ends = _ends(drawn, some, denominator, mean[block], confidence, method)
        low[block], high[block] = ends
    return Interval(mean, low, high)


def _ends(
    drawn: np.ndarray,
    numerator: np.ndarray,
    denominator: np.ndarray,
    mean: np.ndarray,
    confidence: float,
    method: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends (K,) of the interval from resampled ratios (draws, K)."""
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    # Resamples of a constant differ by rounding only, which would look like an interval.
    constant = (numerator == numerator[:1]).all(axis=0) & (denominator == denominator[0]).all()
    if method == "percentile":
        low, high = np.percentile(drawn, 100 * tails, axis=0)
    else:
        shares = _bca_shares(drawn, numerator, denominator, mean, tails)  # (2, K)
        low, high = _columns_percentiles(drawn, shares)
    return np.where(constant, mean, low), np.where(constant, mean, high)


def _bca_shares(
    drawn: np.ndarray,
    numerator: np.ndarray,
    denominator: np.ndarray,
    mean: np.ndarray,
    tails: np.ndarray,
) -> np.ndarray:
    """Return the shares (2, K) of the resamples that lie below each end of a BCa interval.

    Efron & Tibshirani 1993, equations 14.10 (ends), 14.14 (bias), 14.15 (acceleration).
    """
    from scipy.special import ndtr, ndtri  # late: a command's --help needs no scipy

    # A resample of every pair once is the mean, up to rounding: a tie counts as half.
    tie = TIE * np.maximum(np.abs(drawn).max(axis=0), np.abs(mean))
    below = ((drawn < mean - tie).mean(axis=0) + (drawn <= mean + tie).mean(axis=0)) / 2
    bias = ndtri(below)  # (K,)
    # Each pair left out once.
    left_out = (numerator.sum(axis=0) - numerator) / (denominator.sum() - denominator)[:, None]
    apart = left_out.mean(axis=0) - left_out
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 for a constant cell
        acceleration = (apart**3).sum(axis=0) / (6 * (apart**2).sum(axis=0) ** 1.5)
        shifted = bias + ndtri(tails)[:, None]
        return ndtr(bias + shifted / (1 - acceleration * shifted))


def _columns_percentiles(drawn: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the quantiles (2, K) of each column of `drawn`, at its own two shares (2, K)."""
    ordered = np.sort(drawn, axis=0)
    known = np.isfinite(shares)
    place = np.where(known, shares, 0) * (len(drawn) - 1)
    under = np.floor(place).astype(int)
    over = np.minimum(under + 1, len(drawn) - 1)
    low, high = (np.take_along_axis(ordered, index, axis=0) for index in (under, over))
    return np.where(known, low + (high - low) * (place - under), np.nan)


# --------------------------------------------------------------------- tests


def can_change(effects: np.ndarray) -> np.ndarray:
    """Return True (K,) for cells whose effect (n, K) is not exactly 0 for every pair."""
    return np.asarray((effects != 0).any(axis=0))


def sign_flips(
    effects: np.ndarray,
    *,
    cells: np.ndarray | None = None,
    flips: int = FLIPS,
    seed: int = 0,
    max_memory: int = MEMORY,
) -> SignFlips:
    """Return p (K,) for effects (n, K), of each cell alone and corrected over cells by max-t.

    t is the mean over its standard error (ddof 1). For n <= 13 all 2**n flips are tried,
    and p is the share of them with as large a |t|, "no flip" included: the smallest p is
    2 / 2**n. Otherwise p = (hits + 1) / (flips + 1).

    Args:
        cells: True (K,) for the cells to test and correct over; None for those that can
            change. The others have p NaN.

    Raises:
        StudyError: fewer than 2 pairs.

    A flip leaves the sum of squares as it is, so with s = |sum| / sqrt(sum of squares),
    t**2 = (n - 1) s**2 / (n - s**2) grows with s: the largest s is the largest |t|, and s is
    one product.
    """
    n, count = _shape(effects)
    if flips < 1:
        raise StudyError(f"a test needs at least 1 flip, not {flips}")
    tested = np.flatnonzero(can_change(effects) if cells is None else cells)
    exact = n <= MOST_ENUMERATED
    drawn = 2 ** (n - 1) if exact else flips
    observed = np.zeros(len(tested))
    hits = np.zeros(len(tested))
    largest = np.zeros(drawn)
    for block in column_blocks(len(tested), 2 * n + DRAWS_AT_ONCE, max_memory):
        some = np.asarray(effects[:, tested[block]], dtype=float)
        some = some / np.maximum(np.sqrt((some**2).sum(axis=0)), np.finfo(float).tiny)
        observed[block] = np.abs(some.sum(axis=0))
        least = observed[block] * (1 - TIE)
        at = 0
        for part in all_signs(n) if exact else signs(n, flips, seed):
            found = np.abs(part @ some)  # (rows, block)
            hits[block] += (found >= least).sum(axis=0)
            here = slice(at, at + len(part))
            largest[here] = np.maximum(largest[here], found.max(axis=1))
            at += len(part)
    ordered = np.sort(largest)
    hits_of_largest = drawn - np.searchsorted(ordered, observed * (1 - TIE))
    p, p_corrected = np.full(count, np.nan), np.full(count, np.nan)
    more = 0 if exact else 1
    p[tested] = (hits + more) / (drawn + more)
    p_corrected[tested] = (hits_of_largest + more) / (drawn + more)
    return SignFlips(p, p_corrected, 2**n if exact else flips, exact)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Return p (K,) adjusted so that, below a level, the expected share of false alarms is less.

    It is for screening: unlike max-t, it does not control the chance of any false alarm
    (Benjamini & Hochberg 1995). NaN stays NaN and is no cell of the map.
    """
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    ranked = p[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1)
    return adjusted


def pair_ratios(
    numerator: np.ndarray, denominator: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return each pair's numerator / denominator (m, K), and True (n,) for the m pairs kept.

    Pairs whose |denominator| is below `least` are left out: their ratio says little.

    Args:
        numerator: (n, K).
        denominator: (n,).
    """
    kept = np.abs(denominator) >= least
    return numerator[kept] / denominator[kept, None], kept


# --------------------------------------------------------------------- stability, comparison


def split_half(effects: np.ndarray, *, splits: int = 200, seed: int = 0) -> np.ndarray:
    """Return the correlations (splits,) of the mean maps of two halves of the pairs.

    Each split deals the pairs at random into two halves, and takes Pearson's correlation
    over the cells that can change. It is NaN where a half's map is constant.

    Args:
        effects: (n, K).

    Raises:
        StudyError: fewer than 4 pairs, or fewer than 2 cells that can change.
    """
    n, _ = _shape(effects)
    tested = np.flatnonzero(can_change(effects))
    if n < 4 or len(tested) < 2:
        raise StudyError(
            f"split halves need 4 pairs and 2 cells that can change, not {n} and {len(tested)}"
        )
    some = np.asarray(effects[:, tested], dtype=float)
    random = np.random.default_rng(seed)
    found = np.empty(splits)
    for number in range(splits):
        order = random.permutation(n)
        halves = np.stack([some[order[: n // 2]].mean(0), some[order[n // 2 :]].mean(0)])
        halves -= halves.mean(axis=1, keepdims=True)
        size = np.sqrt((halves**2).sum(axis=1).prod())
        found[number] = (halves[0] @ halves[1]) / size if size > 0 else np.nan
    return found


def compare(
    a: np.ndarray,
    b: np.ndarray,
    *,
    paired: bool,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
    flips: int = FLIPS,
    max_memory: int = MEMORY,
) -> Comparison:
    """Return the difference of the effects a (n, K) and b (m, K) of two studies.

    Args:
        paired: row i of both belongs to the same pair. The differences are then tested
            by sign flips; otherwise each study is resampled by itself, and there is no p.

    Raises:
        StudyError: other cells in a than in b; paired studies of other numbers of pairs.
    """
    (n, cells), (m, others) = _shape(a), _shape(b)
    if cells != others or (paired and n != m):
        raise StudyError(f"studies of {n} x {cells} and {m} x {others} numbers cannot be compared")
    if paired:
        apart = np.asarray(a, dtype=float) - b
        found = bootstrap(
            apart, confidence=confidence, draws=draws, seed=seed, max_memory=max_memory
        )
        tests = sign_flips(apart, flips=flips, seed=seed, max_memory=max_memory)
        return Comparison(True, (n, m), found, tests)
    _check_settings(min(n, m), confidence, draws, "percentile")
    low, high = np.empty(cells), np.empty(cells)
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    for block in column_blocks(cells, 3 * draws + n + m, max_memory):
        drawn = _resampled_means(a[:, block], draws, seed)
        drawn -= _resampled_means(b[:, block], draws, seed + 1)
        low[block], high[block] = np.percentile(drawn, tails, axis=0)
    mean = np.asarray(a).mean(axis=0) - np.asarray(b).mean(axis=0)
    return Comparison(False, (n, m), Interval(mean, low, high), None)


def _resampled_means(values: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return the means (draws, K) of resampled pairs."""
    n = len(values)
    return np.concatenate([counts @ values for counts in resamples(n, draws, seed)]) / n


# --------------------------------------------------------------------- checks


def _shape(values: np.ndarray) -> tuple[int, int]:
    if values.ndim != 2 or values.shape[0] < 2:
        raise StudyError(
            f"statistics need at least 2 pairs (n, K), not an array of shape {values.shape}"
        )
    return values.shape[0], values.shape[1]


def _check_settings(n: int, confidence: float, draws: int, method: str) -> None:
    if not 0 < confidence < 1:
        raise StudyError(f"a confidence is between 0 and 1, not {confidence}")
    if draws < 1:
        raise StudyError(f"a bootstrap needs at least 1 resample, not {draws}")
    if method not in METHODS:
        raise StudyError(f"no interval {method!r}; there are {', '.join(METHODS)}")
    if n < 2:
        raise StudyError(f"an interval needs at least 2 pairs, not {n}")
