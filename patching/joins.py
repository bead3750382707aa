"""What an experiment's residual stream is as it joins: one rule for each site.

The rules work from what the base and the source run did in the patched block,
and stop at its end: from there on an experiment is rows like any others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mingpt.sites import HEAD_SITES
from patching.engine import Passage, by_rows, rows_of, spans, to_device
from patching.experiments import Experiment


@dataclass(frozen=True)
class _Changed:
    """The rows that the patch changes in its own block; index i means the i-th of them."""

    row: Tensor  # (n,) counted from the passage's first
    head: Tensor  # (n,) the patched head; 0 where there is none
    at: Tensor | None  # (n,) the patched position; None: every position is
    runs: list[tuple[int, slice]]  # heads, and which rows are theirs, in order


def join(site: str) -> Callable[[Passage, Sequence[Experiment]], Tensor]:
    """The rule of a site, for patching.engine.carry."""

    def rows(passage: Passage, experiments: Sequence[Experiment]) -> Tensor:
        starts = [max(e.start, passage.first) for e in experiments]
        positions, owner = spans(starts, passage.T)
        base = passage.base("resid_post")
        whole_row = experiments[0].cell.position is None
        if whole_row or site in ("k", "v"):  # later positions read these
            return _resid_post(site, passage, _changed(experiments, positions, owner, passage))
        brought = rows_of(base, to_device(positions - passage.first, base.device))  # (R, C)
        own = np.flatnonzero(positions == np.asarray(starts)[owner])  # the patched positions
        at_start = _changed(experiments, positions[own], owner[own], passage)
        brought[to_device(own, base.device)] = _resid_post(site, passage, at_start)
        return brought

    return rows


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
    if site in ("resid_pre", "resid_mid", "resid_post"):
        # resid_pre is the block before's resid_post; and after resid_mid comes
        # the MLP, which reads nothing but this position, and so does as in the source.
        return passage.source("resid_post")[row]
    if site == "mlp_out":
        return passage.base("resid_mid")[row] + passage.source("mlp_out")[row]
    if site in HEAD_SITES:
        z = block.attn.heads(passage.base("z")[row, None]).squeeze(-2).clone()  # (n, nh, hs)
        z[torch.arange(len(row), device=z.device), changed.head] = _z(site, passage, changed)
        attn_out = block.attn.c_proj(z.flatten(1))
    else:
        attn_out = passage.source("attn_out")[row]
    resid_mid = passage.base("resid_pre")[row] + attn_out
    return resid_mid + by_rows(lambda part: block.mlp(block.ln_2(part)), resid_mid)


def _z(site: str, passage: Passage, changed: _Changed) -> Tensor:
    """The patched head's z in the changed rows (n, hs)."""
    attn, row, head, at = passage.block.attn, changed.row, changed.head, changed.at

    def base(name: str) -> Tensor:
        return attn.heads(passage.base(name))  # (nh, positions, hs)

    def source(name: str) -> Tensor:
        return attn.heads(passage.source(name))

    if site == "z":
        return source("z")[head, row]
    future = torch.ones(passage.T, passage.T, dtype=torch.bool, device=row.device).triu(1)
    future = future[passage.first :]  # (queries, T)
    if site == "v" and at is not None:
        weight = attn.pattern(base("q"), base("k"), future)[head, row, at, None]  # (n, 1)
        return base("z")[head, row] + weight * (source("v") - base("v"))[head, at]
    if site == "k" and at is not None:
        scores = attn.scores(base("q"), base("k"))[head, row]  # (n, T)
        patched = attn.scores(base("q"), source("k"))[head, row, at]  # (n,)
        scores[torch.arange(len(row), device=row.device), at] = patched
        weights = scores.masked_fill_(future[row], float("-inf")).softmax(-1)
        return torch.cat([weights[rows] @ base("v")[of] for of, rows in changed.runs])
    q = source("q") if site in ("q", "pattern") else base("q")
    k = source("k") if site in ("k", "pattern") else base("k")
    v = source("v") if site == "v" else base("v")
    return (attn.pattern(q, k, future) @ v)[head, row]
