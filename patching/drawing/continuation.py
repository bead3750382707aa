"""The figures of what a model says next: a choice and the paths from it; how often it says what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from patching.continuation.counts import Count
from patching.continuation.run import Continuation
from patching.continuation.step_candidates import Candidate
from patching.drawing import style
from patching.errors import DrawingError
from patching.text import shortened, squeezed

KEPT, CUT, DRAWN = "#9ecae1", "#d9d9d9", "#2166ac"
HATCHES = ("", "////", "....")
BAR = 0.24  # inches of a bar that lies
LEFT, EDGE = 4.2, 0.9  # inches of the distribution's panel; of what stands around panels
STEP, NARROWEST, WIDEST = 0.28, 3.0, 14.0  # inches of a step in a path; of its axes
MOST_LABELS = 60  # steps with a label each
PATH = 1.0  # inches of a path's axes
MOST_PATHS = 5  # that are drawn
WIDTH = 8.0  # inches of the chart of counts
LEGEND = 95  # characters in a line of its legend
LONGEST_PROMPT = 36  # characters in a line of a prompt beside its bars
LINE = 0.15  # inches of such a line


def draw_choice(
    candidates: Sequence[Candidate],
    samples: Sequence[Continuation],
    path: str | Path,
    *,
    notes: Sequence[str] = (),
) -> Path:
    """Draw the distribution of the token after a prompt, and the paths that samples took.

    Args:
        candidates: of the first step, the likeliest first.
        samples: of the one prompt, with the same settings; the first few are drawn.
        path: the file to write; its suffix chooses PNG, SVG or PDF.
        notes: what a reader of the figure must know.

    Returns:
        `path`.

    Raises:
        DrawingError: another suffix, or nothing to draw.
    """
    if not (candidates and samples):
        raise DrawingError("there is no choice to draw")
    return style.write(path, lambda: _choice(candidates, samples, notes))


def draw_counts(
    blocks: Sequence[tuple[str, Sequence[Count]]],
    path: str | Path,
    *,
    title: str,
    notes: Sequence[str] = (),
) -> Path:
    """Draw how often patterns were found, as bars with their 95 % intervals.

    Args:
        blocks: a panel each: what it is of, and its counts.
        path: as of `draw_choice`.
        title: over all of them.
        notes: as of `draw_choice`.

    Returns:
        `path`.

    Raises:
        DrawingError: as `draw_choice`.
    """
    if not (blocks and all(counts for _, counts in blocks)):
        raise DrawingError("there are no counts to draw")
    return style.write(path, lambda: _counts(blocks, [title, *notes]))


def _choice(
    candidates: Sequence[Candidate], samples: Sequence[Continuation], notes: Sequence[str]
) -> Figure:
    drawn = samples[:MOST_PATHS]
    longest = max(len(sample.tokens) for sample in drawn)
    right = float(np.clip(STEP * longest, NARROWEST, WIDEST))
    label = min(style.label_height([style.token_label(t) for s in drawn for t in s.tokens]), 1.4)
    bars, below = BAR * len(candidates) + EDGE, len(drawn) * (PATH + label) + EDGE
    width = LEFT + right + EDGE
    heading = _heading(samples, notes, int(width * 13))
    figure = style.new_figure(width, max(bars, below) + 0.17 * (heading.count("\n") + 1))
    figure.suptitle(heading, fontsize=9, x=0.01, ha="left")
    left, paths = figure.subfigures(1, 2, width_ratios=(LEFT, right + EDGE))
    # Its own height, however many samples stand beside it.
    if below > bars + 1:
        left = left.subfigures(2, 1, height_ratios=(bars, below - bars))[0]
    _distribution(left.subplots(), candidates, samples)
    stride = -(-longest // MOST_LABELS)
    words = "each sample's tokens, as likely as the model finds them at temperature 1"
    words += f"; one in {stride} is named" if stride > 1 else ""
    paths.suptitle(style.wrapped([words], int(right * 13)), fontsize=9, x=0.02, ha="left")
    lowest = min(value for sample in drawn for value in sample.sample.log_probs)
    for number, (axes, sample) in enumerate(
        zip(paths.subplots(len(drawn), 1, squeeze=False)[:, 0], drawn, strict=True)
    ):
        _path(axes, sample, number, longest, stride)
        axes.set_ylim(min(1.05 * lowest, -1), 0)
    return figure


def _heading(samples: Sequence[Continuation], notes: Sequence[str], columns: int) -> str:
    first = samples[0]
    lines = [
        f"What {first.model} says next; {first.settings.describe()}",
        *notes,
        f"prompt: {shortened(first.prompt, style.LONGEST_PROMPT)}",
    ]
    if len(samples) > MOST_PATHS:
        lines.append(f"the first {MOST_PATHS} of {len(samples)} samples")
    return style.wrapped(lines, columns)


def _distribution(
    axes: Axes, candidates: Sequence[Candidate], samples: Sequence[Continuation]
) -> None:
    """The first step: the distribution, what is drawn from, and what was drawn."""
    rows = range(len(candidates))
    settings = samples[0].settings
    what = f"at temperature {settings.decoding.temperature:g}"
    what += ", penalised" if settings.decoding.repetition_penalty != 1 else ""
    colours = [KEPT if one.cut is None else CUT for one in candidates]
    ends = [one.probability for one in candidates]
    axes.barh(rows, ends, 0.8, color=colours)
    entries = {f"{what}, kept": KEPT, f"{what}, cut": CUT, "drawn from": DRAWN}
    if settings.is_drawn:
        axes.barh(rows, [one.drawn_with for one in candidates], 0.35, color=DRAWN)
        ends = [max(one.probability, one.drawn_with) for one in candidates]
    else:
        entries = {what: KEPT}
    if not any(one.cut for one in candidates):
        entries.pop(f"{what}, cut", None)
    firsts = [sample.sample.ids[0] for sample in samples]
    for row, (one, end) in enumerate(zip(candidates, ends, strict=True)):
        if one.id in firsts:
            times = f" \u00d7{firsts.count(one.id)}"
            axes.text(end, row, times, fontsize=8, va="center")
    axes.set_yticks(rows, [style.token_label(one.token, 18) for one in candidates], fontsize=8)
    for tick, one in zip(axes.get_yticklabels(), candidates, strict=True):
        tick.set_color("0.5" if one.cut else "black")
    axes.set_ylim(len(candidates) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * max(ends))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("probability", fontsize=9)
    words = "the token after the prompt\n(\u00d7: how many samples took it)"
    axes.set_title(words, fontsize=9, loc="left")
    handles = [Patch(color=colour) for colour in entries.values()]
    axes.legend(handles, [*entries], fontsize=7, loc="lower right")


def _path(axes: Axes, sample: Continuation, number: int, longest: int, stride: int) -> None:
    """One sample: how likely each of its tokens was, by the model itself."""
    tokens, found = sample.tokens, sample.sample
    steps = range(len(tokens))
    axes.bar(steps, found.log_probs, 0.8, color=DRAWN)
    axes.set_xlim(-0.6, longest - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylabel("ln p", fontsize=8)
    axes.set_xticks(
        steps[::stride], [style.token_label(token, 16) for token in tokens[::stride]],
        fontsize=7 if longest <= MOST_LABELS // 2 else 6, rotation=90,
    )  # fmt: skip
    name = f"sample {number + 1}" if found.seed is None else f"seed {found.seed}"
    score = "" if found.score is None else f", score {found.score:.3f}"
    axes.set_title(f"{name}: ln p {found.log_prob:.2f}{score}", fontsize=8, loc="left")


def _counts(blocks: Sequence[tuple[str, Sequence[Count]]], lines: Sequence[str]) -> Figure:
    prompts = [*dict.fromkeys(one.prompt for _, counts in blocks for one in counts)]
    patterns = [*dict.fromkeys(one.pattern for _, counts in blocks for one in counts)]
    heading = style.wrapped(lines, int(WIDTH * 12))
    panel = max(BAR * len(prompts) * (len(patterns) + 0.6), 0.9) + 0.75
    longest = max(len(style.token_label(pattern)) for pattern in patterns)
    abreast = min(len(patterns), max(1, LEGEND // (longest + 8)))
    legend = 0.2 * -(-len(patterns) // abreast) + 0.35
    height = len(blocks) * panel + legend + 0.17 * (heading.count("\n") + 1) + 0.2
    figure = style.new_figure(WIDTH, height)
    figure.suptitle(heading, fontsize=9, x=0.01, ha="left")
    panels = figure.subplots(len(blocks), 1, squeeze=False, sharex=True)[:, 0]
    # Ten colours; of more patterns, the next ten are hatched.
    looks = [
        {"color": f"C{number % 10}", "hatch": HATCHES[number // 10 % len(HATCHES)]}
        for number in range(len(patterns))
    ]
    for axes, (name, counts) in zip(panels, blocks, strict=True):
        _panel(axes, counts, prompts, patterns, looks)
        axes.set_title(style.fitted(style.drawable(name), 60), fontsize=8, loc="left")
    panels[-1].set_xlabel("share of the samples in which it was found, with 95 % interval (Wilson)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=abreast, loc="outside lower center")
    return figure


def _panel(
    axes: Axes,
    counts: Sequence[Count],
    prompts: Sequence[str],
    patterns: Sequence[str],
    looks: Sequence[dict[str, str]],
) -> None:
    thickness = 1 / (len(patterns) + 0.6)
    for number, (pattern, look) in enumerate(zip(patterns, looks, strict=True)):
        mine = [one for one in counts if one.pattern == pattern]
        rows = [
            prompts.index(one.prompt) + (number - (len(patterns) - 1) / 2) * thickness
            for one in mine
        ]
        shares = [one.share for one in mine]
        reach = np.array([[s - low, high - s] for s, (low, high) in
                          zip(shares, (one.interval for one in mine), strict=True)]).T  # fmt: skip
        axes.barh(
            rows, shares, 0.9 * thickness, **look, edgecolor="white",
            label=f"\u201c{style.token_label(pattern)}\u201d",  # a leading _ would hide it
        )  # fmt: skip
        axes.errorbar(
            shares, rows, xerr=reach.clip(min=0), fmt="none", ecolor="black", elinewidth=0.8,
            capsize=2,
        )  # fmt: skip
    lines = max(1, int(BAR * (len(patterns) + 0.6) / LINE))
    axes.set_yticks(
        range(len(prompts)),
        [_label(prompt, lines) for prompt in prompts],
        fontsize=8,
    )
    axes.set_ylim(len(prompts) - 0.5, -0.5)
    axes.set_xlim(0, 1)


def _label(prompt: str, lines: int) -> str:
    """A prompt in so many lines at most."""
    # A line that breaks between words is rarely full.
    whole = squeezed(style.drawable(prompt), LONGEST_PROMPT * lines * 4 // 5)
    return style.wrapped([whole], LONGEST_PROMPT)
