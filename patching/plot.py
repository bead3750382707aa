"""The heatmap of a sweep, as a figure for a report.

Drawn on matplotlib's Agg canvas and without pyplot: no window, no global state,
and a second less to import.
"""

from __future__ import annotations

import textwrap
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font

from mingpt.files import replacing
from patching.errors import DrawingError
from patching.metrics import METRICS, Metric
from patching.result import SweepResult
from patching.text import escaped, shortened, visible

FORMATS = ("png", "svg", "pdf")
FONT = "DejaVu Sans"  # matplotlib brings it along, so figures look the same everywhere
DOTS_PER_INCH = 150
MOST_SLANTED_LABELS = 25  # tokens; more of them stand upright, where there is less room
LONGEST_LABEL = 24  # characters of a token under its column
LONGEST_PROMPT = 300  # characters of a prompt in the title
CELL_WIDTH = (0.2, 0.55)  # inches: at 60 tokens and more, at 5 and fewer


def heatmap(
    result: SweepResult,
    path: str | Path,
    *,
    cmap: str | None = None,
    title: str | None = None,
) -> Path:
    """Draw a sweep: rows are layers (0 on top), columns are tokens.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF.
        cmap: a matplotlib colour map; by default viridis, and for a metric
            that has a neutral value a diverging one with its centre there.
        title: in place of "Activation patching ..." with model and prompts.

    Returns:
        `path`.

    Raises:
        DrawingError: another suffix, or no such colour map.
    """
    path = Path(path)
    check_format(path.suffix.removeprefix("."))
    check_cmap(cmap)
    # Dollar signs in prompts are dollar signs, and the bytes depend on the result alone.
    settings = {
        "text.parse_math": False,
        "text.usetex": False,
        "font.family": FONT,
        "svg.hashsalt": "patching",
    }
    with matplotlib.rc_context(settings):
        figure = _draw(result, cmap, title)
        dateless = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
        with replacing(path) as temporary:
            figure.savefig(
                temporary,
                dpi=DOTS_PER_INCH,
                format=path.suffix.removeprefix(".").lower(),
                metadata=dateless[path.suffix.removeprefix(".").lower()],
            )
    return path


def check_format(name: str) -> None:
    """Raises DrawingError unless `name` is a format that `heatmap` writes."""
    if name.lower() not in FORMATS:
        raise DrawingError(f"no figure format {name!r}; there are {', '.join(FORMATS)}")


def check_cmap(name: str | None) -> None:
    """Raises DrawingError unless `name` is a colour map (or None, the default)."""
    if name is not None and name not in matplotlib.colormaps:
        raise DrawingError(
            f"no colour map {name!r}; a few that there are: viridis, magma, RdBu, coolwarm"
        )


def _draw(result: SweepResult, cmap: str | None, title: str | None) -> Figure:
    values = result.values
    n_layer, T = values.shape
    metric = METRICS[result.metric]
    cell = float(np.interp(T, (5, 60), CELL_WIDTH[::-1]))  # inches
    labels = [shortened(label, 2 * LONGEST_LABEL) for label in _column_labels(result)]
    height = float(np.clip(cell * n_layer, 2.2, 12))
    width = max(6.5, cell * T + 2.2)
    heading = _title(result, int(width * 13)) if title is None else escaped(title, _has_glyph)
    below = 0.085 * max(map(len, labels)) + 0.5
    above = 0.17 * (heading.count("\n") + 1) + 0.3
    figure = Figure(figsize=(width, height + below + above), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.patch.set(facecolor="white", hatch="////", edgecolor="0.7")  # shows where there is NaN
    image = axes.matshow(
        values,
        aspect="auto",
        cmap=cmap or ("viridis" if metric.neutral is None else "RdBu"),
        norm=_norm(values, metric),
    )
    axes.xaxis.set_ticks_position("bottom")
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    style = slanted if T <= MOST_SLANTED_LABELS else {"rotation": 90}
    axes.set_xticks(range(T), labels, fontsize=9, **style)
    for position in result.pair.differing:
        axes.get_xticklabels()[position].set_fontweight("bold")
    step = -(-n_layer // 24)  # at most 24 labels, evenly
    axes.set_yticks(range(0, n_layer, step))
    hatched = "; hatched: not patched" if np.isnan(values).any() else ""
    axes.set_xlabel(f"token (clean / corrupt where they differ){hatched}")
    axes.set_ylabel("layer")
    axes.set_title(heading, fontsize=9, loc="left")
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=25)
    words = escaped(metric.words(result.pair), _has_glyph).replace("( ", "(\0")  # no break there
    wrapped = textwrap.wrap(words, int(11 * (height + below)))
    bar.set_label("\n".join(wrapped).replace("\0", " "))
    return figure


def _norm(values: np.ndarray, metric: Metric) -> colors.Normalize | None:
    if metric.neutral is None:
        return None
    reach = float(np.nanmax(np.abs(values - metric.neutral)))
    return colors.CenteredNorm(metric.neutral, halfrange=reach or 1.0)


def _column_labels(result: SweepResult) -> list[str]:
    labels = []
    for clean, corrupt in zip(result.pair.clean_tokens, result.pair.corrupt_tokens, strict=True):
        both = [clean] if clean == corrupt else [clean, corrupt]
        parts = [shortened(visible(token, _has_glyph), LONGEST_LABEL) for token in both]
        labels.append(" / ".join(parts))
    return labels


def _title(result: SweepResult, columns: int) -> str:
    """What was done, by which model, to which prompts; wrapped to `columns`."""
    lines = [f"Activation patching of resid_post, clean into corrupt; model {result.model_name}"]
    lines += result.notes
    for name in ("clean", "corrupt"):
        text = getattr(result.pair, f"{name}_text")
        lines.append(f"{name}: {shortened(text, LONGEST_PROMPT)}")
    return "\n".join(
        wrapped for line in lines for wrapped in textwrap.wrap(escaped(line, _has_glyph), columns)
    )


def _has_glyph(char: str) -> bool:
    return ord(char) in _glyphs()


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(findfont(FONT)).get_charmap())
