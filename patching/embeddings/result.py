"""A look at embeddings: similarities, components and neighbours, saved as JSON and read back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from patching.errors import ResultError
from patching.frames import frame
from patching.result_checks import FieldError, check_fields
from patching.result_files import read_fields, refused, result_paths, save_text, to_json_lists

if TYPE_CHECKING:
    import pandas

WHAT = "embeddings"  # in messages about files
ARRAYS = ("cosine", "components", "word_map")


class Neighbour(NamedTuple):
    """A token near a word."""

    id: int
    token: str
    cosine: float  # of the angle between the two embeddings


@dataclass(frozen=True, eq=False, repr=False)
class Embeddings:
    """What a model's embeddings say. P positions, W words, k components."""

    model_name: str
    cosine: np.ndarray  # (P, P) of position embeddings
    components: np.ndarray  # (P, k) positions along their principal components
    explained: tuple[float, ...]  # (k,) share of the variance that each explains
    ids: tuple[int, ...]  # (W,) of the words
    tokens: tuple[str, ...]  # (W,)
    neighbours: tuple[tuple[Neighbour, ...], ...]  # of each word, the nearest first
    word_map: np.ndarray  # (W, 2 or fewer) the words along their principal components
    word_map_explained: tuple[float, ...]
    versions: dict[str, str] = field(default_factory=dict)
    checksum: str | None = None  # SHA-256 of the model's weights
    notes: tuple[str, ...] = ()  # remarks for readers of the figures
    created: str = field(  # ISO 8601, UTC
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )

    def __repr__(self) -> str:
        near = "; ".join(
            f"{token!r}: {', '.join(repr(one.token) for one in of_word[:3])}"
            for token, of_word in zip(self.tokens, self.neighbours, strict=True)
        )
        return (
            f"Embeddings of {self.model_name}: {len(self.cosine)} positions; {near or 'no words'}"
        )

    def to_frame(self) -> pandas.DataFrame:
        """Return a table with a row for each word and neighbour: word, rank, token, id, cosine.

        Raises:
            ResultError: pandas is not installed.
        """
        rows = [
            (word, rank, one.token, one.id, one.cosine)
            for word, of_word in zip(self.tokens, self.neighbours, strict=True)
            for rank, one in enumerate(of_word, 1)
        ]
        names = ("word", "rank", "token", "id", "cosine")
        return frame({name: [row[n] for row in rows] for n, name in enumerate(names)})

    def to_dict(self) -> dict[str, Any]:
        """Return every field in types that JSON has."""
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        fields |= {name: to_json_lists(fields[name]) for name in ARRAYS}
        fields["neighbours"] = [[one._asdict() for one in of_word] for of_word in self.neighbours]
        return fields

    def save(self, path: str | Path) -> Path:
        """Write the result as JSON, and return the file's path, which ends in .json."""
        return save_text(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Embeddings:
        """Read what `save` wrote.

        Raises:
            ResultError: there is no such file, or it is not one that `save` wrote.
        """
        from patching.embeddings.saved import TABLE

        _, file = result_paths(path)
        fields = read_fields(file, WHAT, new_field="cosine")
        with refused(file, WHAT, (FieldError, ValueError, TypeError)):
            check_fields(fields, TABLE)
            found = {name: fields[name] for name in TABLE}
            for name in ARRAYS:
                found[name] = np.array(found[name], dtype=np.float32)
            found["neighbours"] = tuple(
                tuple(Neighbour(**one) for one in of_word) for of_word in found["neighbours"]
            )
            for name in ("ids", "tokens", "explained", "word_map_explained", "notes"):
                found[name] = tuple(found[name])
            result = cls(**found)
            if not len(result.ids) == len(result.tokens) == len(result.neighbours):
                raise ResultError(f"{file} is no result of {WHAT}: its words disagree")
        return result
