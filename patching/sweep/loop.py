"""Activation patching as it is defined: the whole model, once per cell.

This is the definition that the fast engine is tested against, and what
`method="loop"` runs. The experiment is Meng et al. 2022 (arXiv 2202.05262,
section 2, there called causal tracing), in the two directions of Heimersheim &
Nanda 2024 (arXiv 2404.15255).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from mingpt.checks import widened
from mingpt.model import GPT
from mingpt.sites import DEFAULT_SITE
from patching.prompts import PromptPair
from patching.sweep.metrics import Metric, Readout
from patching.sweep.readout import Measured, check_unpatched, read
from patching.sweep.request import DIRECTIONS, Grid


@torch.no_grad()
def measure(
    model: GPT,
    pair: PromptPair,
    grid: Grid,
    direction: str,
    metrics: Sequence[Metric],
    step: Callable[[], None],
) -> Measured:
    """Read the metrics of the patched run for every cell of the grid.

    Args:
        model: in eval mode. Its recording is the source run's afterwards.
        step: called after each cell.
    """
    device = model.device
    ids = {
        "clean": torch.tensor([pair.clean_ids], device=device),  # (1, T)
        "corrupt": torch.tensor([pair.corrupt_ids], device=device),
    }
    base, source = DIRECTIONS[direction]
    logits, finals = {}, {}
    for run in (base, source):  # the last one's recording is patched from
        model(ids[run], record={grid.site, DEFAULT_SITE})
        logits[run] = widened(model.last_logits)  # (1, V)
        finals[run] = model.transformer.ln_f(model.activations[-1, 0, -1])  # (C,)

    readout = Readout(pair.target_id, pair.foil_id, logits["clean"][0], logits["corrupt"][0])
    check_unpatched(metrics, readout, model.last_logits.dtype)
    values = logits[base].new_full((len(metrics), *grid.shape), torch.nan)
    for cell in grid.cells():
        model(ids[base], patch=grid.patches(cell))
        values[:, *cell.index] = read(metrics, widened(model.last_logits), readout)[:, 0]
        step()
    ends = (read(metrics, logits[run], readout)[:, 0] for run in ("clean", "corrupt"))
    return Measured(values, *ends, finals["clean"], finals["corrupt"])
