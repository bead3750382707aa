"""Shared by all figures: fonts, formats, layout, and texts that the font can draw.

Figures are drawn on matplotlib's Agg canvas, without pyplot: no window, no global
state, and an import that is a second faster.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font

from mingpt.files import replacing
from patching.errors import DrawingError
from patching.text import escaped, shortened, visible

FORMATS = ("png", "svg", "pdf")
FONT = "DejaVu Sans"  # part of matplotlib, so figures look the same everywhere
DOTS_PER_INCH = 150
LONGEST_LABEL = 24  # characters of a token beside an axis
LONGEST_PROMPT = 300  # characters of a prompt in the title
MOST_SLANTED_LABELS = 25  # with more tokens, labels stand upright, to save width
CELL_WIDTH = ((5, 60), (0.55, 0.2))  # for 5 and for 60 columns: inches of a column
MOST_LAYERS = 24  # with a number each; of more layers, every n-th has one
WIDEST = 40.0  # inches of the axes of one panel: 6000 pixels
CLOSEST = 0.14  # inches between two tokens under an axis
TITLE_LINE = 0.17  # inches: height of a line in the title
ELLIPSIS = "\u2026"
# A dollar sign in a prompt starts no formula; equal figures give equal bytes.
SETTINGS: Any = {  # matplotlib's own type is a literal of all its options
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": FONT,
    "svg.hashsalt": "patching",
}
PIXELS = 64  # pixels of an em, when characters are measured
CHARACTERS_PER_INCH = 11  # of a label beside an axis, at most
INCHES_PER_CHARACTER = 0.085  # of an upright label, at most


def render(draw: Callable[[], Figure], path: str | Path | None = None) -> Figure:
    """Return the figure that `draw` makes, and write it to `path` if one is given.

    The same figure gives the same bytes.

    Args:
        draw: makes the figure; it is called with SETTINGS in force.
        path: its suffix chooses PNG, SVG or PDF; None writes nothing.

    Raises:
        DrawingError: another suffix.
    """
    if path is not None:
        check_format(Path(path).suffix.removeprefix("."))
    with matplotlib.rc_context(SETTINGS):
        figure = draw()
    if path is not None:
        save_figure(figure, path)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG, as Jupyter shows it."""
    stream = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(stream, dpi=DOTS_PER_INCH, format="png")
    return stream.getvalue()


def save_figure(figure: Figure, path: str | Path, results: Sequence[str] = ()) -> None:
    """Write a figure, and note in it which saved results it shows.

    Args:
        path: the suffix chooses PNG, SVG or PDF.
        results: the checksum of each result's .json (`saved_checksum`). The note is a PNG's
            or an SVG's Description, and a PDF's Subject.

    Raises:
        DrawingError: another suffix.
    """
    path = Path(path)
    suffix = path.suffix.removeprefix(".").lower()
    check_format(suffix)
    # Dates are left out, so that the same figure gives the same bytes.
    dated = {"svg": "Date", "pdf": "CreationDate"}
    metadata: dict[str, str | None] = {dated[suffix]: None} if suffix in dated else {}
    if results:
        words = f"shows the result with text_sha256 {', '.join(results)}"
        metadata["Subject" if suffix == "pdf" else "Description"] = words
    with replacing(path) as temporary, matplotlib.rc_context(SETTINGS):
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format=suffix, metadata=metadata)
        if suffix == "svg":
            _number_clip_paths(temporary)


def _number_clip_paths(path: Path) -> None:
    """Rename the clip paths of an SVG to clip1, clip2, ...

    matplotlib names them by a hash of their exact coordinates. For nested panels these
    differ in the last bits from run to run, and so would the bytes of the file.
    """
    text = path.read_text(encoding="utf-8")
    for number, name in enumerate(re.findall(r'<clipPath id="(\w+)">', text), 1):
        text = text.replace(f'"{name}"', f'"clip{number}"')
        text = text.replace(f"url(#{name})", f"url(#clip{number})")
    path.write_text(text, encoding="utf-8")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of the given size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_format(name: str) -> None:
    """Raise DrawingError unless `name` is a format that a figure can be written in."""
    if name.lower() not in FORMATS:
        raise DrawingError(f"no figure format {name!r}; there are {', '.join(FORMATS)}")


