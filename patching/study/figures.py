"""Turn a study into the plain values of its figures, and draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from patching.drawing.colours import Scale, is_diverging
from patching.drawing.study import Strips, StudyMap, draw_map, draw_strips
from patching.errors import DrawingError
from patching.study.labels import cell_name, column_labels
from patching.study.request import RECOVERY
from patching.study.result import Study
from patching.study.statistics import CONFIDENCE, bootstrap
from patching.study.words import (
    ALPHA,
    METRIC_WORDS,
    experiment_words,
    how_words,
    kept_words,
    noise_words,
    pairing_words,
    unpatched_means,
)  # fmt: skip
from patching.sweep.metrics import METRICS
from patching.text import counted, model_label

if TYPE_CHECKING:
    import pandas

MOST_NAMED = 12  # heads that are named within the map
MOST_HEADS = 4  # maps of heads by position
STRIPS = 6  # cells of a figure of strips


def draw_study(
    study: Study,
    path: str | Path | None = None,
    *,
    site: str | None = None,
    metric: str | None = None,
    head: int | None = None,
    summary: pandas.DataFrame | None = None,
    cmap: str | None = None,
    title: str | None = None,
    **how: Any,
) -> Figure:
    """Draw a study's mean map above the half-widths of its intervals.

    Cells that survive correction are outlined; cells in which nothing can change are
    hatched. Rows are layers, layer 0 on top.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        site, metric: which map; None for the study's first.
        head: which head, where heads were patched by position.
        summary: what Study.summary returned with `how`, if it is there already.
        cmap: a matplotlib colour map; by default viridis, and for recovery RdBu.
        title: in place of the study's own.
        how: as Study.summary.

    Raises:
        DrawingError: no such map or head, another suffix, or no such colour map.
        StudyError, ResultError: as Study.summary.
    """
    table = study.summary(**how) if summary is None else summary
    drawn = study_map(study, table, site, metric, head=head, cmap=cmap, title=title, **how)
    return draw_map(drawn, path)


def draw_study_pairs(
    study: Study,
    path: str | Path | None = None,
    *,
    site: str | None = None,
    metric: str | None = None,
    cells: Sequence[int] | None = None,
    title: str | None = None,
    only_correct: str | None = None,
    **interval: Any,
) -> Figure:
    """Draw every pair's effect, patched minus unpatched, in some cells.

    Args:
        path, site, title: as draw_study.
        metric: one that was read off the runs: for recovery, logit_diff.
        cells: their numbers in the order of Study.cells; None: those of the largest means.
        only_correct: as Study.chosen.
        interval: confidence, draws, method and seed, as statistics.bootstrap.

    Raises:
        DrawingError, StudyError: as draw_study; no such cell.
    """
    strips = study_strips(
        study, site, metric, cells=cells, title=title, only_correct=only_correct, **interval
    )
    return draw_strips(strips, path)


def study_map(
    study: Study,
    table: pandas.DataFrame,
    site: str | None = None,
    metric: str | None = None,
    *,
    head: int | None = None,
    cmap: str | None = None,
    title: str | None = None,
    **how: Any,
) -> StudyMap:
    """Return the plain values that `draw_study` draws.

    Raises:
        DrawingError: no such map or head.
    """
    site = study.request.sites[0] if site is None else site
    metric = study.request.metrics[0] if metric is None else metric
    found = table[(table["site"] == site) & (table["metric"] == metric)]
    if not len(found):
        raise DrawingError(
            f"no map of {site} and {metric} in it; there are"
            f" {', '.join(study.request.sites)} and {', '.join(study.request.metrics)}"
        )
    tested = int(found["p_corrected"].notna().sum())
    is_by_position = "position" in dict(study.fields["axes"][site])
    heads = found["head"].dropna().unique().tolist() if "head" in found else []
    what = site
    if is_by_position and heads:
        head = heads[0] if head is None else head
        if head not in heads:
            raise DrawingError(f"no head {head} in it; there are {', '.join(map(str, heads))}")
        found = found[found["head"] == head]
        what = f"{site} of head {head}"
    elif head is not None:
        raise DrawingError("a head can be drawn alone only where heads were patched by position")
    grid = _Grid.of(found, with_positions=is_by_position)
    mean, p = grid.filled(found["mean"]), grid.filled(found["p_corrected"])
    survives = p < ALPHA
    clean, corrupt = unpatched_means(study, metric, how.get("only_correct"))
    base = corrupt if study.request.direction == "denoise" else clean
    names = {} if is_by_position else _names(np.abs(mean - base), survives, grid.keys)
    is_paths = study.request.paths is not None
    cmap = cmap or ("RdBu" if METRICS[metric].diverging or is_paths else "viridis")
    centre = base if metric == RECOVERY or is_paths else METRICS[metric].neutral
    centre = centre if is_diverging(cmap) else None
    return StudyMap(
        mean=mean,
        half=(grid.filled(found["high"]) - grid.filled(found["low"])) / 2,
        is_outlined=survives,
        is_fixed=np.isnan(p),
        names=names,
        columns=grid.labels(study),
        columns_are=_columns_are(study, grid.column),
        caption=f"{METRIC_WORDS[metric]} [{study.request.direction}], mean",
        half_caption=f"half-width of the {how.get('confidence', CONFIDENCE):.0%} interval",
        title=_title(study, int(found["n"].iloc[0]), tested, what, title, how),
        scale=_scale(mean, clean, corrupt, centre, only_cells=is_paths),
        cmap=cmap,
    )


def comparison_map(
    a: Study,
    b: Study,
    found: pandas.DataFrame,
    site: str,
    metric: str,
    *,
    cmap: str | None = None,
    title: str | None = None,
    confidence: float = CONFIDENCE,
) -> StudyMap:
    """Return the plain values of a map of the differences between two studies' effects.

    Args:
        found: what compare_studies returned. Heads by position are not drawn: their rows are
            to be those of one head.
    """
    grid = _Grid.of(found, with_positions="position" in found or "role" in found)
    difference, p = grid.filled(found["difference"]), grid.filled(found["p_corrected"])
    half = (grid.filled(found["high"]) - grid.filled(found["low"])) / 2
    tested = int(found["p_corrected"].notna().sum())
    said = pairing_words(found)
    if tested:
        said += f"; outlined: they differ, p < {ALPHA:g} (max-t over {counted(tested, 'cell')})"
    names = [
        f"{letter}: {model_label(str(one.fields['model']['name']))}, {how_words(one)}"
        for letter, one in (("A", a), ("B", b))
    ]
    first = f"Effects of patching {site} in A minus those in B ({'; '.join(names)})"
    cmap = cmap or "RdBu"
    reach = float(np.nanmax(np.abs(difference), initial=0.0)) or 1.0
    return StudyMap(
        mean=difference,
        half=half,
        is_outlined=p < ALPHA,
        is_fixed=np.isnan(difference) | ((difference == 0) & (half == 0)),
        names={},
        columns=grid.labels(a),
        columns_are=_columns_are(a, grid.column),
        caption=f"{METRIC_WORDS[metric]}: difference of mean effects",
        half_caption=f"half-width of the {confidence:.0%} interval",
        title=(first if title is None else title, said),
        scale=Scale(-reach, reach, 0.0 if is_diverging(cmap) else None),
        cmap=cmap,
    )


def study_strips(
    study: Study,
    site: str | None = None,
    metric: str | None = None,
    *,
    cells: Sequence[int] | None = None,
    title: str | None = None,
    only_correct: str | None = None,
    **interval: Any,
) -> Strips:
    """Return the plain values that `draw_study_pairs` draws."""
    site = study.request.sites[0] if site is None else site
    read = [one.name for one in study.request.read]
    metric = read[0] if metric is None else metric
    found = study.cells(site, metric, only_correct=only_correct)
    count = found.effects.shape[1]
    means = np.abs(found.effects.mean(axis=0))
    largest = np.argsort(-means, kind="stable")[: min(STRIPS, int((means > 0).sum()) or 1)]
    chosen = largest if cells is None else np.array(list(cells), dtype=int)
    if not all(0 <= cell < count for cell in chosen):
        raise DrawingError(f"a cell's number is from 0 to {count - 1}, not {chosen.tolist()}")
    effects = np.asarray(found.effects[:, chosen])
    about = bootstrap(effects, **interval)
    share = interval.get("confidence", CONFIDENCE)
    done: tuple[str, ...] = (
        f"Single pairs, {experiment_words(study, site)} ({study.request.direction}); model"
        f" {model_label(str(study.fields['model']['name']))}",
        f"{counted(len(effects), 'pair')}; {share:.0%} intervals of the mean",
        *filter(None, [noise_words(study)]),
    )
    return Strips(
        cells=tuple(cell_name(found.axes, int(cell)) for cell in chosen),
        effects=effects,
        mean=about.mean,
        low=about.low,
        high=about.high,
        caption=f"{METRIC_WORDS[metric]}: patched minus unpatched",
        title=done if title is None else (title, *kept_words(study, site)),
    )


@dataclass(frozen=True)
class _Grid:
    """The places of a table's rows in a map of layers by positions, roles or heads."""

    column: str  # "position", "role", "head" or "sender"
    keys: list[Any]  # of the columns, in order
    at: tuple[np.ndarray, np.ndarray]  # row and column of each row of the table
    n_layer: int

    @classmethod
    def of(cls, found: pandas.DataFrame, *, with_positions: bool) -> _Grid:
        column = "sender" if "sender" in found and found["sender"].notna().any() else "head"
        if with_positions:
            named = "role" in found and found["role"].notna().any()
            column = "role" if named else "position"
        keys = list(dict.fromkeys(found[column]))
        place = {key: number for number, key in enumerate(keys)}
        at = found["layer"].to_numpy(int), np.array([place[key] for key in found[column]])
        return cls(column, keys, at, int(found["layer"].max()) + 1)

    def filled(self, values: Any) -> np.ndarray:
        """Return a column of the table as a map (n_layer, columns); NaN where there is no row."""
        grid = np.full((self.n_layer, len(self.keys)), np.nan)
        grid[self.at] = np.asarray(values, dtype=float)
        return grid

    def labels(self, study: Study) -> tuple[str, ...]:
        """Return the labels of the columns."""
        if self.column in ("head", "sender"):
            return tuple(map(str, self.keys))
        return column_labels(study, self.keys)


