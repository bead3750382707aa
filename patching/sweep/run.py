"""Run a sweep: which vector, put from one run into another, carries the answer?

`patch_sweep` takes the settings as keywords, `run_sweep` as a Request. The method
decides who measures: the engine (engine/), the loop that defines the result
(loop.py), or an estimate by gradients (attribution.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import torch

from mingpt.sites import SHARED_SITES, Patch
from patching.errors import SweepError, named
from patching.progress import Progress, progress_or_bar, steps
from patching.prompts import PromptPair
from patching.running import float32_products, ready, versions
from patching.sweep import attribution, loop, noised
from patching.sweep.engine.measure import check_memory
from patching.sweep.engine.measure import measure as measure_fast
from patching.sweep.engine.memory import allowance
from patching.sweep.gaussian import Gaussian
from patching.sweep.metrics import Asked, check_foil
from patching.sweep.next_of_runs import next_of_cells, next_token_tables
from patching.sweep.pair_notes import pair_notes
from patching.sweep.put import Put
from patching.sweep.put_values import PutValues, Values
from patching.sweep.readout import Measured, neutral_values
from patching.sweep.request import Cell, Grid, Request
from patching.sweep.result import MetricValues, SweepResult
from patching.sweep.words import noise_notes, put_notes

if TYPE_CHECKING:
    from mingpt.model import GPT

OUT_OF_MEMORY = (
    "the memory is not enough; allow the fast sweep less (--max-memory, in Python"
    " max_memory), or use shorter prompts or a narrower dtype"
)


@overload
def patch_sweep(
    model: GPT,
    pair: PromptPair,
    *,
    site: str = ...,
    metric: Asked | Sequence[Asked] = ...,
    direction: str = ...,
    by_position: bool = ...,
    window: int = ...,
    layers: Sequence[int] | None = ...,
    heads: Sequence[int] | None = ...,
    positions: Sequence[int] | None = ...,
    method: str = ...,
    patches: Callable[[Cell], Sequence[Patch]] | None = ...,
    max_memory: int | None = ...,
    tf32: bool = ...,
    rows: int = ...,
    next_tokens: int = ...,
    put: str | Put = ...,
    relp_rules: str | Sequence[str] | None = ...,
    steps: int | None = ...,
    corrupt_by: Gaussian | None = ...,
    progress: Progress | bool | None = ...,
) -> SweepResult: ...


@overload
def patch_sweep(
    model: GPT,
    pair: Sequence[PromptPair],
    *,
    site: str = ...,
    metric: Asked | Sequence[Asked] = ...,
    direction: str = ...,
    by_position: bool = ...,
    window: int = ...,
    layers: Sequence[int] | None = ...,
    heads: Sequence[int] | None = ...,
    positions: Sequence[int] | None = ...,
    method: str = ...,
    patches: Callable[[Cell], Sequence[Patch]] | None = ...,
    max_memory: int | None = ...,
    tf32: bool = ...,
    rows: int = ...,
    next_tokens: int = ...,
    put: str | Put = ...,
    relp_rules: str | Sequence[str] | None = ...,
    steps: int | None = ...,
    corrupt_by: Gaussian | None = ...,
    progress: Progress | bool | None = ...,
) -> list[SweepResult]: ...


def patch_sweep(
    model: GPT,
    pair: PromptPair | Sequence[PromptPair],
    *,
    site: str = Request.site,
    metric: Asked | Sequence[Asked] = Request.metric,
    direction: str = Request.direction,
    by_position: bool = Request.by_position,
    window: int = Request.window,
    layers: Sequence[int] | None = Request.layers,
    heads: Sequence[int] | None = Request.heads,
    positions: Sequence[int] | None = Request.positions,
    method: str = Request.method,
    patches: Callable[[Cell], Sequence[Patch]] | None = Request.patches,
    max_memory: int | None = Request.max_memory,
    tf32: bool = Request.tf32,
    rows: int = Request.rows,
    next_tokens: int = Request.next_tokens,
    put: str | Put = Request.put,
    relp_rules: str | Sequence[str] | None = Request.relp_rules,
    steps: int | None = Request.steps,
    corrupt_by: Gaussian | None = Request.corrupt_by,
    progress: Progress | bool | None = None,
) -> SweepResult | list[SweepResult]:
    """Read a metric of the patched run for every activation that can be patched at a site.

    Args:
        model: put in eval mode meanwhile; "loop" alone changes its recording and last_logits.
        pair: one pair of prompts, or several, of any lengths.
        site: a name in mingpt.SITES.
        metric: a name in METRICS, a Metric, or a function of the last logits (V,); or several.
        direction: "denoise" (clean into corrupt) or "noise" (corrupt into clean).
        by_position: patch heads at each position alone, not at all at once.
        window: layers to patch at once around each one (attn_out and mlp_out).
        layers, heads, positions: which to patch, counted from the end if negative; None: all.
        method: "fast"; "loop", the definition: the whole model once per cell; or, approximate,
            by gradients (see attribution.py), "attribution", "attribution-ig" or "relp".
        patches: a function from a Cell to its list of mingpt.Patch, for "loop".
        max_memory: bytes for "fast" beside the model; None for half of the free memory.
        tf32: let CUDA round float32 factors to TF32's 10 bits; the result says so.
        rows: tokens in the result's tables of next tokens.
        next_tokens: keep so many of the likeliest of every cell's run, for SweepResult.next_of.
        corrupt_by: gaussian(...), noise in place of a corrupt prompt; None for none.
        put: "recorded", the source run's activation; "zero"; mean_over(...); resample_from(...).
        relp_rules, steps: of "relp" and of "attribution-ig"; None: "ln,gelu" (see relp.py) and 5.
        progress: a function (done, total); None for a bar; False for none.

    Returns:
        A SweepResult, or for several pairs a list; `values` is as SweepResult.values.

    Raises:
        SweepError: settings that do not fit; too little memory; a metric without finite values.
    """
    request = Request(
        site, metric, direction, by_position, window, layers, heads, positions, method,
        patches, max_memory, tf32, rows, next_tokens, put, relp_rules, steps, corrupt_by,
    )  # fmt: skip
    pairs = [pair] if isinstance(pair, PromptPair) else pair
    results = run_sweep(model, pairs, request, progress)
    return results[0] if isinstance(pair, PromptPair) else results


@torch.no_grad()
def run_sweep(
    model: GPT,
    pairs: Sequence[PromptPair],
    request: Request,
    progress: Progress | bool | None = None,
) -> list[SweepResult]:
    """Return the sweep of each pair, as `patch_sweep` does.

    Args:
        progress: a function (done, total). The loop counts cells, the fast method
            rows times blocks, those by gradients passes. None for a bar, False for none.

    Raises:
        SweepError: as `patch_sweep`.
    """
    started = time.perf_counter()
    pairs = as_pairs(pairs)
    grids = _checked_grids(model, pairs, request)
    source = PutValues(model, request.put_in)
    source.check(pairs)
    check_memory(model, pairs, grids, request, source)
    noise = None  # what the results keep of it
    with (
        ready(model, SweepError(OUT_OF_MEMORY), tf32=request.tf32),
        progress_or_bar(progress, "patching") as report,
    ):
        values = source.of(pairs, request.site, request.max_memory)
        if request.corrupt_by is None:
            measured = _measure(model, pairs, grids, request, values, report)
        else:
            measured, noise = noised.measure(
                model, pairs, grids, request, request.corrupt_by, _measure, report
            )
        seconds = time.perf_counter() - started
        with float32_products(model):  # this product is exact even where the runs are in TF32
            tables = next_token_tables(model, pairs, measured, request.rows)
    checksum = model.checksum()
    results = []
    for pair, grid, found, (clean, corrupt), value in zip(
        pairs, grids, measured, tables, values, strict=True
    ):
        result = _result(model, pair, grid, found, request, value, noise)
        # Estimates, ablations, and a caller's own patches may well go far beyond both runs.
        is_recorded = request.patches is None and request.put_in.is_recorded
        metrics = result.metrics if is_recorded and not request.is_approximate else {}
        notes = pair_notes(pair, clean, corrupt, metrics, torch.finfo(model.dtype).eps)
        results.append(
            replace(
                result,
                checksum=checksum,
                clean_next=clean,
                corrupt_next=corrupt if pair.has_corrupt else None,
                seconds=seconds,
                notes=(*result.notes, *notes),
            )
        )
    return results


def _checked_grids(model: GPT, pairs: Sequence[PromptPair], request: Request) -> list[Grid]:
    """Return each pair's grid, after checking the pairs."""
    grids = []
    for number, pair in enumerate(pairs):
        with named(number, len(pairs)):
            check_pair(model, pair)
            check_foil(request.metrics, pair)
            request.check_runs(pair)
            grids.append(request.grid(model.config, len(pair)))
    return grids


