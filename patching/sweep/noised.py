"""Draw the noise of corrupt runs, and take the means over the draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mingpt.model import GPT
from patching.errors import SweepError
from patching.progress import Progress
from patching.prompts import PromptPair
from patching.sweep.gaussian import Gaussian
from patching.sweep.metrics import METRICS, SMALLEST_DIFFERENCE, Metric
from patching.sweep.put_values import Noise, Values
from patching.sweep.readout import Measured
from patching.sweep.request import Grid, Request

RECOVERY = "recovery"


Measure = Callable[..., list[Measured]]  # run._measure


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
    std = standard_deviation(model, pairs, gaussian)
    draws = draws_of(model, gaussian, std)
    read = replace(request, metric=metrics_read(request.metrics))
    found = by(
        model,
        [pair for pair in pairs for _ in draws],
        [grid for grid in grids for _ in draws],
        read,
        [Values(None, noise) for _ in pairs for noise in draws],
        progress,
    )
    measured = [
        mean_over_draws(found[first : first + len(draws)], request.metrics)
        for first in range(0, len(found), len(draws))
    ]
    return measured, said_of(gaussian, std)


@torch.no_grad()
def standard_deviation(model: GPT, pairs: Sequence[PromptPair], noise: Gaussian) -> float:
    """Return the noise's standard deviation: as asked, or by the subjects' embeddings.

    Raises:
        SweepError: the embeddings are all the same.
    """
    if noise.multiple is None:
        return float(noise.absolute or 0.0)
    ids = [pair.clean_ids[position] for pair in pairs for position in noise.positions]
    entries = model.transformer.wte.weight[torch.tensor(ids, device=model.device)]
    std = noise.multiple * entries.cpu().double().std().item()
    if not std > 0:
        raise SweepError("the embeddings of the subject's tokens do not vary: give --noise-std")
    return std


def draws_of(model: GPT, noise: Gaussian, std: float) -> list[Noise]:
    """Return the draws; the same for every cell, pair and dtype of a model."""
    generator = torch.Generator().manual_seed(noise.seed)
    shape = (noise.draws, len(noise.positions), model.config.n_embd)
    drawn = std * torch.randn(shape, generator=generator, dtype=torch.float64)
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
