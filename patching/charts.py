"""The figures of what a model says next: a choice and the paths from it; how often it says what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from patching import canvas
from patching.choices import Candidate
from patching.continuations import Continuation
from patching.errors import DrawingError
from patching.probes import Count
from patching.text import shortened

KEPT, CUT, DRAWN, LINE = "#9ecae1", "#d9d9d9", "#2166ac", "#b2182b"
BAR, THICKEST = 0.24, 0.4  # inches of a bar that lies; where there is room for more
LEFT, EDGE = 4.2, 0.9  # inches of the distribution's panel; of what stands around panels
STEP, NARROWEST, WIDEST = 0.28, 3.0, 14.0  # inches of a step in a path; of its axes
MOST_LABELS = 60  # steps with a label each
PATH = 1.0  # inches of a path's axes
MOST_PATHS = 5  # that are drawn
WIDTH = 8.0  # inches of the chart of counts
LONGEST_PROMPT = 40  # characters of a prompt beside its bars


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
    return canvas.write(path, lambda: _choice(candidates, samples, notes))


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
    return canvas.write(path, lambda: _counts(blocks, [title, *notes]))


def _choice(
    candidates: Sequence[Candidate], samples: Sequence[Continuation], notes: Sequence[str]
) -> Figure:
    drawn = samples[:MOST_PATHS]
    longest = max(len(sample.tokens) for sample in drawn)
    right = float(np.clip(STEP * longest, NARROWEST, WIDEST))
    label = min(canvas.label_height([canvas.token_label(t) for s in drawn for t in s.tokens]), 1.4)
    height = max(BAR * len(candidates), len(drawn) * (PATH + label)) + EDGE
    width = LEFT + right + EDGE
    heading = _heading(samples, notes, int(width * 13))
    figure = canvas.new_figure(width, height + 0.17 * (heading.count("\n") + 1))
    figure.suptitle(heading, fontsize=9, x=0.01, ha="left")
    left, paths = figure.subfigures(1, 2, width_ratios=(LEFT, right + EDGE))
    _distribution(left.subplots(), candidates, height - EDGE)
    words = "each sample's tokens, as likely as the model itself finds them"
    paths.suptitle(canvas.wrapped([words], int(right * 13)), fontsize=9, x=0.02, ha="left")
    for number, (axes, sample) in enumerate(
        zip(paths.subplots(len(drawn), 1, squeeze=False)[:, 0], drawn, strict=True)
    ):
        _path(axes, sample, number, longest)
    return figure


def _heading(samples: Sequence[Continuation], notes: Sequence[str], columns: int) -> str:
    first = samples[0]
    lines = [
        f"What {first.model} says next; {first.settings.describe()}",
        *notes,
        f"prompt: {shortened(first.prompt, canvas.LONGEST_PROMPT)}",
    ]
    if len(samples) > MOST_PATHS:
        lines.append(f"the first {MOST_PATHS} of {len(samples)} samples")
    return canvas.wrapped(lines, columns)


def _distribution(axes: Axes, candidates: Sequence[Candidate], height: float) -> None:
    """The first step, in so many inches: the model's distribution, and what is drawn from."""
    rows = range(len(candidates))
    colours = [KEPT if one.cut is None else CUT for one in candidates]
    axes.barh(
        rows, [one.probability for one in candidates], 0.8, color=colours,
        label="before anything is cut",
    )  # fmt: skip
    axes.barh(rows, [one.drawn_with for one in candidates], 0.35, color=DRAWN, label="drawn from")
    axes.set_yticks(rows, [canvas.token_label(one.token, 18) for one in candidates], fontsize=8)
    for tick, one in zip(axes.get_yticklabels(), candidates, strict=True):
        tick.set_color("0.55" if one.cut else "black")
    axes.set_ylim(max(len(candidates), height / THICKEST) - 0.5, -0.5)
    axes.set_xlim(0, 1.05 * max(max(one.probability, one.drawn_with) for one in candidates))
    axes.set_xlabel("probability")
    axes.set_title("the token after the prompt", fontsize=9, loc="left")
    cut = any(one.cut for one in candidates)
    axes.legend(fontsize=7, loc="lower right", title="grey: cut" if cut else None, title_fontsize=7)


