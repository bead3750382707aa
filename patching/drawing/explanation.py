"""The figures of an explanation.

Everywhere a positive number speaks for the target and a negative one for the
foil, and where colours part at nothing, blue is the target's and red the foil's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from patching.drawing import style
from patching.errors import DrawingError
from patching.explanation.request import FIGURES, figures_of
from patching.explanation.run import Explanation, minus_foil
from patching.text import shortened

NARROWEST, WIDEST = 6.5, 40.0  # inches of a figure; of its axes
CLOSEST = 0.14  # inches between two tokens under an axis
LONGEST_ANSWER = 18  # characters of target and foil
CELL_WIDTH = ((5, 60), (0.55, 0.2))  # tokens, and a column's inches at so many
ROW_HEIGHT, LEAST_HEIGHT, MOST_HEIGHT = 0.3, 2.0, 12.0  # inches, of layers
MOST_LAYERS = 24  # with a number each, evenly
SQUARE = 13.0  # inches of the ALTI heatmap at most
LINE, EDGE = 0.16, 1.6  # inches of a line of text, and of what stands around the axes
TOWARDS = {1: "#2166ac", -1: "#b2182b"}  # the ends of RdBu: for the target, for the foil
# The lens's cells, with lying and with upright text: inches of a column and of a row.
LENS_CELL = {False: (0.66, 0.26), True: (0.19, 0.68)}
WIDEST_LENS = 14.0  # inches; of more tokens the text stands upright
LENS_FONT = 6.5  # points
MOST_LENS_TOKENS = 200  # with text in their cells


def draw(
    explanation: Explanation,
    figure: str,
    path: str | Path,
    *,
    cmap: str | None = None,
    title: str | None = None,
) -> Path:
    """Draw one figure of an explanation of one prompt.

    Args:
        figure: "alti", the heatmap of what position is made of which tokens;
            "alti-logit" or "logit", what each token adds to the choice, and
            either with "-layers" the same block by block; "lens", what the
            model would say after each block; "direct", what each head and each
            MLP adds by itself.
        path: the file to write; its suffix chooses PNG, SVG or PDF.
        cmap: a matplotlib colour map, of heatmaps.
        title: in place of the figure's own.

    Returns:
        `path`.

    Raises:
        DrawingError: another suffix, no such figure or colour map, an
            explanation of several prompts, or without what is to be drawn.
    """
    style.check_cmap(cmap)
    known = figures_of(FIGURES)
    if figure not in known:
        raise DrawingError(f"no figure {figure!r}; there are {', '.join(known)}")
    if not explanation.is_single:
        raise DrawingError("several prompts: draw explanation.prompt(0), and so on")
    drawn = figures_of(explanation.methods)
    if figure not in drawn:
        raise DrawingError(f"nothing to draw {figure} from; there is {', '.join(drawn)}")
    sheet = _Sheet(explanation, figure, cmap, title)
    return style.write(path, lambda: _DRAWINGS[figure](sheet))


class _Sheet:
    """What every figure says: of which model, which prompt, which choice."""

    def __init__(
        self, explanation: Explanation, figure: str, cmap: str | None, title: str | None
    ) -> None:
        self.explanation, self.figure, self.cmap, self.own_title = explanation, figure, cmap, title
        target, foil = (
            style.token_label(explanation.text_of(number), LONGEST_ANSWER)
            for number in (explanation.target, explanation.foil)
        )
        self.choice = f"logit({target}) - logit({foil})"
        self.sides = f"for {foil} < 0 < for {target}"
        self.tokens = [style.token_label(explanation.text_of(n)) for n in explanation.ids]

    @property
    def width(self) -> float:
        """Inches of so many tokens abreast."""
        return min(float(np.interp(len(self.tokens), *CELL_WIDTH)) * len(self.tokens), WIDEST)

    def label(self, axes: Axes, inches: float, size: int = 9) -> None:
        """Write the tokens under axes of so many inches, every second or so where they crowd."""
        step = -(-len(self.tokens) // int(inches / CLOSEST))
        style.label_tokens(axes, self.tokens, size, step=step)

    def title(self, what: str, width: float) -> str:
        """What is shown; wrapped to a figure of `width` inches."""
        found = self.explanation
        lines = [f"{what}; model {found.model_name}", *found.notes]
        lines.append(f"prompt: {shortened(found.texts[0], style.LONGEST_PROMPT)}")
        lines = lines if self.own_title is None else [self.own_title]
        return style.wrapped(lines, int(width * 13))

    def new(self, what: str, width: float, height: float, caption: str = "") -> tuple[Figure, str]:
        """A figure with room for its title and for a caption below; and the title."""
        width = max(NARROWEST, width + EDGE)
        title = self.title(what, width)
        caption = style.wrapped([caption], int(width * 14))
        lines = title.count("\n") + 1 + (caption.count("\n") + 2 if caption else 0)
        figure = style.new_figure(width, height + LINE * lines + 0.5)
        if caption:
            figure.supxlabel(caption, fontsize=8, x=0.01, ha="left")
        return figure, title

    def sums(self) -> str:
        """What the logit difference is made of, in numbers."""
        parts = [f"{name} {value:.4g}" for name, value in self.explanation.parts().items()]
        total = minus_foil(self.explanation.logits)
        return f"{self.choice} = {total:.4g}, of which {', '.join(parts)}"


def _alti(sheet: _Sheet) -> Figure:
    found = sheet.explanation
    T, layers = len(sheet.tokens), len(found.rollout)
    side = float(np.clip(np.interp(T, *CELL_WIDTH) * T, LEAST_HEIGHT, SQUARE))
    figure, title = sheet.new(
        "ALTI: what each position is made of, after all blocks",
        side + style.label_height(sheet.tokens),
        side + style.label_height(sheet.tokens),
    )
    axes = figure.subplots()
    unread = np.triu(np.ones((T, T), dtype=bool), 1)
    shares = np.ma.masked_array(found.alti, unread)
    most = float(shares[1:].max()) if T > 1 else 1.0  # the first token is all its own: 1
    image = axes.matshow(shares, aspect="auto", cmap=sheet.cmap or "viridis", vmin=0, vmax=most)
    size = 9 if T <= style.MOST_SLANTED_LABELS else 7
    axes.xaxis.set_ticks_position("bottom")
    sheet.label(axes, side, size)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    axes.set_yticks(axes.get_xticks(), labels, fontsize=size)
    axes.set(xlabel="token of the prompt (blank: not read yet)", ylabel="position")
    axes.set_title(title, fontsize=9, loc="left", pad=9)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=25, extend="max" if T > 1 else "neither")
    words = [f"share of the token in the position (ALTI, {layers} blocks); first row: 1"]
    bar.set_label(style.beside(words, side))
    return figure


def _bars(sheet: _Sheet) -> Figure:
    found = sheet.explanation
    raw = found.bars(sheet.figure)
    name = {
        "alti-logit": "ALTI-Logit: what each token of the prompt adds",
        "logit": "Logit: what attention writes of each position",
    }[sheet.figure]
    shown = ("attention", "embeddings", "rounding")
    left_out = sum(part for name, part in found.parts().items() if name not in shown)
    other = " (the other sign)" if raw.sum() * minus_foil(found.logits) < 0 else ""
    caption = (
        f"{sheet.sums()}. The bars are attention and the embeddings, these on the last token:"
        f" {raw.sum():.4g} together{other}. They leave out {left_out:.4g}, MLPs and"
        f" biases, and are divided by the sum of their absolute values, {np.abs(raw).sum():.4g}."
    )
    figure, title = sheet.new(
        f"{name} to {sheet.choice}",
        sheet.width,
        2.6 + style.label_height(sheet.tokens),
        caption,
    )
    axes = figure.subplots()
    shares = raw / (np.abs(raw).sum() or 1)
    axes.bar(range(len(raw)), shares, color=[TOWARDS[1 if x >= 0 else -1] for x in shares])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlim(-0.6, len(raw) - 0.4)
    sheet.label(axes, sheet.width)
    axes.set_ylabel(style.beside([sheet.sides, "(share of their absolute sum)"], 2.6))
    axes.set_title(title, fontsize=9, loc="left", pad=9)
    return figure


def _layers(sheet: _Sheet) -> Figure:
    found, is_alti = sheet.explanation, sheet.figure == "alti-logit-layers"
    values = (found.alti_logit_layers if is_alti else found.logit_layers)[2]  # (L, T)
    name = "ALTI-Logit" if is_alti else "Logit"
    height = float(np.clip(ROW_HEIGHT * len(values), LEAST_HEIGHT, MOST_HEIGHT))
    figure, title = sheet.new(
        f"{name} of each block's attention: {sheet.choice}",
        sheet.width,
        height + style.label_height(sheet.tokens),
        f"All cells together {values.sum():.4g}; the embeddings, which no block writes, would be"
        f" {minus_foil(found.initial):.4g} on the last token.",
    )
    axes = figure.subplots()
    image = axes.matshow(values, aspect="auto", cmap=sheet.cmap or "RdBu", norm=_centred(values))
    axes.xaxis.set_ticks_position("bottom")
    sheet.label(axes, sheet.width)
    _label_layers(axes, len(values))
    axes.set_xlabel("token of the prompt" if is_alti else "position that is read")
    axes.set_title(title, fontsize=9, loc="left", pad=9)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=25)
    bar.set_label(style.beside([f"{name}, in logits", sheet.sides], height))
    return figure


def _lens(sheet: _Sheet) -> Figure:
    found, T = sheet.explanation, len(sheet.tokens)
    probabilities = found.lens_probabilities  # (L, T)
    L = len(probabilities)
    upright = LENS_CELL[False][0] * T > WIDEST_LENS
    column, row = LENS_CELL[upright]
    has_text = T <= MOST_LENS_TOKENS
    cells_height = max((row if has_text else ROW_HEIGHT) * L, LEAST_HEIGHT)
    width = min(column * T, WIDEST)
    figure, title = sheet.new(
        "Logit lens: the likeliest next token if the model stopped after a layer",
        width,
        cells_height + style.label_height(sheet.tokens) + 3.0,
        "Below, at the last position: the lens uses each layer's own layer-norm statistics, the"
        " bars the final ones; so the bars do not add up to the line's steps."
        + ("" if has_text else " The tokens are in the result."),
    )
    upper, lower = figure.subplots(
        2, 1, height_ratios=[cells_height + style.label_height(sheet.tokens), 2.6]
    )
    shown = matplotlib.colormaps[sheet.cmap or "viridis"]
    image = upper.matshow(probabilities, aspect="auto", cmap=shown, vmin=0, vmax=1)
    upper.xaxis.set_ticks_position("bottom")
    sheet.label(upper, width, 7 if upright else 9)
    _label_layers(upper, L)
    upper.set_xlabel("token that was read last")
    upper.set_title(title, fontsize=9, loc="left", pad=9)
    if has_text:
        room = 72 * 0.92 * max(column, row) / LENS_FONT  # ems
        for (layer, position), number in np.ndenumerate(found.lens_ids):
            dark = _luminance(shown(float(probabilities[layer, position]))) < 0.5
            label = style.fitted(style.token_label(found.text_of(number)), room)
            upper.text(
                position, layer, label, fontsize=LENS_FONT, ha="center", va="center",
                rotation=90 if upright else 0, color="white" if dark else "black",
            ).set_in_layout(False)  # fmt: skip
    bar = figure.colorbar(image, ax=upper, pad=0.02, aspect=25)
    bar.set_label("its probability")
    _trajectory(sheet, lower, L)
    return figure


def _trajectory(sheet: _Sheet, axes: Axes, L: int) -> None:
    found = sheet.explanation
    attention = found.heads[0].sum(-1) - found.heads[1].sum(-1) + minus_foil(found.bias)
    layers = np.arange(L)
    for shift, part, label, color in (
        (-0.2, attention, "attention's own part, with its bias", "#7fbf7b"),
        (0.2, minus_foil(found.mlp), "MLP's own part", "#af8dc3"),
    ):
        axes.bar(layers + shift, part, 0.38, label=label, color=color)
    step = -(-L // MOST_LAYERS)
    axes.plot(
        [-step, *layers], minus_foil(found.trajectory), "o-", color="black", markersize=3,
        linewidth=1, label="lens",
    )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks([-step, *layers[::step]], ["emb.", *map(str, layers[::step])])
    axes.set_xlim(-step - 0.6, L - 0.4)
    axes.set_xlabel("layer")
    axes.set_ylabel(style.beside([sheet.choice], 2.8))
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axes.legend(fontsize=8, ncols=3, frameon=False, **above)  # where it hides nothing


def _direct(sheet: _Sheet) -> Figure:
    found = sheet.explanation
    heads = found.heads[0] - found.heads[1]  # (L, nh)
    L, nh = heads.shape
    height = float(np.clip(ROW_HEIGHT * L, LEAST_HEIGHT, MOST_HEIGHT))
    error, allowed = found.worst()
    figure, title = sheet.new(
        f"Direct logit attribution: what heads and MLPs add themselves to {sheet.choice}",
        max(0.33 * nh, 3) + 3,
        height,
        f"{sheet.sums()}. Together they miss the model's own logits by"
        f" {error:.2g}"
        + (f" (allowed: {allowed:.2g})." if np.isfinite(allowed) else ", in half precision."),
    )
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[max(0.33 * nh, 3), 2])
    image = left.matshow(heads, aspect="auto", cmap=sheet.cmap or "RdBu", norm=_centred(heads))
    left.xaxis.set_ticks_position("bottom")
    step = -(-nh // 25)
    left.set_xticks(range(0, nh, step))
    left.set_xlabel("head")
    _label_layers(left, L)
    mlp = minus_foil(found.mlp)
    right.barh(range(L), mlp, color=[TOWARDS[1 if x >= 0 else -1] for x in mlp])
    right.axvline(0, color="black", linewidth=0.8)
    right.set_xlabel("MLP, in logits")
    right.tick_params(labelleft=False, labelsize=8)
    left.set_title(title, fontsize=9, loc="left", pad=9)
    bar = figure.colorbar(image, ax=left, pad=0.02, aspect=25)
    bar.set_label(style.beside(["head, in logits", sheet.sides], height))
    return figure


def _label_layers(axes: Axes, L: int) -> None:
    axes.set_yticks(range(0, L, -(-L // MOST_LAYERS)))
    axes.set_ylabel("layer")


def _centred(values: np.ndarray) -> colors.Normalize:
    return colors.CenteredNorm(0, halfrange=float(np.abs(values).max()) or 1.0)


def _luminance(rgba: Sequence[float]) -> float:
    return float(np.dot(rgba[:3], (0.299, 0.587, 0.114)))


_DRAWINGS: dict[str, Callable[[_Sheet], Figure]] = {
    "alti": _alti,
    "alti-logit": _bars,
    "alti-logit-layers": _layers,
    "logit": _bars,
    "logit-layers": _layers,
    "lens": _lens,
    "direct": _direct,
}
