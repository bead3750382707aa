"""Draw continuations: a choice and the samples after it; shares of samples, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch as Swatch
from matplotlib.ticker import MaxNLocator

from patching.drawing import style
from patching.errors import DrawingError
from patching.text import squeezed

KEPT, CUT, DRAWN = "#9ecae1", "#d9d9d9", "#2166ac"
HATCHES = ("", "////", "....")
BAR = 0.24  # inches of height for a horizontal bar
LEFT, EDGE = 4.2, 0.9  # inches: width of the distribution's panel; margins of a panel
STEP, WIDEST = 0.28, 14.0  # inches: width of a token in a path; of a path's axes, at most
NARROWEST, ALONE = 3.0, 5.0  # inches: width of a path's axes, at least; with nothing beside them
MOST_CANDIDATES = 100  # bars of the distribution
MOST_TOKENS = 2000  # of a path: more than its axes have pixels
MOST_COUNT_BARS = 1000  # in a chart of counts: 36,000 pixels
MOST_LABELS = 60  # tokens of a path that have a label each
PATH = 1.0  # inches of height for a path's axes
HIGHEST_LABELS = 1.4  # inches of height for the labels under a path, at most
WIDTH = 8.0  # inches of width of the chart of counts
LEGEND = 95  # characters in a line of the legend of counts
PROMPT_COLUMNS = 36  # characters in a line of a prompt beside its bars
LINE = 0.15  # inches of height of a line of a prompt beside its bars
LEGEND_LINE = 0.18  # inches of height of a line of the legend of candidates


@dataclass(frozen=True)
class CandidateBar:
    """One token that could have been the first after the prompt."""

    token: str
    probability: float  # before the cuts
    drawn_with: float | None  # probability after the cuts; None: there were none
    is_cut: bool
    taken: int  # number of samples that begin with it


@dataclass(frozen=True)
class TokenPath:
    """One sample, token by token."""

    title: str
    tokens: tuple[str, ...]
    log_probs: tuple[float, ...]  # of the tokens, in nats


@dataclass(frozen=True)
class ChoicePlot:
    """Samples, and beside them the candidates for the first token if there are any."""

    title: tuple[str, ...]  # lines
    paths: tuple[TokenPath, ...]
    candidates: tuple[CandidateBar, ...] = ()
    paths_are: str = "samples"  # or "beams"
    condition: str = ""  # how the probabilities were changed: "at temperature 1.2"


@dataclass(frozen=True)
class CountBar:
    """The share of a prompt's samples that contain a pattern, and its interval."""

    prompt: str
    pattern: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class CountPanel:
    """The bars of one model and settings."""

    title: str
    bars: tuple[CountBar, ...]


@dataclass(frozen=True)
class CountChart:
    """Panels one below the other, with one legend."""

    title: tuple[str, ...]  # lines
    panels: tuple[CountPanel, ...]


def draw_choice_plot(plot: ChoicePlot, path: str | Path | None = None) -> Figure:
    """Draw the candidates for the first token, and the log-probabilities of each sample.

    The first 100 candidates and the first 2000 tokens of a sample are drawn; the figure says
    how many more there are.

    Args:
        plot: at least one path; without candidates the paths are drawn alone.
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.

    Returns:
        The figure.

    Raises:
        DrawingError: another suffix.
    """
    return style.render(lambda: _choice(plot), path)


def draw_count_chart(chart: CountChart, path: str | Path | None = None) -> Figure:
    """Draw shares as bars with their intervals.

    Args:
        chart: at least one panel, with at least one bar each.
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.

    Returns:
        The figure.

    Raises:
        DrawingError: another suffix, or more than 1000 bars: the rest would not be seen.
    """
    count = sum(len(panel.bars) for panel in chart.panels)
    if count > MOST_COUNT_BARS:
        raise DrawingError(
            f"the chart would have {count} bars; at most {MOST_COUNT_BARS} are drawn: draw fewer"
            " patterns, prompts or panels at a time"
        )
    return style.render(lambda: _counts(chart), path)


# --------------------------------------------------------------------- a choice


