"""Many patched runs in one pass through the blocks, nothing of it approximate.

The plain loop runs the whole model once per cell. Almost all of that is the
unpatched run over again, so here it is run once, and with it go only the parts
of the patched runs that are their own (plan.py): the vectors from the
patched position on, from the patched layer on. The blocks are gone through once
from the bottom; each layer's experiments join the batch as it is passed.

The batch is packed: the vectors (C,) of all runs stand one after another as
rows (N, C), so that what works on each position alone - layer norms,
projections, MLPs, nearly all of the arithmetic - is one product per block, with
no padding. Attention alone needs to know which rows are whose: a run's keys
before its `start` are the base run's; and so, in the first block that it
passes, are those after it if its patch has changed one vector only. In the last
block only what the last position reads is worked out.

Which row is whose is packing.py's business. What a site is does not concern this
file: site_rules.py says which rows an experiment brings. `base` is the run that is
patched, `source` the one whose activations are put in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.config import GPTConfig
from mingpt.model import GPT, Block
from patching.sweep.engine.packing import ATTENTION_ROWS, Batch, Job, Layout, Passage, rows_of
from patching.sweep.engine.plan import Experiment

MLP_ROWS = 4096  # at a time: its hidden layer is the widest thing in a block


@dataclass(frozen=True)
class Carried:
    """What came out at the top for one job: ln_f's output at the last position."""

    base: Tensor  # (C,)
    source: Tensor  # (C,)
    experiments: Sequence[Experiment]  # in the order of `finals`
    finals: Tensor  # (E, C)
    unchanged: Sequence[Experiment]  # those whose patch put in what was there already


@dataclass(frozen=True)
class Rule:
    """What a site's experiments bring as they join.

    Attributes:
        join: from what base and source run did in the block that was just
            passed, the rows (R, C) of the experiments, one after another.
        reads: the sites of the two runs that it looks at.
        window_site: "attn_out" or "mlp_out" if a window may go on replacing it.
    """

    join: Callable[[Passage, Sequence[Experiment]], Tensor]
    reads: frozenset[str]
    window_site: str | None = None


@torch.no_grad()
def carry(
    model: GPT,
    jobs: Sequence[Job],
    rule: Rule,
    progress: Callable[[int], None] | None = None,
) -> list[Carried]:
    """Carry base run, source run and experiments of every job to the top.

    Args:
        model: in eval mode.
        progress: called after each block with the number of rows that passed it.
    """
    blocks = model.transformer.h
    batch = Batch(jobs, model.device)
    x = model.embed(*batch.ids_and_positions())  # (N, C)
    x = _joined(x, {"resid_post": x}, None, batch, rule, 0, at_top=False)
    for layer, block in enumerate(blocks):
        layout, is_last = batch.layout(layer), layer == len(blocks) - 1
        x, seen = _pass(block, x, layout, rule, is_last)
        x = _joined(x, seen, block, batch, rule, layer + 1, at_top=is_last)
        del seen
        if progress is not None:
            progress(layout.n_rows)
    finals = model.transformer.ln_f(x)  # (sequences, C)
    results = []
    for number in range(len(jobs)):
        experiments, sequences = batch.results(number)
        results.append(
            Carried(
                finals[2 * number].clone(),  # it may be kept long after the rest
                finals[2 * number + 1].clone(),
                experiments,
                rows_of(finals, sequences),
                batch.unchanged[number],
            )
        )
    return results


