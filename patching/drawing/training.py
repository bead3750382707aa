"""The curves of a training run, drawn from plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from patching.drawing import style

WIDTH, HEIGHT = 7.0, 5.2  # inches
CHARACTERS_PER_INCH = 13  # of the title


@dataclass(frozen=True)
class Curves:
    """Losses and the learning rate, by step."""

    title: tuple[str, ...]  # lines
    steps: tuple[int, ...]
    train_loss: tuple[float, ...]  # nats a token
    val_loss: tuple[float, ...]
    learning_rate: tuple[float, ...]
    best_step: int  # whose weights are kept
    test_loss: float | None = None
    ended: str = ""  # why the run ended


def draw_training(curves: Curves, path: str | Path | None = None) -> Figure:
    """Draw both losses, and below them the learning rate; return the figure.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.

    Raises:
        DrawingError: another suffix.
    """
    return style.render(lambda: _training(curves), path)


def _training(curves: Curves) -> Figure:
    heading = style.wrapped(curves.title, int(WIDTH * CHARACTERS_PER_INCH))
    figure = style.new_figure(WIDTH, HEIGHT + style.TITLE_LINE * heading.count("\n"))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    mark = {"marker": "o", "markersize": 3, "linewidth": 1.2}
    upper.plot(curves.steps, curves.train_loss, color="#969696", label="training", **mark)
    upper.plot(curves.steps, curves.val_loss, color="#2166ac", label="validation", **mark)
    best = curves.steps.index(curves.best_step)
    upper.plot(
        curves.best_step, curves.val_loss[best], "*", color="#b2182b", markersize=11,
        label=f"least validation loss: {curves.val_loss[best]:.3f} at step {curves.best_step}",
    )  # fmt: skip
    if curves.test_loss is not None:
        upper.axhline(
            curves.test_loss, color="#b2182b", linewidth=0.9, linestyle="--",
            label=f"test, with these weights: {curves.test_loss:.3f}",
        )  # fmt: skip
    for axes in (upper, lower):
        axes.axvline(curves.steps[-1], color="0.7", linewidth=0.9, linestyle=":")
        axes.grid(alpha=0.25)
    upper.set_ylabel("loss, nats a token")
    upper.legend(fontsize=8)
    upper.set_title(heading, fontsize=9, loc="left")
    lower.plot(curves.steps, curves.learning_rate, color="#1b7837", **mark)
    lower.set_ylabel("learning rate", fontsize=9)
    lower.set_ylim(bottom=0)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    ended = f" (dotted: the end, {curves.ended})" if curves.ended else ""
    lower.set_xlabel(f"step{ended}")
    return figure


@dataclass(frozen=True)
class KnobBars:
    """Models that differ in one knob: a bar for each in every panel."""

    title: tuple[str, ...]  # lines
    names: tuple[str, ...]  # of the models
    val_loss: tuple[float, ...]  # nats a token
    cache_bytes: tuple[float, ...]  # a token
    ms_cached: tuple[float, ...]  # a token
    ms_uncached: tuple[float, ...]


def draw_knob_bars(bars: KnobBars, path: str | Path | None = None) -> Figure:
    """Draw loss, cache and time of models side by side; arguments and errors as draw_training."""
    return style.render(lambda: _knob_bars(bars), path)


def _knob_bars(bars: KnobBars) -> Figure:
    heading = style.wrapped(bars.title, int(9 * CHARACTERS_PER_INCH))
    figure = style.new_figure(9, 3.4 + style.TITLE_LINE * heading.count("\n"))
    loss, cache, times = figure.subplots(1, 3)
    rows = range(len(bars.names))
    # Points and not bars, because this axis does not begin at 0.
    loss.plot(rows, bars.val_loss, "o", markersize=7, color="#2166ac")
    loss.set_xlim(-0.5, len(bars.names) - 0.5)
    loss.set_ylabel("least validation loss, nats a token")
    low, high = min(bars.val_loss), max(bars.val_loss)
    loss.set_ylim(low - 0.3 * (high - low) - 0.01, high + 0.3 * (high - low) + 0.01)
    cache.bar(rows, bars.cache_bytes, 0.6, color="#762a83")
    cache.set_ylabel("keys and values, bytes a token")
    times.bar([row - 0.2 for row in rows], bars.ms_cached, 0.38, color="#1b7837", label="cache")
    times.bar([row + 0.2 for row in rows], bars.ms_uncached, 0.38, color="#969696",
              label="no cache")  # fmt: skip
    times.set_ylabel("ms a token")
    times.set_ylim(0, 1.25 * max(*bars.ms_cached, *bars.ms_uncached))  # room for the legend
    times.legend(fontsize=8, ncols=2, loc="upper center")
    for axes in (loss, cache, times):
        axes.set_xticks(rows, bars.names)
        axes.tick_params(labelsize=8)
    for row, value in enumerate(bars.val_loss):
        loss.annotate(
            f"{value:.3f}", (row, value), xytext=(0, 6), textcoords="offset points", ha="center",
            fontsize=8,
        )  # fmt: skip
    for row, value in enumerate(bars.cache_bytes):
        cache.text(row, value, f"{value:,.0f}", ha="center", va="bottom", fontsize=8)
    figure.suptitle(heading, fontsize=9, x=0.01, ha="left")
    return figure
