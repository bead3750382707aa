"""How much memory is free, and what to do where it is not enough."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mingpt.errors import MinGPTError

if TYPE_CHECKING:
    import torch


def lack(need: int, device: torch.device | None = None) -> str | None:
    """Return None if `need` bytes are free, else words such as "needs about 6.0 GB, ...".

    Where the system does not say how much is free, all memory of the machine counts
    as free; where it does not say that either, any amount does.

    Args:
        device: whose memory; None for the CPU's.
    """
    free, has = free_bytes(device), "are free"
    if free is None:
        free, has = physical_bytes(), "are in the machine"
    if free is None or need <= free:
        return None
    return f"needs about {in_words(need)} of memory, and {in_words(max(free, 0))} {has}"


def in_words(nbytes: int) -> str:
    """Return an amount of memory such as "6.0 GB"; a GB is 10**9 bytes."""
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def free_bytes(device: torch.device | None = None) -> int | None:
    """Return the bytes that are free on a device; None where the system does not say.

    On the CPU it is the free memory of the machine or of its container, whichever is less.

    Args:
        device: None for the CPU.
    """
    import torch  # not at the top: mingpt-patch imports this file before it needs PyTorch

    if device is not None and device.type == "cuda":  # PyTorch's own cache counts as free
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device is not None and device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    found = [size for size in (_available(), _left_in_the_container()) if size is not None]
    return min(found) if found else None


def physical_bytes() -> int | None:
    """Return the size of the machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _available() -> int | None:
    """Return the bytes that are free or can be freed at once; None where there is no /proc."""
    try:
        line = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    except OSError:
        return None
    return None if line is None else int(line[1]) * 1024


def _left_in_the_container() -> int | None:
    """Return the bytes that the control group still allows; None if it sets no limit."""
    home = Path("/sys/fs/cgroup")
    try:
        limit = int((home / "memory.max").read_text())
        used = int((home / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)", (home / "memory.stat").read_text(), re.M)
    except (OSError, ValueError):  # no such files, or "max": no limit
        return None
    return limit - used + (int(cached[1]) if cached else 0)


@contextlib.contextmanager
def enough_memory(otherwise: MinGPTError) -> Iterator[None]:
    """Raise `otherwise` in place of PyTorch's or Python's error when memory runs out."""
    import torch

    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise otherwise from None
    except RuntimeError as error:  # the CPU's allocator raises no class of its own
        if not any(words in str(error) for words in ("allocate memory", "bad_alloc")):
            raise
        raise otherwise from None
