"""Measure each node's total effect: its output is the other run's, and all that follows is run.

These are the scores of MIB's nodes. A map of senders to the logits is not: there every other
head is frozen, so it leaves out what a node does through later heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mingpt.sites import Patch, Taps
from patching.errors import PathError
from patching.paths.engine.runs import OUT_OF_MEMORY, Runs
from patching.paths.graph import senders_of
from patching.paths.loop import sender_patches
from patching.progress import Progress, progress_or_bar, steps
from patching.running import ready
from patching.sweep.metrics import Asked, check_foil, parse_metrics
from patching.sweep.request import DIRECTIONS
from patching.sweep.run import check_pair

if TYPE_CHECKING:
    from mingpt.model import GPT
    from patching.prompts import PromptPair


@torch.no_grad()
def node_effects(
    model: GPT,
    pair: PromptPair,
    *,
    direction: str = "denoise",
    metric: Asked | Sequence[Asked] = "logit_diff",
    progress: Progress | bool | None = None,
) -> dict[str, float]:
    """Return the change of a metric, patched minus unpatched, for each sender's output.

    One run of the model for each node.

    Args:
        metric: as for patch_sweep; of several the first.
        progress: a function (nodes done, nodes in all); None for a bar; False for none.

    Returns:
        MIB's name -> the effect: "input", "a0.h0", ..., "m0", ...

    Raises:
        PathError, SweepError: as for patch_paths.
    """
    if direction not in DIRECTIONS:
        raise PathError(f"no direction {direction!r}; there are {', '.join(DIRECTIONS)}")
    metrics = parse_metrics(metric)[:1]
    check_pair(model, pair)
    if not pair.has_corrupt:
        raise PathError("the pair has no corrupt prompt, so there is no other run")
    check_foil(metrics, pair)
    senders = senders_of(model.config.n_layer, model.config.n_head)
    found = {}
    with (
        ready(model, PathError(OUT_OF_MEMORY)),
        progress_or_bar(progress, "patching nodes") as report,
    ):
        step = steps(report, len(senders))
        runs = Runs.of(model, pair, direction, metrics)
        source = {site: [x[None] for x in layers] for site, layers in runs.source.at.items()}
        ids = torch.tensor([pair.ids(DIRECTIONS[direction][0])], device=model.device)  # (1, T)
        for sender in senders:
            final = _final(model, ids, sender_patches(sender, source, range(len(pair))))
            change = runs.reader.read(final[None]) - runs.at_base  # (1, 1)
            found[sender.name] = float(change)
            step()
    return found


def _final(model: GPT, ids: Tensor, patches: Sequence[Patch]) -> Tensor:
    """Return ln_f's output at the last position (C,) of a patched run."""
    stream = model.stream(ids, Taps(patches=model.resolve(ids, patches)).tap)  # (1, T, C)
    return model.transformer.ln_f(stream[0, -1])
