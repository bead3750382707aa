"""The heatmaps of a sweep, as figures for a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from patching.drawing import style
from patching.errors import DrawingError
from patching.sweep.agreement import compare
from patching.sweep.request import DIRECTIONS
from patching.sweep.result import SweepResult
from patching.text import shortened

# Of a panel alone, and of one among many: columns, and a cell's inches at so many.
CELL_WIDTH = {True: ((5, 60), (0.55, 0.2)), False: ((5, 30), (0.25, 0.11))}
PANEL_HEIGHT = {True: (2.2, 12), False: (1.2, 2.6)}  # inches, of one alone and one of many
MOST_LAYERS = {True: 24, False: 12}  # with a number each, evenly
WIDEST = 16  # inches of small multiples abreast
AGREEMENT = 6.8  # inches of the figure that compares two sweeps


def heatmap(
    result: SweepResult,
    path: str | Path,
    *,
    metric: str | None = None,
    head: int | None = None,
    cmap: str | None = None,
    title: str | None = None,
) -> Path:
    """Draw a sweep: rows are layers (0 on top), columns tokens or heads.

    Heads by position are drawn as small multiples, layer x token for each head.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF.
        metric: which of the result's metrics; None for the first.
        head: of heads by position, draw this one alone.
        cmap: a matplotlib colour map; by default viridis, and for recovery a
            diverging one with its centre where nothing is changed.
        title: in place of "Activation patching ..." with model and prompts.

    Returns:
        `path`.

    Raises:
        DrawingError: another suffix, no such colour map, metric or head.
    """
    style.check_cmap(cmap)
    name, heads = _metric_of(result, metric), _heads(result, head)
    return style.write(path, lambda: _draw(result, name, heads, cmap, title))


def agreement(
    approximate: SweepResult,
    exact: SweepResult,
    path: str | Path,
    *,
    metric: str | None = None,
    cmap: str | None = None,
) -> Path:
    """Draw an approximate sweep against the exact one: a point for each cell.

    Args:
        metric, cmap: as of `heatmap`; the colour of a point is its layer.

    Raises:
        DrawingError: as `heatmap`.
        SweepError: the two are not of the same cells of the same prompts.
    """
    style.check_cmap(cmap)
    name = _metric_of(approximate, metric)
    rho = compare(approximate, exact)[name].rank_correlation
    return style.write(path, lambda: _draw_agreement(approximate, exact, name, rho, cmap))


def _metric_of(result: SweepResult, asked: str | None) -> str:
    if asked is not None and asked not in result.metrics:
        raise DrawingError(f"no metric {asked!r} in it; there are {', '.join(result.metrics)}")
    return asked or result.metric


def _heads(result: SweepResult, head: int | None) -> list[int | None]:
    """The heads that have a panel each; [None] where one panel shows all.

    Raises:
        DrawingError: a head that there is not.
    """
    if result.values.ndim < 3:
        if head is not None:
            raise DrawingError("a head can be drawn alone only where heads are swept by position")
        return [None]
    swept = np.flatnonzero(np.isfinite(result.values).any(axis=(0, 2))).tolist()
    if head is None:
        return swept
    if head not in swept:
        raise DrawingError(f"no head {head} in it; there are {', '.join(map(str, swept))}")
    return [head]


@dataclass(frozen=True)
class _Columns:
    """What stands under the columns, and how much room it takes."""

    labels: list[str]
    name: str  # of the axis
    bold: tuple[int, ...]

    @classmethod
    def of(cls, result: SweepResult) -> _Columns:
        if result.axes[-1] == "head":
            return cls([str(head) for head in range(result.values.shape[1])], "head", ())
        labels = [shortened(label, 2 * style.LONGEST_LABEL) for label in _column_labels(result)]
        name = "token (clean / corrupt where they differ)"
        return cls(labels, name, result.pair.differing)

    @property
    def height(self) -> float:
        """Inches under the axes."""
        return 0.5 if self.name == "head" else style.label_height(self.labels)

    def put(self, axes: Axes, size: int) -> None:
        """Label the columns of a panel."""
        if self.name == "head":
            step = -(-len(self.labels) // 25)
            axes.set_xticks(range(0, len(self.labels), step), self.labels[::step], fontsize=size)
            return
        style.label_tokens(axes, self.labels, size, self.bold)


@dataclass(frozen=True)
class _Panels:
    """How the panels stand: one alone, or many small ones."""

    alone: bool
    down: int
    abreast: int
    width: float  # inches of the figure
    height: float  # inches of the panels alone

    @classmethod
    def of(cls, count: int, n_layer: int, columns: int) -> _Panels:
        alone = count == 1
        cell = float(np.interp(columns, *CELL_WIDTH[alone]))  # inches
        width = max(cell * columns, 1.2)
        height = float(np.clip(cell * n_layer, *PANEL_HEIGHT[alone]))
        if not alone:  # room between them
            width, height = width + 0.3, height + 0.4
        abreast = min(count, 4, max(1, int(WIDEST / width)))
        down = -(-count // abreast)
        return cls(alone, down, abreast, max(6.5, abreast * width + 2.2), down * height)


def _draw(
    result: SweepResult, metric: str, heads: list[int | None], cmap: str | None, title: str | None
) -> Figure:
    values = result.metrics[metric].values
    columns = _Columns.of(result)
    panels = _Panels.of(len(heads), values.shape[0], values.shape[-1])
    heading = _title(result, heads, int(panels.width * 13))
    if title is not None:
        heading = style.drawable(title)
    height = panels.height + columns.height
    figure = style.new_figure(panels.width, height + 0.17 * (heading.count("\n") + 1) + 0.3)
    grid = figure.subplots(panels.down, panels.abreast, squeeze=False, sharex=True, sharey=True)
    look = {
        "aspect": "auto",
        "cmap": cmap or ("RdBu" if metric in result.diverging else "viridis"),
        "norm": _norm(result, metric),
    }
    for place, axes in enumerate(grid.flat):
        if place >= len(heads):
            axes.set_axis_off()
            continue
        axes.patch.set(facecolor="white", hatch="////", edgecolor="0.7")  # shows where NaN is
        head = heads[place]
        image = axes.matshow(values if head is None else values[:, head], **look)
        if not panels.alone:
            axes.set_title(f"head {head}", fontsize=8)
        axes.xaxis.set_ticks_position("bottom")
        columns.put(axes, 9 if panels.alone else 6)
        axes.tick_params(labelbottom=place + panels.abreast >= len(heads))
        axes.set_yticks(range(0, len(values), -(-len(values) // MOST_LAYERS[panels.alone])))
    shown = values if heads == [None] else values[:, heads]
    across = columns.name + ("; hatched: not patched" if np.isnan(shown).any() else "")
    if panels.alone:
        axes = grid[0, 0]
        axes.set(xlabel=across, ylabel="layer")
        axes.set_title(heading, fontsize=9, loc="left")
    else:
        figure.supxlabel(across, fontsize=10)
        figure.supylabel("layer", fontsize=10)
        figure.suptitle(heading, fontsize=9, x=0.01, ha="left")
    thin = 25 if panels.alone else panels.height / 0.15
    bar = figure.colorbar(image, ax=grid, pad=0.02, aspect=thin)
    label = f"{result.captions[metric]} [{result.direction}]"
    label += ", approximate" if result.is_approximate else ""
    bar.set_label(style.beside([label], height))
    return figure


def _draw_agreement(
    approximate: SweepResult, exact: SweepResult, metric: str, rho: float | None, cmap: str | None
) -> Figure:
    heading = _title(approximate, _heads(approximate, None), int(AGREEMENT * 13))
    figure = style.new_figure(AGREEMENT, AGREEMENT - 0.8 + 0.17 * heading.count("\n"))
    axes = figure.subplots()
    x, y = exact.metrics[metric].values, approximate.metrics[metric].values
    layers = np.broadcast_to(np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)), x.shape)
    ends = [np.nanmin((x, y)), np.nanmax((x, y))]
    axes.plot(ends, ends, color="0.6", linewidth=1, zorder=0, label="the two are equal")
    swept = np.isfinite(x)
    points = axes.scatter(
        x[swept], y[swept], c=layers[swept], cmap=cmap or "viridis", s=14,
        vmin=0, vmax=max(len(x) - 1, 1),
    )  # fmt: skip
    words = approximate.captions[metric]
    said = "undefined" if rho is None else f"{rho:.3f}"
    axes.set_xlabel(style.beside([f"{words}, exact"], AGREEMENT - 2))
    axes.set_ylabel(style.beside([f"{words}, approximate"], AGREEMENT - 2))
    axes.legend(fontsize=8, loc="best")
    axes.set_title(f"{heading}\nrank correlation (Spearman) {said}", fontsize=9, loc="left")
    whole = MaxNLocator(integer=True)
    figure.colorbar(points, ax=axes, pad=0.02, aspect=25, ticks=whole).set_label("layer")
    return figure


def _norm(result: SweepResult, metric: str) -> colors.Normalize:
    found = result.metrics[metric]
    if metric not in result.diverging:
        return colors.Normalize(np.nanmin(found.values), np.nanmax(found.values))
    unchanged = found.corrupt if result.direction == "denoise" else found.clean
    reach = float(np.nanmax(np.abs(found.values - unchanged)))
    return colors.CenteredNorm(unchanged, halfrange=reach or 1.0)


def _column_labels(result: SweepResult) -> list[str]:
    labels = []
    for clean, corrupt in zip(result.pair.clean_tokens, result.pair.corrupt_tokens, strict=True):
        both = [clean] if clean == corrupt else [clean, corrupt]
        labels.append(" / ".join(map(style.token_label, both)))
    return labels


def _title(result: SweepResult, heads: list[int | None], columns: int) -> str:
    """What was done, by which model, to which prompts; wrapped to `columns`."""
    what = result.site
    if result.axes == ("layer", "head"):
        what += " of a head, all positions at once"
    elif heads != [None]:
        what += f" of head {heads[0]}" if len(heads) == 1 else " of each head"
    if result.shared_by > 1:
        what += f" ({result.values.shape[1]} heads, each read by {result.shared_by} query heads)"
    if result.window > 1:
        what += f", {result.window} layers at once"
    base, source = DIRECTIONS[result.direction]
    how = "Activation patching"
    if result.is_approximate:
        how = "Attribution patching (approximate, to first order)"
    lines = [
        f"{how} of {what}, {source} into {base} ({result.direction}); model {result.model_name}"
    ]
    lines += result.notes
    for name in ("clean", "corrupt"):
        text = getattr(result.pair, f"{name}_text")
        lines.append(f"{name}: {shortened(text, style.LONGEST_PROMPT)}")
    return style.wrapped(lines, columns)
