"""Figures of a study, from plain values: mean maps with intervals, and strips of single pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from patching.drawing import style
from patching.drawing.colours import Scale, draw_bar, ink

CELL_HEIGHT, PANEL_HEIGHT = 0.3, (1.9, 5.0)  # inches: of a layer; of a panel, at least and at most
CHARACTERS_PER_INCH = 13  # of the title
NAME_FONT = 6.5  # points, of a name within a cell
SMALLEST_NAMED_CELL = 0.3  # inches; narrower cells have no names
STRIP_ROW, STRIP_WIDTH = 0.55, 7.5  # inches: height of a cell's strip, width of the figure
INSET = 0.08  # of an outline within its cells, as a part of a cell
JITTER = 0.32  # of a strip's height, to both sides
MOST_DOTS = 2000  # of a strip; of more pairs, every n-th has one


@dataclass(frozen=True, eq=False)
class StudyMap:
    """A mean for each cell, with the half-width of its interval: layer 0 on top.

    All arrays are (n_layer, columns).
    """

    mean: np.ndarray  # NaN: no such cell
    half: np.ndarray  # half the width of the interval
    is_outlined: np.ndarray  # cells that survive correction; the line runs within them
    is_fixed: np.ndarray  # cells in which nothing can change, or that are missing: hatched
    names: dict[tuple[int, int], str]  # (row, column) -> a short text in the cell
    columns: tuple[str, ...]  # labels below the columns
    columns_are: str  # what the columns are
    caption: str  # of the means' colour bar
    half_caption: str  # of the half-widths' colour bar
    title: tuple[str, ...]  # lines
    scale: Scale
    cmap: str = "viridis"


@dataclass(frozen=True, eq=False)
class Strips:
    """Every pair's effect in some cells, with their means and intervals."""

    cells: tuple[str, ...]  # names, the first on top
    effects: np.ndarray  # (pairs, cells)
    mean: np.ndarray  # (cells,)
    low: np.ndarray  # (cells,)
    high: np.ndarray  # (cells,)
    caption: str  # of the axis
    title: tuple[str, ...]  # lines


def draw_map(drawn: StudyMap, path: str | Path | None = None) -> Figure:
    """Draw the means above the half-widths of their intervals; return the figure.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.

    Raises:
        DrawingError: another suffix, or no such colour map.
    """
    style.check_cmap(drawn.cmap)
    return style.render(lambda: _map(drawn), path)


def draw_strips(strips: Strips, path: str | Path | None = None) -> Figure:
    """Draw a dot for each pair in each cell; return the figure.

    Args:
        path: as for draw_map.

    Raises:
        DrawingError: another suffix.
    """
    return style.render(lambda: _strips(strips), path)


def _map(drawn: StudyMap) -> Figure:
    n_layer, columns = drawn.mean.shape
    cell = float(np.interp(columns, *style.CELL_WIDTH))  # inches
    panel = float(np.clip(cell * columns, 2.0, style.WIDEST))
    height = float(np.clip(CELL_HEIGHT * n_layer, *PANEL_HEIGHT))
    width = max(6.8, panel + 2.4)
    heading = style.wrapped(drawn.title, int(width * CHARACTERS_PER_INCH))
    below = style.label_height(drawn.columns)
    lines = heading.count("\n") + 1
    figure = style.new_figure(width, 2 * height + below + style.TITLE_LINE * lines + 0.7)
    above, under = figure.subplots(2, 1, sharex=True)
    half = Scale(0.0, float(np.nanmax(drawn.half, initial=0.0)) or 1.0)
    shown = ((above, drawn.mean, drawn.scale, drawn.cmap, drawn.caption),
             (under, drawn.half, half, "Blues", drawn.half_caption))  # fmt: skip
    for axes, values, scale, cmap, caption in shown:
        axes.patch.set(facecolor="white", hatch="////", edgecolor="0.7")  # shows where NaN is
        values = np.where(drawn.is_fixed, np.nan, values)
        image = axes.matshow(values, aspect="auto", cmap=cmap, norm=scale.norm)
        axes.xaxis.set_ticks_position("bottom")
        axes.set_ylabel("layer")
        axes.set_yticks(range(0, n_layer, math.ceil(n_layer / style.MOST_LAYERS)))
        draw_bar(
            figure, image, axes,
            label=style.beside([caption], height),
            scale=scale, extend=scale.extended([values]), thin=height / 0.16, inches=height,
        )  # fmt: skip
    above.tick_params(labelbottom=False)
    style.label_tokens(under, drawn.columns, 9, panel)
    hatched = "; hatched: nothing can change here" if drawn.is_fixed.any() else ""
    under.set_xlabel(drawn.columns_are + hatched)
    above.add_collection(_halo(outline(drawn.is_outlined)))
    above.add_collection(LineCollection(outline(drawn.is_outlined), colors="black", linewidths=1.3))
    if panel / columns >= SMALLEST_NAMED_CELL:
        _write_names(above, drawn)
    above.set_title(heading, fontsize=9, loc="left")
    return figure


