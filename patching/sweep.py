"""Activation patching: which residual-stream vector carries the answer?

The experiment (Meng et al. 2022, arXiv 2202.05262, section 2, there called
causal tracing; the denoising direction of Heimersheim & Nanda 2024, arXiv
2404.15255): run the corrupt prompt, put back one vector of the clean run, and
see how far the next-token prediction follows.
"""

from __future__ import annotations

import contextlib
import operator
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

import mingpt
from mingpt.indices import from_the_end
from patching.errors import SweepError
from patching.metrics import Readout, metric_named
from patching.prompts import PromptPair
from patching.result import SweepResult, Unpatched

if TYPE_CHECKING:
    from mingpt import GPT

Progress = Callable[[int, int], None]  # (cells done, cells in all)


@torch.no_grad()
def patch_sweep(
    model: GPT,
    pair: PromptPair,
    *,
    metric: str = "logit_diff",
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """The metric of the corrupt run for every clean resid_post vector put into it.

    Args:
        model: put in eval mode for the sweep. Its recording is the clean run's
            afterwards.
        metric: a name in METRICS.
        layers, positions: which to patch, negative ones from the end; None for
            all. The other cells of the result are NaN.
        progress: called with (cells done, cells in all) after each cell.

    Returns:
        A SweepResult with `values` (n_layer, T): the cell (l, p) is the metric
        after the vector that block l gives out at position p was replaced.

    Raises:
        SweepError: an unknown metric, prompts that the model cannot read,
            layers or positions that it does not have, or a metric that is
            undefined for this pair.
    """
    started = time.perf_counter()
    chosen = metric_named(metric)
    check_pair(model, pair)
    rows = indices("layer", layers, model.config.n_layer)
    columns = indices("position", positions, len(pair))

    unpatched = run_unpatched(model, pair)  # leaves the clean run recorded
    readout = Readout(
        pair.target_id, pair.foil_id, unpatched.clean_logits, unpatched.corrupt_logits
    )
    chosen.check(readout)
    corrupt = _batch_of_one(model, pair.corrupt_ids)
    values = torch.full(
        (model.config.n_layer, len(pair)),
        torch.nan,
        dtype=unpatched.clean_logits.dtype,
        device=corrupt.device,
    )
    done = 0
    with _eval_mode(model):
        for layer in rows:
            for position in columns:
                model(corrupt, patch=(layer, position))
                values[layer, position] = chosen.read(_last_logits(model), readout)
                done += 1
                if progress is not None:
                    progress(done, len(rows) * len(columns))

    return SweepResult(
        values=values.cpu().numpy(),
        pair=pair,
        metric=metric,
        clean_value=chosen.read(unpatched.clean_logits, readout).item(),
        corrupt_value=chosen.read(unpatched.corrupt_logits, readout).item(),
        model_name=model.name,
        arguments={"metric": metric, "layers": rows, "positions": columns},
        versions={
            "mingpt": mingpt.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "device": str(corrupt.device),
            "dtype": str(model.transformer.wte.weight.dtype).removeprefix("torch."),
            "threads": str(torch.get_num_threads()),
        },
        seconds=time.perf_counter() - started,
        unpatched=unpatched,
    )


@torch.no_grad()
def run_unpatched(model: GPT, pair: PromptPair) -> Unpatched:
    """Both prompts as they are. The clean run is recorded, ready to be patched from.

    Raises:
        SweepError: prompts that the model cannot read, or logits that overflow.
    """
    check_pair(model, pair)
    with _eval_mode(model):
        model(_batch_of_one(model, pair.corrupt_ids))
        corrupt_logits = _last_logits(model)
        model(_batch_of_one(model, pair.clean_ids), record=True)
        clean_logits = _last_logits(model)
    if not torch.isfinite(torch.stack((clean_logits, corrupt_logits))).all():
        dtype = str(model.last_logits.dtype).removeprefix("torch.")
        raise SweepError(f"the model's logits are not finite in {dtype}; use a wider dtype")
    return Unpatched(model, pair, clean_logits, corrupt_logits)


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


@contextlib.contextmanager
def _eval_mode(model: GPT) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _batch_of_one(model: GPT, ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor([ids], device=model.transformer.wte.weight.device)  # (1, T)


def _last_logits(model: GPT) -> torch.Tensor:
    """The last position's logits (V,); half precision is widened before any arithmetic."""
    logits = model.last_logits[0]
    return logits if logits.dtype == torch.float64 else logits.float()


def indices(what: str, chosen: Sequence[int] | None, size: int) -> list[int]:
    """`chosen`, sorted, once each, counted from 0; every index where it is None.

    Raises:
        SweepError: not whole numbers, out of range, or none at all.
    """
    if chosen is None:
        return list(range(size))
    try:
        numbers = [operator.index(number) for number in chosen]
    except TypeError:
        raise SweepError(f"{what}s must be whole numbers, not {chosen!r}") from None
    if not numbers:
        raise SweepError(f"no {what}s to patch")
    return sorted({from_the_end(what, number, size, SweepError) for number in numbers})
