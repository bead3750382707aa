"""Run the base run on from the lowest receiver, once for each sender: the loop's run D.

Below the lowest receiver a branch equals the base run, and before the first position of a
receiver too. So a branch is computed from its first block on, at R positions `first`, ..., T - 1;
keys and values of the positions before are the base run's. Until a receiver has changed
something, all branches are the base run: one batch row, (1, R, C), stands for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.model import GPT, Block
from patching.attention import of_each_query, split
from patching.paths.engine.record import Recorded
from patching.paths.engine.senders import Reading
from patching.paths.graph import Receiver


@dataclass
class Received:
    """The inputs of receivers in run C, which run D puts in.

    Later receivers may hear of more senders than earlier ones. A reading's senders are the
    first of the branches, so that the branches without a value keep the base run's.
    """

    # (layer, kind) -> for each receiver its head (0 for an MLP) and its values
    # (E, n, hs), or of an MLP's output (E, n, C).
    values: dict[tuple[int, str], list[tuple[int, Tensor]]] = field(default_factory=dict)

    def read(self, model: GPT, receiver: Receiver, reading: Reading) -> None:
        """Add what a receiver in a block reads from run C."""
        block = model.transformer.h[reading.layer]
        if receiver.kind == "mlp":
            values = block.mlp(block.ln_2(reading.streams))  # (E, n, C)
        else:
            values = project(block, receiver, block.ln_1(reading.streams))  # (E, n, hs)
        self.values.setdefault((reading.layer, receiver.kind), []).append(
            (receiver.head or 0, values)
        )

    @property
    def first_layer(self) -> int:
        """The lowest receiver's layer."""
        return min(layer for layer, _ in self.values)


def reads(receiver: Receiver, reading: Reading) -> bool:
    """Return True if a receiver reads the stream at this place."""
    if receiver.layer is None:
        return reading.site == "resid_post"
    site = "resid_mid" if receiver.kind == "mlp" else "resid_pre"
    return (reading.layer, reading.site) == (receiver.layer, site)


def project(block: Block, receiver: Receiver, normed: Tensor) -> Tensor:
    """Return one head's q, k or v (..., hs) of ln_1's output (..., C)."""
    attn, head = block.attn, receiver.head or 0
    first = sum(attn.sizes[: "qkv".index(receiver.kind)]) + head * attn.head_size
    rows = slice(first, first + attn.head_size)  # of c_attn
    bias = attn.c_attn.bias
    return F.linear(normed, attn.c_attn.weight[rows], None if bias is None else bias[rows])


def run_branches(
    model: GPT, base: Recorded, received: Received, positions: Sequence[int], count: int
) -> Tensor:
    """Return ln_f's output at the last position of each branch (count, C).

    Args:
        positions: those of receivers, sorted (n,).
        count: the number of branches, E.
    """
    first, n_layer = positions[0], model.config.n_layer
    x = base.at["resid_pre"][received.first_layer][None, first:]  # (1, R, C)
    at = torch.tensor(positions, device=x.device) - first
    for layer in range(received.first_layer, n_layer):
        branch = _BranchBlock(model.transformer.h[layer], layer, received, at, count)
        x = branch.run(x, base, first, is_last=layer == n_layer - 1)
    return model.transformer.ln_f(x[:, -1]).expand(count, -1)


@dataclass(frozen=True)
class _BranchBlock:
    """One block of the branches."""

    block: Block
    layer: int
    received: Received
    at: Tensor  # (n,) positions of receivers among the R rows
    count: int

    def run(self, x: Tensor, base: Recorded, first: int, *, is_last: bool) -> Tensor:
        """Return the stream after the block: (E or 1, R, C), of the last block (E or 1, 1, C)."""
        block, attn, R = self.block, self.block.attn, x.size(1)
        q, k, v = (attn.heads(part) for part in split(attn, attn.c_attn(block.ln_1(x))))
        q, k, v = (self._replaced(kind, part) for kind, part in (("q", q), ("k", k), ("v", v)))
        before = (base.at[site][self.layer][None, :, :first] for site in ("k", "v"))
        k, v = (_after(early, part) for early, part in zip(before, (k, v), strict=True))
        if is_last:  # of the last block, only the last position is read
            q, x = q[:, :, -1:], x[:, -1:]
        z = self._attended(q, k, v)  # (E or 1, nh, R or 1, hs)
        x = x + attn.c_proj(z.transpose(1, 2).flatten(2))
        out = block.mlp(block.ln_2(x))
        for _, values in self.received.values.get((self.layer, "mlp"), ()):
            out = self._own_rows(out)
            if not is_last:
                out[: len(values), self.at] = values
            elif self.at[-1] == R - 1:
                out[: len(values), 0] = values[:, -1]
        return x + out

    def _replaced(self, kind: str, x: Tensor) -> Tensor:
        """Return q, k or v (E or 1, heads, R, hs) with the receivers' values in it."""
        for head, values in self.received.values.get((self.layer, kind), ()):
            x = self._own_rows(x)
            x[: len(values), head, self.at] = values
        return x

    def _own_rows(self, x: Tensor) -> Tensor:
        """Return a copy of x in which each branch has a row."""
        return x.expand(self.count, *x.shape[1:]).clone()

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return z of queries at the last positions (E or 1, nh, R, hs) and all T keys."""
        attn, rows, T = self.block.attn, q.size(2), k.size(2)
        E = max(len(q), len(k), len(v))
        q, k, v = (
            of_each_query(attn, part).expand(E, -1, -1, -1) for part in (q, k, v)
        )  # (E, nh, R or T, hs)
        visible = torch.ones(rows, T, dtype=torch.bool, device=q.device).tril(T - rows)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=1 / attn.divisor)


def _after(early: Tensor, x: Tensor) -> Tensor:
    """Return keys or values of all positions: the base run's early ones, then x (E or 1, ...)."""
    return torch.cat((early.expand(len(x), -1, -1, -1), x), dim=2)
