"""Decide how much memory a sweep may take beside the model; parse sizes such as "4GB"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mingpt.memory import free_bytes, physical_bytes
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
        raise SweepError(f"no amount of memory: {text!r}; write it as 800M, 4GB or 1.5GB")
    return size


def allowance(device: torch.device) -> int:
    """Return the bytes that a sweep may take where the user has set no limit."""
    free = free_bytes(device)
    if free is None:  # half of the physical memory is a cautious guess
        free = (physical_bytes() or 2 * UNKNOWN) // 2
    return max(int(FRACTION * free), LEAST)
