"""The figures of an explanation, drawn from plain values.

Each draw_* function takes the file to write (`path`; the suffix chooses PNG, SVG or PDF,
None writes nothing), a matplotlib colour map (`cmap`) and a `title` that replaces heading,
model and prompt. It returns the figure, and raises DrawingError for another suffix or an
unknown colour map.

In every figure a positive number favours the target and a negative one the foil. Where
colours show the sign, blue favours the target and red the foil.

Shapes: T tokens, L layers, nh heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from patching.drawing import style
from patching.drawing.colours import ink
from patching.text import model_label, shortened

NARROWEST = 6.5  # inches: least width of a figure
LONGEST_ANSWER = 18  # characters of target and foil
ROW_HEIGHT, LEAST_HEIGHT, MOST_HEIGHT = 0.3, 2.0, 12.0  # inches: of a layer; of all layers
SQUARE = 13.0  # inches of the ALTI heatmap at most
BARS, TRAJECTORY = 2.6, 2.6  # inches: height of the tokens' bars; of the lens's lower panel
LINE, EDGE = 0.16, 1.6  # inches: height of a line of text; width of the margins
FOR_TARGET, FOR_FOIL = "#2166ac", "#b2182b"  # the ends of RdBu
# The lens's cells: inches of a column and of a row.
LENS_CELL = (0.66, 0.26)  # horizontal text
UPRIGHT_LENS_CELL = (0.19, 0.68)  # upright text
WIDEST_LENS = 14.0  # inches; where more are needed, the text is upright
LENS_FONT = 6.5  # points
MOST_LENS_TOKENS = 200  # with more tokens, the cells have no text


@dataclass(frozen=True)
class Choice:
    """The prompt, its two next tokens and the model, which every figure names."""

    prompt: str
    tokens: tuple[str, ...]  # (T,) of the prompt
    target: str
    foil: str
    model_name: str
    notes: tuple[str, ...] = ()  # remarks for the reader, a line each

    @property
    def difference(self) -> str:
        """The logit difference in words: logit(target) - logit(foil)."""
        return f"logit({_answer(self.target)}) - logit({_answer(self.foil)})"

    @property
    def signs(self) -> tuple[str, str]:
        """The words for a positive and for a negative number: which token it favours."""
        return f"> 0 favours {_answer(self.target)}", f"< 0 favours {_answer(self.foil)}"

    @property
    def labels(self) -> list[str]:
        """The prompt's tokens as an axis shows them."""
        return [style.token_label(token) for token in self.tokens]

    @property
    def width(self) -> float:
        """Inches of the prompt's tokens side by side."""
        T = len(self.tokens)
        return min(float(np.interp(T, *style.CELL_WIDTH)) * T, style.WIDEST)


def _answer(token: str) -> str:
    return style.token_label(token, LONGEST_ANSWER)


@dataclass(frozen=True)
class TokenShares:
    """The share of each token of the prompt in each position."""

    choice: Choice
    heading: str
    shares: np.ndarray  # (T, T): position, token


@dataclass(frozen=True)
class TokenBars:
    """The contribution of each token to the logit difference."""

    choice: Choice
    heading: str
    values: np.ndarray  # (T,) in logits
    caption: str


@dataclass(frozen=True)
class TokensByLayer:
    """The contribution of each token, or position, to the logit difference, by layer."""

    choice: Choice
    heading: str
    values: np.ndarray  # (L, T) in logits
    name: str  # of the method
    columns: str  # what a column is
    caption: str


@dataclass(frozen=True)
class LensPredictions:
    """The likeliest next token and the logit difference after each layer."""

    choice: Choice
    heading: str
    tokens: Sequence[Sequence[str]]  # (L, T)
    probabilities: np.ndarray  # (L, T)
    trajectory: np.ndarray  # (L + 1,) the difference; first: from the embeddings
    attention: np.ndarray  # (L,) what each attention adds by itself, with its bias
    mlp: np.ndarray  # (L,) what each MLP adds by itself
    caption: str


@dataclass(frozen=True)
class DirectParts:
    """The direct contribution of each head and each MLP to the logit difference."""

    choice: Choice
    heading: str
    heads: np.ndarray  # (L, nh) in logits
    mlp: np.ndarray  # (L,) in logits
    caption: str


# --------------------------------------------------------------------- figures


