"""Many patched runs in one pass through the blocks, nothing of it approximate.

The plain loop runs the whole model once per cell. Almost all of that is the
unpatched run over again, so here it is run once, and with it go only the parts
of the patched runs that are their own (experiments.py): the vectors from the
patched position on, from the patched layer on. The blocks are gone through once
from the bottom; each layer's experiments join the batch as it is passed.

The batch is packed: the vectors (C,) of all runs stand one after another as
rows (N, C), so that what works on each position alone - layer norms,
projections, MLPs, nearly all of the arithmetic - is one product per block, with
no padding. Attention alone needs to know which rows are whose: a run's keys
before its `start` are the base run's. In the last block only what the last
position reads is worked out.

What a site is does not concern this file: joins.py says which rows an
experiment brings. `base` is the run that is patched, `source` the one whose
activations are put in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.config import GPTConfig
from mingpt.model import GPT, Block
from patching.experiments import Experiment

MLP_ROWS = 4096  # at a time: its hidden layer is the widest thing in a block
ATTENTION_ROWS = 16384  # at a time: every run's keys are written out here, shared ones too


@dataclass(frozen=True)
class Job:
    """The experiments on one pair of prompts."""

    base_ids: tuple[int, ...]  # (T,)
    source_ids: tuple[int, ...]  # (T,)
    start: int  # the first position at which they differ
    experiments: Sequence[Experiment]  # in the order of their stages


@dataclass(frozen=True)
class Carried:
    """What came out at the top for one job: ln_f's output at the last position."""

    base: Tensor  # (C,)
    source: Tensor  # (C,)
    experiments: Sequence[Experiment]  # in the order of `finals`
    finals: Tensor  # (E, C)
    unchanged: Sequence[Experiment]  # those whose patch put in what was there already


@dataclass(frozen=True)
class Passage:
    """What one job's base and source run did in the block that was just passed.

    After the last block everything but k and v is there for the last position
    alone.
    """

    block: Block | None  # None: the embedding, which has a resid_post only
    T: int
    at_top: bool  # whether that was the last block
    _seen: dict[str, Tensor]  # site -> the rows of all jobs' runs
    _start: int
    _row: int  # of this job's base run, where every position has one
    _number: int  # of the job

    @property
    def first(self) -> int:
        """The position of the first row."""
        return self.T - 1 if self.at_top else 0

    def base(self, site: str) -> Tensor:
        """(T - first, C); of k and v (T, C)."""
        rows = self._seen[site]
        if self._only_last(site):
            return rows[2 * self._number, None]
        return rows[self._row : self._row + self.T]

    def source(self, site: str) -> Tensor:
        """As `base`. Before the first difference the source run is the base run."""
        rows = self._seen[site]
        if self._only_last(site):
            return rows[2 * self._number + 1, None]
        own = rows[self._row + self.T :][: self.T - self._start]
        return torch.cat((rows[self._row :][: self._start], own))

    def _only_last(self, site: str) -> bool:
        return self.at_top and site not in ("k", "v")


# What the experiments that join after a block bring: rows (R, C), one after another.
Join = Callable[[Passage, Sequence[Experiment]], Tensor]


@torch.no_grad()
def carry(
    model: GPT,
    jobs: Sequence[Job],
    join: Join,
    *,
    window_site: str = "attn_out",
    progress: Callable[[int], None] | None = None,
) -> list[Carried]:
    """Carry base run, source run and experiments of every job to the top.

    Args:
        model: in eval mode.
        window_site: "attn_out" or "mlp_out": what a window goes on replacing.
        progress: called after each block with the number of rows that passed it.
    """
    blocks = model.transformer.h
    batch = _Batch(jobs, model.transformer.wte.weight.device)
    x = model.embed(*batch.ids_and_positions())  # (N, C)
    seen = {"resid_post": x}
    for stage in range(len(blocks) + 1):
        at_top = stage == len(blocks)
        rows = [x]
        for number, joining in batch.joining(stage):
            passage = batch.passage(number, blocks[stage - 1] if stage else None, seen, at_top)
            brought = join(passage, joining)
            if brought.device.type == "cpu":  # elsewhere asking would wait for the device
                joining, brought = batch.without_equal(number, passage, joining, brought)
            batch.add(number, joining)
            rows.append(brought)
        x = torch.cat(rows) if len(rows) > 1 else x
        if not at_top:
            layout = batch.layout(stage)
            x, seen = _pass(blocks[stage], x, layout, window_site, stage == len(blocks) - 1)
            if progress is not None:
                progress(layout.n_rows)
    return batch.carried(model.transformer.ln_f(x))  # (sequences, C)


