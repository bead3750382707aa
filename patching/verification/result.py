"""The result of a verification: one row for each figure or identity that was checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Row:
    """One published figure, or one identity, beside what this project computes.

    `published` and `ours` are the two numbers at the place where they differ most.
    """

    what: str  # the figure or the identity: "resid_post of the Michelle pair, 12 x 11"
    source: str  # who published it, and where; "identity" for an identity
    place: tuple[int, ...]  # index of the largest difference into the figure; () for one number
    published: float  # the number in the source; of an identity, what must come out
    ours: float
    difference: float  # the largest absolute difference; NaN if a number of ours is not finite
    allowed: float  # the largest difference at which the figure holds
    because: str  # why that much is allowed: "printed to 4 decimals; float32 on another device"

    @property
    def ok(self) -> bool:
        """True if the figure holds. A difference that is not a number never does."""
        return self.difference <= self.allowed

    @classmethod
    def compare(
        cls,
        what: str,
        source: str,
        published: np.ndarray | float,
        ours: np.ndarray | float,
        allowed: float,
        because: str,
    ) -> Row:
        """Compare two arrays of one shape, cell by cell.

        Args:
            published, ours: arrays of one shape, or two numbers.
            allowed: the largest absolute difference at which the figure holds.

        Raises:
            ValueError: the shapes differ.
        """
        there, here = np.asarray(published, dtype=float), np.asarray(ours, dtype=float)
        if there.shape != here.shape:
            raise ValueError(f"{what}: published {there.shape}, ours {here.shape}")
        away = np.abs(here - there)
        # A NaN of ours is the largest difference of all.
        worst = int(np.where(np.isnan(away), math.inf, away).argmax())
        place = tuple(int(i) for i in np.unravel_index(worst, away.shape))
        return cls(
            what, source, place, float(there[place]), float(here[place]),
            float(away[place]), float(allowed), because,
        )  # fmt: skip


@dataclass(frozen=True)
class Verification:
    """Every row that was checked on one model."""

    model_name: str
    identity: str  # which published model it is and how that is known; or that it is another
    rows: tuple[Row, ...]
    versions: dict[str, str] = field(default_factory=dict)  # of packages; device, dtype, threads
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """True if every row holds."""
        return all(row.ok for row in self.rows)
