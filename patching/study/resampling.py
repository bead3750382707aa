"""Random numbers for the statistics: resampled pairs, and signs. All cells meet the same ones.

Draws are made a fixed number at a time, so that they depend on the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

DRAWS_AT_ONCE = 250
MOST_ENUMERATED = 13  # pairs up to which all sign flips are tried: 2**13 = 8,192
MEMORY = 2**28  # bytes that a statistic holds beside the values, unless told otherwise


def resamples(n: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each of n pairs is drawn, n times with replacement: (draws, n) in parts.

    The pairs drawn are those that scipy.stats.bootstrap draws with
    numpy.random.default_rng(seed).
    """
    random = np.random.default_rng(seed)
    for first in range(0, draws, DRAWS_AT_ONCE):
        rows = min(DRAWS_AT_ONCE, draws - first)
        drawn = random.integers(0, n, (rows, n))
        drawn += n * np.arange(rows)[:, None]  # a range of its own for each row
        counts = np.bincount(drawn.ravel(), minlength=rows * n)
        yield counts.reshape(rows, n).astype(float)


def signs(n: int, flips: int, seed: int) -> Iterator[np.ndarray]:
    """Yield random signs, -1 or 1, for n pairs: (flips, n) in parts."""
    random = np.random.default_rng(seed)
    for first in range(0, flips, DRAWS_AT_ONCE):
        rows = min(DRAWS_AT_ONCE, flips - first)
        yield random.integers(0, 2, (rows, n), dtype=np.int8) * 2.0 - 1.0


def all_signs(n: int) -> Iterator[np.ndarray]:
    """Yield half of the 2**n patterns of signs, (2**(n - 1), n) in parts: no two are opposites.

    A pattern and its opposite have the same |t|. The first pattern flips nothing.
    """
    patterns = np.arange(2 ** (n - 1))
    for part in np.array_split(patterns, max(1, len(patterns) // DRAWS_AT_ONCE)):
        yield 1.0 - 2.0 * (part[:, None] >> np.arange(n) & 1)


def column_blocks(columns: int, rows: int, max_memory: int) -> Iterator[slice]:
    """Yield slices of columns; `rows` numbers of 8 bytes for each of them fit into max_memory.

    One column is taken even where it does not fit.
    """
    width = max(1, max_memory // (8 * max(rows, 1)))
    for first in range(0, columns, width):
        yield slice(first, min(first + width, columns))