def as_pairs(pairs: object) -> list[PromptPair]:
    """Return the pairs as a list.

    Raises:
        SweepError: it holds no pair, or something else.
    """
    is_list = isinstance(pairs, Iterable) and not isinstance(pairs, str)
    several: list[object] = list(pairs) if is_list else [pairs]  # type: ignore[call-overload]
    if not several:
        raise SweepError("no pairs to sweep")
    found = [one for one in several if isinstance(one, PromptPair)]
    for one in several:
        if not isinstance(one, PromptPair):
            raise SweepError(
                f"a sweep takes a PromptPair or a list of them, not {one!r:.60}; make one with"
                " PromptPair.from_text(tokenizer, clean, corrupt, target, foil)"
            )
    return found


def check_pair(model: GPT, pair: PromptPair) -> None:
    """Raise SweepError if the model cannot read the pair, before any forward pass."""
    if len(pair) > model.config.block_size:
        raise SweepError(
            f"the prompts have {len(pair)} tokens, the model reads at most"
            f" {model.config.block_size}"
        )
    ids = (*pair.clean_ids, *pair.corrupt_ids, *pair.target_ids, *pair.foil_ids)
    if max(ids) >= model.config.vocab_size:
        raise SweepError(
            f"token id {max(ids)} is out of range: the model has {model.config.vocab_size} tokens"
        )


