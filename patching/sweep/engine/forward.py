"""Run many patched runs, packed by packing.py, through the blocks in one pass.

Layer norms, projections and MLPs work on each row alone, so each is one product
for all rows. Only attention must know which rows belong together. In the last
block, only the values that the last position needs are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.model import GPT, Block
from patching.attention import keys_values, of_each_query, queries, split
from patching.sweep.engine.layout import Layout
from patching.sweep.engine.packing import (
    Batch,
    BlockRuns,
    Joining,
    by_rows,
    rows_of,
)
from patching.sweep.engine.plan import READ_LATER, Experiment
from patching.sweep.engine.runs import Job
from patching.sweep.engine.site_rules import new_rows, rule_of

Record = Callable[[str, Tensor], None]  # (site, rows): keeps the base and source runs' rows


@dataclass(frozen=True)
class PackedRuns:
    """The results for one job: ln_f's output at the last position of each run."""

    base: Tensor  # (C,)
    source: Tensor  # (C,)
    experiments: Sequence[Experiment]  # in the order of `finals`
    finals: Tensor  # (E, C)
    unchanged: Sequence[Experiment]  # those not run, because their patch changes nothing


@torch.no_grad()
def run_packed(
    model: GPT,
    jobs: Sequence[Job],
    site: str,
    progress: Callable[[int], None] | None = None,
) -> list[PackedRuns]:
    """Run the base run, the source run and the experiments of every job.

    Args:
        model: in eval mode.
        jobs: values are put in for all of them (Job.put_in) or for none.
        site: the site that the experiments patch.
        progress: called after each block with the number of rows that passed it.
    """
    blocks = model.transformer.h
    batch = Batch(jobs, model.device)
    reads = rule_of(site, has_values=jobs[0].put_in is not None).reads
    x = model.embed(*batch.ids_and_positions())  # (N, C)
    noise = batch.noise()
    if noise is not None:
        x = x.index_add(0, *noise)
    x = _with_new_rows(x, {"resid_post": x}, None, batch, site, 0, at_top=False)
    for layer, block in enumerate(blocks):
        layout, is_last = batch.layout(layer), layer == len(blocks) - 1
        x, recorded = _run_block(block, x, layout, site, reads, is_last=is_last)
        x = _with_new_rows(x, recorded, block, batch, site, layer + 1, at_top=is_last)
        del recorded
        if progress is not None:
            progress(layout.n_rows)
    finals = model.transformer.ln_f(x)  # (sequences, C)
    results = []
    for number in range(len(jobs)):
        experiments, sequences = batch.results(number)
        base, source = batch.finals(finals, number)
        of_experiments = rows_of(finals, sequences)
        results.append(
            PackedRuns(base, source, experiments, of_experiments, batch.unchanged[number])
        )
    return results


def _with_new_rows(
    x: Tensor,
    recorded: dict[str, Tensor],
    block: Block | None,
    batch: Batch,
    site: str,
    layer: int,
    *,
    at_top: bool,
) -> Tensor:
    """Return x (N, C) followed by the rows of the experiments whose first block is `layer`."""
    rows = [x]
    for joining in batch.joining(layer):
        # A patched resid_pre is the resid_post of the block before.
        patched = layer if site == "resid_pre" else layer - 1
        runs = batch.block_runs(joining.jobs, block, recorded, at_top=at_top, patched_layer=patched)
        new = new_rows(site, runs, joining)
        if x.device.type == "cpu":  # on others, reading values waits for the device
            joining, unchanged, new = _without_unchanged(runs, joining, new)
            for number, one in unchanged:
                batch.unchanged[number].append(one)
        batch.add(joining)
        rows.append(new)
    return torch.cat(rows) if len(rows) > 1 else x


def _without_unchanged(
    runs: BlockRuns, joining: Joining, rows: Tensor
) -> tuple[Joining, list[tuple[int, Experiment]], Tensor]:
    """Split off the experiments whose rows equal the base run's bit for bit.

    Returns:
        The experiments that are kept; those that are split off, with the numbers of their
        jobs; and the rows (R, C) of those that are kept.
    """
    experiments = joining.experiments
    positions, owner = runs.positions_of(experiments)
    base = runs.base("resid_post")
    place = joining.job[owner] * base.size(1) + positions - runs.first_position
    same = rows_of(base.flatten(0, 1), torch.from_numpy(place))
    differs = (rows != same).any(1).numpy()  # (R,)
    is_kept = np.array([one.window_end > one.first_block for one in experiments])  # by a window
    np.logical_or.at(is_kept, owner, differs)
    if is_kept.all():
        return joining, [], rows
    kept = [one for one, keep in zip(experiments, is_kept, strict=True) if keep]
    unchanged = [
        (joining.jobs[job], one)
        for one, job, keep in zip(experiments, joining.job, is_kept, strict=True)
        if not keep
    ]
    rest = replace(joining, experiments=kept, job=joining.job[is_kept])
    return rest, unchanged, rows[torch.from_numpy(is_kept[owner])]


