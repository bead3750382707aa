"""Figures of a sweep, from plain values: heatmaps, and one sweep against another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from patching.drawing import style
from patching.drawing.colours import Scale, draw_bar, ink
from patching.errors import DrawingError

WIDEST = 16  # inches of small panels side by side
MOST_ABREAST = 4  # small panels side by side
MOST_NUMBERS = 25  # columns with a number each; of more columns, every n-th has one
SQUARE = 6.8  # inches of the figure that compares two sweeps
CHARACTERS_PER_INCH = 13  # of the title
MOST_VALUES = 60  # cells up to which their numbers are written by themselves
VALUE_CELL = 0.4  # inches: width of a cell with its number, at least
SMALLEST_VALUE_CELL = 0.2  # inches: in narrower cells, numbers could not be read
VALUE_FONT, SMALLEST_VALUE_FONT = 7.5, 4.0  # points


@dataclass(frozen=True)
class _Size:
    """Sizes of a figure's cells and panels, in inches."""

    cell_width: tuple[tuple[float, float], tuple[float, float]]  # numbers of columns -> inches
    height: tuple[float, float]  # of a panel, at least and at most
    most_layers: int  # with a number each; of more layers, every n-th has one
    font: int  # points, of the labels below the columns


ALONE = _Size(style.CELL_WIDTH, (2.2, 12), style.MOST_LAYERS, 9)
SMALL = _Size(((5, 30), (0.25, 0.11)), (1.2, 2.6), 12, 6)


@dataclass(frozen=True, eq=False)
class Heatmaps:
    """One panel, or several in the same colours: rows are layers, layer 0 on top."""

    panels: tuple[tuple[str, np.ndarray], ...]  # (name, values (n_layer, columns)), NaN hatched
    columns: tuple[str, ...]  # labels below the columns
    bold: tuple[int, ...]  # columns whose labels are bold
    columns_are: str  # what the columns are; "head": numbers, otherwise tokens
    caption: str  # of the colour bar
    title: tuple[str, ...]  # lines
    scale: Scale
    cmap: str = "viridis"  # a matplotlib colour map
    with_values: bool | None = None  # write each cell's number; None: where cells are few


@dataclass(frozen=True, eq=False)
class Comparison:
    """An approximate value against the exact one, a point for each cell."""

    exact: np.ndarray  # (cells,)
    approximate: np.ndarray  # (cells,)
    layer: np.ndarray  # (cells,) gives a point its colour
    n_layer: int
    rank_correlation: float | None  # Spearman's; None: undefined
    caption: str  # of both axes
    title: tuple[str, ...]  # lines


def draw_heatmaps(heatmaps: Heatmaps, path: str | Path | None = None) -> Figure:
    """Draw panels of layers by columns; return the figure.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes
            nothing.

    Raises:
        DrawingError: another suffix, no such colour map, or cells that are too narrow for the
            numbers that are asked for.
    """
    check_drawable(heatmaps)
    return style.render(lambda: _heatmaps(heatmaps), path)


def check_drawable(heatmaps: Heatmaps) -> None:
    """Raise DrawingError for an unknown colour map, or cells too narrow for their numbers."""
    style.check_cmap(heatmaps.cmap)
    n_layer, columns = heatmaps.panels[0][1].shape
    layout = _Layout.of(len(heatmaps.panels), n_layer, columns, values=True)
    if heatmaps.with_values and layout.panel / columns < SMALLEST_VALUE_CELL:
        raise DrawingError(
            f"{columns} columns are too many to write a number into each cell; leave out --values"
            " (values=True)"
        )


def draw_comparison(
    comparison: Comparison, path: str | Path | None = None, *, cmap: str | None = None
) -> Figure:
    """Draw approximate values against exact ones; return the figure.

    Args:
        path, cmap: as for draw_heatmaps; the colour of a point is its layer.

    Raises:
        DrawingError: another suffix, or no such colour map.
    """
    style.check_cmap(cmap)
    return style.render(lambda: _comparison(comparison, cmap), path)


@dataclass(frozen=True)
class _Layout:
    """The arrangement of panels: one large one, or many small ones in rows."""

    size: _Size
    down: int
    abreast: int
    width: float  # inches of the figure
    panel: float  # inches of a panel's width
    height: float  # inches of the panels together

    @classmethod
    def of(cls, count: int, n_layer: int, columns: int, *, values: bool) -> _Layout:
        size = ALONE if count == 1 else SMALL
        cell = float(np.interp(columns, *size.cell_width))  # inches
        if values:
            cell = max(cell, VALUE_CELL)
        width = panel = float(np.clip(cell * columns, 1.2, style.WIDEST))
        height = float(np.clip(cell * n_layer, *size.height))
        if count > 1:  # space between the panels
            width, height = width + 0.3, height + 0.4
        abreast = min(count, MOST_ABREAST, max(1, int(WIDEST / width)))
        down = math.ceil(count / abreast)
        whole = max(6.5, abreast * width + 2.2)
        return cls(size, down, abreast, whole, panel, down * height)


