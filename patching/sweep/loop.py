"""Activation patching by its definition: run the whole model once per cell.

This is the definition that the fast engine is tested against, and what
`method="loop"` runs. The experiment is Meng et al. 2022 (arXiv 2202.05262,
section 2, there called causal tracing), in the two directions of Heimersheim &
Nanda 2024 (arXiv 2404.15255).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from mingpt.checks import widened
from mingpt.model import GPT
from mingpt.sites import DEFAULT_SITE, SITES, Patch
from patching.prompts import PromptPair
from patching.sweep.metrics import Metric, Readout
from patching.sweep.put_values import Noise, Values, value_of
from patching.sweep.readout import Measured, NextOfCells, check_unpatched, read
from patching.sweep.request import DIRECTIONS, Cell, Grid


@torch.no_grad()
def measure(
    model: GPT,
    pair: PromptPair,
    grid: Grid,
    direction: str,
    metrics: Sequence[Metric],
    step: Callable[[], None],
    patches: Callable[[Cell], Sequence[Patch]] | None = None,
    next_tokens: int = 0,
    values: Values | None = None,
) -> Measured:
    """Read the metrics of the patched run for every cell of the grid.

    Args:
        model: in eval mode. Afterwards its recording is the source run's.
        step: called after each cell.
        patches: the patches of a cell; None for grid.patches.
        next_tokens: how many of the likeliest next tokens are kept of each cell's run.
        values: what is put in, and the noise of the corrupt run; None: the source run's
            activations, and no noise.
    """
    sites = {grid.site, DEFAULT_SITE} if patches is None else SITES
    base, source = DIRECTIONS[direction]
    ids, logits, finals = {}, {}, {}
    # Noise on an embedding is noise on what enters block 0, at the same position.
    values = values or Values(None)
    noise: dict[str, list[Patch]] = {"clean": [], "corrupt": []}
    if values.noise is not None:
        noise["corrupt"] = noise_patches(model, pair, values.noise)
    for run in (base, source):  # patches come from the last recording, the source's
        ids[run] = torch.tensor([pair.ids(run)], device=model.device)  # (1, T)
        out, _ = model(ids[run], record=sites, patch=noise[run])  # (1, T, V)
        logits[run] = widened(out[:, -1]).clone()  # (1, V)
        finals[run] = model.transformer.ln_f(model.recording[DEFAULT_SITE][-1, 0, -1])  # (C,)

    eps = torch.finfo(model.dtype).eps
    both = logits["clean"][0], logits["corrupt"][0]
    readout = Readout(pair.target_ids, pair.foil_ids, *both, eps=eps)
    check_unpatched(metrics, readout, model.dtype)
    found = logits[base].new_full((*grid.shape, len(metrics)), torch.nan)
    kept = NextOfCells.empty(found[..., 0], next_tokens) if next_tokens else None
    for cell in grid.cells():
        chosen = (patches or grid.patches)(cell)
        if values.tensor is not None:
            chosen = [replace(one, value=value_of(values.tensor, one)) for one in chosen]
        out, _ = model(ids[base], patch=[*noise[base], *chosen])  # (1, T, V)
        found[cell.index] = read(metrics, widened(out[:, -1]), readout)[:, 0]  # (M,)
        if kept is not None:
            place = np.ravel_multi_index(cell.index, grid.shape)
            kept.put(torch.tensor([place], device=model.device), out[:, -1])
        step()
    found = found.movedim(-1, 0).contiguous()  # (M, *grid.shape)
    clean, corrupt = (read(metrics, logits[run], readout)[:, 0] for run in ("clean", "corrupt"))
    return Measured(found, clean, corrupt, finals["clean"], finals["corrupt"], kept)


def noise_patches(model: GPT, pair: PromptPair, noise: Noise) -> list[Patch]:
    """Return the patches that add noise to the embeddings of the clean tokens."""
    ids = torch.tensor(pair.clean_ids, device=model.device)
    x = model.embed(ids, torch.arange(len(ids), device=model.device))  # (T, C)
    return [
        Patch("resid_pre", 0, position, value=x[position] + row)
        for position, row in zip(noise.positions, noise.rows, strict=True)
    ]
