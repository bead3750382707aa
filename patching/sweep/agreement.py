"""How well an approximate sweep agrees with the exact one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from patching.errors import SweepError
from patching.sweep.result import SweepResult

LARGEST = 5  # misses that are listed


@dataclass(frozen=True)
class Miss:
    """A cell, and what the two sweeps say of it."""

    index: tuple[int, ...]  # into the values: (layer, position), (layer, head), ...
    approximate: float
    exact: float


@dataclass(frozen=True)
class Agreement:
    """Of one metric, over the cells that were swept."""

    rank_correlation: float | None  # Spearman's; None where one of the two is constant
    misses: tuple[Miss, ...]  # the cells furthest apart, the furthest first


def compare(
    approximate: SweepResult, exact: SweepResult, most: int = LARGEST
) -> dict[str, Agreement]:
    """Each metric's agreement, by its name, with the `most` largest misses.

    Raises:
        SweepError: the two are not of the same cells, prompts and model, or the
            second is approximate too.
    """
    for name in ("model_name", "site", "direction", "window", "pair", "axes"):
        ours, theirs = getattr(approximate, name), getattr(exact, name)
        if ours != theirs:
            said = "" if name == "pair" else f": {ours} and {theirs}"
            raise SweepError(f"the two sweeps differ in {name.replace('_', ' ')}{said}")
    if exact.is_approximate:
        raise SweepError("the second sweep is to be the exact one, and is approximate")
    if [*approximate.metrics] != [*exact.metrics]:
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
    """Spearman's: the correlation of the ranks."""
    a, b = (_ranks(values) - (values.size - 1) / 2 for values in (x, y))
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else None


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 0; equal values share the mean of theirs."""
    _, which, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[which]
