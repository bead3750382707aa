"""Figures of sweeps: heatmaps of one pair, means over several pairs, single cells.

A recovery of several pairs is a ratio of means, as TransformerLens and nnsight compute it: the
patched, clean and corrupt logit differences are averaged over the pairs first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mingpt.model import GPT
from patching.sweep.result import SweepResult
from patching.sweep.run import patch_sweep
from patching.verification.published import Figure


def sweep(figure: Figure, model: GPT) -> tuple[np.ndarray, np.ndarray]:
    """Compare a grid of cells, or a part of it.

    Fields: pairs, site, method, by_position, unit ("logit_diff" or "recovery"), values; and
    relp_rules (of the method relp), layers (only these), position (only this one), sum_heads
    (add up the heads' recoveries).
    """
    fields = figure.fields
    found = patch_sweep(
        model,
        figure.prompt_pairs(),
        site=fields["site"],
        by_position=fields.get("by_position", False),
        method=fields.get("method", "fast"),
        relp_rules=fields.get("relp_rules"),
        progress=False,
    )
    ours = _mean_patched(found)
    if fields["unit"] == "recovery":
        ours = _ratio_of_means(found)
    if "layers" in fields:
        ours = ours[fields["layers"]]
    if "position" in fields:
        ours = ours[..., fields["position"]]
    if fields.get("sum_heads"):
        ours = ours.sum(1)
    return np.array(fields["values"]), ours


def cells(figure: Figure, model: GPT) -> tuple[np.ndarray, np.ndarray]:
    """Compare some cells of several pairs' sweeps, in logits.

    The source prints recoveries. They are turned into patched logit differences, because a
    recovery divides by the gap, and with it the rounding: corrupt - recovery (corrupt - clean).

    Fields: pairs, site, cells (layer and position, some for each pair), recoveries, clean,
    corrupt.
    """
    fields = figure.fields
    clean, corrupt = (np.array(fields[run])[:, None] for run in ("clean", "corrupt"))
    published = corrupt - np.array(fields["recoveries"]) * (corrupt - clean)
    found = patch_sweep(model, figure.prompt_pairs(), site=fields["site"], progress=False)
    ours = [
        [result.values[tuple(cell)] for cell in several]
        for result, several in zip(found, fields["cells"], strict=True)
    ]
    return published, np.array(ours)


def unpatched(figure: Figure, model: GPT) -> tuple[np.ndarray, np.ndarray]:
    """Compare the logit differences of the unpatched runs: clean first, then corrupt.

    Fields: pairs, clean, corrupt (a number for each pair); with mean, one number each.
    """
    fields = figure.fields
    # One cell is the least that a sweep patches.
    found = patch_sweep(model, figure.prompt_pairs(), layers=[0], positions=[0], progress=False)
    ours = np.array([[one.clean_value for one in found], [one.corrupt_value for one in found]])
    if fields.get("mean"):
        ours = ours.mean(1)
    return np.array([fields["clean"], fields["corrupt"]]), ours


def _mean_patched(found: Sequence[SweepResult]) -> np.ndarray:
    return np.mean([one.values.astype(np.float64) for one in found], axis=0)


def _ratio_of_means(found: Sequence[SweepResult]) -> np.ndarray:
    clean, corrupt = (
        np.mean([getattr(one, f"{run}_value") for one in found]) for run in ("clean", "corrupt")
    )
    return (corrupt - _mean_patched(found)) / (corrupt - clean)