def bytes_needed(
    config: GPTConfig, itemsize: int, T: int, sequences: int, rows: int, *, heads: bool
) -> int:
    """What `carry` holds at most beside the model.

    Args:
        T: tokens of the longest prompt.
        sequences, rows: in the batch at the top, those of base and source runs too.
        heads: whether the site is one of the attention heads'.
    """
    C = config.n_embd
    each_row = 8 * C + (3 * T if heads else 0)  # x twice, normed, qkv, z, what is added
    attention = min(sequences * T, max(ATTENTION_ROWS, T)) * 7 * C
    weights = 8 * config.n_head * T * T if heads else T * T
    mlp = min(rows, MLP_ROWS) * (2 * config.inner_size + 3 * C)
    return itemsize * (rows * each_row + attention + weights + mlp)


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of x (N, C), a few thousand rows at a time to bound what it holds inside."""
    if len(x) <= MLP_ROWS:
        return function(x)
    return torch.cat([function(part) for part in x.split(MLP_ROWS)])


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """x[index] for whole rows, which on a CPU is several times as fast this way."""
    return x.index_select(0, index)


def spans(starts: Sequence[int], T: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions start..T-1 of each sequence, one after another, and whose they are."""
    starts = np.asarray(starts, dtype=np.int64)
    lengths = T - starts
    owner = np.repeat(np.arange(len(starts)), lengths)
    offset = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - (offset - starts)[owner], owner


