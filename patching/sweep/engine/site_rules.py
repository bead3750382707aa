"""What an experiment's residual stream is as it joins: one rule for each site.

The rules work from what the base and the source run did in the patched block,
and stop at its end: from there on an experiment is rows like any others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mingpt.sites import HEAD_SITES, SHARED_SITES
from patching.sweep.engine.forward import Rule, by_rows
from patching.sweep.engine.packing import Passage, rows_of, spans, to_device
from patching.sweep.engine.plan import Experiment
from patching.sweep.request import WINDOW_SITES

# Site -> what its rule looks at beside resid_post.
_READS = {
    "attn_out": ("resid_pre", "attn_out", "resid_mid"),
    "mlp_out": ("resid_mid", "mlp_out"),
} | dict.fromkeys(HEAD_SITES, ("resid_pre", "q", "k", "v", "z", "resid_mid"))


@dataclass(frozen=True)
class _Changed:
    """The rows that the patch changes in its own block; index i means the i-th of them."""

    row: Tensor  # (n,) counted from the passage's first
    head: Tensor  # (n,) the patched head; 0 where there is none
    at: Tensor | None  # (n,) the patched position; None: every position is
    runs: list[tuple[int, slice]]  # heads, and which rows are theirs, in order


def rule(site: str) -> Rule:
    """The rule of a site, for forward.carry."""

    def join(passage: Passage, experiments: Sequence[Experiment]) -> Tensor:
        starts = [max(e.start, passage.first) for e in experiments]
        positions, owner = spans(starts, passage.T)
        if not experiments[0].is_lone:  # every row from the start on is its own
            return _resid_post(site, passage, _changed(experiments, positions, owner, passage))
        base = passage.base("resid_post")
        brought = rows_of(base, to_device(positions - passage.first, base.device))  # (R, C)
        own = np.flatnonzero(positions == np.asarray(starts)[owner])  # one row of each
        at_start = _changed(experiments, positions[own], owner[own], passage)
        brought[to_device(own, base.device)] = _resid_post(site, passage, at_start)
        return brought

    reads = frozenset(("resid_post", *_READS.get(site, ())))
    return Rule(join, reads, site if site in WINDOW_SITES else None)


def _changed(
    experiments: Sequence[Experiment], positions: np.ndarray, owner: np.ndarray, passage: Passage
) -> _Changed:
    cells = [e.cell for e in experiments]
    device = passage.base("resid_post").device
    head = np.array([cell.head or 0 for cell in cells])[owner]
    ends = [*(np.flatnonzero(np.diff(head)) + 1).tolist(), len(head)]
    at = None
    if cells[0].position is not None:
        at = to_device(np.array([cell.position for cell in cells])[owner], device)
    return _Changed(
        to_device(positions - passage.first, device),
        to_device(head, device),
        at,
        [(int(head[a]), slice(a, b)) for a, b in pairwise([0, *ends])],
    )


def _resid_post(site: str, passage: Passage, changed: _Changed) -> Tensor:
    """The changed rows as they leave the block (n, C)."""
    row, block = changed.row, passage.block

    def base(name: str) -> Tensor:
        return rows_of(passage.base(name), row)

    def source(name: str) -> Tensor:
        return rows_of(passage.source(name), row)

    if site in ("resid_pre", "resid_mid", "resid_post"):
        # resid_pre is the block before's resid_post; and after resid_mid comes
        # the MLP, which reads nothing but this position, and so does as in the source.
        return source("resid_post")
    if site == "mlp_out":
        return base("resid_mid") + source("mlp_out")
    if site == "attn_out":
        attn_out, is_same = source("attn_out"), False
    else:
        patched, is_same = _z(site, passage, changed)
        z = block.attn.heads(base("z")[:, None]).squeeze(-2).clone()  # (n, nh, hs)
        each = torch.arange(len(row), device=row.device)[:, None]
        z[each, _readers(site, passage, changed)] = patched
        attn_out = block.attn.c_proj(z.flatten(1))
    resid_mid = base("resid_pre") + attn_out
    resid_post = resid_mid + by_rows(lambda part: block.mlp(block.ln_2(part)), resid_mid)
    # What is worked out again may differ in its last bit; equal in, equal out.
    is_same = is_same | (resid_mid == base("resid_mid")).all(-1)  # (n,)
    return torch.where(is_same[:, None], base("resid_post"), resid_post)


def _readers(site: str, passage: Passage, changed: _Changed) -> Tensor:
    """The heads whose z the patch changes (n, g): of keys and values, those that share them."""
    attn = passage.block.attn
    shared = attn.n_head // attn.kv_heads if site in SHARED_SITES else 1
    return changed.head[:, None] * shared + torch.arange(shared, device=changed.head.device)


def _z(site: str, passage: Passage, changed: _Changed) -> tuple[Tensor, Tensor]:
    """z in the changed rows, of the heads that read what is patched (n, g, hs).

    And which rows are patched with their equal (n,).
    """
    attn, head, at = passage.block.attn, changed.head, changed.at
    readers, row = _readers(site, passage, changed), changed.row[:, None]  # (n, g), (n, 1)

    def base(name: str) -> Tensor:
        return attn.heads(passage.base(name))  # (nh or nkv, positions, hs)

    def source(name: str) -> Tensor:
        return attn.heads(passage.source(name))

    if site == "z":
        z = source("z")[readers, row]
        return z, (z == base("z")[readers, row]).flatten(1).all(-1)
    future = torch.ones(passage.T, passage.T, dtype=torch.bool, device=row.device).triu(1)
    future = future[passage.first :]  # (queries, T)
    if site in ("k", "v"):
        equal = (source(site) == base(site)).all(-1)  # (nkv, T)
        is_same = equal.all(-1)[head] if at is None else equal[head, at]  # (n,)
    if site == "v" and at is not None:
        weight = attn.pattern(base("q"), base("k"), future)[readers, row, at[:, None]]  # (n, g)
        change = (source("v") - base("v"))[head, at]  # (n, hs)
        return base("z")[readers, row] + weight[..., None] * change[:, None], is_same
    if site == "k" and at is not None:
        scores = attn.scores(base("q"), base("k"))[readers, row]  # (n, g, T)
        patched = attn.scores(base("q"), source("k"))[readers, row, at[:, None]]  # (n, g)
        scores.scatter_(-1, at[:, None, None].expand_as(patched[..., None]), patched[..., None])
        scores.masked_fill_(future[row], float("-inf"))
        weights = scores.softmax(-1).to(base("v").dtype)  # scores may be wider
        z = torch.cat([weights[rows] @ base("v")[of] for of, rows in changed.runs])
        return z, is_same
    q = source("q") if site in ("q", "pattern") else base("q")
    k = source("k") if site in ("k", "pattern") else base("k")
    v = source("v") if site == "v" else base("v")
    pattern = attn.pattern(q, k, future)  # (nh, queries, T)
    if site in ("q", "pattern"):
        before = attn.pattern(base("q"), base("k"), future)
        is_same = (pattern == before).all(-1)[readers, row].squeeze(-1)
    return attn.mix(pattern, v)[readers, row], is_same
