"""Two matrix products at which PyTorch is slow: with few vectors, and with shared heads.

A step of generation multiplies each matrix by few vectors, one for each sample.
Nearly all the time goes into reading the matrix from memory, and PyTorch reads it
with one core. `Linear` cuts the matrix into one part for each core and multiplies
the parts as a batch, so that all cores read. Every number is the same sum of the
same products as in nn.Linear.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_VECTORS = 8  # with more, PyTorch uses all cores by itself
FEWEST_WEIGHTS = 1 << 18  # a smaller matrix fits into the CPU's caches, where one core is enough


class Linear(nn.Linear):
    """nn.Linear that splits the product with a few vectors among the CPU's cores."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b: (..., in_features) -> (..., out_features)."""
        weight, parts = self.weight, torch.get_num_threads()
        if (
            x.numel() <= MOST_VECTORS * self.in_features
            and weight.numel() >= FEWEST_WEIGHTS
            and weight.device.type == "cpu"
            and weight.dtype == x.dtype
            and weight.dtype in (torch.float32, torch.float64)
            and parts > 1
            and x.dim() > 1
        ):
            out = shared_out(x.flatten(0, -2), weight, parts)
            out = out if self.bias is None else out + self.bias
            return out.view(*x.shape[:-1], self.out_features)
        return super().forward(x)


def shared_out(x: Tensor, weight: Tensor, parts: int) -> Tensor:
    """Return x W^T (n, out) of x (n, in) and W (out, in), computed in `parts` parts of W's rows."""
    whole = len(weight) // parts * parts
    each = weight[:whole].unflatten(0, (parts, -1)).transpose(1, 2)  # (parts, in, out / parts)
    out = torch.bmm(x.expand(parts, *x.shape), each)  # (parts, n, out / parts)
    out = out.transpose(0, 1).flatten(1)  # (n, whole)
    return out if whole == len(weight) else torch.cat((out, F.linear(x, weight[whole:])), dim=1)


def by_shared_heads(x: Tensor, shared: Tensor) -> Tensor:
    """Multiply x (..., nh, n, a) by shared (..., nkv, a, b), head by head: (..., nh, n, b).

    Head h of x is multiplied by head h // (nh / nkv) of `shared`. The heads of x
    that share one become rows of one product, so that nothing is copied.
    """
    nh, nkv = x.size(-3), shared.size(-3)
    if nh == nkv:
        return x @ shared
    rows = x.unflatten(-3, (nkv, nh // nkv)).flatten(-3, -2)  # (..., nkv, nh / nkv * n, a)
    return (rows @ shared).unflatten(-2, (nh // nkv, -1)).flatten(-4, -3)
