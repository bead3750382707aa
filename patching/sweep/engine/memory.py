"""Decide how much memory a sweep may take beside the model; parse sizes such as "4GB"."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from patching.errors import SweepError

if TYPE_CHECKING:
    import torch

FRACTION = 0.5  # of the free memory; the rest is left to other programs
LEAST = 256 * 1024**2  # bytes, however little is free; with less a sweep is very slow
UNKNOWN = 2 * 1024**3  # bytes, where the system does not say how much is free
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_size(text: str) -> int:
    """Return the bytes that "800M", "4GB", "1.5 GiB" or a plain number stand for.

    Units are powers of 1024.

    Raises:
        SweepError: the text is none of these, or is less than one byte.
    """
    pattern = r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(?:I?B)?\s*"
    match = re.fullmatch(pattern, text.upper(), re.ASCII)
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise SweepError(f"no amount of memory: {text!r}; write it as 800M or 4GB")
    return size


def allowance(device: torch.device) -> int:
    """Return the bytes that a sweep may take where the user has set no limit."""
    import torch

    if device.type == "cuda":  # PyTorch's own cache counts as free
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + kept
    elif device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    else:
        free = _free_on_this_machine()
    return max(int(FRACTION * free), LEAST)


def _free_on_this_machine() -> int:
    """Return the free bytes of the machine or of its container, whichever is less."""
    found = [size for size in (_available(), _left_in_the_container()) if size is not None]
    return min(found) if found else UNKNOWN


def _available() -> int | None:
    """Return the bytes that are free or can be freed at once; None if the system does not say."""
    try:
        line = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        if line is not None:
            return int(line[1]) * 1024
    except OSError:
        pass
    try:  # macOS has no /proc; half of the physical memory is a cautious guess
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return None


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