def check_cmap(name: str | None) -> None:
    """Raise DrawingError unless `name` is a colour map, or None for the default."""
    if name is not None and name not in matplotlib.colormaps:
        raise DrawingError(
            f"no colour map {name!r}; there are viridis, magma, RdBu, coolwarm and others"
        )


# --------------------------------------------------------------------- texts


def drawable(text: str) -> str:
    """Return `text` with an escape for every character that is unprintable or has no glyph."""
    return escaped(text, has_glyph)


def token_label(token: str, most: int = LONGEST_LABEL) -> str:
    """Return a token as it is written beside an axis, with visible leading spaces."""
    return shortened(visible(token, has_glyph), most)


def wrapped(lines: Iterable[str], columns: int) -> str:
    """Return lines wrapped to at most `columns` characters."""
    # No line ends between a bracket and a token with a space, such as "( Jones".
    parts = (drawable(line).replace("( ", "(\0") for line in lines)
    folded = "\n".join(fold for part in parts for fold in textwrap.wrap(part, columns))
    return folded.replace("\0", " ")


def beside(lines: Iterable[str], inches: float) -> str:
    """Return lines wrapped for the label of an axis or colour bar that is `inches` long."""
    return wrapped(lines, max(int(CHARACTERS_PER_INCH * inches), 12))


def label_tokens(
    axes: Axes, labels: Sequence[str], size: int, inches: float, bold: Sequence[int] = ()
) -> None:
    """Write tokens below the columns: slanted if they are few, upright if they are many.

    Args:
        size: of the font, in points.
        inches: width of the axes; where it is too narrow for all labels, every n-th column has
            one.
        bold: the columns whose labels are bold. They keep their labels while they are few.
    """
    step = max(1, math.ceil(len(labels) / (inches / CLOSEST)))
    columns = [*range(0, len(labels), step)]
    if step > 1 and len(bold) <= len(columns) / 4:
        near = {column for one in bold for column in range(one - step + 1, one + step)}
        columns = sorted({*columns} - near | {*bold})
    few = len(labels) <= MOST_SLANTED_LABELS and size > 7
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(
        columns, [labels[column] for column in columns], fontsize=size,
        **(slanted if few else {"rotation": 90}),
    )  # fmt: skip
    for column, label in zip(columns, axes.get_xticklabels(), strict=True):
        if column in bold:
            label.set_fontweight("bold")


def label_height(labels: Sequence[str]) -> float:
    """Return the height in inches of the tokens below the columns."""
    return INCHES_PER_CHARACTER * max(map(len, labels)) + 0.5


def fitted(text: str, most: float) -> str:
    """Return `text` cut, with an ellipsis, to a width of at most `most` ems."""
    if sum(map(_advance, text)) <= most:
        return text
    room = most - _advance(ELLIPSIS)
    for end, char in enumerate(text):
        room -= _advance(char)
        if room < 0:
            return text[:end] + ELLIPSIS
    return text


def has_glyph(char: str) -> bool:
    """Return True if the font can draw a character."""
    return ord(char) in _glyphs()


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    return frozenset(_font().get_charmap())


@lru_cache(maxsize=4096)
def _advance(char: str) -> float:
    """Return the width of a character, in ems."""
    return _font().load_char(ord(char)).linearHoriAdvance / 2**16 / PIXELS


@lru_cache(maxsize=1)
def _font() -> FT2Font:
    font = FT2Font(findfont(FONT))
    font.set_size(PIXELS, 72)  # at 72 dots per inch, a point is a pixel
    return font
