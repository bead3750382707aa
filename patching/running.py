"""Run a model: set mode and precision, handle full memory, note versions."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from mingpt.errors import MinGPTError
from mingpt.memory import enough_memory
from mingpt.version import __version__
from patching.errors import SweepError

if TYPE_CHECKING:
    from mingpt.model import GPT


@contextlib.contextmanager
def ready(model: GPT, out_of_memory: MinGPTError, *, tf32: bool = False) -> Iterator[None]:
    """Run the block with `model` in eval mode and its float32 products exact.

    Afterwards the model's mode and PyTorch's precision are what they were.

    Args:
        out_of_memory: raised in place of PyTorch's error when memory runs out.
        tf32: let CUDA round the factors of float32 products to TF32's 10 bits.

    Raises:
        SweepError: `tf32` for a model that is not float32 on CUDA.
    """
    with eval_mode(model), float32_products(model, tf32), enough_memory(out_of_memory):
        yield


@contextlib.contextmanager
def eval_mode(model: GPT) -> Iterator[None]:
    """Run the block in eval mode, without dropout; then restore the model's mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def float32_products(model: GPT, tf32: bool = False) -> Iterator[None]:
    """Run the block with float32 products exact, or in TF32; then restore the setting.

    Raises:
        SweepError: `tf32` for a model that is not float32 on CUDA.
    """
    if tf32 and (model.device.type != "cuda" or model.dtype != torch.float32):
        raise SweepError(
            f"TF32 is for float32 on CUDA; this model is {model.dtype} on {model.device}"
        )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# --------------------------------------------------------------------- versions


def versions(model: GPT) -> dict[str, str]:
    """Return the versions of the packages, the device, the dtype and the number of threads."""
    return {
        "mingpt": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": str(torch.get_num_threads()),
    }
