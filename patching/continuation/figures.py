"""The figures of continuations: one choice and the samples after it; how often patterns occur.

This file turns results into plain values; patching/drawing/continuation.py draws them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from patching.continuation.counts import Count
from patching.continuation.request import GenerationSettings
from patching.continuation.result import Continuation, Continuations, sample_name
from patching.continuation.step_candidates import Candidate
from patching.drawing.continuation import (
    CandidateBar,
    ChoicePlot,
    CountBar,
    CountChart,
    CountPanel,
    TokenPath,
    draw_choice_plot,
    draw_count_chart,
)
from patching.drawing.style import LONGEST_PROMPT
from patching.errors import DrawingError
from patching.text import model_label, shortened

MOST_PATHS = 5  # samples in a figure


def draw_choice(
    candidates: Sequence[Candidate],
    path: str | Path | None = None,
    *,
    samples: Sequence[Continuation],
    notes: Sequence[str] = (),
    title: str | None = None,
) -> Figure:
    """Draw the distribution of the token after a prompt, and the log-probabilities of its samples.

    Args:
        candidates: of the first step, the likeliest first; see `step_candidates`. The first
            100 are drawn.
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        samples: of the one prompt, with the same settings; the first five are drawn.
        notes: further lines of the title.
        title: in place of model, settings and prompt.

    Returns:
        The figure, a matplotlib Figure.

    Raises:
        DrawingError: another suffix, or no candidates or samples.
    """
    if not (candidates and samples):
        raise DrawingError("there is no choice to draw")
    settings = samples[0].settings
    decoding = settings.decoding
    cuts = settings.is_drawn and (decoding.top_k, decoding.top_p) != (None, None)
    taken = Counter(one.sample.ids[0] for one in samples)
    bars = tuple(
        CandidateBar(
            one.token,
            one.probability,
            one.drawn_with if cuts else None,
            is_cut=one.cut is not None,
            taken=taken[one.id],
        )
        for one in candidates
    )
    lines = _title(samples, notes) if title is None else (title, *notes)
    paths_are = "beams" if settings.num_beams is not None else "samples"
    plot = ChoicePlot(lines, _paths(samples), bars, paths_are, _condition(settings))
    return draw_choice_plot(plot, path)


def draw_paths(result: Continuations, path: str | Path | None = None, *, prompt: int = 0) -> Figure:
    """Draw the log-probabilities of one prompt's samples, token by token.

    Args:
        result: the samples; the first five of the prompt are drawn.
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        prompt: the number of the prompt, from 0.

    Returns:
        The figure, a matplotlib Figure.

    Raises:
        DrawingError: another suffix.
    """
    samples = result[prompt]
    which = "prompt" if len(result) == 1 else f"prompt {prompt + 1} of {len(result)}"
    title = _title(samples, result.notes, which)
    return draw_choice_plot(ChoicePlot(title, _paths(samples)), path)


def draw_counts(
    panels: Sequence[tuple[str, Sequence[Count]]],
    path: str | Path | None = None,
    *,
    title: str,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw in which share of the samples each pattern occurs, with 95 % intervals.

    Args:
        panels: one panel each: its title and its counts.
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        title: of the whole figure.
        notes: further lines of the title.

    Returns:
        The figure, a matplotlib Figure.

    Raises:
        DrawingError: another suffix, a panel without counts, or more than 1000 counts.
    """
    if not (panels and all(counts for _, counts in panels)):
        raise DrawingError("there are no counts to draw")
    drawn = tuple(
        CountPanel(
            name,
            tuple(CountBar(one.prompt, one.pattern, one.share, *one.interval) for one in counts),
        )
        for name, counts in panels
    )
    return draw_count_chart(CountChart((title, *notes), drawn), path)


def _title(
    samples: Sequence[Continuation], notes: Sequence[str], which: str = "prompt"
) -> tuple[str, ...]:
    first = samples[0]
    lines = [
        f"Continuations by {model_label(first.model_name)}; {first.settings.describe()}",
        *notes,
        f"{which}: {shortened(first.prompt, LONGEST_PROMPT)}",
    ]
    if len(samples) > MOST_PATHS:
        what = "beams" if first.settings.num_beams is not None else "samples"
        lines.append(f"the first {MOST_PATHS} of {len(samples)} {what}")
    return tuple(lines)


def _paths(samples: Sequence[Continuation]) -> tuple[TokenPath, ...]:
    paths = []
    for number, one in enumerate(samples[:MOST_PATHS]):
        sample = one.sample
        name = sample_name(number, sample.seed, is_beam=sample.score is not None)
        score = "" if sample.score is None else f", score = {sample.score:.3f}"
        title = f"{name}: ln p = {sample.log_prob:.2f}{score}".replace("= -", "= \N{MINUS SIGN}")
        paths.append(TokenPath(title, one.tokens, sample.log_probs))
    return tuple(paths)


def _condition(settings: GenerationSettings) -> str:
    """Return how the probabilities of the candidates are changed, before the cuts."""
    decoding = settings.decoding
    penalty = ", penalised" if decoding.repetition_penalty != 1 else ""
    return f"at temperature {decoding.temperature:g}{penalty}"
