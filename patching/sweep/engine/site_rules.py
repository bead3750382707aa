"""Compute the rows with which an experiment joins the batch: one rule for each site.

A rule gets the activations of base and source run in the patched block, and
returns the residual stream after that block, in the rows that the patch changes.
From there on forward.py runs all experiments' rows alike, whatever the site.

Shapes: J jobs of T tokens; n changed rows; g query heads that read the patched head (1,
unless several share keys and values); P positions of the base and source runs' activations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor

from mingpt.model import Block
from mingpt.sites import SHARED_SITES
from patching.attention import pattern_of
from patching.sweep.engine.packing import BlockRuns, Joining, by_rows, rows_of, to_device


def new_rows(site: str, runs: BlockRuns, joining: Joining) -> Tensor:
    """Return the rows (R, C) of joining experiments, one experiment after another.

    Args:
        runs: the runs of the joining jobs.
    """
    function = rule_of(site, has_values=runs.put_in is not None).resid_post
    experiments = joining.experiments
    positions, owner = runs.positions_of(experiments)  # (R,), (R,)
    if not experiments[0].single_position:  # the patch changes every row
        return function(ChangedRows.of(site, runs, joining, positions, owner))
    # The patch changes the first row of each experiment; the others are the base run's.
    base = runs.base("resid_post")  # (J, P, C)
    place = joining.job[owner] * base.size(1) + positions - runs.first_position
    rows = rows_of(base.flatten(0, 1), to_device(place, base.device))  # (R, C)
    first = np.flatnonzero(np.diff(owner, prepend=-1))  # (E,)
    changed = ChangedRows.of(site, runs, joining, positions[first], owner[first])
    rows[to_device(first, base.device)] = function(changed)
    return rows


@dataclass(frozen=True)
class ChangedRows:
    """The rows that patches change in the patched block, and the runs' activations there."""

    site: str
    runs: BlockRuns
    job: Tensor  # (n,) the place of the row's job in runs.base and runs.source
    row: Tensor  # (n,) the row in that job's runs
    head: Tensor  # (n,) the patched head; 0 at a site without heads
    position: Tensor | None  # (n,) the patched position; None: every position is patched
    head_slices: list[tuple[int, int, slice]]  # (job, patched head, its rows), in order

    @classmethod
    def of(
        cls,
        site: str,
        runs: BlockRuns,
        joining: Joining,
        positions: np.ndarray,
        owner: np.ndarray,
    ) -> ChangedRows:
        """Return the rows at `positions` (n,); row i belongs to experiments[owner[i]]."""
        cells = [one.cell for one in joining.experiments]
        job, head = joining.job[owner], np.array([cell.head or 0 for cell in cells])[owner]
        changes = np.flatnonzero(np.diff(head) | np.diff(job)) + 1
        ends = [0, *changes.tolist(), len(head)]
        position = None
        if cells[0].position is not None:
            at = np.array([cell.position for cell in cells])[owner]
            position = to_device(at, runs.device)
        return cls(
            site,
            runs,
            job=to_device(job, runs.device),
            row=to_device(positions - runs.first_position, runs.device),
            head=to_device(head, runs.device),
            position=position,
            head_slices=[(int(job[a]), int(head[a]), slice(a, b)) for a, b in pairwise(ends)],
        )

    @property
    def block(self) -> Block:
        """The patched block."""
        return cast(Block, self.runs.block)  # None for the embedding, whose rule needs none

    def base(self, site: str) -> Tensor:
        """Return the base run's activation in these rows (n, C)."""
        return self._rows(self.runs.base(site))

    def source(self, site: str) -> Tensor:
        """Return what is put into these rows (n, C): the source run's activation, or a value."""
        return self._rows(self.runs.source(site))

    def _rows(self, x: Tensor) -> Tensor:
        return rows_of(x.flatten(0, 1), self.job * x.size(1) + self.row)

    def base_heads(self, site: str) -> Tensor:
        """Return the base runs' activation, head by head (J, nh or nkv, P, hs)."""
        return self.block.attn.heads(self.runs.base(site))

    def source_heads(self, site: str) -> Tensor:
        """Return what is put in, head by head (J, nh or nkv, P, hs); see `source`."""
        return self.block.attn.heads(self.runs.source(site))

    @cached_property
    def readers(self) -> Tensor:
        """The query heads (n, g) whose z the patch changes; for k and v all that share the head."""
        attn = self.block.attn
        g = attn.n_head // attn.kv_heads if self.site in SHARED_SITES else 1
        return self.head[:, None] * g + torch.arange(g, device=self.head.device)

    def of_readers(self, x: Tensor, *at: Tensor) -> Tensor:
        """Return x (J, nh, P, ...) at the readers of each row: (n, g, ...).

        Args:
            at: an index (n, 1) of the axis after P.
        """
        return x[(self.job[:, None], self.readers, self.row[:, None], *at)]

    @cached_property
    def future(self) -> Tensor:
        """True where a query (P) may not read a key (P, T)."""
        T = self.runs.T
        mask = torch.ones(T, T, dtype=torch.bool, device=self.row.device).triu(1)
        return mask[self.runs.first_position :]


