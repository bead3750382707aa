"""Tables of a study: a row for each cell over all pairs, or for each cell of each pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mingpt.files import replacing
from patching.errors import StudyError
from patching.frames import frame
from patching.study import on_disk
from patching.study.request import RECOVERY, sender_labels
from patching.study.resampling import MEMORY, column_blocks
from patching.study.statistics import (
    CONFIDENCE,
    DRAWS,
    FLIPS,
    Interval,
    benjamini_hochberg,
    bootstrap,
    bootstrap_ratio,
    pair_ratios,
    sign_flips,
)

if TYPE_CHECKING:
    import pandas

    from patching.study.result import Cells, Study

KINDS_OF_RECOVERY = ("ratio", "mean")
CORRECTIONS = ("max-t", "bh")
# A pair's own recovery is left out where its gap is below so much of the mean gap.
LEAST_GAP = 0.1
AXES = ("layer", "head", "sender", "position", "role")
TEXTS = ("sender", "role")  # axes whose values are texts
FORMATS = (".parquet", ".csv", ".json")


def summarize(
    study: Study,
    *,
    only_correct: str | None = None,
    recovery: str = "ratio",
    method: str = "percentile",
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    flips: int = FLIPS,
    correction: str = "max-t",
    seed: int = 0,
    max_memory: int = MEMORY,
) -> pandas.DataFrame:
    """Return a table with a row for each cell of each map, over the pairs that have been run.

    `mean` is the mean patched value, `sd` its standard deviation over pairs (ddof 1), `low`
    and `high` the ends of its bootstrap interval. `p` is by sign flips of patched minus base,
    `p_corrected` the same corrected over the map's cells that can change. Cells constant by
    construction have p NaN. Of paths, `sd`, `low` and `high` are of the change alone, moved to the
    base run's mean. Recovery is the ratio of means, without an sd; its p
    is that of the logit difference.

    Args:
        only_correct: "clean" or "both"; see Study.chosen.
        recovery: "ratio" of means, or "mean" of each pair's own recovery, without the pairs
            whose gap is below a tenth of the mean gap: n counts the others.
        method: "percentile" or "bca".
        correction: "max-t", or "bh" for Benjamini and Hochberg's, which is for screening.
        max_memory: bytes beside a map, and of a map in memory.

    Raises:
        StudyError: a setting out of its range, or fewer than 2 pairs.
        ResultError: pandas is not installed, or a file cannot be read.
    """
    if recovery not in KINDS_OF_RECOVERY:
        raise StudyError(f"recovery is {' or '.join(KINDS_OF_RECOVERY)}, not {recovery!r}")
    if correction not in CORRECTIONS:
        raise StudyError(f"a correction is {' or '.join(CORRECTIONS)}, not {correction!r}")
    interval = {"confidence": confidence, "draws": draws, "method": method, "seed": seed}
    tables = []
    for site in study.request.sites:
        cells: Cells | None = None
        for metric in study.request.metrics:
            read = "logit_diff" if metric == RECOVERY else metric
            if cells is None or cells.metric != read:  # one map at a time is in memory
                cells = study.cells(site, read, only_correct=only_correct, max_memory=max_memory)
            if metric == RECOVERY:
                columns = _recovery(study, cells, recovery, interval, max_memory)
            else:
                columns = _patched(study, cells, interval, max_memory)
            tests = sign_flips(cells.effects, flips=flips, seed=seed, max_memory=max_memory)
            corrected = tests.p_corrected
            if correction == "bh":
                corrected = benjamini_hochberg(tests.p)
            columns |= {"p": tests.p, "p_corrected": corrected}
            tables.append({"site": site, "metric": metric, **cells.axes, **columns})
    return _stacked(tables)


def _patched(
    study: Study, cells: Cells, interval: dict[str, Any], max_memory: int
) -> dict[str, Any]:
    """Return n, mean, sd and interval of the patched values; of paths, about the mean base value.

    A path changes a run little, and the runs of different pairs differ much. So for paths sd and
    interval are those of the change, moved to the mean of the unpatched run.
    """
    base = cells.base
    if study.request.paths is not None:
        base = np.full_like(base, base.mean())
    n, count = cells.effects.shape
    mean, sd, low, high = (np.empty(count) for _ in range(4))
    for block in column_blocks(count, 3 * n, max_memory):
        values = base[:, None] + cells.effects[:, block]
        found = bootstrap(values, max_memory=max_memory, **interval)
        mean[block], low[block], high[block] = found.mean, found.low, found.high
        sd[block] = values.std(axis=0, ddof=1)
    return {"n": n, "mean": mean, "sd": sd, "low": low, "high": high}


def _recovery(
    study: Study, cells: Cells, kind: str, interval: dict[str, Any], max_memory: int
) -> dict[str, Any]:
    """Return n, mean, sd and interval of the recovery: 0 like the corrupt run, 1 like the clean.

    With e = patched - base and gap = corrupt - clean, both of the logit difference, recovery
    is -e / gap where the corrupt run is patched, and 1 - e / gap where the clean one is.
    """
    ends = [study.unpatched(run)["logit_diff"][cells.pairs] for run in ("corrupt", "clean")]
    gap = ends[0] - ends[1]
    offset = 0.0 if study.request.direction == "denoise" else 1.0
    n, sd = len(gap), np.full(cells.effects.shape[1], np.nan)
    if kind == "ratio":
        found = bootstrap_ratio(cells.effects, gap, max_memory=max_memory, **interval)
    else:
        ratios, kept = pair_ratios(cells.effects, gap, LEAST_GAP * float(np.abs(gap).mean()))
        found = bootstrap(ratios, max_memory=max_memory, **interval)
        n, sd = int(kept.sum()), ratios.std(axis=0, ddof=1)
    turned = Interval(offset - found.mean, offset - found.high, offset - found.low)
    columns = {"n": n, "mean": turned.mean, "sd": sd, "low": turned.low, "high": turned.high}
    return {k: v + 0.0 if isinstance(v, np.ndarray) else v for k, v in columns.items()}  # no -0


def _stacked(tables: Sequence[dict[str, Any]]) -> pandas.DataFrame:
    """Return tables of columns, one below the other; axes that a site lacks are empty there."""
    names = [name for name in AXES if any(name in table for table in tables)]
    columns: dict[str, list[Any]] = {}
    for table in tables:
        count = len(next(v for v in table.values() if isinstance(v, np.ndarray)))
        numbers = [name for name in table if name not in ("site", "metric", *AXES)]
        for name in ("site", "metric", *names, *numbers):
            value = table.get(name)
            filled = value.tolist() if isinstance(value, np.ndarray) else [value] * count
            columns.setdefault(name, []).extend(filled)
    found = frame(columns)
    for name in names:
        if name not in TEXTS:
            found[name] = found[name].astype("Int64" if found[name].isna().any() else "int64")
    return found


def tidy_pairs(study: Study, sites: Sequence[str], metrics: Sequence[str]) -> pandas.DataFrame:
    """Return a table with a row for each cell of each pair that has been run.

    Raises:
        StudyError: a site or metric that the study does not have.
    """
    frame({})  # raises an error of ours if pandas is not installed
    import pandas as pd

    parts = []
    for site in sites:
        for metric in metrics:
            if metric not in study.request.metrics:
                raise StudyError(
                    f"{study.folder} has no metric {metric}; it has"
                    f" {', '.join(study.request.metrics)}"
                )
            parts.append(_tidy(study, site, metric, pd))
    whole = pd.concat(parts, ignore_index=True)
    empty = [name for name in AXES if name in whole and whole[name].isna().all()]
    return whole.drop(columns=empty)


def _tidy(study: Study, site: str, metric: str, pd: Any) -> pandas.DataFrame:
    read = "logit_diff" if metric == RECOVERY else metric
    tables = [table.to_pandas() for table in study.shard_rows(site, read)]
    if not tables:
        raise StudyError(f"{study.folder}: no pair has been run")
    found = pd.concat(tables, ignore_index=True).sort_values("pair", kind="stable")
    if metric == RECOVERY:
        corrupt, clean = (study.unpatched(run)[read] for run in ("corrupt", "clean"))
        pair = found["pair"].to_numpy()
        gap = (corrupt - clean)[pair]
        above = corrupt[pair] - found["value"].to_numpy()
        found["value"] = np.divide(above, gap, out=np.full(len(gap), np.nan), where=gap != 0)
        found["metric"] = RECOVERY
    for name in ("layer", "head", "position"):
        found[name] = found[name].astype("Int64" if found[name].isna().any() else "int64")
    columns = list(on_disk.COLUMNS)
    if (
        study.request.paths is not None
    ):  # files have the number of a column; the last one is the MLP
        labels = sender_labels(dict(study.fields["axes"][site])["sender"])
        found["sender"] = [labels[column] for column in found["head"]]
        columns[columns.index("head")] = "sender"
    return found[columns].reset_index(drop=True)


def summary_paths(stem: str | Path) -> list[Path]:
    """Return the paths of a summary's files."""
    return [Path(f"{stem}{suffix}") for suffix in FORMATS]


def save_summary(table: pandas.DataFrame, stem: str | Path) -> list[Path]:
    """Write a summary as Parquet, CSV and JSON (a list of rows); return the paths.

    Args:
        stem: the files' path without a suffix.
    """
    paths = summary_paths(stem)
    for path in paths:
        with replacing(path) as part:
            if path.suffix == ".parquet":
                table.to_parquet(part, index=False)
            elif path.suffix == ".csv":
                table.to_csv(part, index=False)
            else:
                table.to_json(part, orient="records", lines=False, double_precision=15)
    return paths