def draw_shares(
    thing: TokenShares,
    path: str | Path | None = None,
    *,
    cmap: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a heatmap: rows are positions, columns tokens."""
    style.check_cmap(cmap)
    return style.render(lambda: _shares(thing, cmap or "Blues", title), path)


def draw_bars(
    thing: TokenBars, path: str | Path | None = None, *, title: str | None = None
) -> Figure:
    """Draw a bar for each token, divided by the sum of all absolute values."""
    return style.render(lambda: _bars(thing, title), path)


def draw_layers(
    thing: TokensByLayer,
    path: str | Path | None = None,
    *,
    cmap: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a heatmap: rows are layers (0 on top), columns tokens or positions."""
    style.check_cmap(cmap)
    return style.render(lambda: _layers(thing, cmap or "RdBu", title), path)


def draw_lens(
    thing: LensPredictions,
    path: str | Path | None = None,
    *,
    cmap: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a heatmap of the logit lens's predictions, and below it the logit difference."""
    style.check_cmap(cmap)
    return style.render(lambda: _lens(thing, cmap or "viridis", title), path)


def draw_direct(
    thing: DirectParts,
    path: str | Path | None = None,
    *,
    cmap: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a heatmap of the heads (rows are layers), and beside it a bar for each MLP."""
    style.check_cmap(cmap)
    return style.render(lambda: _direct(thing, cmap or "RdBu", title), path)


def _shares(thing: TokenShares, cmap: str, title: str | None) -> Figure:
    choice, T = thing.choice, len(thing.choice.tokens)
    labels = choice.labels
    side = float(np.clip(np.interp(T, *style.CELL_WIDTH) * T, LEAST_HEIGHT, SQUARE))
    around = side + style.label_height(labels)
    figure, head = _new_figure(choice, thing.heading, title, around, around)
    axes = figure.subplots()
    later = np.triu(np.ones((T, T), dtype=bool), 1)
    shares = np.ma.masked_array(thing.shares, later)
    # A share of 1 (row 0: its own token) and shares of 0.02 must both be seen, so the colours
    # follow the square root.
    norm = colors.PowerNorm(0.5, vmin=0, vmax=1)
    image = axes.matshow(shares, aspect="auto", cmap=cmap, norm=norm)
    size = 9 if T <= style.MOST_SLANTED_LABELS else 7
    axes.xaxis.set_ticks_position("bottom")
    _label_tokens(axes, labels, side, size)
    shown = [label.get_text() for label in axes.get_xticklabels()]
    axes.set_yticks(axes.get_xticks(), shown, fontsize=size)
    axes.set(xlabel="token of the prompt (blank: later than the position)")
    axes.set_ylabel("position, named by its token")
    axes.set_title(head, fontsize=9, loc="left", pad=9)
    ticks = [0, 0.05, 0.2, 0.4, 0.6, 0.8, 1]
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=25, ticks=ticks)
    words = ["share of the token in the position", "(darker: more; square-root scale)"]
    bar.set_label(style.beside(words, side))
    return figure


def _bars(thing: TokenBars, title: str | None) -> Figure:
    choice, labels = thing.choice, thing.choice.labels
    height = BARS + style.label_height(labels)
    figure, head = _new_figure(choice, thing.heading, title, choice.width, height, thing.caption)
    axes = figure.subplots()
    shares = thing.values / (np.abs(thing.values).sum() or 1)
    axes.bar(range(len(shares)), shares, color=_sign_colours(shares))
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlim(-0.6, len(shares) - 0.4)
    _label_tokens(axes, labels, choice.width)
    axes.set_ylabel(style.beside(["share of the absolute sum", *choice.signs], BARS))
    axes.set_title(head, fontsize=9, loc="left", pad=9)
    return figure


def _layers(thing: TokensByLayer, cmap: str, title: str | None) -> Figure:
    choice, labels, L = thing.choice, thing.choice.labels, len(thing.values)
    height = float(np.clip(ROW_HEIGHT * L, LEAST_HEIGHT, MOST_HEIGHT))
    whole = height + style.label_height(labels)
    figure, head = _new_figure(choice, thing.heading, title, choice.width, whole, thing.caption)
    axes = figure.subplots()
    norm = _centred(thing.values)
    image = axes.matshow(thing.values, aspect="auto", cmap=cmap, norm=norm)
    axes.xaxis.set_ticks_position("bottom")
    _label_tokens(axes, labels, choice.width)
    _label_layers(axes, L)
    axes.set_xlabel(thing.columns)
    axes.set_title(head, fontsize=9, loc="left", pad=9)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=25)
    bar.set_label(style.beside([f"{thing.name}, in logits", *choice.signs], height))
    return figure


def _lens(thing: LensPredictions, cmap: str, title: str | None) -> Figure:
    choice, labels = thing.choice, thing.choice.labels
    L, T = thing.probabilities.shape
    is_upright = LENS_CELL[0] * T > WIDEST_LENS
    column, row = UPRIGHT_LENS_CELL if is_upright else LENS_CELL
    has_text = T <= MOST_LENS_TOKENS and row * L <= style.WIDEST
    rows = row * L if has_text else min(ROW_HEIGHT * L, MOST_HEIGHT)
    height = max(rows, LEAST_HEIGHT) + style.label_height(labels)
    width = min(column * T, style.WIDEST)
    caption = thing.caption
    if not has_text:
        caption += " There are too many cells to write their tokens; the result has them."
    figure, head = _new_figure(choice, thing.heading, title, width, height + 3.0, caption)
    upper, lower = figure.subplots(2, 1, height_ratios=[height, TRAJECTORY])
    image = upper.matshow(thing.probabilities, aspect="auto", cmap=cmap, vmin=0, vmax=1)
    upper.xaxis.set_ticks_position("bottom")
    _label_tokens(upper, labels, width, 7 if is_upright else 9)
    _label_layers(upper, L)
    upper.set_xlabel("last token that was read")
    upper.set_title(head, fontsize=9, loc="left", pad=9)
    if has_text:
        _write_cells(upper, thing, cmap, is_upright)
    figure.colorbar(image, ax=upper, pad=0.02, aspect=25).set_label("probability of that token")
    _trajectory(lower, thing)
    return figure


def _write_cells(axes: Axes, thing: LensPredictions, cmap: str, is_upright: bool) -> None:
    """Write each predicted token into its cell, cut to fit, in black or white."""
    length = max(UPRIGHT_LENS_CELL if is_upright else LENS_CELL)  # inches
    room = 72 * 0.92 * length / LENS_FONT  # ems
    for (layer, position), probability in np.ndenumerate(thing.probabilities):
        label = style.fitted(style.token_label(thing.tokens[layer][position]), room)
        axes.text(
            position, layer, label, fontsize=LENS_FONT, ha="center", va="center",
            rotation=90 if is_upright else 0, color=ink(cmap, float(probability)),
        ).set_in_layout(False)  # fmt: skip


def _trajectory(axes: Axes, thing: LensPredictions) -> None:
    L = len(thing.mlp)
    layers = np.arange(L)
    axes.bar(layers - 0.2, thing.attention, 0.38, label="attention, with its bias", color="#7fbf7b")
    axes.bar(layers + 0.2, thing.mlp, 0.38, label="MLP", color="#af8dc3")
    step = math.ceil(L / style.MOST_LAYERS)
    axes.plot(
        [-step, *layers], thing.trajectory, "o-", color="black", markersize=3, linewidth=1,
        label="lens",
    )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks([-step, *layers[::step]], ["emb.", *map(str, layers[::step])])
    axes.set_xlim(-step - 0.6, L - 0.4)
    axes.set_xlabel("layer")
    axes.set_ylabel(style.beside([thing.choice.difference], 2.8))
    # Above the axes: inside, it could hide bars.
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, fontsize=8, ncols=3,
        frameon=False,
    )  # fmt: skip


def _direct(thing: DirectParts, cmap: str, title: str | None) -> Figure:
    choice, (L, nh) = thing.choice, thing.heads.shape
    height = float(np.clip(ROW_HEIGHT * L, LEAST_HEIGHT, MOST_HEIGHT))
    width = float(np.clip(0.33 * nh, 3, style.WIDEST))
    figure, head = _new_figure(choice, thing.heading, title, width + 3, height, thing.caption)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[width, 2])
    image = left.matshow(thing.heads, aspect="auto", cmap=cmap, norm=_centred(thing.heads))
    left.xaxis.set_ticks_position("bottom")
    left.set_xticks(range(0, nh, math.ceil(nh / 25)))
    left.set_xlabel("head")
    _label_layers(left, L)
    right.barh(range(L), thing.mlp, color=_sign_colours(thing.mlp))
    right.axvline(0, color="black", linewidth=0.8)
    right.set_xlabel("MLP, in logits")
    right.tick_params(labelleft=True, labelsize=8)
    left.set_title(head, fontsize=9, loc="left", pad=9)
    bar = figure.colorbar(image, ax=left, pad=0.02, aspect=25)
    bar.set_label(style.beside(["head, in logits", *choice.signs], height))
    return figure


# --------------------------------------------------------------------- shared


def _new_figure(
    choice: Choice, heading: str, title: str | None, width: float, height: float, caption: str = ""
) -> tuple[Figure, str]:
    """Return a figure with room for title and caption (drawn below), and the title's text.

    Args:
        choice: names the model and the prompt under the heading.
        heading: the title's first line.
        title: replaces all lines of the title.
        width: inches of the axes.
        height: inches of the axes and their labels.
        caption: text under the axes.
    """
    width = max(NARROWEST, width + EDGE)
    prompt = f"prompt: {shortened(choice.prompt, style.LONGEST_PROMPT)}"
    lines = [heading, *choice.notes, f"model {model_label(choice.model_name)}; {prompt}"]
    head = style.wrapped(lines if title is None else [title, *choice.notes], int(width * 13))
    caption = style.wrapped([caption], int(width * 14))
    count = head.count("\n") + 1 + (caption.count("\n") + 2 if caption else 0)
    figure = style.new_figure(width, height + LINE * count + 0.5)
    if caption:
        figure.supxlabel(caption, fontsize=8, x=0.01, ha="left")
    return figure, head


def _label_tokens(axes: Axes, labels: list[str], inches: float, size: int = 9) -> None:
    """Write tokens under axes that are `inches` wide; label every n-th if they are many."""
    style.label_tokens(axes, labels, size, inches)


def _label_layers(axes: Axes, L: int) -> None:
    axes.set_yticks(range(0, L, math.ceil(L / style.MOST_LAYERS)))
    axes.set_ylabel("layer")


def _sign_colours(values: np.ndarray) -> list[str]:
    return [FOR_TARGET if value >= 0 else FOR_FOIL for value in values]


def _centred(values: np.ndarray) -> colors.Normalize:
    return colors.CenteredNorm(0, halfrange=float(np.abs(values).max()) or 1.0)
