"""How much memory a sweep may take beside the model."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from patching.errors import SweepError

if TYPE_CHECKING:
    import torch

FRACTION = 0.5  # of what is free: the rest is for whatever else the machine does
LEAST = 256 * 1024**2  # bytes, however little is free: no sweep gets anywhere with less
UNKNOWN = 2 * 1024**3  # bytes, where the system does not say what is free
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_size(text: str) -> int:
    """Bytes, from "800M", "4GB", "1.5 GiB" or a plain number; units are powers of 1024.

    Raises:
        SweepError: it is none of these, or nothing.
    """
    pattern = r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(?:I?B)?\s*"
    match = re.fullmatch(pattern, text.upper(), re.ASCII)
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise SweepError(f"no amount of memory: {text!r}; write it as 800M or 4GB")
    return size


def allowance(device: torch.device) -> int:
    """Bytes that a sweep may take unless it is told otherwise."""
    import torch

    if device.type == "cuda":  # what PyTorch keeps for later use is free too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + kept
    elif device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    else:
        free = _free_on_this_machine()
    return max(int(FRACTION * free), LEAST)


def _free_on_this_machine() -> int:
    """Bytes that are free or can be freed at once, or what a container still allows."""
    found = [size for size in (_available(), _left_in_the_container()) if size is not None]
    return min(found) if found else UNKNOWN


def _available() -> int | None:
    try:
        line = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        if line is not None:
            return int(line[1]) * 1024
    except OSError:
        pass
    try:  # macOS has no /proc; half of what is built in is a cautious guess at what is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return None


def _left_in_the_container() -> int | None:
    home = Path("/sys/fs/cgroup")
    try:
        limit = int((home / "memory.max").read_text())
        used = int((home / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)", (home / "memory.stat").read_text(), re.M)
    except (OSError, ValueError):  # no such files, or "max": no limit
        return None
    return limit - used + (int(cached[1]) if cached else 0)
