"""Compare two studies cell by cell: two models, two directions, or two corruptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from patching.errors import StudyError
from patching.frames import frame
from patching.study.result import Cells, Study
from patching.study.statistics import compare

if TYPE_CHECKING:
    import pandas


def compare_studies(
    a: Study, b: Study, *, site: str, metric: str, only_correct: str | None = None, **how: Any
) -> pandas.DataFrame:
    """Return a table with a row for each cell that both studies have: the effect in a minus b.

    Its columns are layer, head, position or role, n, n_other, paired, difference, low, high,
    p, p_corrected. Where at least two pairs are in both studies, only these count, pair by
    pair (paired is true), and p is by sign flips of the differences, corrected over the cells.
    Otherwise each study is resampled by itself, and p is NaN.

    Args:
        metric: one that was read off the runs: for recovery, logit_diff.
        only_correct: as Study.chosen.
        how: confidence, draws, flips, seed, max_memory; see statistics.compare.

    Raises:
        StudyError: a study has no such map; the maps have no cell in common.
    """
    ours, theirs = (one.cells(site, metric, only_correct=only_correct) for one in (a, b))
    columns, places = _common_cells(ours, theirs)
    rows = _same_pairs(a, ours, b, theirs)
    paired = len(rows[0]) >= 2
    values = [cells.effects[:, place] for cells, place in zip((ours, theirs), places, strict=True)]
    if paired:
        values = [value[row] for value, row in zip(values, rows, strict=True)]
    found = compare(values[0], values[1], paired=paired, **how)
    unknown = np.full(len(places[0]), np.nan)
    interval = found.difference
    return frame(
        {
            **columns,
            "n": np.full(len(unknown), found.n[0]),
            "n_other": np.full(len(unknown), found.n[1]),
            "paired": np.full(len(unknown), found.paired),
            "difference": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "p": unknown if found.flips is None else found.flips.p,
            "p_corrected": unknown if found.flips is None else found.flips.p_corrected,
        }
    )


def _common_cells(ours: Cells, theirs: Cells) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the axes of the cells that both maps have, and the cells' numbers in each map.

    Raises:
        StudyError: there are none.
    """
    names = list(ours.axes)
    if names != list(theirs.axes):
        raise StudyError(
            f"the studies differ in their axes: {', '.join(names)} and {', '.join(theirs.axes)}"
        )
    cells = [
        list(zip(*(one.axes[n].tolist() for n in names), strict=True)) for one in (ours, theirs)
    ]
    place = {cell: number for number, cell in enumerate(cells[1])}
    both = [(number, place[cell]) for number, cell in enumerate(cells[0]) if cell in place]
    if not both:
        raise StudyError("the studies have no cell in common")
    at = [np.array(one) for one in zip(*both, strict=True)]
    return {name: ours.axes[name][at[0]] for name in names}, at


def _same_pairs(a: Study, ours: Cells, b: Study, theirs: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the pairs that both maps have, in each of them."""
    place = {b.column("hash")[pair]: row for row, pair in enumerate(theirs.pairs)}
    hashes = [a.column("hash")[pair] for pair in ours.pairs]
    both = [(row, place[one]) for row, one in enumerate(hashes) if one in place]
    rows = np.array(both, dtype=int).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
