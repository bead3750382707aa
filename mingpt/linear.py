"""Linear layers that use all cores for a few vectors too.

A step of generation multiplies each matrix by one vector, or by as many as there
are samples. What takes the time there is to read the matrix from memory, and
PyTorch has one core do it (its BLAS does not share such products out well), which
gets a fraction of what the memory gives. As a batch of products, each with a part
of the matrix's rows, all cores read. Every number is the same sum of the same
products as in nn.Linear.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST = 8  # vectors: of more, there is enough to do for every core anyway
LEAST = 1 << 18  # numbers in a matrix: a smaller one is in the caches, and soon multiplied


class Linear(nn.Linear):
    """nn.Linear, with the product of a few vectors shared out among the cores."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        weight, parts = self.weight, torch.get_num_threads()
        if (
            x.numel() <= MOST * self.in_features
            and weight.numel() >= LEAST
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
    """x (n, in) times weight (out, in) transposed, so many parts of its rows at once: (n, out)."""
    whole = len(weight) // parts * parts
    each = weight[:whole].unflatten(0, (parts, -1)).transpose(1, 2)  # (parts, in, out / parts)
    out = torch.bmm(x.expand(parts, *x.shape), each)  # (parts, n, out / parts)
    out = out.transpose(0, 1).flatten(1)
    return out if whole == len(weight) else torch.cat((out, F.linear(x, weight[whole:])), dim=1)
