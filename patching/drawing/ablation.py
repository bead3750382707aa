"""Figure of a head that is switched off, from plain values: parts before, after, and the change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from patching.drawing import style
from patching.drawing.explanation import Choice

ROW, COLUMN = 0.3, 0.3  # inches of a cell
UNCHANGED: dict[str, Any] = {
    "facecolor": "0.92",
    "edgecolor": "0.6",
    "hatch": "///",
    "linewidth": 0,
}
HEIGHT, WIDTH = (2.0, 5.0), (1.8, 5.0)  # inches of a panel, at least and at most


@dataclass(frozen=True, eq=False)
class AblatedParts:
    """What each head and each MLP adds, in two runs."""

    choice: Choice
    heading: str
    # Name -> (L, nh + 1): heads, then the MLP. The last one is the change.
    panels: tuple[tuple[str, np.ndarray], ...]
    head: tuple[int, int]  # that is switched off: framed
    caption: str


def draw_ablated(
    thing: AblatedParts,
    path: str | Path | None = None,
    *,
    cmap: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the panels side by side; return the figure. The last one has colours of its own.

    In the last one, parts before the head, which cannot change, are hatched.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        cmap: a matplotlib colour map; None: RdBu.
        title: in place of the heading, model and prompt.

    Raises:
        DrawingError: another suffix, or no such colour map.
    """
    style.check_cmap(cmap)
    return style.render(lambda: _panels(thing, cmap or "RdBu", title), path)


def _panels(thing: AblatedParts, cmap: str, title: str | None) -> Figure:
    choice, (L, columns) = thing.choice, thing.panels[0][1].shape
    height = float(np.clip(ROW * L, *HEIGHT))
    width = float(np.clip(COLUMN * columns, *WIDTH))
    whole = max(7.0, len(thing.panels) * (width + 0.4) + 2.4)
    lines = [thing.heading, *choice.notes, f"model {choice.model_name}; prompt: {choice.prompt}"]
    head = style.wrapped(lines if title is None else [title, *choice.notes], int(whole * 13))
    caption = style.wrapped([thing.caption], int(whole * 14))
    count = head.count("\n") + caption.count("\n") + 3
    figure = style.new_figure(whole, height + style.TITLE_LINE * count + 0.8)
    figure.supxlabel(caption, fontsize=8, x=0.01, ha="left")
    figure.suptitle(head, fontsize=9, x=0.01, ha="left")
    grid = figure.subplots(1, len(thing.panels), sharey=True, squeeze=False)[0]
    heads = columns - 1
    step = math.ceil(heads / (width / 0.25))
    runs = [values for _, values in thing.panels[:-1]]
    norms = [_centred(runs)] * len(runs) + [_centred([thing.panels[-1][1]])]
    images = []
    for axes, (name, values), norm in zip(grid, thing.panels, norms, strict=True):
        images.append(axes.matshow(values, aspect="auto", cmap=cmap, norm=norm))
        axes.xaxis.set_ticks_position("bottom")
        ticks = [*range(0, heads, step), heads]
        axes.set_xticks(ticks, [*map(str, ticks[:-1]), "MLP"], fontsize=8)
        axes.get_xticklabels()[-1].set_rotation(90)
        axes.axvline(heads - 0.5, color="black", linewidth=0.8)
        axes.set_yticks(range(0, L, math.ceil(L / style.MOST_LAYERS)))
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("head", fontsize=9)
        layer, off = thing.head
        axes.add_patch(
            Rectangle(
                (off - 0.5, layer - 0.5),
                1,
                1,
                fill=False,
                edgecolor="black",
                linewidth=1.6,
                zorder=3,
            )
        )
    _hatch(grid[-1], thing.head, heads)
    grid[0].set_ylabel("layer")
    for image, axes in ((images[0], grid[:-1]), (images[-1], grid[-1:])):
        bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=20)
        bar.ax.tick_params(labelsize=8)
    bar.set_label(style.beside(["in logits", *choice.signs], height))
    return figure


def _hatch(axes: Axes, head: tuple[int, int], heads: int) -> None:
    """Hatch the layers below the head's (heads and MLP), and the heads beside it."""
    layer, off = head
    for top, left, width, height in (
        (0, 0, heads + 1, layer),
        (layer, 0, off, 1),
        (layer, off + 1, heads - off - 1, 1),
    ):
        if width and height:
            axes.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **UNCHANGED))


def _centred(grids: Sequence[np.ndarray]) -> colors.Normalize:
    """Return a scale that is centred on 0 and reaches the largest number."""
    return colors.CenteredNorm(0, halfrange=max(float(np.abs(x).max()) for x in grids) or 1.0)
