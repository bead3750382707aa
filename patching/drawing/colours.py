"""Give the cells of a heatmap their colours: the range, its centre, and the colour bar.

A colour bar shows by name where reference values lie, such as those of the unpatched runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from patching.errors import DrawingError

# matplotlib's colour maps whose middle means "neither". Each has a reversed form, NAME_r.
DIVERGING = (
    "PiYG", "PRGn", "BrBG", "PuOr", "RdGy", "RdBu", "RdYlBu", "RdYlGn", "Spectral",
    "coolwarm", "bwr", "seismic", "berlin", "managua", "vanimo",
)  # fmt: skip
CLOSEST_MARKS = 0.16  # inches between two names beside a colour bar
MARK_FONT = 7.5  # points


@dataclass(frozen=True)
class Scale:
    """The range of values that the colours cover."""

    low: float
    high: float
    centre: float | None = None  # the value of a diverging map's middle colour
    marks: tuple[tuple[str, float], ...] = ()  # (name, value): shown at the colour bar
    remark: str = ""  # how the range was chosen, if a reader could expect another

    @property
    def norm(self) -> colors.Normalize:
        """The normalisation of matplotlib; around a centre, both sides reach equally far."""
        if self.centre is None:
            return colors.Normalize(self.low, self.high)
        reach = max(abs(self.low - self.centre), abs(self.high - self.centre))
        return colors.CenteredNorm(self.centre, halfrange=reach or 1.0)

    def extended(self, values: Sequence[np.ndarray]) -> str:
        """Return which ends of the colour bar some values lie beyond: matplotlib's `extend`."""
        norm = self.norm
        low, high = (math.inf if end is None else end for end in (norm.vmin, norm.vmax))
        below = any(bool((grid < low).any()) for grid in values)
        above = any(bool((grid > high).any()) for grid in values)
        return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(
            (below, above), "both"
        )


def check_range(vmin: float | None, vmax: float | None) -> None:
    """Raise DrawingError unless each end is a finite number or None, and vmin is below vmax."""
    for name, end in (("vmin", vmin), ("vmax", vmax)):
        if end is not None and not math.isfinite(end):
            raise DrawingError(f"{name} must be a finite number, not {end}")
    if vmin is not None and vmax is not None and not vmin < vmax:
        raise DrawingError(f"vmin ({vmin:g}) must be below vmax ({vmax:g})")


def is_diverging(cmap: str) -> bool:
    """Return True if the middle of a colour map means "neither"."""
    return cmap.removesuffix("_r") in DIVERGING


def ink(cmap: str, fraction: float) -> str:
    """Return "black" or "white": which can be read on a colour of the map.

    Args:
        fraction: the place in the colour map, from 0 to 1.
    """
    red, green, blue, _ = matplotlib.colormaps[cmap](fraction)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"


def draw_bar(
    figure: Figure,
    image: ScalarMappable,
    axes: Axes | np.ndarray,
    *,
    label: str,
    scale: Scale,
    extend: str,
    thin: float,
    inches: float,
) -> None:
    """Draw a colour bar, with a line and a name on its left for each of the scale's marks.

    Args:
        axes: the panels that the bar stands beside.
        label: of the bar, on its right.
        extend: the ends beyond which there are values; see `Scale.extended`.
        thin: the bar's height over its width.
        inches: the bar's height; names closer than CLOSEST_MARKS share a place.
    """
    marks = [mark for mark in scale.marks if _is_on(scale, mark[1])]
    bar = figure.colorbar(image, ax=axes, pad=0.05 if marks else 0.02, aspect=thin, extend=extend)
    bar.set_label(label)
    if not marks:
        return
    norm = scale.norm
    span = float(norm.vmax - norm.vmin) if norm.vmax is not None and norm.vmin is not None else 0
    for _, value in marks:
        bar.ax.axhline(value, color="white", linewidth=2.4)
        bar.ax.axhline(value, color="black", linewidth=1.0)
    places = _apart(marks, CLOSEST_MARKS * span / inches)
    beside = bar.ax.secondary_yaxis("left")
    beside.set_yticks([value for _, value in places], [name for name, _ in places])
    beside.tick_params(labelsize=MARK_FONT, length=2, pad=1)


def _is_on(scale: Scale, value: float) -> bool:
    norm = scale.norm
    return norm.vmin is not None and norm.vmax is not None and norm.vmin <= value <= norm.vmax


def _apart(marks: Sequence[tuple[str, float]], least: float) -> list[tuple[str, float]]:
    """Return the marks; those less than `least` apart share one place, the higher one on top."""
    places: list[tuple[str, float]] = []
    for name, value in sorted(marks, key=lambda mark: mark[1]):
        if places and value - places[-1][1] < least:
            below, at = places[-1]
            places[-1] = (f"{name}\n{below}", (at + value) / 2)
        else:
            places.append((name, value))
    return places
