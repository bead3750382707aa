"""Run a model: set mode and precision, handle full memory, show progress, note versions."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from mingpt.errors import MinGPTError
from mingpt.version import __version__
from patching.errors import SweepError

if TYPE_CHECKING:
    from tqdm import tqdm

    from mingpt.model import GPT

Progress = Callable[[int, int], None]  # (work done, work in all; 0 where that is not known)
SECONDS_BEFORE_A_BAR = 2.0


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


@contextlib.contextmanager
def enough_memory(otherwise: MinGPTError) -> Iterator[None]:
    """Raise `otherwise` in place of PyTorch's error when memory runs out."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise otherwise from None
    except RuntimeError as error:  # the CPU's allocator raises no class of its own
        if "allocate memory" not in str(error):
            raise
        raise otherwise from None


# --------------------------------------------------------------------- progress


def steps(progress: Progress | None, total: int) -> Callable[..., None]:
    """Return a function that adds to the work done and reports the sum to `progress`.

    Example:
        step = steps(print, 3)  # prints 0 3
        step(2)  # prints 2 3
    """
    done = 0

    def step(more: int = 1) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    step(0)
    return step


@contextlib.contextmanager
def progress_or_bar(progress: Progress | bool | None, label: str) -> Iterator[Progress | None]:
    """Yield `progress` if it is a function, or a function that draws a bar after two seconds.

    Args:
        progress: a function; None for a bar (tqdm.auto) in a notebook or on a
            terminal; False for None to be yielded.
        label: the text before the bar.
    """
    if callable(progress):
        yield progress
        return
    if progress is False or not (_in_a_notebook() or sys.stderr.isatty()):
        yield None
        return
    bars = list["tqdm"]()

    def draw(done: int, total: int) -> None:
        if not bars:
            from tqdm.auto import tqdm

            late = SECONDS_BEFORE_A_BAR
            bars.append(tqdm(total=total or None, desc=label, delay=late, leave=False))
        bars[0].update(done - bars[0].n)

    try:
        yield draw
    finally:
        for bar in bars:
            bar.close()


def _in_a_notebook() -> bool:
    """Return True if this process is a Jupyter kernel."""
    return "ipykernel" in sys.modules


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