# --------------------------------------------------------------------- the residual stream


def _of_source(changed: ChangedRows) -> Tensor:
    # A patched resid_pre is the resid_post of the block before. A patched resid_mid enters
    # the MLP, which reads this position alone, so its output is the source run's too.
    return changed.source("resid_post")  # (n, C)


def _resid_mid_of_value(changed: ChangedRows) -> Tensor:
    # Unlike a recorded resid_mid, a value has no block's output that is known.
    return _after_mlp(changed, changed.source("resid_mid"))


def _mlp_out(changed: ChangedRows) -> Tensor:
    return changed.base("resid_mid") + changed.source("mlp_out")  # (n, C)


def _attn_out(changed: ChangedRows) -> Tensor:
    return _after_attention(changed, changed.source("attn_out"))  # (n, C)


def _after_attention(
    changed: ChangedRows, attn_out: Tensor, is_same: Tensor | None = None
) -> Tensor:
    """Return resid_post (n, C) from what attention now adds to the stream (n, C).

    Args:
        is_same: (n,) True for rows in which the patch is known to change nothing.
    """
    return _after_mlp(changed, changed.base("resid_pre") + attn_out, is_same)


def _after_mlp(changed: ChangedRows, resid_mid: Tensor, is_same: Tensor | None = None) -> Tensor:
    """Return resid_post (n, C) from what now enters the MLP (n, C).

    Args:
        is_same: as _after_attention.
    """
    block = changed.block
    resid_post = resid_mid + by_rows(lambda part: block.mlp(block.ln_2(part)), resid_mid)
    # Rounding may change a recomputed row. Where nothing is patched it must stay equal.
    is_equal = (resid_mid == changed.base("resid_mid")).all(-1)  # (n,)
    if is_same is not None:
        is_equal |= is_same
    return torch.where(is_equal[:, None], changed.base("resid_post"), resid_post)


# --------------------------------------------------------------------- the heads
# Each function returns the readers' z in the changed rows (n, g, hs), and a mask (n,),
# True for rows in which the patch changes nothing.


def _z(changed: ChangedRows) -> tuple[Tensor, Tensor]:
    before = changed.of_readers(changed.base_heads("z"))  # (n, g, hs)
    z = changed.of_readers(changed.source_heads("z"))  # (n, g, hs)
    return z, (z == before).flatten(1).all(-1)


def _q(changed: ChangedRows) -> tuple[Tensor, Tensor]:
    return _by_pattern(changed, changed.source_heads("q"), changed.base_heads("k"))


def _pattern(changed: ChangedRows) -> tuple[Tensor, Tensor]:
    return _by_pattern(changed, changed.source_heads("q"), changed.source_heads("k"))


def _pattern_of_value(changed: ChangedRows) -> tuple[Tensor, Tensor]:
    return _mixed(changed, changed.runs.put_pattern())