def _run_block(
    block: Block, x: Tensor, layout: Layout, site: str, reads: frozenset[str], *, is_last: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run all rows through a block: (N, C) -> (N, C); the last one gives (sequences, C).

    Args:
        site: the patched site.
        reads: the sites whose activations in the base and source run are returned too.

    Returns:
        The stream after the block; and those activations in it.
    """
    recorded: dict[str, Tensor] = {}

    def record(name: str, rows: Tensor) -> None:
        if name in reads:  # the runs' rows come first in every tensor here
            only_last = is_last and name not in READ_LATER
            n = layout.n_runs if only_last else layout.n_run_rows
            recorded[name] = rows[:n].clone()  # a copy, so that the batch's tensor can be freed

    def add(name: str, out: Tensor, then: str) -> None:
        """Replace the rows of `out` that a window patches; add `out` to the stream; record both."""
        overrides = layout.last_overrides if is_last else layout.overrides
        if overrides is not None and name == site:
            replaced, taken = overrides
            values = layout.last_values if is_last else layout.values
            out[replaced] = rows_of(out, taken) if values is None else values
        x.add_(out)
        record(name, out)
        record(then, x)

    normed = block.ln_1(x if layout.projected is None else rows_of(x, layout.projected))  # (P, C)
    if is_last:
        x = rows_of(x, layout.last)  # (sequences, C)
        z = _attend_last(block, x, normed, layout, record)  # (sequences, C)
    else:
        z = _attend(block, normed, layout, record)  # (N, C)
    del normed
    record("resid_pre", x)
    add("attn_out", block.attn.c_proj(z), "resid_mid")
    del z
    add("mlp_out", by_rows(lambda part: block.mlp(block.ln_2(part)), x), "resid_post")
    return x, recorded


def _attend(block: Block, normed: Tensor, layout: Layout, record: Record) -> Tensor:
    """Return every row's z (N, C) from the projected rows after ln_1 (P, C)."""
    attn, scale = block.attn, 1 / block.attn.divisor
    qkv = attn.c_attn(normed)  # (P, C + 2 nkv hs)
    z = qkv.new_empty(layout.n_rows, normed.size(-1))
    for group in layout.groups:
        # Write out every position of every sequence, the base run's rows where it reads them.
        whole = rows_of(qkv, group.read).unflatten(0, (-1, group.T))  # (E, T, C + 2 nkv hs)
        q, k, v = (of_each_query(attn, attn.heads(part)) for part in split(attn, whole))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        out = out.transpose(1, 2).flatten(2).flatten(0, 1)  # (E, nh, T, hs) -> (E * T, C)
        # Keep the results of the positions at which a sequence has a row of its own.
        z[group.rows] = rows_of(out, group.own)
    for site, part in zip(("q", "k", "v"), split(attn, qkv), strict=True):
        record(site, part)
    record("z", z)
    return z


def _attend_last(block: Block, x: Tensor, normed: Tensor, layout: Layout, record: Record) -> Tensor:
    """Return the last positions' z (sequences, C) in the last block.

    Args:
        x: the stream at the last positions (sequences, C).
        normed: the projected rows after ln_1 (P, C), for k and v only.
    """
    attn, scale = block.attn, 1 / block.attn.divisor
    q = queries(attn, block.ln_1(x))  # (sequences, C)
    kv = keys_values(attn, normed)  # (P, 2 nkv hs)
    z = torch.empty_like(q)
    for group in layout.groups:
        whole = rows_of(kv, group.read).unflatten(0, (-1, group.T)).chunk(2, dim=-1)
        k, v = (of_each_query(attn, attn.heads(part)) for part in whole)  # (E, nh, T, hs)
        q_last = attn.heads(rows_of(q, group.sequences)[:, None])  # (E, nh, 1, hs)
        out = F.scaled_dot_product_attention(q_last, k, v, scale=scale)
        z[group.sequences] = out.flatten(1)  # (E, C)
    for site, part in zip(("q", "k", "v"), (q, *kv.chunk(2, dim=-1)), strict=True):
        record(site, part)
    record("z", z)
    return z
