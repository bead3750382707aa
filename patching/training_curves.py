"""Turn the results of training runs into their figures."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.figure import Figure

from mingpt.training.comparison import Comparison
from mingpt.training.result import ENDS, TrainingResult
from patching.drawing.training import Curves, KnobBars, draw_knob_bars, draw_training


def draw_curves(
    result: TrainingResult, path: str | Path | None = None, *, title: str | None = None
) -> Figure:
    """Draw the losses of a training run, and below them its learning rate.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        title: in place of the model's size and its data.

    Returns:
        The figure.

    Raises:
        DrawingError: another suffix.
    """
    return draw_training(curves(result, title), path)


def draw_comparison_of(
    found: Comparison, path: str | Path | None = None, *, title: str | None = None
) -> Figure:
    """Draw models that differ in one knob: validation loss, cache, time a token.

    Args:
        path, title: as for draw_curves.

    Returns:
        The figure.

    Raises:
        DrawingError: another suffix.
    """
    bars = KnobBars(
        title=(f"Models that differ in {found.knob}" if title is None else title,),
        names=tuple(f"{found.knob} {one.value}" for one in found.models),
        val_loss=tuple(one.val_loss for one in found.models),
        cache_bytes=tuple(one.cache_bytes for one in found.models),
        ms_cached=tuple(one.ms_cached for one in found.models),
        ms_uncached=tuple(one.ms_uncached for one in found.models),
    )
    return draw_knob_bars(bars, path)


def curves(result: TrainingResult, title: str | None = None) -> Curves:
    """Return the plain values that `draw_curves` draws."""
    request = result.request
    names = [Path(name).name for name in (*request.texts, request.pairs) if name]
    own = (
        f"Training on {', '.join(names)}: {result.n_parameters:,} parameters,"
        f" {result.vocab_size:,} tokens in the vocabulary"
    )
    return Curves(
        title=(own if title is None else title,),
        steps=tuple(one.step for one in result.history),
        train_loss=tuple(
            math.nan if one.train_loss is None else one.train_loss for one in result.history
        ),
        val_loss=tuple(one.val_loss for one in result.history),
        learning_rate=tuple(one.learning_rate for one in result.history),
        best_step=result.best.step,
        test_loss=result.test_loss,
        ended=ENDS[result.ended],
    )