def _choice(plot: ChoicePlot) -> Figure:
    candidates = plot.candidates[:MOST_CANDIDATES]
    longest = min(max(len(path.tokens) for path in plot.paths), MOST_TOKENS)
    tokens = [style.token_label(token) for path in plot.paths for token in path.tokens[:longest]]
    labels = min(style.label_height(tokens), HIGHEST_LABELS)
    left = LEFT if candidates else 0.0
    right = float(np.clip(STEP * longest, NARROWEST if left else ALONE, WIDEST))
    legend = _legend(plot)
    bars = BAR * len(candidates) + EDGE + LEGEND_LINE * len(legend)
    below = len(plot.paths) * (PATH + labels) + EDGE
    width = left + right + EDGE
    title = style.wrapped(plot.title, int(width * 13))
    height = max(bars, below) + style.TITLE_LINE * (title.count("\n") + 1)
    figure = style.new_figure(width, height)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    if not plot.candidates:
        _draw_paths(figure.subfigures(1, 1, squeeze=False)[0, 0], plot.paths, longest, right)
        return figure
    panels = figure.subfigures(1, 2, squeeze=False, width_ratios=(left, right + EDGE))[0]
    panel = panels[0]
    # The bars keep their own height, however many samples stand beside them.
    if below > bars + 1:
        panel = panel.subfigures(2, 1, squeeze=False, height_ratios=(bars, below - bars))[0, 0]
    _draw_candidates(panel.subplots(), plot)
    swatches = [Swatch(color=colour) for colour in legend.values()]
    panel.legend(swatches, list(legend), fontsize=8, loc="outside lower left", frameon=False)
    _draw_paths(panels[1], plot.paths, longest, right)
    return figure


def _draw_candidates(axes: Axes, plot: ChoicePlot) -> None:
    """Draw the first step: probabilities before the cuts (grey: cut), and after them."""
    candidates = plot.candidates[:MOST_CANDIDATES]
    rows = range(len(candidates))
    colours = [CUT if one.is_cut else KEPT for one in candidates]
    axes.barh(rows, [one.probability for one in candidates], 0.8, color=colours)
    ends = [max(one.probability, one.drawn_with or 0) for one in candidates]
    if any(one.drawn_with is not None for one in candidates):
        axes.barh(rows, [one.drawn_with or 0 for one in candidates], 0.35, color=DRAWN)
    for row, (one, end) in enumerate(zip(candidates, ends, strict=True)):
        if one.taken:
            axes.text(end, row, f" \u00d7{one.taken}", fontsize=8, va="center")
    axes.set_yticks(rows, [style.token_label(one.token, 18) for one in candidates], fontsize=8)
    for tick, one in zip(axes.get_yticklabels(), candidates, strict=True):
        tick.set_color("0.5" if one.is_cut else "black")
    axes.set_ylim(len(candidates) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * max(ends))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("probability", fontsize=9)
    title = f"first token after the prompt\n(\u00d7n: n {plot.paths_are} begin with it)"
    if len(candidates) < len(plot.candidates):
        title += f"\nthe likeliest {len(candidates)} of the {len(plot.candidates)} listed"
    axes.set_title(title, fontsize=9, loc="left")


def _legend(plot: ChoicePlot) -> dict[str, str]:
    """Return label -> colour of the bars that the candidates have."""
    legend = {plot.condition: KEPT}
    if any(one.is_cut for one in plot.candidates):
        legend = {f"{plot.condition}, kept": KEPT, f"{plot.condition}, cut": CUT}
    if any(one.drawn_with is not None for one in plot.candidates):
        legend["after the cuts"] = DRAWN
    return legend


def _draw_paths(panel: SubFigure, paths: Sequence[TokenPath], longest: int, inches: float) -> None:
    """Draw the samples one below the other, on the same scale.

    Args:
        longest: tokens of the longest sample, or as many of them as are drawn.
        inches: width of the axes.
    """
    stride = math.ceil(longest / MOST_LABELS)
    title = "log-probability of each token, in nats, as the model gives it"
    most = max(len(path.tokens) for path in paths)
    if most > longest:
        title += f"; the first {longest} of at most {most} tokens"
    if stride > 1:
        title += f"; one token in {stride} has a label"
    title = style.wrapped([title], int(inches * 13))
    panel.suptitle(title, fontsize=9, x=0.02, ha="left")
    found = [value for path in paths for value in path.log_probs[:longest]]
    lowest = min((value for value in found if math.isfinite(value)), default=0.0)
    rows = panel.subplots(len(paths), 1, squeeze=False)[:, 0]
    for axes, path in zip(rows, paths, strict=True):
        bottom = min(1.05 * lowest, -1)
        _draw_path(axes, path, longest, stride, bottom)
        axes.set_ylim(bottom, 0)


