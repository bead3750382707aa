"""Measure how well an approximate sweep agrees with the exact one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from patching.errors import SweepError, check_result
from patching.sweep.result import SweepResult

MOST_MISSES = 5  # cells that are listed by default
COMPARED = (
    "model_name", "site", "direction", "window", "patches", "put", "put_from", "noise", "pair",
    "axes",
)  # fmt: skip
# Fields that a message names in words and does not print: they are long, or hold a checksum.
IN_WORDS = {
    "pair": "pair",
    "put_from": "what is put in: it is taken from other prompts",
    "noise": "the noise of the corrupt run",
}


@dataclass(frozen=True)
class Miss:
    """One cell's value in the two sweeps."""

    index: tuple[int, ...]  # into the values: (layer, position), (layer, head), ...
    approximate: float
    exact: float


@dataclass(frozen=True)
class Agreement:
    """Agreement of two sweeps in one metric, over the cells that were patched."""

    rank_correlation: float | None  # Spearman's; None if one of the two is constant
    misses: tuple[Miss, ...]  # the cells that differ most, largest difference first


def compare_sweeps(
    approximate: SweepResult, exact: SweepResult, *, most: int = MOST_MISSES
) -> dict[str, Agreement]:
    """Return the agreement of an approximate sweep with the exact one, for each metric.

    Args:
        most: how many of the largest misses to list.

    Raises:
        SweepError: the two differ in cells, prompts, model or settings, or the
            second is approximate too.
    """
    for one in (approximate, exact):
        check_result(one, SweepResult, SweepError)
    for name in COMPARED:
        ours, theirs = getattr(approximate, name), getattr(exact, name)
        if ours != theirs:
            said = IN_WORDS.get(name, f"{name.replace('_', ' ')}: {ours} and {theirs}")
            raise SweepError(f"the two sweeps differ in {said}")
    if exact.is_approximate:
        raise SweepError("the second sweep must be the exact one, but it is approximate")
    if list(approximate.metrics) != list(exact.metrics):
        raise SweepError(
            f"the two sweeps differ in their metrics: {', '.join(approximate.metrics)}"
            f" and {', '.join(exact.metrics)}"
        )
    return {
        name: _agreement(found.values, exact.metrics[name].values, most)
        for name, found in approximate.metrics.items()
    }


def _agreement(approximate: np.ndarray, exact: np.ndarray, most: int) -> Agreement:
    swept = np.isfinite(exact)
    if not np.array_equal(swept, np.isfinite(approximate)):
        raise SweepError("the two sweeps are not of the same cells")
    # -inf puts the cells that were not patched at the end of the order.
    apart = np.where(swept, np.abs(approximate - exact), -np.inf)
    furthest = np.argsort(-apart, axis=None, kind="stable")[: min(most, int(swept.sum()))]
    cells = zip(*np.unravel_index(furthest, exact.shape), strict=True)
    return Agreement(
        _rank_correlation(approximate[swept], exact[swept]),
        tuple(
            Miss(tuple(map(int, cell)), float(approximate[cell]), float(exact[cell]))
            for cell in cells
        ),
    )


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return Spearman's rank correlation; None if x or y is constant."""
    from scipy.stats import spearmanr  # late: importing it takes a second

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(spearmanr(x, y).statistic)
