"""The sweep: which vector, put from one run into another, carries the answer?

`patch_sweep` checks what is asked for, has it measured by the engine (fast.py),
by the plain loop that defines it (loop.py), or to first order (attribution.py),
and puts the results together.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import torch

from mingpt.sites import SHARED_SITES
from patching.errors import SweepError, named
from patching.prompts import PromptPair
from patching.running import Progress, ready, steps, versions
from patching.sweep import attribution, loop
from patching.sweep.engine.forward import run_packed
from patching.sweep.engine.measure import measure as measure_fast
from patching.sweep.engine.memory import allowance
from patching.sweep.engine.packing import Job
from patching.sweep.metrics import Asked, Metric, check_slopes, metrics_asked
from patching.sweep.readout import Measured, check_finite
from patching.sweep.request import Grid, Request
from patching.sweep.result import MetricValues, SweepResult, Unpatched

if TYPE_CHECKING:
    from mingpt.model import GPT

OUT_OF_MEMORY = (
    "the memory is not enough; allow the fast sweep less (--max-memory, in Python"
    " max_memory), or use shorter prompts or a narrower dtype"
)


@torch.no_grad()
def patch_sweep(
    model: GPT,
    pair: PromptPair | Sequence[PromptPair],
    *,
    site: str = Request.site,
    metric: Asked | Sequence[Asked] = "logit_diff",
    direction: str = Request.direction,
    by_position: bool = False,
    window: int = 1,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    method: str = "fast",
    max_memory: int | None = None,
    tf32: bool = False,
    progress: Progress | None = None,
) -> SweepResult | list[SweepResult]:
    """A metric of the patched run, for every activation that one can patch at a site.

    Args:
        model: put in eval mode for the sweep. The loop leaves its own recording
            and last_logits in it, the fast method leaves them as they were.
        pair: one pair of prompts, or several, of any lengths, run together.
        site: a name in mingpt.SITES.
        metric: a name in METRICS, a Metric, or a function of the last
            position's logits (V,) that returns a number; or several of them,
            all read from the same runs.
        direction: "denoise" puts clean activations into the corrupt run, "noise"
            corrupt ones into the clean run.
        by_position: at the sites of attention heads, patch each position alone
            instead of all of them at once.
        window: how many layers to patch at once, layer - window // 2 and on,
            cut at the ends (attn_out and mlp_out).
        layers, heads, positions: which to patch, negative ones from the end;
            None for all. The other cells of the result are NaN.
        method: "fast"; "loop" for the definition itself, which runs the whole
            model once per cell; or "attribution", which is approximate: to first
            order, from gradients (attribution.py says where that is poor).
        max_memory: bytes that the fast method may hold at a time, beside the
            model; None for half of what is free.
        tf32: let CUDA round float32 factors to TF32's 10 bits; the results say so.
        progress: called with (work done, work in all): cells in the loop, rows
            times blocks in the fast method, passes in attribution.

    Returns:
        A SweepResult, or for several pairs a list of them. `values` is
        (n_layer, T); at the heads' sites (n_layer, n_head) or, by position,
        (n_layer, n_head, T). Of k and v there are n_kv_head heads.

    Raises:
        SweepError: an unknown site, metric, direction or method; settings that
            do not fit the site; prompts that the model cannot read; layers,
            heads or positions that it does not have; too little memory; a
            metric that is undefined for a pair or not finite.
    """
    started = time.perf_counter()
    pairs = [pair] if isinstance(pair, PromptPair) else list(pair)
    chosen = {"layers": layers, "heads": heads, "positions": positions}
    for axis, numbers in chosen.items():
        if isinstance(numbers, Iterable):  # what can be gone through once only is kept
            chosen[axis] = tuple(numbers)
    request = Request(site, direction, by_position, window, **chosen, method=method)
    request.check()
    metrics = metrics_asked(metric)
    if method == "attribution":
        check_slopes(metrics, direction)
    if max_memory is not None and not (isinstance(max_memory, Integral) and max_memory > 0):
        raise SweepError(f"max_memory is a number of bytes, not {max_memory!r}")
    if not pairs:
        raise SweepError("no pairs to sweep")
    grids = []
    for number, one in enumerate(pairs):
        with named(number, len(pairs)):
            check_pair(model, one)
            grids.append(request.grid(model.config, len(one)))

    with ready(model, SweepError(OUT_OF_MEMORY), tf32=tf32):
        if method == "fast":
            device = model.device
            measured = measure_fast(
                model,
                pairs,
                grids,
                direction,
                metrics,
                allowed=allowance(device) if max_memory is None else max_memory,
                strict=max_memory is not None,
                progress=progress,
            )
        else:
            measured = _one_by_one(method, model, pairs, grids, direction, metrics, progress)
    asked = {
        "site": site,
        "direction": direction,
        "by_position": by_position,
        "window": int(window),
        "metric": [one.name for one in metrics],
        "method": method,
        "max_memory": max_memory,
        "tf32": tf32,
    }
    if site in SHARED_SITES and model.config.kv_heads < model.config.n_head:
        asked["shared_by"] = model.config.n_head // model.config.kv_heads
    results = []
    for number, (one, grid, found) in enumerate(zip(pairs, grids, measured, strict=True)):
        with named(number, len(pairs)):
            found.check(metrics, model.dtype, len([*grid.cells()]))
        results.append(_result(model, one, grid, metrics, found, asked))
    for result in results:
        result.seconds = time.perf_counter() - started
    return results[0] if isinstance(pair, PromptPair) else results


def _result(
    model: GPT,
    pair: PromptPair,
    grid: Grid,
    metrics: Sequence[Metric],
    found: Measured,
    asked: dict[str, object],
) -> SweepResult:
    """What was found, with all that was asked for; the time is still to be filled in."""
    values, clean, corrupt = (
        found.values.cpu().numpy(),
        found.clean.tolist(),
        found.corrupt.tolist(),
    )
    return SweepResult(
        site=grid.site,
        direction=asked["direction"],
        metrics={
            metric.name: MetricValues(values[number], clean[number], corrupt[number])
            for number, metric in enumerate(metrics)
        },
        captions={metric.name: metric.describe(pair) for metric in metrics},
        diverging=tuple(metric.name for metric in metrics if metric.diverging),
        pair=pair,
        model_name=model.name,
        arguments=asked | {f"{axis}s": chosen for axis, chosen in grid.axes.items()},
        versions=versions(model),
        seconds=0.0,
        notes=("float32 products in TF32",) if asked["tf32"] else (),
        unpatched=Unpatched(model, pair, found.clean_final, found.corrupt_final),
    )


def _one_by_one(
    method: str,
    model: GPT,
    pairs: Sequence[PromptPair],
    grids: Sequence[Grid],
    direction: str,
    metrics: Sequence[Metric],
    progress: Progress | None,
) -> list[Measured]:
    """The methods that take one pair at a time."""
    measure, work = {
        "loop": (loop.measure, sum(1 for grid in grids for _ in grid.cells())),
        "attribution": (attribution.measure, attribution.passes(metrics) * len(pairs)),
    }[method]
    step = steps(progress, work)
    measured = []
    for number, (pair, grid) in enumerate(zip(pairs, grids, strict=True)):
        with named(number, len(pairs)):
            measured.append(measure(model, pair, grid, direction, metrics, step))
    return measured


@torch.no_grad()
def run_unpatched(model: GPT, pair: PromptPair) -> Unpatched:
    """Both prompts as they are.

    Raises:
        SweepError: prompts that the model cannot read, or logits that overflow.
    """
    check_pair(model, pair)
    job = Job(pair.corrupt_ids, pair.clean_ids, pair.differing[0], ())
    with ready(model, SweepError(OUT_OF_MEMORY)):
        (carried,) = run_packed(model, [job], Request.site)
    check_finite(torch.stack((carried.base, carried.source)), carried.base.dtype)
    return Unpatched(model, pair, clean_final=carried.source, corrupt_final=carried.base)


def check_pair(model: GPT, pair: PromptPair) -> None:
    """Raises SweepError if the model cannot read the pair, before any forward pass."""
    if len(pair) > model.config.block_size:
        raise SweepError(
            f"the prompts have {len(pair)} tokens, the model reads at most"
            f" {model.config.block_size}"
        )
    ids = (*pair.clean_ids, *pair.corrupt_ids, pair.target_id, pair.foil_id)
    if max(ids) >= model.config.vocab_size:
        raise SweepError(
            f"token id {max(ids)} is out of range: the model has {model.config.vocab_size} tokens"
        )
