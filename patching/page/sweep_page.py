"""The page of a sweep: a heatmap for each metric, what each patched run says next, tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from patching.page.charts import JSON, chart, field, heatmap, number, shown
from patching.page.parts import charts, made, page, prompt, score_table, tables, token_labels
from patching.sweep.request import DIRECTIONS
from patching.sweep.result import SweepResult
from patching.sweep.words import experiment_words, unpatched_words
from patching.text import escaped, probability, visible

NEXT = ("token", "logit", "probability")  # columns of the table of a cell


def sweep_page(result: SweepResult, command: str = "") -> JSON:
    """Return the page of a sweep.

    Args:
        command: the command line that repeats the run; "" if there is none.
    """
    approximate = ", approximate" if result.is_approximate else ""
    return page(
        experiment_words(result, result.site),
        f"model {result.model_name}; {result.cells} cells{approximate}",
        sweep_views(result),
        name="sweep",
        prompts=_prompts(result),
        notes=result.notes,
        command=command,
        provenance=made(
            result.model_name,
            result.checksum,
            result.created,
            method=result.method,
            seconds=f"{result.seconds:.2f}",
            **result.versions,
        ),
    )


def sweep_views(result: SweepResult) -> list[JSON]:
    """Return the views of a sweep's page."""
    found = [_chart(result, metric) for metric in result.metrics]
    title = "Estimates by gradients (approximate)" if result.is_approximate else "Patched runs"
    views = [charts(title, found, choose="metric")]
    runs = {"clean": result.clean_next, "corrupt": result.corrupt_next}
    next_tokens = [
        score_table(f"after the {run} prompt", scores.top)
        for run, scores in runs.items()
        if scores is not None
    ]
    return [*views, tables("Next tokens of the unpatched runs", next_tokens)]


def _prompts(result: SweepResult) -> list[JSON]:
    pair = result.pair
    return [
        prompt(run, getattr(pair, f"{run}_tokens"), marked=pair.differing, answers=answers)
        for run, answers in (("clean", pair.target_tokens), ("corrupt", pair.foil_tokens))
        if run in pair.runs
    ]


def _chart(result: SweepResult, metric: str) -> JSON:
    """Return a metric's chart; where heads were patched by position, with one head at a time."""
    found = result.metrics[metric]
    base = found.corrupt if DIRECTIONS[result.direction][0] == "corrupt" else found.clean
    is_by_token = result.axes[-1] == "position"
    n_column = found.values.shape[-1]
    columns = (
        token_labels(result.pair.clean_tokens, result.pair.corrupt_tokens)
        if is_by_token
        else [str(head) for head in range(n_column)]
    )
    columns_are = "token" if is_by_token else "head"
    rows = [str(layer) for layer in range(found.values.shape[0])]
    tooltip = [
        field("row", "layer"),
        field("column_label", columns_are),
        field("value", _named(result), ".4f"),
        field("change", form="+.4f"),
        *([field("recovery", form=".3f")] if "corrupt" in result.runs else []),
        *(field(run, form=".4f") for run in result.runs),
    ]
    spec = heatmap(
        n_column,
        rows_are="layer",
        columns_are=columns_are,
        tooltip=tooltip,
        link=["column"] if is_by_token else [],
        faint=_outside_the_cone(result, is_by_token),
    )
    return chart(
        metric,
        spec,
        _rows(result, metric, base),
        _shows(result, metric, base),
        rows=rows,
        columns=columns,
        rows_are="layer",
        columns_are=columns_are,
        constants={run: getattr(found, run) for run in result.runs},
        more={
            "groups": _heads(result),
            "groups_are": "head",
            "link": "column" if is_by_token else None,
            "cells": _cells(result),
            "cell_columns": NEXT,
            "cell_caption": "the patched run would say next",
        },
    )


def _rows(result: SweepResult, metric: str, base: float) -> JSON:
    found, gap = result.metrics[metric], _gap(result, metric)
    rows = []
    for index in np.ndindex(found.values.shape):
        value = float(found.values[index])
        if not np.isfinite(value):
            continue
        recovery = (value - found.corrupt) / gap if gap else None
        numbers = (value, value - base, *(() if recovery is None else (recovery,)))
        place = (index[0], index[-1], *index[1:-1])  # layer, column, and the head of three axes
        rows.append([*map(int, place), *map(number, numbers)])
    heads = ["group"] if found.values.ndim == 3 else []
    recovery_too = ["recovery"] if gap else []
    return {"fields": ["row", "column", *heads, "value", "change", *recovery_too], "rows": rows}


def _gap(result: SweepResult, metric: str) -> float:
    """Return the metric's clean value minus its corrupt one; 0 where recovery is undefined."""
    found = result.metrics[metric]
    gap = found.clean - found.corrupt
    return gap if np.isfinite(gap) else 0.0


def _named(result: SweepResult) -> str:
    """Return what a cell's value is: "patched", read off a patched run, or "estimated"."""
    return "estimated" if result.is_approximate else "patched"


def _shows(result: SweepResult, metric: str, base: float) -> list[JSON]:
    found = result.metrics[metric]
    caption = escaped(result.captions[metric])
    both = unpatched_words(result, metric)
    ends = [getattr(found, run) for run in result.runs]
    neutral = result.neutral.get(metric) if metric in result.diverging else None
    named = _named(result)
    approximate = ", approximate" if result.is_approximate else ""
    caption += approximate
    shows = [
        shown(f"{named} value", "value", f"{caption} ({both})", ends=ends, middle=neutral),
        shown("change", "change", f"{caption}: {named} minus unpatched, {base:.4f}", middle=0.0),
    ]  # fmt: skip
    if _gap(result, metric):
        words = f"recovery{approximate}: 0 like the corrupt run, 1 like the clean one ({both})"
        shows.append(shown("recovery", "recovery", words, ends=[0.0, 1.0]))
    return shows


def _outside_the_cone(result: SweepResult, is_by_token: bool) -> str:
    """Return an expression that is true of cells that the chosen cell's patch cannot change.

    A patch in layer l at position p changes the same site in the layers above, at p and later
    positions. A query changes only what its own position writes, so in the layer right above
    it changes only that position's query.

    Example:
        with residual streams, cell (layer 1, position 4) of T = 6: layers from 2 on,
        positions 4 and 5.
    """
    lowest = f"chosen_row - {result.window // 2}"  # a window begins below the cell's own layer
    outside = [
        f"datum.row < {lowest}",
        f"(datum.row === {lowest} && datum.column !== chosen_column)",
    ]
    if is_by_token:
        outside.append("datum.column < chosen_column")
        if result.site == "q" and result.by_position:
            outside.append("(datum.row === chosen_row + 1 && datum.column !== chosen_column)")
    other = "!(datum.row === chosen_row && datum.column === chosen_column)"
    return f"chosen_row >= 0 && {other} && ({' || '.join(outside)})"


def _heads(result: SweepResult) -> list[int]:
    """Return the heads of which one is shown at a time; [] where all are in one chart."""
    return list(result.heads or ()) if result.values.ndim == 3 else []


def _cells(result: SweepResult) -> dict[str, Any] | None:
    """Return what each cell's run would say next: "row,column" or "row,column,head" -> rows."""
    if result.next_ids is None:
        return None
    found = {}
    for index in np.ndindex(result.values.shape):
        if result.next_ids[index][0] >= 0:
            key = ",".join(map(str, (index[0], index[-1], *index[1:-1])))
            found[key] = [
                [visible(one.token), f"{one.logit:.4f}", probability(one.probability)]
                for one in result.next_of(*index)
            ]
    return found
