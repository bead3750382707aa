"""The experiments: all methods at all lengths, every site, half precision, growth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmark.floor import floor
from benchmark.methods import Method, made_pair, ours, sweep
from benchmark.report import Report, short
from benchmark.timing import Clock, Settings, Timed, in_turn, loop_seconds, peak_bytes
from mingpt.config import GPTConfig
from mingpt.model import GPT
from mingpt.sites import HEAD_SITES, SITES
from patching.errors import SweepError
from patching.prompts import PromptPair
from patching.sweep.request import Request


def peak_of_fast(settings: Settings, model: GPT) -> int | None:
    """Return the peak bytes of this process's first fast sweep, beside a model that has run."""
    pair = made_pair(settings.lengths[0], model.config.vocab_size)
    with torch.no_grad():
        model(torch.tensor([pair.clean_ids], device=settings.device))
    return peak_bytes(settings.device, lambda: sweep(model, pair))


def against_others(
    report: Report, settings: Settings, model: GPT, methods: list[Method], memory: int | None
) -> dict[int, Timed]:
    """Time every method at every length; report one row for each length.

    Args:
        memory: the result of `peak_of_fast`, in bytes.
    """
    clock, config = Clock(settings.device), model.config
    names = [method.name for method in methods]
    report.head("tokens", "cells", *names, "floor", "fast / floor", "apart")
    results = {}
    for T in settings.lengths:
        pair = made_pair(T, config.vocab_size)
        about = loop_seconds(clock, model, pair)
        timed = in_turn(clock, _calls(methods, pair), settings, report, about)
        least = floor(config, pair, Request()) / timed.rate
        results[T] = timed
        report.row(
            str(T),
            str(config.n_layer * T),
            *(timed.cell(name, settings.rounds) for name in names),
            short(least),
            f"{timed.median('fast') / least:.2f}",
            f"{timed.apart():.1e}" if len(timed.grids) > 1 else "",
        )
    rates = [2 * timed.rate / 1e9 for timed in results.values()]
    report.say()
    report.say(
        "Beside a loop's time: its ratio to fast. Floor: the multiply-adds that cannot be"
        f" skipped, at the rate of one large product measured between the rounds ({min(rates):.0f}"
        f" to {max(rates):.0f} GFLOP/s). Apart: the largest difference between any two methods, in"
        " logits."
    )
    if memory is not None:
        report.say()
        report.say(
            f"Peak memory of the fast sweep of {settings.lengths[0]} tokens beside the loaded"
            f" model: {memory / 1e6:.0f} MB."
        )
    return results


def every_site(report: Report, settings: Settings, model: GPT) -> float:
    """Time the fast sweep of every site, and of KL, at the first length.

    Returns:
        The largest difference from the loop, which is run for a few cells.
    """
    pair = made_pair(settings.lengths[0], model.config.vocab_size)
    requests = {site: Request(site) for site in SITES}
    requests |= {f"{site} by position": Request(site, by_position=True) for site in HEAD_SITES}

    def values(request: Request, **more: Any) -> np.ndarray:
        return sweep(model, pair, site=request.site, by_position=request.by_position, **more)

    calls = {name: partial(values, request) for name, request in requests.items()}
    calls["resid_post, kl"] = partial(values, Request(), metric="kl")
    timed = in_turn(Clock(settings.device), calls, settings, report)
    report.head("site", "cells", "fast", "/ resid_post", "floor", "fast / floor")
    for name in calls:
        metric = "kl" if name.endswith("kl") else "logit_diff"
        request = requests.get(name, Request())
        least = floor(model.config, pair, request, metric) / timed.rate
        took = timed.median(name)
        report.row(
            name,
            str(timed.grids[name].size),
            timed.cell(name, settings.rounds),
            f"{took / timed.median('resid_post'):.2f}",
            short(least),
            f"{took / least:.2f}",
        )
    worst = 0.0
    for name, request in requests.items():
        report.step(f"{name}: some cells by the loop")
        looped = values(request, method="loop", **_some_cells(request))
        there = np.isfinite(looped)
        worst = max(worst, apart(looped[there], timed.grids[name][there]))
    report.say()
    report.say(
        f"Largest difference from the loop in some cells of each site, {worst:.1e} logits:"
        " positions 1 and -1, head 1, the first and the last two layers."
    )
    return worst


