"""Figures of attention, from plain values: one head with its tokens, or all as small panels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from patching.drawing import style
from patching.drawing.colours import ink

PANEL = 0.95  # inches of a small panel
MOST_ABREAST = 16  # small panels in a row
WIDE, LARGEST = 7.0, 13.0  # inches of the one large panel: of few and of many tokens
SCORE_CELL = 0.42  # inches of a head in the scores
FEW_HEADS = 200  # up to so many heads, their scores are written
CHARACTERS_PER_INCH = 13  # of the title


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention weights of one head or of several, in the same colours."""

    panels: tuple[tuple[str, np.ndarray], ...]  # (name, weights (rows, columns)), from 0 to 1
    rows: tuple[str, ...]  # labels: the positions that read
    columns: tuple[str, ...]  # labels: the positions that are read
    abreast: int  # panels in a row
    title: tuple[tuple[str, ...], tuple[str, ...]]  # lines, and notes


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Scores of every head, a panel for each kind."""

    panels: tuple[tuple[str, np.ndarray], ...]  # (name, scores (n_layer, n_head)), from 0 to 1
    title: tuple[tuple[str, ...], tuple[str, ...]]  # lines, and notes


def draw_attention(
    thing: Attention,
    path: str | Path | None = None,
    *,
    cmap: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw attention weights; return the figure.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        cmap: a matplotlib colour map; by default Blues: darker is more.
        title: replaces the figure's own title; notes stay.

    Raises:
        DrawingError: another suffix, or no such colour map.
    """
    style.check_cmap(cmap)
    draw = _one if len(thing.panels) == 1 else _many
    return style.render(lambda: draw(thing, cmap or "Blues", title), path)


def draw_head_scores(
    thing: HeadScores,
    path: str | Path | None = None,
    *,
    cmap: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw scores of heads, layer by head; arguments and errors as of draw_attention."""
    style.check_cmap(cmap)
    return style.render(lambda: _scores(thing, cmap or "Blues", title), path)


def _heading(title: tuple[tuple[str, ...], tuple[str, ...]], own: str | None, width: float) -> str:
    lines, notes = title
    return style.wrapped([*(lines if own is None else (own,)), *notes],
                         int(width * CHARACTERS_PER_INCH))  # fmt: skip


def _one(thing: Attention, cmap: str, title: str | None) -> Figure:
    """Draw one head large, with the tokens beside both axes."""
    rows, columns = len(thing.rows), len(thing.columns)
    cell = float(np.interp(max(rows, columns), (5, 60), (0.6, LARGEST / 60)))
    width, height = max(cell * columns, 2.5), max(cell * rows, 2.0)
    labels = style.label_height(thing.columns)
    heading = _heading(thing.title, title, max(width + 2.4, WIDE))
    figure = style.new_figure(
        max(width + 2.4, WIDE), height + labels + style.TITLE_LINE * (heading.count("\n") + 2)
    )
    axes = figure.subplots()
    image = axes.matshow(_masked(thing.panels[0][1], thing), aspect="auto", cmap=cmap,
                         vmin=0, vmax=1)  # fmt: skip
    axes.xaxis.set_ticks_position("bottom")
    size = 9 if max(rows, columns) <= style.MOST_SLANTED_LABELS else 7
    style.label_tokens(axes, thing.columns, size, width)
    step = max(1, math.ceil(rows * style.CLOSEST / height))
    axes.set_yticks(range(0, rows, step), thing.rows[::step], fontsize=size)
    axes.set(xlabel="read position", ylabel="reading position")
    axes.set_title(heading, fontsize=9, loc="left", pad=9)
    figure.colorbar(image, ax=axes, pad=0.02, aspect=25).set_label("attention weight")
    return figure


def _many(thing: Attention, cmap: str, title: str | None) -> Figure:
    """Draw every head as a small panel: a row of panels for each layer, if they fit."""
    abreast = min(thing.abreast, MOST_ABREAST)
    down = math.ceil(len(thing.panels) / abreast)
    width = max(abreast * PANEL + 1.4, 6.5)
    heading = _heading(thing.title, title, width)
    figure = style.new_figure(
        width, down * (PANEL + 0.16) + style.TITLE_LINE * (heading.count("\n") + 2)
    )
    grid = figure.subplots(down, abreast, squeeze=False)
    for axes in grid.flat[len(thing.panels) :]:
        axes.set_axis_off()
    for axes, (name, weights) in zip(grid.flat, thing.panels, strict=False):
        image = axes.matshow(_masked(weights, thing), cmap=cmap, vmin=0, vmax=1)
        axes.set_title(name, fontsize=7, pad=2)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(heading, fontsize=9, x=0.01, ha="left")
    bar = figure.colorbar(image, ax=grid, pad=0.01, aspect=40)
    words = "attention weight (row: position that reads, column: position that is read)"
    bar.set_label(style.beside([words], down * (PANEL + 0.16)))
    return figure


def _masked(weights: np.ndarray, thing: Attention) -> np.ndarray:
    """Return weights with the positions that cannot be read left out, where rows are columns."""
    if thing.rows != thing.columns:
        return weights
    return np.ma.masked_array(weights, np.triu(np.ones(weights.shape, dtype=bool), 1))


def _scores(thing: HeadScores, cmap: str, title: str | None) -> Figure:
    n_layer, n_head = thing.panels[0][1].shape
    cell = SCORE_CELL if n_layer * n_head <= FEW_HEADS else SCORE_CELL / 2
    width = max(len(thing.panels) * (cell * n_head + 0.5) + 1.2, 6.5)
    heading = _heading(thing.title, title, width)
    height = max(cell * n_layer, 1.6) + 1.0 + style.TITLE_LINE * (heading.count("\n") + 1)
    figure = style.new_figure(width, height)
    grid = figure.subplots(1, len(thing.panels), squeeze=False, sharey=True)[0]
    most = max(float(scores.max()) for _, scores in thing.panels) or 1.0
    for axes, (name, scores) in zip(grid, thing.panels, strict=True):
        image = axes.matshow(scores, aspect="auto", cmap=cmap, vmin=0, vmax=most)
        axes.xaxis.set_ticks_position("bottom")
        axes.set_xticks(range(0, n_head, math.ceil(n_head / 25)))
        axes.set_yticks(range(0, n_layer, math.ceil(n_layer / style.MOST_LAYERS)))
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("head")
        if n_layer * n_head <= FEW_HEADS:
            _write(axes, scores, cmap, most)
    grid[0].set_ylabel("layer")
    figure.suptitle(heading, fontsize=9, x=0.01, ha="left")
    figure.colorbar(image, ax=grid, pad=0.02, aspect=25).set_label(
        "score (from 0 to 1; colours to the largest)"
    )
    return figure


def _write(axes: Axes, scores: np.ndarray, cmap: str, most: float) -> None:
    for (layer, head), score in np.ndenumerate(scores):
        axes.text(
            head, layer, f"{score:.2f}", fontsize=6.5, ha="center", va="center",
            color=ink(cmap, float(score) / most),
        ).set_in_layout(False)  # fmt: skip
