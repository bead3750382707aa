"""Path patching by its definition: two runs of the whole model for each sender.

Wang et al. 2022 (arXiv 2211.00593, appendix B). Their runs A and B record the two prompts.

    C  the base run with every head's output frozen, the sender's output put in from the other
       run, and MLPs and layer norms recomputed. The inputs of the receivers are read.
    D  the base run with these inputs put into the receivers alone. The metric is read.

Frozen z stands for frozen q, k and v, which give it. With MLPs frozen too, C follows the direct
path alone (Goldowsky-Dill et al. 2023, arXiv 2304.05969). Receivers do not influence one
another: D's values all come from C, in which every head is frozen.

This is the definition that the engine is tested against, and what `method="loop"` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mingpt.checks import widened
from mingpt.model import GPT
from mingpt.sites import Patch
from patching.paths.graph import Paths, Receiver, Sender
from patching.prompts import PromptPair
from patching.sweep.metrics import Metric, Readout
from patching.sweep.readout import Measured, check_unpatched, read
from patching.sweep.request import DIRECTIONS

KEPT = ("resid_pre", "resid_mid", "mlp_out", "resid_post", "z")
READ = ("resid_pre", "resid_mid", "resid_post")  # what receivers read in run C


@torch.no_grad()
def measure(
    model: GPT,
    pair: PromptPair,
    paths: Paths,
    direction: str,
    metrics: Sequence[Metric],
    step: Callable[[], None],
) -> Measured:
    """Read the metrics of run D for every sender that has a path to a receiver.

    Args:
        model: in eval mode. Afterwards its recording is a run C's.
        step: called after each sender.
    """
    ids, logits, finals, recorded = {}, {}, {}, {}
    for run in ("clean", "corrupt"):
        ids[run] = torch.tensor([pair.ids(run)], device=model.device)  # (1, T)
        out, _ = model(ids[run], record=KEPT)
        logits[run], recorded[run] = widened(out[:, -1]).clone(), model.recording
        finals[run] = model.transformer.ln_f(model.recording["resid_post"][-1, 0, -1])  # (C,)
    base, source = (recorded[run] for run in DIRECTIONS[direction])
    base_ids = ids[DIRECTIONS[direction][0]]
    readout = Readout(
        pair.target_ids, pair.foil_ids, logits["clean"][0], logits["corrupt"][0],
        eps=torch.finfo(model.dtype).eps,
    )  # fmt: skip
    check_unpatched(metrics, readout, model.dtype)

    frozen = frozen_patches(base, paths)
    values = readout.clean_logits.new_full((len(metrics), len(paths.senders)), torch.nan)
    for number in paths.sending:
        sent = sender_patches(paths.senders[number], source, paths.sender_positions)
        out = run_path(model, base_ids, [*frozen, *sent], paths)
        values[:, number] = read(metrics, out, readout)[:, 0]
        step()
    clean, corrupt = (read(metrics, logits[run], readout)[:, 0] for run in ("clean", "corrupt"))
    return Measured(values, clean, corrupt, finals["clean"], finals["corrupt"])


def measure_edges(
    model: GPT,
    pair: PromptPair,
    paths: Paths,
    direction: str,
    metrics: Sequence[Metric],
    step: Callable[[], None],
) -> Measured:
    """Read the metrics of run D for every sender and every single receiver.

    Args:
        model, step: as for measure; `step` is called after each edge.
    """
    maps = [
        measure(model, pair, replace(paths, receivers=(one,)), direction, metrics, step)
        for one in paths.receivers
    ]
    return replace(maps[0], values=torch.stack([one.values for one in maps], dim=-1))


def run_path(model: GPT, base_ids: Tensor, patches: Sequence[Patch], paths: Paths) -> Tensor:
    """Return run D's last logits (1, V), by run C and run D.

    Args:
        base_ids: token ids (1, T) of the base run.
        patches: of run C: what is frozen, and after it what is sent. Several senders may send.
    """
    model(base_ids, record=READ, patch=patches)  # run C
    received = [
        patch
        for receiver in paths.receivers
        for patch in receiver_patches(model, receiver, paths.receiver_positions)
    ]
    out, _ = model(base_ids, patch=received)  # run D
    return widened(out[:, -1])


def frozen_patches(base: Mapping[str, Tensor], paths: Paths) -> list[Patch]:
    """Return the patches that keep every head, and where asked every MLP, as in the base run.

    Args:
        base: site -> (n_layer, 1, ...), the base run's recording.
    """
    frozen = [Patch("z", layer, value=z) for layer, z in enumerate(base["z"])]
    if paths.freezes_mlps:
        frozen += [Patch("mlp_out", layer, value=out) for layer, out in enumerate(base["mlp_out"])]
    return frozen


def sender_patches(
    sender: Sender,
    source: Mapping[str, Tensor] | Mapping[str, list[Tensor]],
    positions: Sequence[int],
) -> list[Patch]:
    """Return the patches that put the source run's output of a sender in.

    Args:
        source: site -> (n_layer, 1, ...), the source run's recording.
    """
    if sender.kind == "head":
        z = source["z"][sender.layer][:, sender.head]  # (1, T, hs)
        return [Patch("z", sender.layer, p, sender.head, z[:, p]) for p in positions]
    site, layer = ("mlp_out", sender.layer) if sender.kind == "mlp" else ("resid_pre", 0)
    return [Patch(site, layer, p, value=source[site][layer][:, p]) for p in positions]


def receiver_patches(model: GPT, receiver: Receiver, positions: Sequence[int]) -> list[Patch]:
    """Return the patches that put a receiver's input in: of the run that the model recorded."""
    streams = model.recording
    if receiver.layer is None:
        last = len(streams["resid_post"]) - 1
        return [Patch("resid_post", last, -1, value=streams["resid_post"][last][:, -1])]
    layer, block = receiver.layer, model.transformer.h[receiver.layer]
    if receiver.kind == "mlp":
        # There is no site for an MLP's input. Its output says as much: nothing else reads it.
        out = block.mlp(block.ln_2(streams["resid_mid"][layer]))  # (1, T, C)
        return [Patch("mlp_out", layer, p, value=out[:, p]) for p in positions]
    qkv = block.attn.c_attn(block.ln_1(streams["resid_pre"][layer]))
    part = dict(zip("qkv", qkv.split(block.attn.sizes, dim=-1), strict=True))[receiver.kind]
    x = block.attn.heads(part)[:, receiver.head]  # (1, T, hs)
    return [Patch(receiver.kind, layer, p, receiver.head, x[:, p]) for p in positions]