def _some_cells(request: Request) -> dict[str, list[int]]:
    some = {"layers": [0, -2, -1]}
    if request.site in HEAD_SITES:
        some["heads"] = [1]
    if request.site not in HEAD_SITES or request.by_position:
        some["positions"] = [1, -1]
    return some


def half_precision(report: Report, settings: Settings, model: GPT) -> None:
    """Report the largest difference of half-precision sweeps from float32; none is refused."""
    pair = made_pair(settings.lengths[0], model.config.vocab_size)
    exact = sweep(model, pair)
    spread = float(np.ptp(exact))
    report.head("dtype", "fast from float32", "loop from float32", "largest - smallest cell")
    for dtype in (torch.bfloat16, torch.float16):
        report.step(f"{dtype}")
        half = copy.deepcopy(model).to(dtype)
        away = []
        for method in ("fast", "loop"):
            try:
                away.append(f"{apart(sweep(half, pair, method=method), exact):.1e}")
            except SweepError:  # the logits overflow
                away.append("not finite")
        report.row(str(dtype).removeprefix("torch."), *away, f"{spread:.1e}")


def growth(
    report: Report, settings: Settings, model: GPT, methods: list[Method], known: dict[int, Timed]
) -> Figure:
    """Time the fast sweep and the loop against tokens and layers; report the exponents.

    Args:
        methods: the fast sweep and the loop come first.
        known: the result of `against_others`: tokens -> times.
    """
    config, first = model.config, settings.lengths[0]
    tokens = dict(known)
    for T in {8, 16, 64} - known.keys():
        if max(known) > T:
            pair = made_pair(T, config.vocab_size)
            tokens[T] = _time_two(report, settings, model, methods[:2], pair)
    layers = {config.n_layer: known[first]}
    pair = made_pair(first, config.vocab_size)
    for n_layer in sorted(
        {config.n_layer // 6, config.n_layer // 3, config.n_layer * 2 // 3} - {0}
    ):
        torch.manual_seed(0)
        shallow = GPT(replace(config, n_layer=n_layer)).eval().to(settings.device)
        layers[n_layer] = _time_two(report, settings, shallow, ours(shallow), pair)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    report.head("growth with", "method", "from", "to", "exponent")
    _draw_growth(left, report, "tokens", tokens)
    _draw_growth(right, report, "layers", layers)
    _label(left, config, settings.device, f"{config.n_layer} layers")
    _label(right, config, settings.device, f"{len(pair)} tokens")
    left.set_ylabel("seconds per sweep of resid_post")
    return figure


def _time_two(
    report: Report, settings: Settings, model: GPT, methods: list[Method], pair: PromptPair
) -> Timed:
    clock = Clock(settings.device)
    about = loop_seconds(clock, model, pair)
    return in_turn(clock, _calls(methods, pair), settings, report, about)


def _draw_growth(axes: Axes, report: Report, what: str, points: dict[int, Timed]) -> None:
    """Draw seconds against the number of tokens or layers; report the exponents."""
    for name, marker in (("plain loop", "s"), ("fast", "o")):
        at = sorted(number for number, timed in points.items() if name in timed.seconds)
        if len(at) < 2:
            continue
        took = [points[number].median(name) for number in at]
        exponent = float(np.polyfit(np.log(at), np.log(took), 1)[0])
        axes.loglog(at, took, marker=marker, label=f"{name}: {what}$^{{{exponent:.2f}}}$")
        report.row(what, name, str(at[0]), str(at[-1]), f"{exponent:.2f}")
    axes.set_xticks(sorted(points), [str(number) for number in sorted(points)])
    axes.minorticks_off()
    axes.set_xlabel(what)


def _label(axes: Axes, config: GPTConfig, device: torch.device, fixed: str) -> None:
    axes.set_title(f"{fixed}, width {config.n_embd}, {device.type}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()


def _calls(methods: list[Method], pair: PromptPair) -> dict[str, Callable[[], np.ndarray]]:
    return {method.name: partial(method.sweep, pair) for method in methods}


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference between two grids."""
    return float(np.abs(a - b).max())
