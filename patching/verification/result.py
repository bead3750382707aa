"""The result of a verification: one row for each figure or identity that was checked."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patching.errors import VerificationError
from patching.frames import frame
from patching.result_checks import check_fields
from patching.result_files import read_fields, refused, result_paths, save_text, to_json_lists
from patching.text import escaped
from patching.verification.saved import ROW, TABLE

if TYPE_CHECKING:
    import pandas

WHAT = "verification"  # in messages about files


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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and `ok`, with None for a number that is not finite."""
        fields: dict[str, Any] = dataclasses.asdict(self)
        for name in ("published", "ours", "difference"):
            fields[name] = to_json_lists(fields[name])
        return fields | {"place": list(self.place), "ok": self.ok}

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
            VerificationError: the shapes differ.
        """
        there, here = np.asarray(published, dtype=float), np.asarray(ours, dtype=float)
        if there.shape != here.shape:
            raise VerificationError(
                f"{what}: the published array is {there.shape}, ours {here.shape}: the figure is of"
                " a model of another shape"
            )
        away = np.abs(here - there)
        # A NaN of ours is the largest difference of all.
        worst = int(np.where(np.isnan(away), math.inf, away).argmax())
        place = tuple(int(i) for i in np.unravel_index(worst, away.shape))
        return cls(
            what, source, place, float(there[place]), float(here[place]),
            float(away[place]), float(allowed), because,
        )  # fmt: skip


@dataclass(frozen=True, repr=False)
class Verification:
    """Every row that was checked on one model."""

    model_name: str
    identity: str  # which published model it is and how that is known, or that it is another
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()  # what was not checked, and why
    versions: dict[str, str] = field(default_factory=dict)  # of packages; device, dtype, threads
    checksum: str | None = None  # SHA-256 of the model's weights
    seconds: float = 0.0  # wall-clock time
    created: str = field(  # ISO 8601, UTC
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )

    @property
    def ok(self) -> bool:
        """True if every row holds."""
        return all(row.ok for row in self.rows)

    @property
    def off(self) -> tuple[Row, ...]:
        """The rows that do not hold."""
        return tuple(row for row in self.rows if not row.ok)

    def __repr__(self) -> str:
        lines = [
            f"Verification of {escaped(self.model_name)} ({escaped(self.identity)}):"
            f" {len(self.rows) - len(self.off)} of {len(self.rows)} rows hold"
        ]
        lines += [f"  off by {row.difference:.3g}: {row.what}" for row in self.off]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return every field in types that JSON has, and `ok`."""
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        lists = {"rows": [row.to_dict() for row in self.rows], "notes": list(self.notes)}
        return {"ok": self.ok} | fields | lists

    def to_frame(self) -> pandas.DataFrame:
        """Return a pandas table with a line for each row.

        Raises:
            ResultError: pandas is not installed.
        """
        rows = [row.to_dict() for row in self.rows]
        return frame({name: [row[name] for row in rows] for name in (*ROW, "ok")})

    def save(self, path: str | Path) -> Path:
        """Write `path` with the suffix .json; return it."""
        return save_text(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Verification:
        """Read what `save` wrote.

        Raises:
            ResultError: there is no such file, it holds something else, or it was changed.
        """
        file = path if Path(path).is_file() else result_paths(path)[1]
        fields = read_fields(file, WHAT, new_field="ok")
        with refused(file, WHAT):
            check_fields(fields, TABLE)
        rows = []
        for row in fields["rows"]:
            values: dict[str, Any] = {
                name: math.nan if row[name] is None else row[name] for name in ROW
            }
            rows.append(Row(**values | {"place": tuple(row["place"])}))
        own = {one.name: fields[one.name] for one in dataclasses.fields(cls)}
        return cls(**{**own, "rows": tuple(rows), "notes": tuple(fields["notes"])})