def _by_pattern(changed: ChangedRows, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return _mixed(changed, pattern_of(changed.block.attn, q, k, changed.future))


def _mixed(changed: ChangedRows, pattern: Tensor) -> tuple[Tensor, Tensor]:
    """Return the readers' z, mixed of the base runs' values by patterns (J, nh, P, T)."""
    attn = changed.block.attn
    z = changed.of_readers(attn.mix(pattern, changed.base_heads("v")))  # (n, 1, hs)
    before = pattern_of(attn, changed.base_heads("q"), changed.base_heads("k"), changed.future)
    return z, changed.of_readers((pattern == before).all(-1)).squeeze(-1)


def _k(changed: ChangedRows) -> tuple[Tensor, Tensor]:
    attn, q = changed.block.attn, changed.base_heads("q")
    is_same = _is_same_head(changed)
    if changed.position is None:
        pattern = pattern_of(attn, q, changed.source_heads("k"), changed.future)  # (J, nh, P, T)
        return changed.of_readers(attn.mix(pattern, changed.base_heads("v"))), is_same
    # One key changes: replace its column of the scores, and take the softmax again.
    at = changed.position[:, None]  # (n, 1)
    scores = changed.of_readers(attn.scores(q, changed.base_heads("k")))  # (n, g, T)
    patched = changed.of_readers(attn.scores(q, changed.source_heads("k")), at)  # (n, g)
    patched = patched[..., None]  # (n, g, 1)
    scores.scatter_(-1, at[..., None].expand_as(patched), patched)
    scores.masked_fill_(changed.future[changed.row[:, None]], float("-inf"))
    v = changed.base_heads("v")  # (J, nkv, T, hs)
    weights = scores.softmax(-1).to(v.dtype)  # (n, g, T); the scores may be wider
    # Rows of the same head are adjacent, so each head needs one product with its values.
    z = torch.cat([weights[rows] @ v[job, head] for job, head, rows in changed.head_slices])
    return z, is_same


def _v(changed: ChangedRows) -> tuple[Tensor, Tensor]:
    attn = changed.block.attn
    is_same = _is_same_head(changed)
    pattern = pattern_of(attn, changed.base_heads("q"), changed.base_heads("k"), changed.future)
    if changed.position is None:
        return changed.of_readers(attn.mix(pattern, changed.source_heads("v"))), is_same
    # One value changes: z changes by the difference times the weight of its position.
    at = changed.position
    weight = changed.of_readers(pattern, at[:, None])  # (n, g)
    apart = changed.source_heads("v") - changed.base_heads("v")  # (J, nkv, T, hs)
    difference = apart[changed.job, changed.head, at]  # (n, hs)
    before = changed.of_readers(changed.base_heads("z"))  # (n, g, hs)
    return before + weight[..., None] * difference[:, None], is_same


def _is_same_head(changed: ChangedRows) -> Tensor:
    """Return a mask (n,): True where the patched k or v is equal in both runs."""
    site, at = changed.site, changed.position
    equal = (changed.source_heads(site) == changed.base_heads(site)).all(-1)  # (J, nkv, T)
    if at is None:
        return equal.all(-1)[changed.job, changed.head]
    return equal[changed.job, changed.head, at]


def _after_heads(
    new_z: Callable[[ChangedRows], tuple[Tensor, Tensor]], changed: ChangedRows
) -> Tensor:
    """Return resid_post (n, C) after some heads' z has changed."""
    attn = changed.block.attn
    patched, is_same = new_z(changed)  # (n, g, hs), (n,)
    z = attn.heads(changed.base("z")[:, None]).squeeze(-2).clone()  # (n, nh, hs)
    each = torch.arange(len(z), device=z.device)[:, None]  # (n, 1)
    z[each, changed.readers] = patched
    return _after_attention(changed, attn.c_proj(z.flatten(1)), is_same)


# --------------------------------------------------------------------- the table


@dataclass(frozen=True)
class SiteRule:
    """The rule that computes the rows of a site's experiments.

    Attributes:
        resid_post: returns the stream after the block (n, C) in the changed rows.
        reads: the sites whose activations in the base and source run it reads.
    """

    resid_post: Callable[[ChangedRows], Tensor]
    reads: frozenset[str]


def _rule(resid_post: Callable[[ChangedRows], Tensor], *reads: str) -> SiteRule:
    return SiteRule(resid_post, frozenset(("resid_post", *reads)))


def _head_rule(new_z: Callable[[ChangedRows], tuple[Tensor, Tensor]]) -> SiteRule:
    return _rule(partial(_after_heads, new_z), "resid_pre", "q", "k", "v", "z", "resid_mid")


RULES = {
    "resid_pre": _rule(_of_source),
    "resid_mid": _rule(_of_source),
    "resid_post": _rule(_of_source),
    "attn_out": _rule(_attn_out, "resid_pre", "attn_out", "resid_mid"),
    "mlp_out": _rule(_mlp_out, "resid_mid", "mlp_out"),
    "z": _head_rule(_z),
    "q": _head_rule(_q),
    "k": _head_rule(_k),
    "v": _head_rule(_v),
    "pattern": _head_rule(_pattern),
}

# Where a value is put in, in place of the source run's activation, and the rule is another one.
VALUE_RULES = {
    "resid_mid": _rule(_resid_mid_of_value, "resid_mid"),
    "pattern": _head_rule(_pattern_of_value),
}


def rule_of(site: str, *, has_values: bool) -> SiteRule:
    """Return the rule of a site.

    Args:
        has_values: a value is put in, in place of the source run's activation.
    """
    return (VALUE_RULES if has_values and site in VALUE_RULES else RULES)[site]
