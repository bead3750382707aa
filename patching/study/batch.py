"""Run one batch of a study's pairs; what comes back are plain arrays, which a worker can send."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mingpt.model import GPT
from patching.errors import SweepError
from patching.paths.engine.measure import measure_map
from patching.prompts import PromptPair
from patching.running import ready
from patching.study.on_disk import UNPATCHED
from patching.study.request import PATHS, StudyRequest
from patching.sweep.engine.measure import measure
from patching.sweep.gaussian import Gaussian
from patching.sweep.metrics import Metric
from patching.sweep.noised import measure_draws
from patching.sweep.put_values import PutValues, Values
from patching.sweep.readout import Measured, check_finite
from patching.sweep.request import DIRECTIONS, Grid, Request
from patching.sweep.run import OUT_OF_MEMORY


@dataclass(frozen=True)
class BatchNumbers:
    """The metrics of B pairs of one length."""

    unpatched: dict[str, dict[str, np.ndarray]]  # run -> metric, "top", "preferred" -> (B,)
    # (site, metric) -> values (B, layers, ...), and the names of the axes after the first.
    maps: dict[tuple[str, str], tuple[np.ndarray, tuple[str, ...]]]


@torch.no_grad()
def run_batch(
    model: GPT,
    pairs: Sequence[PromptPair],
    request: StudyRequest,
    source: PutValues,
    noise: Sequence[Gaussian] = (),
) -> BatchNumbers:
    """Return the numbers of pairs of one length.

    Args:
        source: what is put in; it keeps means from batch to batch.
        noise: of each pair, with its standard deviation as a number; none for no noise.

    Raises:
        SweepError: numbers that are not finite, or too little memory.
    """
    if request.paths is not None:
        return _paths(model, pairs, request)
    names = [metric.name for metric in request.read]
    maps, unpatched = {}, dict[str, dict[str, np.ndarray]]()
    for sweep in request.sweeps:
        grids = [sweep.grid(model.config, len(pair)) for pair in pairs]
        by = partial(_measured, model, sweep, request.max_memory)
        with ready(model, SweepError(OUT_OF_MEMORY)):
            if noise:
                std = float(noise[0].std)
                found = measure_draws(model, pairs, grids, sweep.metrics, noise, std, by)
            else:
                put_in = source.of(pairs, sweep.site, request.max_memory)
                found = by(pairs, grids, sweep.metrics, put_in)
            for one, grid in zip(found, grids, strict=True):
                one.check(sweep.metrics, model.dtype, grid.n_cells)
            unpatched = unpatched or _unpatched(model, pairs, found, names, has_noise=bool(noise))
        for place, name in enumerate(names):
            values = torch.stack([one.values[place] for one in found])  # (B, layers, ...)
            maps[sweep.site, name] = (values.cpu().double().numpy(), tuple(grids[0].axes))
    return BatchNumbers(unpatched, maps)


def _measured(
    model: GPT,
    sweep: Request,
    allowed: int,
    pairs: Sequence[PromptPair],
    grids: Sequence[Grid],
    metrics: Sequence[Metric],
    values: Sequence[Values],
) -> list[Measured]:
    """Return the sweeps of pairs by the engine; as noised.MeasureDraws."""
    return measure(
        model, pairs, grids, sweep.direction, metrics, allowed=allowed, strict=False, values=values
    )


def _paths(model: GPT, pairs: Sequence[PromptPair], request: StudyRequest) -> BatchNumbers:
    """Return the numbers of path patching: a map (B, n_layer, heads and the MLP) of each metric.

    A sender without a path has the base run's value: nothing can change there.
    """
    asked = request.of_paths
    paths = asked.paths(model.config, len(pairs[0]))
    found = []
    with ready(model, SweepError(OUT_OF_MEMORY)):
        for pair in pairs:
            one = measure_map(
                model, pair, paths, asked.direction, asked.metrics, allowed=request.max_memory,
                strict=False, step=lambda count: None,
            )  # fmt: skip
            one.check(asked.metrics, model.dtype, len(paths.sending))
            found.append(one)
        names = [metric.name for metric in asked.metrics]
        unpatched = _unpatched(model, pairs, found, names)
    base = DIRECTIONS[request.direction][0]
    maps: dict[tuple[str, str], tuple[np.ndarray, tuple[str, ...]]] = {}
    for place, name in enumerate(names):
        rows = [torch.where(one.values[place].isnan(), getattr(one, base)[place],
                            one.values[place]) for one in found]  # fmt: skip
        grid = torch.stack(rows)[:, 1:].unflatten(1, (paths.n_layer, -1))  # without the embeddings
        maps[PATHS, name] = (grid.cpu().double().numpy(), ("layer", "head"))
    return BatchNumbers(unpatched, maps)


def _unpatched(
    model: GPT,
    pairs: Sequence[PromptPair],
    found: Sequence[Measured],
    names: Sequence[str],
    *,
    has_noise: bool = False,
) -> dict[str, dict[str, np.ndarray]]:
    """Return run -> metric -> values (B,) of the unpatched runs.

    Two more numbers are 1 or 0: "top", the answer is the likeliest token; and
    "preferred", it is likelier than the other answer. The corrupt run's answer is the foil; a
    run with noise has none. Without a foil, what would need it is NaN; without a corrupt prompt
    or noise, all of that run is.
    """
    values = {}
    for run in UNPATCHED:
        finals = torch.stack([getattr(one, f"{run}_final") for one in found])  # (B, C)
        logits = model.lm_head(finals)  # (B, V)
        check_finite(logits, model.dtype)
        read = torch.stack([getattr(one, run) for one in found]).cpu().double()  # (B, M)
        rows = dict(zip(names, read.numpy().T, strict=True))
        rows |= {name: np.full(len(pairs), np.nan) for name in ("top", "preferred")}
        if run == "corrupt" and not all(pair.has_corrupt for pair in pairs):
            if not has_noise:  # there is no such run
                rows = {name: np.full(len(pairs), np.nan) for name in rows}
            values[run] = rows
            continue
        answers = [(pair.target_ids, pair.foil_ids) for pair in pairs]
        ours, theirs = zip(*(a if run == "clean" else a[::-1] for a in answers), strict=True)
        best = logits.argmax(-1).tolist()
        one, other = (_logits_of(logits, ids) for ids in (ours, theirs))
        for number, (answer, apart) in enumerate(zip(ours, (one - other).tolist(), strict=True)):
            if answer:
                rows["top"][number] = best[number] in answer
            if not math.isnan(apart):
                rows["preferred"][number] = apart > 0
        values[run] = rows
    return values


def _logits_of(logits: Tensor, answers: Sequence[Sequence[int]]) -> Tensor:
    """Return the logit (B,) of each row's set of tokens; NaN for an empty one.

    Args:
        logits: (B, V).
        answers: of each row, the ids of a set.
    """
    if all(len(ids) == 1 for ids in answers):
        one = torch.tensor([ids[0] for ids in answers], device=logits.device)
        return logits.gather(1, one[:, None])[:, 0]
    rows = [row[list(ids)].logsumexp(-1) for row, ids in zip(logits, answers, strict=True)]
    return torch.stack([x if ids else x * math.nan for x, ids in zip(rows, answers, strict=True)])