def _draw_path(axes: Axes, path: TokenPath, longest: int, stride: int, bottom: float) -> None:
    tokens = path.tokens[:longest]
    steps = range(len(tokens))
    # A bar of minus infinity (float32 can overflow) goes down to the end of the axis.
    axes.bar(steps, np.maximum(path.log_probs[:longest], bottom), 0.8, color=DRAWN)
    axes.set_xlim(-0.6, longest - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylabel("ln p", fontsize=8)
    labels = [style.token_label(token, 16) for token in tokens[::stride]]
    size = 7 if longest <= MOST_LABELS // 2 else 6
    axes.set_xticks(steps[::stride], labels, fontsize=size, rotation=90)
    axes.set_title(path.title, fontsize=8, loc="left")


# --------------------------------------------------------------------- counts


def _counts(chart: CountChart) -> Figure:
    bars = [bar for panel in chart.panels for bar in panel.bars]
    prompts = list(dict.fromkeys(bar.prompt for bar in bars))
    patterns = list(dict.fromkeys(bar.pattern for bar in bars))
    title = style.wrapped(chart.title, int(WIDTH * 12))
    panel_height = max(BAR * len(prompts) * (len(patterns) + 0.6), 0.9) + 0.75
    longest = max(len(style.token_label(pattern)) for pattern in patterns)
    abreast = min(len(patterns), max(1, LEGEND // (longest + 8)))
    legend = 0.2 * math.ceil(len(patterns) / abreast) + 0.35
    heights = (len(chart.panels) * panel_height, legend, style.TITLE_LINE * (title.count("\n") + 1))
    figure = style.new_figure(WIDTH, sum(heights) + 0.2)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    # Ten colours; the next ten patterns are hatched.
    looks = [
        {"color": f"C{number % 10}", "hatch": HATCHES[number // 10 % len(HATCHES)]}
        for number in range(len(patterns))
    ]
    rows = figure.subplots(len(chart.panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, panel in zip(rows, chart.panels, strict=True):
        _draw_panel(axes, panel, prompts, patterns, looks)
        axes.set_title(style.fitted(style.drawable(panel.title), 60), fontsize=8, loc="left")
    rows[-1].set_xlabel(
        "share of samples with the pattern, and its 95 % interval (Wilson)", fontsize=9
    )
    swatches, labels = rows[0].get_legend_handles_labels()
    figure.legend(swatches, labels, fontsize=8, ncols=abreast, loc="outside lower center")
    return figure


def _draw_panel(
    axes: Axes,
    panel: CountPanel,
    prompts: Sequence[str],
    patterns: Sequence[str],
    looks: Sequence[dict[str, Any]],
) -> None:
    """Draw a group of bars for each prompt, and in it one bar for each pattern."""
    thickness = 1 / (len(patterns) + 0.6)  # the rest is the gap between two groups
    for number, (pattern, look) in enumerate(zip(patterns, looks, strict=True)):
        bars = [bar for bar in panel.bars if bar.pattern == pattern]
        shift = (number - (len(patterns) - 1) / 2) * thickness  # from the middle of the group
        rows = [prompts.index(bar.prompt) + shift for bar in bars]
        shares = [bar.share for bar in bars]
        reach = np.array([(bar.share - bar.low, bar.high - bar.share) for bar in bars]).T
        label = f"\u201c{style.token_label(pattern)}\u201d"  # unquoted, _x would be hidden
        axes.barh(rows, shares, 0.9 * thickness, edgecolor="white", label=label, **look)
        axes.errorbar(
            shares,
            rows,
            xerr=reach.clip(min=0),
            fmt="none",
            ecolor="black",
            elinewidth=0.8,
            capsize=2,
        )
    lines = max(1, int(BAR * (len(patterns) + 0.6) / LINE))
    names = [_folded(prompt, lines) for prompt in prompts]
    axes.set_yticks(range(len(prompts)), names, fontsize=8)
    axes.set_ylim(len(prompts) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.tick_params(axis="x", labelsize=8)


def _folded(prompt: str, lines: int) -> str:
    """Return a prompt wrapped to at most `lines` lines, cut if it is longer."""
    # Lines break between words, so they are about four fifths full.
    whole = squeezed(style.drawable(prompt), PROMPT_COLUMNS * lines * 4 // 5)
    return style.wrapped([whole], PROMPT_COLUMNS)