def bytes_needed(
    config: GPTConfig,
    itemsize: int,
    T: int,
    sequences: int,
    rows: int,
    run_rows: int,
    *,
    heads: bool,
    fused: bool = True,
) -> int:
    """What `carry` holds at most beside the model.

    Args:
        T: tokens of the longest prompt.
        sequences, rows: in the batch at the top, those of base and source runs too.
        run_rows: of these, the base and source runs'.
        heads: whether the site is one of the attention heads'.
        fused: whether attention never holds its weights.
    """
    C = config.n_embd
    each_row = 8 * C + (3 * T if heads else 0)  # x twice, normed, qkv, z, what is added
    written_out = min(sequences * T, max(ATTENTION_ROWS, T))  # positions at a time
    attention = written_out * (7 * C + (0 if fused else 3 * config.n_head * T))
    weights = 8 * config.n_head * T * T if heads else 0
    mlp = min(rows, MLP_ROWS) * (2 * config.inner_size + 3 * C)
    activations = rows * each_row + run_rows * 7 * C + attention + weights + mlp
    indices = 8 * (4 * rows + 4 * sequences * T)
    return itemsize * activations + indices


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of x (N, C), a few thousand rows at a time to bound what it holds inside."""
    if len(x) <= MLP_ROWS:
        return function(x)
    return torch.cat([function(part) for part in x.split(MLP_ROWS)])


def _joined(
    x: Tensor,
    seen: dict[str, Tensor],
    block: Block | None,
    batch: Batch,
    rule: Rule,
    stage: int,
    *,
    at_top: bool,
) -> Tensor:
    """x with the rows of the experiments that join at `stage`."""
    rows = [x]
    for number, joining in batch.joining(stage):
        passage = batch.passage(number, block, seen, at_top)
        brought = rule.join(passage, joining)
        if x.device.type == "cpu":  # elsewhere asking would wait for the device
            joining, brought = batch.without_equal(number, passage, joining, brought)
        batch.add(number, joining)
        rows.append(brought)
    return torch.cat(rows) if len(rows) > 1 else x


def _pass(
    block: Block, x: Tensor, layout: Layout, rule: Rule, is_last: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """All rows through a block: (N, C) -> (N, C), and what the runs did in it.

    After the last block, (sequences, C): the last positions alone.
    """
    runs, overrides = layout.n_run_rows, layout.overrides
    seen: dict[str, Tensor] = {}

    def keep(site: str, rows: Tensor) -> None:
        if site in rule.reads:
            seen[site] = rows.clone()  # so that the batch's tensor can go

    # The runs come first in every tensor here.
    normed = block.ln_1(x if layout.projected is None else rows_of(x, layout.projected))
    if is_last:
        runs, overrides = layout.n_runs, layout.last_overrides
        x = rows_of(x, layout.last)  # (sequences, C)
        q = block.attn.queries(block.ln_1(x))
        kv = block.attn.keys_values(normed)  # (P, 2 nkv hs) of the rows that are projected
        k, v = kv.chunk(2, dim=-1)
        z = _attend_last(block, q, kv, layout)
        del kv
    else:
        qkv = block.attn.c_attn(normed)  # (P, C + 2 nkv hs)
        q, k, v = block.attn.split(qkv)
        z = _attend(block, qkv, layout)
        del qkv
    keep("q", q[:runs])
    keep("k", k[: layout.n_run_rows])
    keep("v", v[: layout.n_run_rows])
    keep("z", z[:runs])
    keep("resid_pre", x[:runs])
    del normed, q, k, v

    def add(site: str, out: Tensor, then: str) -> None:
        """Add to the stream what attention or MLP give out; a window replaces some of it."""
        if overrides is not None and rule.window_site == site:
            out[overrides[0]] = rows_of(out, overrides[1])
        x.add_(out)
        keep(site, out[:runs])
        keep(then, x[:runs])

    add("attn_out", block.attn.c_proj(z), "resid_mid")
    del z
    add("mlp_out", by_rows(lambda part: block.mlp(block.ln_2(part)), x), "resid_post")
    return x, seen


def _attend(block: Block, qkv: Tensor, layout: Layout) -> Tensor:
    """Every row's z (N, C). Each sequence is written out whole, with what it shares."""
    attn, scale = block.attn, 1 / block.attn.divisor
    z = qkv.new_empty(layout.n_rows, block.ln_1.weight.numel())
    for part in layout.attended:
        whole = attn.split(rows_of(qkv, part.read).unflatten(0, (-1, part.T)))
        q, k, v = map(attn.of_each_query, map(attn.heads, whole))  # (E, nh, T, hs)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        out = out.transpose(1, 2).flatten(2).flatten(0, 1)  # (E * T, C)
        z[part.rows] = rows_of(out, part.own)
    return z


def _attend_last(block: Block, q: Tensor, kv: Tensor, layout: Layout) -> Tensor:
    """The last positions' z (sequences, C)."""
    attn, scale = block.attn, 1 / block.attn.divisor
    z = torch.empty_like(q)
    for part in layout.attended:
        whole = rows_of(kv, part.read).unflatten(0, (-1, part.T)).chunk(2, dim=-1)
        k, v = map(attn.of_each_query, map(attn.heads, whole))  # (E, nh, T, hs)
        q_last = attn.heads(rows_of(q, part.sequences)[:, None])  # (E, nh, 1, hs)
        out = F.scaled_dot_product_attention(q_last, k, v, scale=scale)
        z[part.sequences] = out.flatten(1)  # (E, C)
    return z