def _heatmaps(heatmaps: Heatmaps) -> Figure:
    n_layer, columns = heatmaps.panels[0][1].shape
    grids = [values for _, values in heatmaps.panels]
    with_values = heatmaps.with_values
    if with_values is None:
        with_values = sum(int(np.isfinite(values).sum()) for values in grids) <= MOST_VALUES
    layout = _Layout.of(len(heatmaps.panels), n_layer, columns, values=with_values)
    heading = style.wrapped(heatmaps.title, int(layout.width * CHARACTERS_PER_INCH))
    are_heads = heatmaps.columns_are == "head"
    below = 0.5 if are_heads else style.label_height(_tick_labels(heatmaps))  # inches
    height = layout.height + below
    figure = style.new_figure(
        layout.width, height + style.TITLE_LINE * (heading.count("\n") + 1) + 0.3
    )
    grid = figure.subplots(layout.down, layout.abreast, squeeze=False, sharex=True, sharey=True)
    norm = heatmaps.scale.norm
    for axes in grid.flat[len(heatmaps.panels) :]:
        axes.set_axis_off()
    for place, (name, values) in enumerate(heatmaps.panels):
        axes = grid.flat[place]
        axes.patch.set(facecolor="white", hatch="////", edgecolor="0.7")  # shows where NaN is
        image = axes.matshow(values, aspect="auto", cmap=heatmaps.cmap, norm=norm)
        if len(heatmaps.panels) > 1:
            axes.set_title(name, fontsize=8)
        axes.xaxis.set_ticks_position("bottom")
        _label_columns(axes, heatmaps, layout)
        axes.tick_params(labelbottom=place + layout.abreast >= len(heatmaps.panels))
        axes.set_yticks(range(0, n_layer, math.ceil(n_layer / layout.size.most_layers)))
        if with_values:
            _write_values(axes, values, heatmaps, layout.panel / columns)
    _label_figure(figure, grid, heatmaps, heading)
    draw_bar(
        figure, image, grid,
        label=style.beside([heatmaps.caption, heatmaps.scale.remark], height),
        scale=heatmaps.scale,
        extend=heatmaps.scale.extended(grids),
        thin=25 if len(heatmaps.panels) == 1 else layout.height / 0.15,
        inches=layout.height,
    )  # fmt: skip
    return figure


def _write_values(axes: Axes, values: np.ndarray, heatmaps: Heatmaps, inches: float) -> None:
    """Write each patched cell's number into it, in black or white.

    Args:
        inches: width of a cell.
    """
    norm = heatmaps.scale.norm
    most = float(np.nanmax(np.abs(values), initial=0.0))
    digits = 2 if most < 10 else 1 if most < 1000 else 0
    texts = {at: f"{v:z.{digits}f}" for at, v in np.ndenumerate(values) if np.isfinite(v)}
    longest = max(map(len, texts.values()), default=1)
    fitting = 72 * 0.92 * inches / (0.64 * longest)  # a digit of the font is 0.64 ems wide
    size = float(np.clip(fitting, SMALLEST_VALUE_FONT, VALUE_FONT))
    for (layer, column), text in texts.items():
        fraction = float(np.clip(norm(values[layer, column]), 0, 1))
        axes.text(
            column, layer, text, fontsize=size, ha="center", va="center",
            color=ink(heatmaps.cmap, fraction),
        ).set_in_layout(False)  # fmt: skip


def _tick_labels(heatmaps: Heatmaps) -> list[str]:
    """Return the columns' labels: a head's number, or a token and its position."""
    if heatmaps.columns_are == "head":
        return list(heatmaps.columns)
    return [f"{label} ({position})" for position, label in enumerate(heatmaps.columns)]


def _label_columns(axes: Axes, heatmaps: Heatmaps, layout: _Layout) -> None:
    labels, size = _tick_labels(heatmaps), layout.size.font
    if heatmaps.columns_are == "head":
        step = math.ceil(len(labels) / MOST_NUMBERS)
        axes.set_xticks(range(0, len(labels), step), labels[::step], fontsize=size)
    else:
        style.label_tokens(axes, labels, size, layout.panel, heatmaps.bold)


def _label_figure(figure: Figure, grid: np.ndarray, heatmaps: Heatmaps, heading: str) -> None:
    """Write the title and what the axes are: once for all panels."""
    is_hatched = any(np.isnan(values).any() for _, values in heatmaps.panels)
    across = heatmaps.columns_are + ("; hatched: not patched" if is_hatched else "")
    if len(heatmaps.panels) == 1:
        axes = grid[0, 0]
        axes.set(xlabel=across, ylabel="layer")
        axes.set_title(heading, fontsize=9, loc="left")
    else:
        figure.supxlabel(across, fontsize=10)
        figure.supylabel("layer", fontsize=10)
        figure.suptitle(heading, fontsize=9, x=0.01, ha="left")


def _comparison(comparison: Comparison, cmap: str | None) -> Figure:
    x, y, rho = comparison.exact, comparison.approximate, comparison.rank_correlation
    heading = style.wrapped(comparison.title, int(SQUARE * CHARACTERS_PER_INCH))
    figure = style.new_figure(SQUARE, SQUARE - 0.8 + style.TITLE_LINE * heading.count("\n"))
    axes = figure.subplots()
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axes.plot(ends, ends, color="0.6", linewidth=1, zorder=0, label="the two are equal")
    points = axes.scatter(
        x, y, c=comparison.layer, cmap=cmap or "viridis", s=14,
        vmin=0, vmax=max(comparison.n_layer - 1, 1),
    )  # fmt: skip
    axes.set_xlabel(style.beside([f"{comparison.caption}, exact"], SQUARE - 2))
    axes.set_ylabel(style.beside([f"{comparison.caption}, approximate"], SQUARE - 2))
    axes.legend(fontsize=8, loc="best")
    shown = "undefined" if rho is None else f"{rho:.3f}"
    axes.set_title(f"{heading}\nrank correlation (Spearman) {shown}", fontsize=9, loc="left")
    whole = MaxNLocator(integer=True)
    figure.colorbar(points, ax=axes, pad=0.02, aspect=25, ticks=whole).set_label("layer")
    return figure