def _names(
    effect: np.ndarray, survives: np.ndarray, keys: Sequence[Any]
) -> dict[tuple[int, int], str]:
    """Return layer.head, or "m3" for an MLP, for the surviving cells of the largest effects.

    Args:
        keys: of the columns.
    """
    places = [(int(a), int(b)) for a, b in np.argwhere(survives)]
    largest = sorted(places, key=lambda at: -effect[at])[:MOST_NAMED]
    return {at: f"m{at[0]}" if keys[at[1]] == "MLP" else f"{at[0]}.{at[1]}" for at in largest}


def heads_to_draw(table: pandas.DataFrame, site: str, metric: str) -> list[int | None]:
    """Return the heads that have a map of their own: those of the largest effects.

    A map without positions of heads is one map: [None].

    Args:
        table: Study.summary's.
    """
    found = table[(table["site"] == site) & (table["metric"] == metric)]
    has_heads = "head" in found and found["head"].notna().any()
    columns = [name for name in ("position", "role") if name in found]
    if not has_heads or not any(found[name].notna().any() for name in columns):
        return [None]
    spread = found.groupby("head")["mean"].agg(lambda x: float(x.max() - x.min()))
    return [int(head) for head in spread.sort_values(ascending=False).index[:MOST_HEADS]]


def _columns_are(study: Study, column: str) -> str:
    if column == "head":
        return "head"
    if column == "sender":
        return "sender: a head, or the MLP"
    if column == "role":
        return "role; +1 is the token after it"
    differs = "token that differs" if study.request.corrupt_by is None else "token of the subject"
    start = {
        "start": "the first token",
        "end": "the prompt's end",
        "first-diff": f"the first {differs}",
        "last-diff": f"the last {differs}",
    }
    return f"position from {start[study.align]}"


