"""How a model is run: its state, progress, and what a result depends on beside its arguments."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

import mingpt
from mingpt.errors import MinGPTError

if TYPE_CHECKING:
    from mingpt.model import GPT


Progress = Callable[[int, int], None]  # (work done, work in all)


def steps(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function that is told how much more is done, and tells `progress` how much in all."""
    done = 0

    def step(more: int = 1) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    step(0)
    return step


@contextlib.contextmanager
def eval_mode(model: GPT) -> Iterator[None]:
    """Without dropout; afterwards the model is in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def enough_memory(otherwise: MinGPTError) -> Iterator[None]:
    """Raise `otherwise` in place of what PyTorch raises when there is none left."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise otherwise from None
    except RuntimeError as error:  # the CPU's allocator has no class of its own
        if "allocate memory" not in str(error):
            raise
        raise otherwise from None


def versions(model: GPT) -> dict[str, str]:
    """What a result depends on beside its arguments: packages, device, dtype, threads."""
    weight = model.transformer.wte.weight
    return {
        "mingpt": mingpt.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": str(weight.device),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "threads": str(torch.get_num_threads()),
    }
