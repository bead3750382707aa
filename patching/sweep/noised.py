"""Draw the noise of corrupt runs, and take the means over the draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mingpt.model import GPT
from patching.errors import PairSweepError, SweepError, named
from patching.progress import Progress
from patching.prompts import PromptPair
from patching.sweep.gaussian import Gaussian
from patching.sweep.metrics import METRICS, SMALLEST_DIFFERENCE, Metric
from patching.sweep.put_values import Noise, Values
from patching.sweep.readout import Measured
from patching.sweep.request import Grid, Request

RECOVERY = "recovery"


Measure = Callable[..., list[Measured]]  # run._measure
# (pairs, grids, metrics, values) -> what was measured: each of the four has an entry for each draw
# of each pair, but the metrics, which are those of all.
MeasureDraws = Callable[
    [Sequence[PromptPair], Sequence[Grid], Sequence[Metric], Sequence[Values]], list[Measured]
]


def measure(
    model: GPT,
    pairs: Sequence[PromptPair],
    grids: Sequence[Grid],
    request: Request,
    gaussian: Gaussian,
    by: Measure,
    progress: Progress | None,
) -> tuple[list[Measured], dict[str, Any]]:
    """Measure every pair with every draw; return each pair's means, and what is kept of the noise.

    Args:
        by: measures pairs with the noise that each has.
    """
    noise = [gaussian] * len(pairs)
    std = standard_deviation(model, pairs, noise)

    def of_draws(
        pairs: Sequence[PromptPair],
        grids: Sequence[Grid],
        metrics: Sequence[Metric],
        values: Sequence[Values],
    ) -> list[Measured]:
        return by(model, pairs, grids, replace(request, metric=metrics), values, progress)

    measured = measure_draws(model, pairs, grids, request.metrics, noise, std, of_draws)
    return measured, said_of(gaussian, std)


def measure_draws(
    model: GPT,
    pairs: Sequence[PromptPair],
    grids: Sequence[Grid],
    metrics: Sequence[Metric],
    noise: Sequence[Gaussian],
    std: float,
    by: MeasureDraws,
) -> list[Measured]:
    """Measure every draw of every pair, and return each pair's means over its draws.

    Args:
        noise: of each pair; all have the same number of draws.
        std: its standard deviation, in the embedding's unit.
        by: measures one draw after another, a pair's next to each other.

    Raises:
        SweepError: as mean_over_draws.
    """
    draws = [draws_of(model, pair, one, std) for pair, one in zip(pairs, noise, strict=True)]
    each = [(pair, grid, one) for pair, grid, of_pair in zip(pairs, grids, draws, strict=True)
            for one in of_pair]  # fmt: skip
    try:
        measured = by(
            [pair for pair, _, _ in each],
            [grid for _, grid, _ in each],
            metrics_read(metrics),
            [Values(None, one) for _, _, one in each],
        )
    except PairSweepError as error:  # its number is that of a draw
        with named(error.number // noise[0].draws, len(pairs)):
            raise SweepError(error.reason) from None
    found = iter(measured)
    means = []
    for number, of_pair in enumerate(draws):
        with named(number, len(pairs)):
            means.append(mean_over_draws(list(islice(found, len(of_pair))), metrics))
    return means


@torch.no_grad()
def standard_deviation(model: GPT, pairs: Sequence[PromptPair], noise: Sequence[Gaussian]) -> float:
    """Return the noise's standard deviation: as asked, or by the subjects' embeddings.

    Args:
        noise: of each pair; all ask for the same standard deviation.

    Raises:
        SweepError: the embeddings are all the same.
    """
    asked = noise[0]
    if asked.multiple is None:
        return float(asked.absolute or 0.0)
    ids = [
        pair.clean_ids[position]
        for pair, one in zip(pairs, noise, strict=True)
        for position in one.positions
    ]
    entries = model.transformer.wte.weight[torch.tensor(ids, device=model.device)]
    std = asked.multiple * entries.cpu().double().std().item()
    if not std > 0:
        raise SweepError("the embeddings of the subject's tokens do not vary: give --noise-std")
    return std


def draws_of(model: GPT, pair: PromptPair, noise: Gaussian, std: float) -> list[Noise]:
    """Return the draws of a pair; the same for every cell and dtype of a model.

    They follow from the seed, the prompt and its subject, so those of different pairs are
    independent, and a pair has the same ones in whatever request or batch it is.
    """
    generator = np.random.default_rng([noise.seed, *pair.clean_ids, *noise.positions])
    shape = (noise.draws, len(noise.positions), model.config.n_embd)
    drawn = torch.from_numpy(std * generator.standard_normal(shape))
    rows = drawn.to(model.dtype).to(model.device)
    return [Noise(noise.positions, one) for one in rows]


def metrics_read(asked: Sequence[Metric]) -> list[Metric]:
    """Return the metrics that each draw is read by: logit_diff in place of recovery.

    Recovery is a ratio of means over draws, so it is computed from them at the end.
    """
    read = [METRICS["logit_diff"] if metric.name == RECOVERY else metric for metric in asked]
    return list({metric.name: metric for metric in read}.values())


def mean_over_draws(found: Sequence[Measured], asked: Sequence[Metric]) -> Measured:
    """Return the means over the draws of a pair; of recovery, the ratio of means.

    Args:
        found: of each draw, read by `metrics_read(asked)`.

    Raises:
        SweepError: recovery is undefined, because the means of both runs are the same.
    """
    names = [metric.name for metric in metrics_read(asked)]
    parts = {
        part: torch.stack([getattr(one, part) for one in found]).double().mean(0)
        for part in ("values", "clean", "corrupt")
    }
    dtype = found[0].values.dtype
    kept: dict[str, list[Tensor]] = {part: [] for part in parts}
    for metric in asked:
        at = names.index("logit_diff" if metric.name == RECOVERY else metric.name)
        clean, corrupt = parts["clean"][at], parts["corrupt"][at]
        if metric.name == RECOVERY and not abs(corrupt - clean) >= SMALLEST_DIFFERENCE:
            raise SweepError(
                f"recovery is undefined: the mean logit differences of the clean ({clean:.6g}) and"
                f" the noised run ({corrupt:.6g}) are less than {SMALLEST_DIFFERENCE:g} apart"
            )
        for part, means in parts.items():
            value = means[at]
            if metric.name == RECOVERY:
                value = (corrupt - value) / (corrupt - clean)
            kept[part].append(value)
    dtype = dtype if dtype.is_floating_point else torch.float64
    values, clean, corrupt = (torch.stack(kept[part]).to(dtype) for part in parts)
    return replace(found[0], values=values, clean=clean, corrupt=corrupt)


def said_of(noise: Gaussian, std: float) -> dict[str, Any]:
    """Return what a result keeps of the noise."""
    return {
        "subject": noise.subject,
        "positions": list(noise.positions),
        "std": std,
        "asked": str(noise.std),
        "draws": noise.draws,
        "seed": noise.seed,
    }