def to_device(numbers: np.ndarray, device: torch.device) -> Tensor:
    """Indices on the device, without waiting for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


# --------------------------------------------------------------------- which row is whose


@dataclass(frozen=True)
class _Attended:
    """Some sequences of equal length T, whose attention is worked out together."""

    T: int
    sequences: Tensor  # (E,)
    read: Tensor  # (E * T,) the row that each position of each of them has
    own: Tensor  # (n,) which of these are a sequence's own
    rows: Tensor  # (n,) and in which rows they stand


@dataclass(frozen=True)
class _Layout:
    """Where everything stands while a block is passed."""

    n_rows: int
    n_run_rows: int  # the base and source runs', which come first
    n_runs: int
    last: Tensor  # (sequences,) the row of each one's last position
    attended: list[_Attended]
    overrides: tuple[Tensor, Tensor] | None  # a window's rows, and those that they become
    last_overrides: tuple[Tensor, Tensor] | None  # likewise, of last positions, by sequence


class _Batch:
    """The sequences in the batch: base and source run of each job, then its experiments."""

    def __init__(self, jobs: Sequence[Job], device: torch.device) -> None:
        self.jobs, self.device = jobs, device
        self.waiting = [list(job.experiments) for job in jobs]
        self.unchanged: list[list[Experiment]] = [[] for _ in jobs]
        self.owner = [number for number in range(len(jobs)) for _ in range(2)]  # by sequence
        self.starts = [start for job in jobs for start in (0, job.start)]
        self.experiments: list[Experiment | None] = [None] * (2 * len(jobs))
        self.T = np.array([len(job.base_ids) for job in jobs])
        lengths = [2 * len(job.base_ids) - job.start for job in jobs]
        self.first_row = [0, *np.cumsum(lengths).tolist()]  # of each job's base run

    def ids_and_positions(self) -> tuple[Tensor, Tensor]:
        ids = [
            number for job in self.jobs for number in (*job.base_ids, *job.source_ids[job.start :])
        ]
        positions = [
            position
            for job in self.jobs
            for start in (0, job.start)
            for position in range(start, len(job.base_ids))
        ]
        return to_device(np.array(ids), self.device), to_device(np.array(positions), self.device)

    def joining(self, stage: int) -> list[tuple[int, list[Experiment]]]:
        """The jobs that have experiments for this stage, and these."""
        found = []
        for number, waiting in enumerate(self.waiting):
            count = next((i for i, e in enumerate(waiting) if e.stage != stage), len(waiting))
            if count:
                found.append((number, waiting[:count]))
                del waiting[:count]
        return found

    def passage(
        self, number: int, block: Block | None, seen: dict[str, Tensor], at_top: bool
    ) -> Passage:
        """What the job's runs did in `block`, from what all runs did in it."""
        T, start = int(self.T[number]), self.jobs[number].start
        return Passage(block, T, at_top, seen, start, self.first_row[number], number)

    def without_equal(
        self, number: int, passage: Passage, joining: list[Experiment], rows: Tensor
    ) -> tuple[list[Experiment], Tensor]:
        """Leave out experiments whose rows are the base run's bit for bit."""
        starts = [max(e.start, passage.first) for e in joining]
        positions, owner = spans(starts, passage.T)
        base = passage.base("resid_post")[torch.from_numpy(positions - passage.first)]
        differs = (rows != base).any(1).numpy()  # (R,)
        kept = np.array([e.end > e.stage for e in joining])  # a window goes on patching
        np.logical_or.at(kept, owner, differs)
        if kept.all():
            return joining, rows
        both = [*zip(joining, kept, strict=True)]
        self.unchanged[number] += [e for e, keep in both if not keep]
        return [e for e, keep in both if keep], rows[torch.from_numpy(kept[owner])]

    def add(self, number: int, joining: list[Experiment]) -> None:
        self.owner += [number] * len(joining)
        self.starts += [e.start for e in joining]
        self.experiments += joining

    def layout(self, layer: int) -> _Layout:
        """The places for a pass through block `layer`."""
        owner, starts = np.array(self.owner), np.array(self.starts)
        T = self.T[owner]
        first = np.cumsum(T - starts) - (T - starts)
        attended = []
        for length in np.unique(T):
            members = np.flatnonzero(length == T)
            for part in np.array_split(members, -(-len(members) * length // ATTENTION_ROWS)):
                position = np.arange(length)
                own = position >= starts[part, None]  # (E, T)
                whose = np.where(own, part[:, None], 2 * owner[part, None])
                read = (first - starts)[whose] + position
                attended.append(
                    _Attended(
                        int(length),
                        *(
                            to_device(numbers, self.device)
                            for numbers in (part, read.ravel(), np.flatnonzero(own), read[own])
                        ),
                    )
                )
        patched = np.array(
            [s for s, e in enumerate(self.experiments) if e is not None and layer < e.end],
            dtype=np.int64,
        )
        source = 2 * owner[patched] + 1
        at_last = patched[starts[patched] == T[patched] - 1]
        return _Layout(
            n_rows=int((T - starts).sum()),
            n_run_rows=self.first_row[-1],
            n_runs=2 * len(self.jobs),
            last=to_device(first + T - starts - 1, self.device),
            attended=attended,
            overrides=self._pair(first[patched], first[source] + starts[patched] - starts[source]),
            last_overrides=self._pair(at_last, 2 * owner[at_last] + 1),
        )

    def _pair(self, to: np.ndarray, taken: np.ndarray) -> tuple[Tensor, Tensor] | None:
        return (to_device(to, self.device), to_device(taken, self.device)) if len(to) else None

    def carried(self, finals: Tensor) -> list[Carried]:
        owner = np.array(self.owner)
        results = []
        for number in range(len(self.jobs)):
            members = np.flatnonzero(owner == number)[2:]
            results.append(
                Carried(
                    finals[2 * number].clone(),  # it may be kept long after the rest
                    finals[2 * number + 1].clone(),
                    [self.experiments[s] for s in members],
                    finals[to_device(members, self.device)],
                    self.unchanged[number],
                )
            )
        return results


# --------------------------------------------------------------------- one block


def _pass(
    block: Block, x: Tensor, layout: _Layout, window_site: str, only_last: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """All rows through a block: (N, C) -> (N, C), and what the runs did in it.

    With `only_last`, (N, C) -> (sequences, C), the last positions alone.
    """
    runs, overrides = layout.n_run_rows, layout.overrides
    normed = block.ln_1(x)  # (N, C)
    if only_last:
        runs, overrides = layout.n_runs, layout.last_overrides
        x = rows_of(x, layout.last)  # (sequences, C)
        q = block.attn.queries(rows_of(normed, layout.last))
        kv = block.attn.keys_values(normed)
        k, v = kv.chunk(2, dim=-1)
        z = _attend_last(block, q, kv, layout)
    else:
        qkv = block.attn.c_attn(normed)  # (N, 3C)
        q, k, v = qkv.chunk(3, dim=-1)
        z = _attend(block, qkv, layout)
    # Copies, so that the batch's tensors can go.
    seen = {"q": q[:runs].clone(), "z": z[:runs].clone(), "resid_pre": x[:runs].clone()}
    seen |= {"k": k[: layout.n_run_rows].clone(), "v": v[: layout.n_run_rows].clone()}
    qkv = kv = q = k = v = normed = None

    attn_out = block.attn.c_proj(z)
    if overrides is not None and window_site == "attn_out":
        attn_out[overrides[0]] = attn_out[overrides[1]]
    x += attn_out
    seen |= {"attn_out": attn_out[:runs].clone(), "resid_mid": x[:runs].clone()}
    z = attn_out = None

    mlp_out = by_rows(lambda part: block.mlp(block.ln_2(part)), x)
    if overrides is not None and window_site == "mlp_out":
        mlp_out[overrides[0]] = mlp_out[overrides[1]]
    x += mlp_out
    seen |= {"mlp_out": mlp_out[:runs].clone(), "resid_post": x[:runs].clone()}
    return x, seen


def _attend(block: Block, qkv: Tensor, layout: _Layout) -> Tensor:
    """Every row's z (N, C). Each sequence is written out whole, the base run's rows before it."""
    z = qkv.new_empty(len(qkv), block.ln_1.weight.numel())
    for part in layout.attended:
        whole = (
            rows_of(qkv, part.read).unflatten(0, (-1, part.T)).chunk(3, dim=-1)
        )  # 3 of (E, T, C)
        q, k, v = map(block.attn.heads, whole)  # (E, nh, T, hs)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        z[part.rows] = rows_of(out.transpose(1, 2).flatten(2).flatten(0, 1), part.own)
    return z


def _attend_last(block: Block, q: Tensor, kv: Tensor, layout: _Layout) -> Tensor:
    """The last positions' z (sequences, C)."""
    z = torch.empty_like(q)
    for part in layout.attended:
        whole = rows_of(kv, part.read).unflatten(0, (-1, part.T)).chunk(2, dim=-1)  # 2 of (E, T, C)
        k, v = map(block.attn.heads, whole)  # (E, nh, T, hs)
        out = F.scaled_dot_product_attention(block.attn.heads(q[part.sequences, None]), k, v)
        z[part.sequences] = out.flatten(1)  # (E, nh, 1, hs) -> (E, C)
    return z