def outline(inside: np.ndarray, inset: float = INSET) -> list[list[tuple[float, float]]]:
    """Return the line segments round the True cells of a grid (rows, columns).

    A cell (row, column) reaches from column - 0.5 to column + 0.5 and from row - 0.5 to
    row + 0.5. A segment is two points (x, y). The lines run within the True cells, so that
    they show which side they enclose, and stay visible along the figure's frame.

    Args:
        inset: distance of a line from the edge of its cells, as a part of a cell.

    Example:
        outline(np.array([[True]]), 0)  # the four sides of the one cell
    """
    padded = np.pad(inside, 1)
    segments = []
    for row, column in np.argwhere(inside):
        for out in ((-1, 0), (1, 0), (0, -1), (0, 1)):  # (rows, columns) across the side
            if padded[row + 1 + out[0], column + 1 + out[1]]:
                continue
            along = (out[1], out[0])
            ends = []
            for sign in (-1, 1):
                step = (sign * along[0], sign * along[1])
                next_to = padded[row + 1 + step[0], column + 1 + step[1]]
                across = padded[row + 1 + step[0] + out[0], column + 1 + step[1] + out[1]]
                # The next side goes on straight, turns towards this cell, or away from it.
                reach = 0.5 - inset if not next_to else 0.5 + inset * bool(across)
                y = row + out[0] * (0.5 - inset) + step[0] * reach
                x = column + out[1] * (0.5 - inset) + step[1] * reach
                ends.append((float(x), float(y)))
            segments.append(ends)
    return segments


def _halo(segments: list[list[tuple[float, float]]]) -> LineCollection:
    """Return white lines below the black ones, which would vanish on dark cells."""
    return LineCollection(segments, colors="white", linewidths=3.0)


def _write_names(axes: Axes, drawn: StudyMap) -> None:
    norm = drawn.scale.norm
    for (row, column), name in drawn.names.items():
        fraction = float(np.clip(norm(drawn.mean[row, column]), 0, 1))
        axes.text(
            column, row, style.drawable(name), fontsize=NAME_FONT, ha="center", va="center",
            color=ink(drawn.cmap, fraction),
        ).set_in_layout(False)  # fmt: skip


def _strips(strips: Strips) -> Figure:
    pairs, cells = strips.effects.shape
    heading = style.wrapped(strips.title, int(STRIP_WIDTH * CHARACTERS_PER_INCH))
    lines = heading.count("\n") + 1
    figure = style.new_figure(STRIP_WIDTH, STRIP_ROW * cells + 0.9 + style.TITLE_LINE * lines)
    axes = figure.subplots()
    step = math.ceil(pairs / MOST_DOTS)
    jitter = np.random.default_rng(0).uniform(-JITTER, JITTER, size=strips.effects[::step].shape)
    alpha = float(np.interp(pairs / step, [20, 1000], [0.8, 0.15]))
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    for cell in range(cells):
        dots = strips.effects[::step, cell]
        axes.scatter(
            dots, cell + jitter[:, cell], s=9, color="tab:blue", alpha=alpha, linewidths=0,
            label="a pair" if cell == 0 else None,
        )  # fmt: skip
        quartiles = np.percentile(strips.effects[:, cell], [25, 75])
        axes.plot(
            quartiles, [cell, cell], color="black", linewidth=5, alpha=0.25, solid_capstyle="butt",
            label="middle half" if cell == 0 else None,
        )  # fmt: skip
        apart = [strips.mean[cell] - strips.low[cell], strips.high[cell] - strips.mean[cell]]
        axes.errorbar(
            strips.mean[cell], cell, xerr=np.array(apart)[:, None], fmt="o", color="black",
            markersize=4, capsize=3, linewidth=1.4, label="mean, interval" if cell == 0 else None,
        )  # fmt: skip
    axes.set_yticks(range(cells), [style.drawable(name) for name in strips.cells], fontsize=8)
    axes.set_ylim(cells - 0.4, -0.6)
    axes.set_xlabel(style.beside([strips.caption], STRIP_WIDTH - 2))
    axes.legend(fontsize=7, loc="best")
    axes.set_title(heading, fontsize=9, loc="left")
    return figure