def _path(axes: Axes, sample: Continuation, number: int, longest: int) -> None:
    """One sample: how likely each of its tokens was, by the model itself."""
    tokens, found = sample.tokens, sample.sample
    steps = range(len(tokens))
    axes.bar(steps, [math.exp(value) for value in found.log_probs], 0.8, color=DRAWN)
    axes.set_xlim(-0.6, longest - 0.4)
    axes.set_ylim(0, 1)
    axes.set_yticks((0, 0.5, 1), ("0", "0.5", "1"), fontsize=7)
    axes.set_ylabel("probability", fontsize=7)
    step = -(-len(tokens) // MOST_LABELS)
    size = 7 if longest <= MOST_LABELS // 2 else 6
    axes.set_xticks(
        steps[::step], [canvas.token_label(token, 16) for token in tokens[::step]],
        fontsize=size, rotation=90,
    )  # fmt: skip
    name = f"sample {number + 1}" if found.seed is None else f"seed {found.seed}"
    likelihood = f"ln p {found.log_prob:.2f}"
    score = "" if found.score is None else f", score {found.score:.3f}"
    axes.set_title(f"{name}: {likelihood}{score}", fontsize=8, loc="left")


def _counts(blocks: Sequence[tuple[str, Sequence[Count]]], lines: Sequence[str]) -> Figure:
    prompts = [*dict.fromkeys(one.prompt for _, counts in blocks for one in counts)]
    patterns = [*dict.fromkeys(one.pattern for _, counts in blocks for one in counts)]
    heading = canvas.wrapped(lines, int(WIDTH * 12))
    panel = max(BAR * len(prompts) * (len(patterns) + 0.6), 0.9) + 0.75
    legend = 0.2 * -(-len(patterns) // 4) + 0.35
    height = len(blocks) * panel + legend + 0.17 * (heading.count("\n") + 1) + 0.2
    figure = canvas.new_figure(WIDTH, height)
    figure.suptitle(heading, fontsize=9, x=0.01, ha="left")
    panels = figure.subplots(len(blocks), 1, squeeze=False, sharex=True)[:, 0]
    colours = [f"C{number % 10}" for number in range(len(patterns))]
    for axes, (name, counts) in zip(panels, blocks, strict=True):
        _panel(axes, counts, prompts, patterns, colours)
        axes.set_title(canvas.fitted(canvas.drawable(name), 60), fontsize=8, loc="left")
    panels[-1].set_xlabel("share of the samples in which it was found, with 95 % interval (Wilson)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, fontsize=8, ncols=min(len(patterns), 4), loc="outside lower center"
    )
    return figure


def _panel(
    axes: Axes,
    counts: Sequence[Count],
    prompts: Sequence[str],
    patterns: Sequence[str],
    colours: Sequence[str],
) -> None:
    thickness = 1 / (len(patterns) + 0.6)
    for number, (pattern, colour) in enumerate(zip(patterns, colours, strict=True)):
        mine = [one for one in counts if one.pattern == pattern]
        rows = [
            prompts.index(one.prompt) + (number - (len(patterns) - 1) / 2) * thickness
            for one in mine
        ]
        shares = [one.share for one in mine]
        reach = np.array([[s - low, high - s] for s, (low, high) in
                          zip(shares, (one.interval for one in mine), strict=True)]).T  # fmt: skip
        axes.barh(
            rows, shares, 0.9 * thickness, color=colour,
            label=f"\u201c{canvas.token_label(pattern)}\u201d",  # a leading _ would hide it
        )  # fmt: skip
        axes.errorbar(
            shares, rows, xerr=reach.clip(min=0), fmt="none", ecolor="black", elinewidth=0.8,
            capsize=2,
        )  # fmt: skip
    axes.set_yticks(
        range(len(prompts)),
        [shortened(canvas.drawable(prompt), LONGEST_PROMPT) for prompt in prompts],
        fontsize=8,
    )
    axes.set_ylim(len(prompts) - 0.5, -0.5)
    axes.set_xlim(0, 1)
