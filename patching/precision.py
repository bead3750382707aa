"""Whether products of float32 matrices may be rounded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from mingpt.model import GPT
from patching.errors import SweepError


@contextlib.contextmanager
def float32_products(model: GPT, tf32: bool = False) -> Iterator[None]:
    """Products of float32 matrices in float32, whatever was set before, or in TF32.

    Raises:
        SweepError: TF32 where there is none.
    """
    weight = model.transformer.wte.weight
    if tf32 and (weight.device.type != "cuda" or weight.dtype != torch.float32):
        raise SweepError(
            f"TF32 is for float32 on CUDA; this model is {weight.dtype} on {weight.device}"
        )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
