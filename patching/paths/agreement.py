"""Measure how well estimated edges agree with the exact ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from patching.errors import PathError, check_result
from patching.paths.result import EdgeResult

COMPARED = (
    "model_name", "checksum", "direction", "pair", "senders", "receivers", "positions",
)  # fmt: skip


@dataclass(frozen=True)
class EdgeAgreement:
    """Agreement of two maps of edges in one metric, over the edges that both have."""

    pearson: float | None  # of the effects, value - base; None if one of the two is constant
    spearman: float | None  # of the effects' ranks
    of_magnitudes: float | None  # Pearson's of the effects' absolute values, as EAP-IG reports it
    edges: int


def compare_edges(approximate: EdgeResult, exact: EdgeResult) -> dict[str, EdgeAgreement]:
    """Return the agreement of estimated edges with the exact ones, for each metric.

    Raises:
        PathError: the two differ in edges, prompts, positions, model or direction, or the second is
            approximate too.
    """
    for one in (approximate, exact):
        check_result(one, EdgeResult, PathError)
    for name in COMPARED:
        if getattr(approximate, name) != getattr(exact, name):
            raise PathError(f"the two maps of edges differ in {name.replace('_', ' ')}")
    if exact.is_approximate:
        raise PathError("the second map of edges must be the exact one, but it is approximate")
    if list(approximate.metrics) != list(exact.metrics):
        raise PathError("the two maps of edges differ in their metrics")
    return {
        name: _agreement(approximate.effects(name), exact.effects(name))
        for name in approximate.metrics
    }


def _agreement(ours: np.ndarray, exact: np.ndarray) -> EdgeAgreement:
    both = np.isfinite(exact)
    if not np.array_equal(both, np.isfinite(ours)):
        raise PathError("the two maps of edges are not of the same edges")
    x, y = ours[both], exact[both]
    from scipy.stats import pearsonr, spearmanr  # late: importing it takes a second

    def correlation(function: type, a: np.ndarray, b: np.ndarray) -> float | None:
        if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
            return None
        return float(function(a, b).statistic)

    return EdgeAgreement(
        correlation(pearsonr, x, y),
        correlation(spearmanr, x, y),
        correlation(pearsonr, np.abs(x), np.abs(y)),
        int(both.sum()),
    )