def _measure(
    model: GPT,
    pairs: Sequence[PromptPair],
    grids: Sequence[Grid],
    request: Request,
    values: Sequence[Values],
    progress: Progress | None,
) -> list[Measured]:
    """Measure every pair by the request's method, and check that all numbers are finite."""
    metrics = request.metrics
    if request.method == "fast":
        measured = measure_fast(
            model,
            pairs,
            grids,
            request.direction,
            metrics,
            allowed=allowance(model.device) if request.max_memory is None else request.max_memory,
            strict=request.max_memory is not None,
            next_tokens=min(request.next_tokens, model.config.vocab_size),
            values=values,
            progress=progress,
        )
    else:
        measured = _measure_one_by_one(model, pairs, grids, request, values, progress)
    for number, (grid, found) in enumerate(zip(grids, measured, strict=True)):
        with named(number, len(pairs)):
            found.check(metrics, model.dtype, grid.n_cells)
    return measured


def _measure_one_by_one(
    model: GPT,
    pairs: Sequence[PromptPair],
    grids: Sequence[Grid],
    request: Request,
    values: Sequence[Values],
    progress: Progress | None,
) -> list[Measured]:
    """Measure every pair by the loop or by gradients, one pair after the other."""
    direction, metrics = request.direction, request.metrics
    is_loop = request.method == "loop"
    if is_loop:
        work = sum(grid.n_cells for grid in grids)
    else:
        work = attribution.passes(request) * len(pairs)
    step = steps(progress, work)
    measured = []
    for number, (pair, grid) in enumerate(zip(pairs, grids, strict=True)):
        with named(number, len(pairs)):
            if is_loop:
                patches = None if request.patches is None else _checked(request.patches)
                k = min(request.next_tokens, model.config.vocab_size)
                value = values[number]
                found = loop.measure(model, pair, grid, direction, metrics, step, patches, k, value)
            else:
                found = attribution.measure(model, pair, grid, request, step)
        measured.append(found)
    return measured


def _checked(patches: Callable[[Cell], object]) -> Callable[[Cell], list[Patch]]:
    """Wrap a caller's function, so that each cell gets a list of patches or an error."""

    def of_cell(cell: Cell) -> list[Patch]:
        found = patches(cell)
        found = [found] if isinstance(found, Patch) else found
        if not (isinstance(found, Sequence) and all(isinstance(one, Patch) for one in found)):
            raise SweepError(f"patches returned {found!r:.80} for {cell}, not a list of Patch")
        return list(found)

    return of_cell


def _result(
    model: GPT,
    pair: PromptPair,
    grid: Grid,
    found: Measured,
    request: Request,
    value: Values,
    noise: dict[str, Any] | None,
) -> SweepResult:
    """Return a pair's result, without the fields that `run_sweep` fills in."""
    values = found.values.cpu().numpy()
    metrics = request.metrics
    has_corrupt = pair.has_corrupt or noise is not None
    corrupt = found.corrupt if has_corrupt else torch.full_like(found.corrupt, torch.nan)
    ends = zip(found.clean.tolist(), corrupt.tolist(), strict=True)
    chosen = {axis: tuple(indices) for axis, indices in grid.axes.items()}
    is_shared = request.site in SHARED_SITES
    tf32 = ("float32 products in TF32",) if request.tf32 else ()
    return SweepResult(
        site=request.site,
        direction=request.direction,
        metrics={
            metric.name: MetricValues(grid_values, *both)
            for metric, grid_values, both in zip(metrics, values, ends, strict=True)
        },
        captions={metric.name: metric.describe(pair) for metric in metrics},
        diverging=tuple(metric.name for metric in metrics if metric.diverging),
        neutral=neutral_values(metrics, found, request.direction),
        pair=pair.without_tokenizer(),
        model_name=model.name,
        layers=chosen["layer"],
        heads=chosen.get("head"),
        positions=chosen.get("position"),
        by_position=request.by_position,
        window=grid.window,
        put=request.put_in.what,
        method=request.method,
        relp_rules=request.rules,
        steps=request.steps,
        patches=None if request.patches is None else _name_of(request.patches),
        shared_by=model.config.n_head // model.config.kv_heads if is_shared else 1,
        max_memory=request.max_memory,
        tf32=request.tf32,
        rows=request.rows,
        **next_of_cells(pair, found),
        versions=versions(model),
        put_from=value.said,
        noise=noise,
        notes=(*tf32, *put_notes(request.put_in.what, value.said), *noise_notes(noise)),
    )


def _name_of(function: Callable[..., object]) -> str:
    name = getattr(function, "__name__", "")
    return name if name.isidentifier() else "custom"