def _scale(
    mean: np.ndarray, clean: float, corrupt: float, centre: float | None, *, only_cells: bool
) -> Scale:
    # What travels one path is little beside the gap between the runs: colours span the cells.
    runs = [value for value in (clean, corrupt) if np.isfinite(value) and not only_cells]
    spanned = [*mean[np.isfinite(mean)].tolist(), *runs] or [0.0]
    marks = (("clean", clean), ("corrupt", corrupt))
    return Scale(min(spanned), max(spanned), centre, marks)


def _title(
    study: Study, n: int, tested: int, what: str, title: str | None, how: dict[str, Any]
) -> tuple[str, ...]:
    """Return the title's lines.

    Args:
        tested: number of the cells over which p is corrected.
        what: the site, or a head of it.
        title: in place of the first line.
    """
    correction = {"max-t": "max-t", "bh": "Benjamini and Hochberg"}[how.get("correction", "max-t")]
    first = (
        f"Mean of {experiment_words(study, what)} ({study.request.direction});"
        f" model {model_label(str(study.fields['model']['name']))}"
    )
    kept = [noise_words(study)] if title is None else kept_words(study, what)
    return (
        first if title is None else title,
        f"{counted(n, 'pair')}{_chosen(how)}; outlined: differs from no effect, p < {ALPHA:g}"
        f" ({correction} over {counted(tested, 'cell')})",
        *filter(None, kept),
    )


def _chosen(how: dict[str, Any]) -> str:
    kind = how.get("only_correct")
    return {None: "", "clean": " that are answered rightly", "both": " answered rightly twice"}[
        kind
    ]
