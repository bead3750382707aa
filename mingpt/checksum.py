"""The checksum of a model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def sample(x: Tensor) -> float:
    """Return the sum of some 64 numbers of `x`, evenly spread: it tells a change cheaply."""
    some = x.detach()[tuple(slice(None, None, max(1, size // 8)) for size in x.shape)]
    return some.float().sum().item()


def sha256_of(named: Iterable[tuple[str, Tensor]]) -> str:
    """Return the SHA-256 (hex) of all tensors' names, dtypes, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # Through bytes, because NumPy has no bfloat16. Flat, because a contiguous matrix with
        # one column may have any stride there, and `view` wants 1.
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
