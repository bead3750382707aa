"""The result of a study: a folder, from which maps are read one at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mingpt.files import expanded
from patching.errors import MinGPTError, ResultError, StudyError
from patching.notebook import HasPage
from patching.study import on_disk
from patching.study.align import Key, averaging, common_keys
from patching.study.request import StudyRequest, cut, sender_labels
from patching.study.resampling import MEMORY
from patching.study.words import noise_words, put_words, run_names
from patching.sweep.put import ABLATIONS
from patching.sweep.request import DIRECTIONS
from patching.text import counted, escaped

if TYPE_CHECKING:
    import pandas

CORRECT = ("clean", "both")  # which prompts must be answered rightly for a pair to count


@dataclass(frozen=True, eq=False)
class Cells:
    """One map of a study: the effect of every cell in every pair, in the metric's unit."""

    site: str
    metric: str
    pairs: np.ndarray  # (n,) numbers of the pairs, ascending
    base: np.ndarray  # (n,) of the unpatched run that is patched
    effects: np.ndarray  # (n, K) patched minus base
    axes: dict[str, np.ndarray]  # layer, head or sender, position or role -> of each cell (K,)


class Study(HasPage):
    """A study in its folder. Numbers are read when they are asked for, one map at a time."""

    def __init__(self, folder: Path, fields: dict[str, Any]) -> None:
        self.folder = folder
        self.fields = fields
        self.request = StudyRequest.from_dict(fields["request"])
        # The standard deviation of its noise, in the embedding's unit; 0 without noise.
        self.noise_std = float(fields["noise_std"]) if self.request.corrupt_by else 0.0
        self._columns: dict[str, list[Any]] = {}  # of pairs.parquet, those that were asked for

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """Read the study in a folder.

        Raises:
            ResultError: the folder holds no study, or a damaged one.
        """
        folder = expanded(path)
        if not (folder / on_disk.STUDY).exists():
            raise ResultError(f"{folder} holds no study: there is no {on_disk.STUDY}")
        fields = on_disk.read_study(folder)
        try:
            study = cls(folder, fields)
        except (MinGPTError, KeyError, TypeError, ValueError) as error:
            raise ResultError(f"{folder / on_disk.STUDY} is no saved study: {error}") from None
        if len(study.batches) != fields["batches"] or len(study) != fields["pairs"].get("count"):
            raise ResultError(f"{folder / on_disk.PAIRS} holds other pairs than {on_disk.STUDY}")
        return study

    # ----------------------------------------------------------------- what there is

    @property
    def align(self) -> str:
        """The alignment of the maps: a name in ALIGNMENTS."""
        return str(self.fields["align"])

    @property
    def why(self) -> str:
        """Why the maps are aligned in this way."""
        return str(self.fields["why"])

    @cached_property
    def pairs(self) -> dict[str, list[Any]]:
        """The columns of pairs.parquet: clean_text, target_tokens, length, further, ..."""
        file = on_disk.open_parquet(self.folder / on_disk.PAIRS, self.fields["id"])
        return {name: self.column(name) for name in file.schema_arrow.names}

    def column(self, name: str) -> list[Any]:
        """Return one column of pairs.parquet.

        Raises:
            ResultError: there is none of this name.
        """
        if name not in self._columns:
            file = on_disk.open_parquet(self.folder / on_disk.PAIRS, self.fields["id"])
            if name not in file.schema_arrow.names:
                raise ResultError(f"{self.folder / on_disk.PAIRS} has no column {name}")
            table = on_disk.rows_of(file, range(file.num_row_groups), [name])
            self._columns[name] = table[name].to_pylist()
        return self._columns[name]

    def __len__(self) -> int:
        """Return the number of pairs, those that have not been run included."""
        return len(self.column("pair"))

    @cached_property
    def batches(self) -> list[list[int]]:
        """The numbers of the pairs of each batch."""
        return cut(self.column("length"), self.request.batch)

    @property
    def finished(self) -> list[int]:
        """The numbers of the batches whose shard is there."""
        paths = (on_disk.shard_path(self.folder, number) for number in range(len(self.batches)))
        return [number for number, path in enumerate(paths) if path.exists()]

    @property
    def is_complete(self) -> bool:
        """True if every pair has been run."""
        return len(self.finished) == len(self.batches)

    @property
    def has_corrupt(self) -> bool:
        """True if the pairs have corrupt prompts; False with noise, and for ablations without."""
        return self.request.corrupt_by is None and bool(self.fields["pairs"].get("corrupt", True))

    def __repr__(self) -> str:
        done = sum(len(self.batches[number]) for number in self.finished)
        base, source = run_names(self)
        put_in = source if self.request.put_in.is_recorded else ABLATIONS[self.request.put].lower()
        paths = self.request.paths
        what = ", ".join(self.request.sites) if paths is None else f"paths to {paths}"
        return (
            f"Study of {escaped(str(self.fields['model']['name']))} in {escaped(str(self.folder))}:"
            f" {done:,} of {len(self):,} pairs, {what},"
            f" {', '.join(self.request.metrics)}, {put_in} into {base}"
            f" ({self.request.direction}), aligned by {self.align} ({self.why})"
            + (f"; {noise}" if (noise := noise_words(self)) else "")
            + (f"; put in: {prompts}" if (prompts := put_words(self)) else "")
        )

    def _repr_png_(self) -> bytes:
        """Return the first map, for Jupyter."""
        from patching.drawing.style import png_bytes
        from patching.study.figures import draw_study

        return png_bytes(draw_study(self))

    # ----------------------------------------------------------------- numbers

    def unpatched(self, run: str) -> dict[str, np.ndarray]:
        """Return metric -> values (pairs,) of an unpatched run; NaN for pairs not yet run.

        Beside the metrics there are "top", 1 where the run's answer is its likeliest token,
        and "preferred", 1 where it is likelier than the other answer.

        Args:
            run: "clean", whose answer is the target, or "corrupt", whose answer is the foil.
        """
        group = on_disk.UNPATCHED.index(run)
        found: dict[str, np.ndarray] = {}
        for number in self.finished:
            table = on_disk.rows_of(self._shard(number), [group], ("metric", "pair", "value"))
            metrics = np.array(table["metric"].to_pylist())
            pairs, values = table["pair"].to_numpy(), table["value"].to_numpy()
            for name in dict.fromkeys(metrics.tolist()):
                rows = found.setdefault(name, np.full(len(self), np.nan))
                rows[pairs[metrics == name]] = values[metrics == name]
        return found

    def accuracy(self) -> dict[str, dict[str, float]]:
        """Return run -> {"top", "preferred"} -> the share of pairs that are answered so.

        A share that no pair has is NaN.
        """
        return {
            run: {
                name: _mean(values[name]) if values else float("nan")
                for name in ("top", "preferred")
            }
            for run, values in ((run, self.unpatched(run)) for run in on_disk.UNPATCHED)
        }

    def chosen(self, only_correct: str | None = None) -> np.ndarray:
        """Return the numbers (n,) of the pairs that have been run, ascending.

        Args:
            only_correct: "clean" for those whose clean run prefers the target, "both" for
                those whose corrupt run prefers the foil as well.

        Raises:
            StudyError: fewer than 2 are left.
        """
        if only_correct not in (None, *CORRECT):
            raise StudyError(f"only_correct is {' or '.join(CORRECT)}, not {only_correct!r}")
        if only_correct == "both" and not self.has_corrupt:
            raise StudyError(
                "there are no corrupt prompts to answer rightly: choose by the clean ones"
            )
        is_in = np.zeros(len(self), dtype=bool)
        is_in[[pair for number in self.finished for pair in self.batches[number]]] = True
        for run in {None: (), "clean": ("clean",), "both": on_disk.UNPATCHED}[only_correct]:
            is_in &= self.unpatched(run)["preferred"] == 1
        found = np.flatnonzero(is_in)
        if len(found) < 2:
            raise StudyError(f"{self.folder}: {counted(len(found), 'pair')}, too few for a mean")
        return found

    def cells(
        self,
        site: str,
        metric: str,
        *,
        only_correct: str | None = None,
        max_memory: int = MEMORY,
    ) -> Cells:
        """Return one map of the pairs that have been run, aligned.

        Args:
            metric: one that was read off the runs: for recovery, logit_diff.
            only_correct: as `chosen`.
            max_memory: a larger map is held in a temporary file.

        Raises:
            StudyError: the study has no such map, or fewer than 2 pairs.
        """
        pairs = self.chosen(only_correct)
        group = self._group(site, metric)
        base_run = DIRECTIONS[self.request.direction][0]
        base = self.unpatched(base_run)[metric]
        sizes = self._axes(site)
        keys: list[Key] | None = None
        if "position" in sizes:
            keys = common_keys([self._keys(number) for number in pairs])
        inner = [size for name, size in sizes.items() if name != "position"]
        shape = (*inner, len(keys)) if keys is not None else tuple(inner)
        effects = _empty(len(pairs), int(np.prod(shape)), max_memory)
        weights = self._weights(keys or [])
        row_of = {int(pair): row for row, pair in enumerate(pairs)}
        for number in self.finished:
            batch = self.batches[number]
            values = self._values(number, group, sizes)  # (B, layers, ...)
            for pair, of_pair in zip(batch, values, strict=True):
                if pair not in row_of:
                    continue
                effect = of_pair - base[pair]  # exactly 0 where nothing can change
                if keys is not None:
                    effect = effect @ weights(pair)
                effects[row_of[pair]] = effect.ravel()
        index = np.indices(shape).reshape(len(shape), -1)
        axes = dict(zip(sizes, index, strict=True))
        if "sender" in axes:
            labels = np.array(sender_labels(sizes["sender"]), dtype=object)
            axes["sender"] = labels[axes["sender"]]
        if keys is not None:
            name = "role" if self.align == "roles" else "position"
            axes[name] = np.array(keys, dtype=object if name == "role" else int)[
                axes.pop("position")
            ]
        return Cells(site, metric, pairs, base[pairs], effects, axes)

    def summary(self, **how: Any) -> pandas.DataFrame:
        """Return a table with a row for each cell of each map; see `summary.summarize`.

        Its columns are site, metric, layer, head, position or role, n, mean, sd, low, high,
        p, p_corrected; those that apply to no site are left out.
        """
        from patching.study.summary import summarize

        return summarize(self, **how)

    def write_summary(self, **how: Any) -> list[Path]:
        """Write the summary into the folder as summary.parquet, .csv and .json; return the paths.

        Args:
            how: as `summary`.
        """
        from patching.study.summary import save_summary

        return save_summary(self.summary(**how), self.folder / "summary")

    def to_frame(self, site: str | None = None, metric: str | None = None) -> pandas.DataFrame:
        """Return a tidy table with a row for each cell of each pair that has been run.

        Its columns are pair, site, metric, layer, head, position, role, value; those that
        apply to no site are left out. Positions are those of the pair's own prompt.

        Args:
            site, metric: one of the study's; None for all. A pair's recovery divides by its
                own gap, and is NaN where that is 0.
        """
        from patching.study.summary import tidy_pairs

        sites = self.request.sites if site is None else (site,)
        metrics = self.request.metrics if metric is None else (metric,)
        return tidy_pairs(self, sites, metrics)

    # ----------------------------------------------------------------- reading

    def _group(self, site: str, metric: str) -> int:
        """Return the number of a map's row group in each shard.

        Raises:
            StudyError: the study has no such map.
        """
        names = [one.name for one in self.request.read]
        if site not in self.request.sites or metric not in names:
            raise StudyError(
                f"{self.folder} has no map of {site} and {metric}; it has"
                f" {', '.join(self.request.sites)} and {', '.join(names)}"
            )
        maps = self.request.sites.index(site) * len(names) + names.index(metric)
        return len(on_disk.UNPATCHED) + maps

    def _axes(self, site: str) -> dict[str, int]:
        """Return the axes of a site's maps and their sizes; that of position varies."""
        return {str(name): int(size) for name, size in self.fields["axes"][site]}

    def _keys(self, pair: int) -> list[Key]:
        keys = self.column("keys")[pair]
        return list(keys) if self.align == "roles" else [int(key) for key in keys]

    def _weights(self, keys: list[Key]) -> Callable[[int], np.ndarray]:
        """Return a function from a pair's number to the weights (T, K) of its positions."""
        known: dict[tuple[Key, ...], np.ndarray] = {}

        def of_pair(pair: int) -> np.ndarray:
            own = tuple(self._keys(pair))
            if own not in known:
                known[own] = averaging(own, keys)
            return known[own]

        return of_pair

    def shard_rows(self, site: str, metric: str) -> Iterator[Any]:
        """Yield the rows of one map as a pyarrow table for each shard.

        Raises:
            StudyError: the study has no such map.
        """
        group = self._group(site, metric)
        for number in self.finished:
            yield on_disk.rows_of(self._shard(number), [group], on_disk.COLUMNS)

    def _shard(self, number: int) -> Any:
        return on_disk.open_parquet(on_disk.shard_path(self.folder, number), self.fields["id"])

    def _values(self, number: int, group: int, sizes: dict[str, int]) -> np.ndarray:
        """Return the values (B, layers, ...) of one map in one shard."""
        batch = self.batches[number]
        T = self.column("length")[batch[0]]
        shape = [len(batch), *(T if name == "position" else n for name, n in sizes.items())]
        table = on_disk.rows_of(self._shard(number), [group], ("value",))
        values = table["value"].to_numpy()
        if values.size != np.prod(shape):
            raise ResultError(
                f"{on_disk.shard_path(self.folder, number)} holds {values.size} values of a map,"
                f" not {np.prod(shape)}"
            )
        return values.reshape(shape)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _empty(rows: int, columns: int, max_memory: int) -> np.ndarray:
    """Return an array (rows, columns), in a temporary file if it is larger than max_memory."""
    if 8 * rows * columns <= max_memory:
        return np.empty((rows, columns))
    with tempfile.TemporaryFile() as file:  # the array keeps it open
        return np.memmap(file, dtype=float, mode="w+", shape=(rows, columns))
