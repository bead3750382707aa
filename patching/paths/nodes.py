"""Measure each node's total effect: its output is the other run's, and all that follows is run.

These are the scores of MIB's nodes. A map of senders to the logits is not: there every other
head is frozen, so it leaves out what a node does through later heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mingpt.checks import widened
from patching.errors import PathError
from patching.paths.graph import senders_of
from patching.paths.loop import sender_patches
from patching.progress import Progress, progress_or_bar, steps
from patching.running import ready
from patching.sweep.metrics import Asked, check_foil, parse_metrics
from patching.sweep.readout import Reader, check_unpatched, read
from patching.sweep.request import DIRECTIONS
from patching.sweep.run import OUT_OF_MEMORY, check_pair

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

    One run of the model for each node. The model's recording is the source run's afterwards.

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
    base, source = DIRECTIONS[direction]
    senders = senders_of(model.config.n_layer, model.config.n_head)
    every = range(len(pair))
    found = {}
    with (
        ready(model, PathError(OUT_OF_MEMORY)),
        progress_or_bar(progress, "patching nodes") as report,
    ):
        step, finals = steps(report, len(senders)), {}
        ids = {run: torch.tensor([pair.ids(run)], device=model.device) for run in (base, source)}
        for run in (base, source):
            model(ids[run], record=["resid_pre", "z", "mlp_out", "resid_post"])
            finals[run] = model.transformer.ln_f(model.recording["resid_post"][-1, 0, -1])
        recorded = model.recording
        reader = Reader(model, pair, metrics, finals["clean"], finals["corrupt"])
        check_unpatched(metrics, reader.readout, model.dtype)
        at_base = float({"clean": reader.clean, "corrupt": reader.corrupt}[base])
        chosen = [*pair.target_ids, *pair.foil_ids] if reader.answers_only else slice(None)
        for sender in senders:
            out, _ = model(ids[base], patch=sender_patches(sender, recorded, every))  # (1, T, V)
            value = read(metrics, widened(out[:, -1, chosen]), reader.readout)[0, 0]
            found[sender.name] = float(value) - at_base
            step()
    return found
