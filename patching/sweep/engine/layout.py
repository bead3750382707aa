"""The indices by which a block of packed runs is run, and those of windows; see packing.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionGroup:
    """Sequences of the same length T whose attention is computed together."""

    T: int
    sequences: Tensor  # (E,)
    read: Tensor  # (E * T,) the row of q, k, v that each position of each sequence reads
    own: Tensor  # (n,) the entries of `read` at which a sequence has a row of its own
    rows: Tensor  # (n,) those rows' numbers in the batch


@dataclass(frozen=True)
class Layout:
    """The indices by which one block is run; see the example above Batch.layout."""

    n_rows: int
    n_run_rows: int  # rows of base and source runs, which come first
    n_runs: int  # number of base and source runs
    projected: Tensor | None  # the rows that need q, k, v of their own; None: all rows
    last: Tensor  # (sequences,) the row of each sequence's last position
    groups: list[AttentionGroup]
    overrides: tuple[Tensor, Tensor] | None  # window: (rows to replace, rows to copy from)
    last_overrides: tuple[Tensor, Tensor] | None  # the same as sequence numbers, for the last block
    # The values (n, C) that are put into the rows of either, in place of those copied.
    values: Tensor | None = None
    last_values: Tensor | None = None


def window_rows(
    T: np.ndarray,
    first_position: np.ndarray,
    first_row: np.ndarray,
    patched: np.ndarray,
    source: np.ndarray,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (rows to replace, rows to copy from), and the same as numbers of sequences.

    The second pair is for the last block, where each sequence has its last position only.

    Args:
        T, first_position, first_row: of every sequence (S,), as packing's _Rows.
        patched: (n,) the sequences whose window patches this block.
        source: (n,) the sequences of their jobs' source runs.
    """
    position = first_position[patched]
    source_row = first_row[source] + position - first_position[source]
    is_last = position == T[patched] - 1
    return [(first_row[patched], source_row), (patched[is_last], source[is_last])]


def window_values(
    put_in: Sequence[Tensor | None], layer: int, job: np.ndarray, position: np.ndarray
) -> tuple[Tensor, np.ndarray]:
    """Return the values (n, C) that windows put in, and which of them are at a last position.

    Args:
        put_in: of every job, (n_layer, T, C).
        job, position: (n,) the job and the position of each row that is replaced.
    """
    values, is_last = [], []
    for number, at in zip(job.tolist(), position.tolist(), strict=True):
        of_layer = [one[layer] for one in (put_in[number],) if one is not None]
        values += [one[at] for one in of_layer]
        is_last += [at == len(one) - 1 for one in of_layer]
    return torch.stack(values), np.flatnonzero(is_last)
