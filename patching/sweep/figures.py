"""Turn a SweepResult into the plain values of its figures, and draw them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from patching.drawing import style
from patching.drawing.colours import Scale, check_range, is_diverging
from patching.drawing.sweep import Comparison, Heatmaps, draw_comparison, draw_heatmaps
from patching.errors import DrawingError, check_result
from patching.sweep.agreement import compare_sweeps
from patching.sweep.result import SweepResult
from patching.sweep.words import experiment_words
from patching.text import counted, model_label, shortened

MOST_PANELS = 64  # heads in a figure
SCALES = ("runs", "data")  # what the colours span by default: see Look.scale


@dataclass(frozen=True)
class Look:
    """The look of a heatmap, as a caller asks for it."""

    cmap: str | None = None  # a matplotlib colour map; None: viridis, or RdBu for recovery
    title: str | None = None  # in place of the experiment, the model and the prompts
    scale: str = "runs"  # the colours span the unpatched runs and the cells; "data": the cells
    vmin: float | None = None  # the value of the first colour; None: as `scale` says
    vmax: float | None = None  # the value of the last colour
    values: bool | None = None  # write each cell's number; None: where cells are few

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise DrawingError(f"no scale {self.scale!r}; there are {', '.join(SCALES)}")
        check_range(self.vmin, self.vmax)
        style.check_cmap(self.cmap)


def draw_heatmap(
    result: SweepResult,
    path: str | Path | None = None,
    *,
    metric: str | None = None,
    head: int | None = None,
    cmap: str | None = None,
    title: str | None = None,
    scale: str = "runs",
    vmin: float | None = None,
    vmax: float | None = None,
    values: bool | None = None,
) -> Figure:
    """Draw a sweep: rows are layers (0 on top), columns tokens or heads.

    Heads by position are drawn as small panels, layer x token for each of the first 64 heads.
    The colour bar shows where the unpatched clean and corrupt runs lie.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes
            nothing.
        metric: which of the result's metrics; None for the first.
        head: draw this head alone, where heads were swept by position.
        cmap: a matplotlib colour map; by default viridis, and for recovery RdBu. A
            diverging map is centred on the metric's neutral value, if it has one: 0 for
            differences, the unpatched base run's value for recovery.
        title: in place of "Activation patching ..." with model and prompts. Notes stay.
        scale: "runs" lets the colours span the unpatched runs, and the cells where they go
            beyond them; "data" stretches the colours to the cells.
        vmin, vmax: the values of the first and the last colour, in place of those that
            `scale` gives. Around a centre, both sides reach as far as the further one.
        values: write each cell's number into it; None does so up to 60 cells.

    Returns:
        The figure.

    Raises:
        DrawingError: another suffix, no such colour map, metric, head or scale; vmin is not
            below vmax; or cells too narrow for the numbers asked for.
    """
    look = Look(cmap, title, scale, vmin, vmax, values)
    return draw_heatmaps(heatmaps(result, metric, head, look), path)


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


def heatmaps(
    result: SweepResult,
    metric: str | None = None,
    head: int | None = None,
    look: Look | None = None,
) -> Heatmaps:
    """Return the plain values that `draw_heatmap` draws.

    Raises:
        DrawingError: no such metric or head, or no value of the cells is below `look.vmax` or
            above `look.vmin`.
    """
    look = look or Look()
    check_result(result, SweepResult, DrawingError)
    metric = _metric_of(result, metric)
    heads = _heads(result, head)
    found = result.metrics[metric]
    if result.values.ndim < 3:
        panels: tuple[tuple[str, np.ndarray], ...] = (("", found.values),)
    else:
        panels = tuple((f"head {one}", found.values[:, one]) for one in heads)
    approximate = ", approximate" if result.is_approximate else ""
    cmap = look.cmap or ("RdBu" if metric in result.diverging else "viridis")
    title = title_lines(result, heads) if look.title is None else (look.title, *result.notes)
    are_heads = result.axes[-1] == "head"
    both = " (clean / corrupt where they differ)" if result.pair.has_corrupt else ""
    return Heatmaps(
        panels=panels,
        columns=tuple(map(str, range(result.values.shape[1]))) if are_heads else _tokens(result),
        bold=() if are_heads else result.pair.differing,
        columns_are="head" if are_heads else f"token{both} and position",
        caption=f"{result.captions[metric]} [{result.direction}]{approximate}",
        title=title,
        scale=_scale(result, metric, look, centred=is_diverging(cmap)),
        cmap=cmap,
        with_values=look.values,
    )


def _scale(result: SweepResult, metric: str, look: Look, *, centred: bool) -> Scale:
    """Return the range of the colours.

    Raises:
        DrawingError: the one end that is given lies beyond the other.
    """
    found = result.metrics[metric]
    cells = found.values[np.isfinite(found.values)]
    runs = [end for end in (found.clean, found.corrupt) if np.isfinite(end)]
    spanned = [*cells, *(runs if look.scale == "runs" else ())] or [0.0]
    low = float(min(spanned)) if look.vmin is None else look.vmin
    high = float(max(spanned)) if look.vmax is None else look.vmax
    if low > high:
        given, end = ("vmin", low) if look.vmax is None else ("vmax", high)
        raise DrawingError(
            f"{given} ({end:g}) lies beyond all values, {min(spanned):.4g} to {max(spanned):.4g}"
        )
    remarks = []
    if look.vmin is not None or look.vmax is not None:
        remarks.append("colours: the range that was asked for")
    elif look.scale == "data":
        remarks.append("colours: stretched to the cells")
    return Scale(
        low,
        high,
        result.neutral.get(metric) if centred else None,
        tuple((name, getattr(found, name)) for name in result.runs),
        "; ".join(remarks),
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
        heads_of_site = counted(result.values.shape[1], "head")
        what += f" ({heads_of_site}, each read by {result.shared_by} query heads)"
    if result.window > 1:
        what += f", {result.window} layers at once"
    done = experiment_words(result, what)
    return (
        f"{done} ({result.direction}); model {model_label(result.model_name)}",
        *result.notes,
        *(
            f"{run}: {shortened(getattr(result.pair, f'{run}_text'), style.LONGEST_PROMPT)}"
            for run in result.pair.runs
        ),
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
