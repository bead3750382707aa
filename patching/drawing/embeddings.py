"""Figures of embeddings, from plain values: positions, and a map of words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from patching.drawing import style
from patching.drawing.colours import DIVERGING

WIDTH, HEIGHT = 9.0, 4.3  # inches of the positions' figure
SIDE = 6.5  # inches of the map
CHARACTERS_PER_INCH = 13  # of the title


@dataclass(frozen=True, eq=False)
class Positions:
    """The similarity of position embeddings, and the positions along their components."""

    cosine: np.ndarray  # (P, P)
    components: np.ndarray  # (P, k)
    explained: tuple[float, ...]  # (k,) shares of the variance
    title: tuple[str, ...]  # lines


@dataclass(frozen=True, eq=False)
class WordMap:
    """Words at their first two principal components."""

    words: tuple[str, ...]
    points: np.ndarray  # (W, 2)
    explained: tuple[float, ...]
    title: tuple[str, ...]  # lines


def draw_positions(
    thing: Positions, path: str | Path | None = None, *, cmap: str | None = None
) -> Figure:
    """Draw a heatmap of the cosines, and beside it a curve for each component.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        cmap: a matplotlib colour map; by default RdBu, centred on 0.

    Raises:
        DrawingError: another suffix, or no such colour map.
    """
    style.check_cmap(cmap)
    return style.render(lambda: _positions(thing, cmap or DIVERGING[5]), path)


def draw_words(thing: WordMap, path: str | Path | None = None) -> Figure:
    """Draw each word at its two coordinates; arguments and errors as of draw_positions."""
    return style.render(lambda: _words(thing), path)


def _positions(thing: Positions, cmap: str) -> Figure:
    heading = style.wrapped(thing.title, int(WIDTH * CHARACTERS_PER_INCH))
    figure = style.new_figure(WIDTH, HEIGHT + style.TITLE_LINE * heading.count("\n"))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    image = left.matshow(thing.cosine, cmap=cmap, vmin=-1, vmax=1)
    left.xaxis.set_ticks_position("bottom")
    left.set(xlabel="position", ylabel="position")
    left.set_title("cosine similarity", fontsize=9)
    figure.colorbar(image, ax=left, pad=0.02, aspect=25)
    for number, share in enumerate(thing.explained):
        label = f"component {number + 1} ({share:.0%} of the variance)"
        right.plot(thing.components[:, number], label=label, linewidth=1.2)
    right.axhline(0, color="0.7", linewidth=0.8)
    right.set_xlabel("position")
    right.set_title("principal components", fontsize=9)
    right.legend(fontsize=8)
    figure.suptitle(heading, fontsize=9, x=0.01, ha="left")
    return figure


def _words(thing: WordMap) -> Figure:
    heading = style.wrapped(thing.title, int(SIDE * CHARACTERS_PER_INCH))
    figure = style.new_figure(SIDE, SIDE - 0.6 + style.TITLE_LINE * heading.count("\n"))
    axes = figure.subplots()
    points = np.zeros((len(thing.words), 2))
    points[:, : thing.points.shape[1]] = thing.points  # of two words, one component
    axes.scatter(points[:, 0], points[:, 1], s=12, color="#2166ac")
    for (x, y), word in zip(points, thing.words, strict=True):
        axes.annotate(
            style.token_label(word), (x, y), xytext=(3, 3), textcoords="offset points", fontsize=8
        )
    shares = [*thing.explained, 0.0, 0.0]
    axes.set_xlabel(f"component 1 ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"component 2 ({shares[1]:.0%})")
    axes.margins(0.12)
    axes.set_title(heading, fontsize=9, loc="left")
    return figure
