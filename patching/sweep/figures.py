"""Turn a SweepResult into the plain values of its figures, and draw them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from patching.drawing import style
from patching.drawing.sweep import Comparison, Heatmaps, draw_comparison, draw_heatmaps
from patching.errors import DrawingError, check_result
from patching.sweep.agreement import compare_sweeps
from patching.sweep.request import DIRECTIONS
from patching.sweep.result import SweepResult
from patching.text import shortened

MOST_PANELS = 64  # heads in a figure


def draw_heatmap(
    result: SweepResult,
    path: str | Path | None = None,
    *,
    metric: str | None = None,
    head: int | None = None,
    cmap: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a sweep: rows are layers (0 on top), columns tokens or heads.

    Heads by position are drawn as small panels, layer x token for each of the first 64 heads.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes
            nothing.
        metric: which of the result's metrics; None for the first.
        head: draw this head alone, where heads were swept by position.
        cmap: a matplotlib colour map; by default viridis, and for recovery a
            diverging one, centred at the unpatched base run's value.
        title: in place of "Activation patching ..." with model and prompts.

    Returns:
        The figure.

    Raises:
        DrawingError: another suffix, no such colour map, metric or head.
    """
    return draw_heatmaps(heatmaps(result, metric, head), path, cmap=cmap, title=title)


def draw_agreement(
    approximate: SweepResult,
    exact: SweepResult,
    path: str | Path | None = None,
    *,
    metric: str | None = None,
    cmap: str | None = None,
) -> Figure:
    """Draw an approximate sweep against the exact one: a point for each cell.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes
            nothing.
        metric: which of the results' metrics; None for the first.
        cmap: a matplotlib colour map; the colour of a point is its layer.

    Returns:
        The figure.

    Raises:
        DrawingError: another suffix, no such colour map or metric.
        SweepError: the two are not of the same cells of the same prompts.
    """
    return draw_comparison(comparison(approximate, exact, metric), path, cmap=cmap)


def heatmaps(result: SweepResult, metric: str | None = None, head: int | None = None) -> Heatmaps:
    """Return the plain values that `draw_heatmap` draws.

    Raises:
        DrawingError: no such metric or head.
    """
    check_result(result, SweepResult, DrawingError)
    metric = _metric_of(result, metric)
    heads = _heads(result, head)
    found = result.metrics[metric]
    if result.values.ndim < 3:
        panels: tuple[tuple[str, np.ndarray], ...] = (("", found.values),)
    else:
        panels = tuple((f"head {one}", found.values[:, one]) for one in heads)
    approximate = ", approximate" if result.is_approximate else ""
    centre = result.neutral.get(metric, math.nan) if metric in result.diverging else math.nan
    are_heads = result.axes[-1] == "head"
    return Heatmaps(
        panels=panels,
        columns=tuple(map(str, range(result.values.shape[1]))) if are_heads else _tokens(result),
        bold=() if are_heads else result.pair.differing,
        columns_are="head" if are_heads else "token (clean / corrupt where they differ)",
        caption=f"{result.captions[metric]} [{result.direction}]{approximate}",
        title=title_lines(result, heads),
        limits=(float(np.nanmin(found.values)), float(np.nanmax(found.values))),
        centre=centre if math.isfinite(centre) else None,
    )


def comparison(
    approximate: SweepResult, exact: SweepResult, metric: str | None = None
) -> Comparison:
    """Return the plain values that `draw_agreement` draws.

    Raises:
        DrawingError: no such metric.
        SweepError: the two are not of the same cells of the same prompts.
    """
    for one in (approximate, exact):
        check_result(one, SweepResult, DrawingError)
    metric = _metric_of(approximate, metric)
    agreement = compare_sweeps(approximate, exact)[metric]
    x, y = exact.metrics[metric].values, approximate.metrics[metric].values
    swept = np.isfinite(x)
    return Comparison(
        exact=x[swept],
        approximate=y[swept],
        layer=np.nonzero(swept)[0],
        n_layer=len(x),
        rank_correlation=agreement.rank_correlation,
        caption=approximate.captions[metric],
        title=title_lines(approximate, _heads(approximate, None)),
    )


def title_lines(result: SweepResult, heads: list[int]) -> tuple[str, ...]:
    """Return the lines of a title: the experiment and the model, the notes, both prompts.

    Args:
        heads: the heads that are drawn, each in a panel of its own.
    """
    what = result.site
    if result.axes == ("layer", "head"):
        what += " of a head, all positions at once"
    elif heads:
        count = len(_swept_heads(result))
        each = "each head" if len(heads) == count else f"the first {len(heads)} of {count} heads"
        what += f" of head {heads[0]}" if len(heads) == 1 else f" of {each}"
    if result.shared_by > 1:
        what += f" ({result.values.shape[1]} heads, each read by {result.shared_by} query heads)"
    if result.window > 1:
        what += f", {result.window} layers at once"
    base, source = DIRECTIONS[result.direction]
    if result.patches is not None:
        done = f"Patches of {result.patches}() for each cell of {what}, into {base}"
    elif result.is_approximate:
        done = f"Attribution patching (approximate, to first order) of {what}, {source} into {base}"
    else:
        done = f"Activation patching of {what}, {source} into {base}"
    return (
        f"{done} ({result.direction}); model {result.model_name}",
        *result.notes,
        f"clean: {shortened(result.pair.clean_text, style.LONGEST_PROMPT)}",
        f"corrupt: {shortened(result.pair.corrupt_text, style.LONGEST_PROMPT)}",
    )


def _metric_of(result: SweepResult, asked: str | None) -> str:
    if asked is not None and asked not in result.metrics:
        raise DrawingError(f"no metric {asked!r} in it; there are {', '.join(result.metrics)}")
    return asked or result.metric


def _swept_heads(result: SweepResult) -> list[int]:
    """Return the heads that were patched, where each was patched at every position."""
    return np.flatnonzero(np.isfinite(result.values).any(axis=(0, 2))).tolist()


def _heads(result: SweepResult, head: int | None) -> list[int]:
    """Return the heads that have a panel each, MOST_PANELS at most; [] where one shows all.

    Raises:
        DrawingError: no such head.
    """
    if result.values.ndim < 3:
        if head is not None:
            raise DrawingError("a head can be drawn alone only where heads are swept by position")
        return []
    swept = _swept_heads(result)
    if head is None:
        return swept[:MOST_PANELS]
    if head not in swept:
        raise DrawingError(f"no head {head} in it; there are {', '.join(map(str, swept))}")
    return [head]


def _tokens(result: SweepResult) -> tuple[str, ...]:
    """Return a label for each position: its token, or both where the prompts differ."""
    labels = []
    for clean, corrupt in zip(result.pair.clean_tokens, result.pair.corrupt_tokens, strict=True):
        both = [clean] if clean == corrupt else [clean, corrupt]
        label = " / ".join(map(style.token_label, both))
        labels.append(shortened(label, 2 * style.LONGEST_LABEL))
    return tuple(labels)
