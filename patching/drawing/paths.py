"""Figures of paths, from plain values: a map of senders, a matrix of edges, a small circuit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle

from patching.drawing import style

CELL = 0.34  # inches
HEIGHT, WIDTH = (2.2, 9.0), (2.6, 9.0)  # inches of a map, at least and at most
SPANNED, MANY = 99.5, 1000  # percentile of the sizes that colours span, of more edges than that
MATRIX = (9.5, 6.0)  # inches: width and height of the matrix of edges
CIRCUIT_WIDTH = (8.5, 0.62)  # inches: at least, and of a column
LAYER = 0.75  # inches between two layers of the circuit
CHARACTERS_PER_INCH = 13  # of a title
NO_PATH = "////"  # hatch of a sender without a path
KIND_COLOURS = {"q": "tab:blue", "k": "tab:orange", "v": "tab:green", "": "0.35"}
LINES = (0.6, 4.0)  # points: the width of the weakest and of the strongest edge
BOX = (0.3, 0.16)  # inches: half the width and height of a node, with room around it
TURNS = (0.0, 0.05, -0.05, 0.1, -0.1, 0.15, -0.15, 0.2, -0.2, 0.3, -0.3)  # tried in this order


@dataclass(frozen=True, eq=False)
class SenderMap:
    """A metric for every sender: heads by layer, and a column for the MLPs."""

    heads: np.ndarray  # (L, nh); NaN where there is no path
    mlps: np.ndarray  # (L,)
    base: float  # of the unpatched base run: the middle of the colours
    receivers: tuple[tuple[int, int | None], ...]  # (layer, head) of each; None for an MLP
    caption: str  # of the colour bar
    title: tuple[str, ...]  # lines
    has_percent: bool = True  # the bar shows the percent change too


@dataclass(frozen=True, eq=False)
class EdgeMatrix:
    """The effect of every edge, a row for each sender and a column for each receiver."""

    effects: np.ndarray  # (S, R); NaN where there is no path
    rows: Mapping[int, str]  # where a layer's senders begin -> its label
    columns: Mapping[int, str]  # where a layer's receivers begin -> its label
    within: str  # what the receivers of a layer are, in order: "q, k, v, its MLP"; "" for none
    caption: str
    title: tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """A node of the circuit, with its place in layers and columns."""

    name: str
    layer: float  # -1: the embeddings; n_layer: the logits; an MLP is half a layer higher
    column: float


@dataclass(frozen=True)
class Circuit:
    """The strongest edges as a graph, the embeddings below and the logits on top."""

    nodes: tuple[Node, ...]
    columns: int
    edges: tuple[tuple[str, str, str, float], ...]  # sender, receiver, "q", "k", "v" or "", effect
    caption: str
    title: tuple[str, ...]


def draw_sender_map(
    thing: SenderMap, path: str | Path | None = None, *, cmap: str | None = None
) -> Figure:
    """Draw a map of senders; return the figure. Receivers have a black frame.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        cmap: a matplotlib colour map; None: RdBu.

    Raises:
        DrawingError: another suffix, or no such colour map.
    """
    style.check_cmap(cmap)
    return style.render(lambda: _sender_map(thing, cmap or "RdBu"), path)


def draw_edge_matrix(
    thing: EdgeMatrix, path: str | Path | None = None, *, cmap: str | None = None
) -> Figure:
    """Draw a matrix of edges; return the figure.

    Args:
        path, cmap: as for draw_sender_map.

    Raises:
        DrawingError: another suffix, or no such colour map.
    """
    style.check_cmap(cmap)
    return style.render(lambda: _edge_matrix(thing, cmap or "RdBu"), path)


def draw_circuit(thing: Circuit, path: str | Path | None = None) -> Figure:
    """Draw the strongest edges as a graph; return the figure.

    A line's width is its effect's size, its colour what receives it; a dashed line lowers the
    metric.

    Args:
        path: as for draw_sender_map.

    Raises:
        DrawingError: another suffix.
    """
    return style.render(lambda: _circuit(thing), path)


def _sender_map(thing: SenderMap, cmap: str) -> Figure:
    grid = np.column_stack((thing.heads, thing.mlps))  # (L, nh + 1)
    L, columns = grid.shape
    height, width = float(np.clip(CELL * L, *HEIGHT)), float(np.clip(CELL * columns, *WIDTH))
    whole = max(6.5, width + 2.6)
    heading = style.wrapped(thing.title, int(whole * CHARACTERS_PER_INCH))
    figure = style.new_figure(whole, height + style.TITLE_LINE * (heading.count("\n") + 1) + 0.9)
    axes = figure.subplots()
    axes.patch.set(facecolor="white", hatch=NO_PATH, edgecolor="0.7")
    norm = _centred(grid - thing.base, thing.base)
    image = axes.matshow(grid, aspect="auto", cmap=cmap, norm=norm)
    axes.xaxis.set_ticks_position("bottom")
    step = math.ceil((columns - 1) / (width / 0.25))
    ticks = [*range(0, columns - 1, step), columns - 1]
    axes.set_xticks(ticks, [*map(str, ticks[:-1]), "MLP"], fontsize=8)
    axes.axvline(columns - 1.5, color="black", linewidth=0.8)
    axes.set_yticks(range(0, L, math.ceil(L / style.MOST_LAYERS)))
    is_hatched = bool(np.isnan(grid).any())
    said = ["sender: head" + ("; hatched: no path" if is_hatched else "")]
    said += ["framed: the layer and head of a receiver"] * bool(thing.receivers)
    axes.set_xlabel(style.wrapped(["; ".join(said)], int((width + 1.5) * 14)), fontsize=9)
    axes.set_ylabel("layer")
    axes.set_title(heading, fontsize=9, loc="left")
    for layer, head in thing.receivers:
        column = columns - 1 if head is None else head
        axes.add_patch(
            Rectangle((column - 0.46, layer - 0.46), 0.92, 0.92, fill=False, linewidth=1.4)
        )
    bar = figure.colorbar(image, ax=axes, pad=0.12 if thing.has_percent else 0.02, aspect=25)
    bar.set_label(style.beside([thing.caption], height + 1), fontsize=9)
    if thing.has_percent:
        _percent_beside(bar.ax, thing.base)
    return figure


def _percent_beside(axes: Axes, base: float) -> None:
    """Write the percent change on the left of a colour bar of values.

    For a negative base, a higher value is a lower percentage.
    """

    def percent(value: Any) -> Any:
        return 100 * (value - base) / base

    def of_percent(change: Any) -> Any:
        return base * (1 + change / 100)

    beside = axes.secondary_yaxis("left", functions=(percent, of_percent))
    beside.tick_params(labelsize=8)
    beside.set_ylabel("change in % of the unpatched run", fontsize=8)


def _edge_matrix(thing: EdgeMatrix, cmap: str) -> Figure:
    width, height = MATRIX
    heading = style.wrapped(thing.title, int(width * CHARACTERS_PER_INCH))
    figure = style.new_figure(width, height + style.TITLE_LINE * (heading.count("\n") + 1))
    axes = figure.subplots()
    axes.patch.set(facecolor="0.92")
    sizes = np.abs(thing.effects[np.isfinite(thing.effects)])
    # Of thousands of edges a few are so strong that all others would be white.
    reach = float(np.percentile(sizes, SPANNED)) if sizes.size > MANY else 0.0
    norm = _centred(thing.effects, 0.0)
    extend, remark = "neither", ""
    if 0 < reach < sizes.max():
        norm, extend = colors.CenteredNorm(0.0, halfrange=reach), "both"
        remark = f"; colours end at the {SPANNED:g}th percentile, {reach:.3g}"
    image = axes.matshow(
        thing.effects, aspect="auto", cmap=cmap, norm=norm, interpolation="nearest"
    )
    axes.xaxis.set_ticks_position("bottom")
    rows, columns = thing.effects.shape
    for places, size, set_ticks, line in (
        (thing.columns, columns, axes.set_xticks, axes.axvline),
        (thing.rows, rows, axes.set_yticks, axes.axhline),
    ):
        ends = [*list(places)[1:], size]
        middles = [(first + end - 1) / 2 for first, end in zip(places, ends, strict=True)]
        set_ticks(middles, [*places.values()], fontsize=8)
        for place in places:
            line(place - 0.5, color="0.6", linewidth=0.4)
    for label in axes.get_xticklabels():
        label.set(rotation=60, ha="right", rotation_mode="anchor")
    axes.set(
        xlabel="receiver ("
        + (f"of each layer: {thing.within}; " if thing.within else "")
        + "grey: no path)",
        ylabel="sender (of each layer: its heads, then its MLP)",
    )
    axes.set_title(heading, fontsize=9, loc="left")
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30, extend=extend)
    bar.set_label(style.beside([thing.caption + remark], height))
    return figure


def _circuit(thing: Circuit) -> Figure:
    layers = sorted({node.layer for node in thing.nodes})
    row = {layer: number for number, layer in enumerate(layers)}
    at = {node.name: (node.column, row[node.layer]) for node in thing.nodes}
    width = max(CIRCUIT_WIDTH[0], CIRCUIT_WIDTH[1] * (thing.columns + 2))
    heading = style.wrapped(thing.title, int(width * CHARACTERS_PER_INCH))
    height = max(2.5, LAYER * len(layers)) + 0.8
    figure = style.new_figure(width, height + style.TITLE_LINE * (heading.count("\n") + 1))
    axes = figure.subplots()
    inches = {name: (x * width / (thing.columns + 1), y * LAYER) for name, (x, y) in at.items()}
    most = max((abs(effect) for *_, effect in thing.edges), default=0.0) or 1.0
    for sender, receiver, kind, effect in reversed(thing.edges):  # the strongest on top
        axes.add_patch(
            FancyArrowPatch(
                at[sender], at[receiver], arrowstyle="-|>", mutation_scale=9,
                shrinkA=9, shrinkB=9, color=KIND_COLOURS[kind], alpha=0.85,
                linestyle="-" if effect > 0 else (0, (3, 2)),
                linewidth=LINES[0] + (LINES[1] - LINES[0]) * abs(effect) / most,
                connectionstyle=f"arc3,rad={_bend(sender, receiver, kind, inches)}",
            )
        )  # fmt: skip
    for name, (x, y) in at.items():
        axes.text(
            x, y, name, ha="center", va="center", fontsize=8, zorder=3,
            bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "0.3"},
        )  # fmt: skip
    axes.set(xlim=(-1, thing.columns), ylim=(-0.6, len(layers) - 0.4))
    axes.set_axis_off()
    axes.set_title(heading, fontsize=9, loc="left")
    axes.legend(
        handles=_circuit_legend(thing.edges), fontsize=8, loc="upper center",
        bbox_to_anchor=(0.5, 0.0), ncols=5, frameon=False,
        title=style.wrapped([thing.caption], int(width * 11)), title_fontsize=8,
    )  # fmt: skip
    return figure


def _bend(sender: str, receiver: str, kind: str, at: Mapping[str, tuple[float, float]]) -> float:
    """Return the curvature of a line, as matplotlib's arc3 takes it.

    A line that spans several layers bends. Lines into q, k and v of one head bend differently, so
    that they do not lie on each other. A line that would pass behind a third node bends more or
    less; the first of TURNS that passes none is taken, or no turn if each passes one.

    Args:
        at: the place of every node, in inches.
    """
    a, b = np.array(at[sender]), np.array(at[receiver])
    usual = {"q": 0.0, "k": 0.07, "v": -0.07, "": 0.0}[kind]
    if abs(b[1] - a[1]) > LAYER:
        usual += 0.18 * (-1 if a[0] > b[0] else 1)
    others = np.array([place for name, place in at.items() if name not in (sender, receiver)])
    for turn in TURNS:
        points = _arc(a, b, usual + turn)  # (P, 2)
        away = np.abs(points[:, None] - others.reshape(-1, 2)) > BOX  # (P, nodes, 2)
        if away.any(axis=-1).all():
            return usual + turn
    return usual


def _arc(a: np.ndarray, b: np.ndarray, bend: float) -> np.ndarray:
    """Return points (P, 2) of matplotlib's arc3 from a to b: a quadratic Bezier curve.

    Its control point lies beside the middle of a and b, `bend` times their distance away.
    """
    along = b - a
    control = (a + b) / 2 + bend * np.array([along[1], -along[0]])
    t = np.linspace(0, 1, 100)[:, None]
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * control + t**2 * b


def _circuit_legend(edges: Sequence[tuple[str, str, str, float]]) -> list[Line2D]:
    """Return a sample of each kind of line that occurs."""
    names = {"q": "into queries", "k": "into keys", "v": "into values", "": "into MLP or logits"}
    kinds = [kind for kind in names if any(edge[2] == kind for edge in edges)]
    found = [Line2D([], [], color=KIND_COLOURS[kind], label=names[kind]) for kind in kinds]
    if any(edge[3] < 0 for edge in edges):
        found.append(Line2D([], [], color="0.35", linestyle=(0, (3, 2)), label="lowers the metric"))
    return found


def _centred(changes: np.ndarray, centre: float) -> colors.CenteredNorm:
    """Return a scale around `centre` that reaches the largest change (NaN left out)."""
    return colors.CenteredNorm(
        centre, halfrange=float(np.nanmax(np.abs(changes), initial=0.0)) or 1.0
    )
