"""What a page shows of a sweep, as plain values: charts in Vega-Lite, their numbers, tables.

A chart's numbers are rows, which the page puts into the specification as the data "cells". Texts
of prompts and tokens are made printable here; escape.py makes them harmless in HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from patching.next_tokens import NextTokens
from patching.sweep.request import DIRECTIONS
from patching.sweep.result import SweepResult
from patching.text import escaped, probability, shortened, visible

LONGEST_LABEL = 24  # characters of a token below a column
WIDE, NARROW = 44, 24  # pixels of a column: of few columns, and of many
MANY = 24  # columns
ROW = 26  # pixels of a layer


def sweep_page(result: SweepResult, command: str = "") -> dict[str, Any]:
    """Return everything that the page of a sweep shows, in types that JSON has.

    Args:
        command: the command line that repeats the run; "" if there is none.
    """
    base, source = DIRECTIONS[result.direction]
    return {
        "title": f"Activation patching of {result.site}, {source} into {base}",
        "subtitle": f"model {escaped(result.model_name)}; {result.cells} cells"
        + (", approximate" if result.is_approximate else ""),
        "notes": [escaped(note) for note in result.notes],
        "prompts": _prompts(result),
        "charts": [_chart(result, metric) for metric in result.metrics],
        "heads": _heads(result),
        "next": _next(result),
        "tables": _tables(result),
        "command": escaped(command),
        "provenance": _provenance(result),
    }


def _prompts(result: SweepResult) -> list[dict[str, Any]]:
    pair = result.pair
    return [
        {
            "name": run,
            "tokens": [visible(token) for token in getattr(pair, f"{run}_tokens")],
            "differing": list(pair.differing),
            "answers": [visible(token) for token in answers],
        }
        for run, answers in (("clean", pair.target_tokens), ("corrupt", pair.foil_tokens))
    ]


def _labels(result: SweepResult) -> list[str]:
    """Return a label for each column: a head's number, or a token and its position."""
    if result.axes[-1] == "head":
        return [str(head) for head in range(result.values.shape[1])]
    labels = []
    tokens = zip(result.pair.clean_tokens, result.pair.corrupt_tokens, strict=True)
    for position, both in enumerate(tokens):
        shown = " / ".join(dict.fromkeys(map(visible, both)))
        labels.append(f"{shortened(shown, LONGEST_LABEL)} ({position})")
    return labels


def _heads(result: SweepResult) -> list[int]:
    """Return the heads of which one is shown at a time; [] where all are in one chart."""
    return [] if result.values.ndim < 3 else list(result.heads or ())


def _chart(result: SweepResult, metric: str) -> dict[str, Any]:
    """Return a metric's chart: its specification, its rows, and what they are compared with."""
    found = result.metrics[metric]
    base = found.corrupt if DIRECTIONS[result.direction][0] == "corrupt" else found.clean
    gap = found.clean - found.corrupt
    rows = []
    for index in np.ndindex(found.values.shape):
        value = float(found.values[index])
        if not np.isfinite(value):
            continue
        row: dict[str, Any] = dict(zip(result.axes, map(int, index), strict=True))
        row |= {"column": row[result.axes[-1]], "value": value, "change": value - base}
        if gap:
            row["recovery"] = (value - found.corrupt) / gap
        rows.append(row)
    neutral = result.neutral.get(metric)
    return {
        "name": metric,
        "caption": escaped(result.captions[metric]),
        "clean": found.clean,
        "corrupt": found.corrupt,
        "base": base,
        "columns": _labels(result),
        "columns_are": result.axes[-1],
        "layers": int(found.values.shape[0]),
        "rows": rows,
        "spec": _heatmap(result),
        "scheme": "redblue" if metric in result.diverging else "viridis",
        "middle": neutral if metric in result.diverging else None,
    }


def _heatmap(result: SweepResult) -> dict[str, Any]:
    """Return a heatmap in Vega-Lite: a column for each token or head, layer 0 on top."""
    columns = _labels(result)
    step = WIDE if len(columns) <= MANY else NARROW
    tooltip = [
        {"field": "layer", "type": "ordinal"},
        {"field": "label", "type": "nominal", "title": result.axes[-1]},
        {"field": "value", "type": "quantitative", "format": ".4f", "title": "patched"},
        {"field": "change", "type": "quantitative", "format": "+.4f"},
        {"field": "recovery", "type": "quantitative", "format": ".3f"},
        {"field": "clean", "type": "quantitative", "format": ".4f"},
        {"field": "corrupt", "type": "quantitative", "format": ".4f"},
    ]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "data": {"name": "cells"},
        "width": {"step": step},
        "height": {"step": ROW},
        "mark": {"type": "rect", "cursor": "pointer"},
        "encoding": {
            "x": {
                "field": "label",
                "type": "ordinal",
                "sort": None,
                "title": None,
                "axis": {"labelAngle": -45, "labelLimit": 160},
            },
            "y": {"field": "layer", "type": "ordinal", "title": "layer"},
            "color": {"field": "value", "type": "quantitative", "scale": {}},
            "opacity": {
                "condition": {"test": "datum.in_cone === false", "value": 0.35},
                "value": 1,
            },
            "stroke": {
                "condition": {"test": "datum.chosen === true", "value": "#d55e00"},
                "value": None,
            },
            "strokeWidth": {"value": 3},
            "tooltip": tooltip,
        },
    }


def _next(result: SweepResult) -> dict[str, Any] | None:
    """Return what each cell's run would say next: the cell's index -> rows of a table."""
    if result.next_ids is None:
        return None
    found = {}
    for index in np.ndindex(result.values.shape):
        if result.next_ids[index][0] >= 0:
            key = ",".join(map(str, index))
            found[key] = [
                [visible(one.token), f"{one.logit:.4f}", probability(one.probability)]
                for one in result.next_of(*index)
            ]
    return {"columns": ["token", "logit", "probability"], "cells": found}


def _tables(result: SweepResult) -> list[dict[str, Any]]:
    """Return the tables of next tokens of the unpatched runs."""
    runs = {"clean": result.clean_next, "corrupt": result.corrupt_next}
    return [
        {
            "caption": f"after the {run} prompt",
            "columns": ["rank", "token", "logit", "probability"],
            "rows": _score_rows(found),
        }
        for run, found in runs.items()
        if found is not None
    ]


def _score_rows(found: NextTokens) -> list[Sequence[str]]:
    return [
        (str(one.rank), visible(one.token), f"{one.logit:.4f}", probability(one.probability))
        for one in found.top
    ]


def _provenance(result: SweepResult) -> list[list[str]]:
    facts = {
        "model": result.model_name,
        "weights (SHA-256)": result.checksum or "unknown",
        "method": result.method,
        "created": result.created,
        "seconds": f"{result.seconds:.2f}",
        **result.versions,
    }
    return [[name, escaped(str(value))] for name, value in facts.items()]
