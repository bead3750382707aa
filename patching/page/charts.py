"""Charts of a page, as plain values: a specification in Vega-Lite, rows of numbers, labels.

A chart is a dictionary of JSON's types, made by `chart`. Its rows are lists, one value for each
field. script/chart.js makes an object of each row, adds the labels and the constants, and puts
the number that is shown into the field "shown". A specification names three signals:

    linked           the position of the token under the pointer, anywhere on the page; -1: none
    chosen_row,
    chosen_column    the cell that was clicked; -1: none

Where "$scale", "$rows" and "$columns" stand in it, the script puts the colours' scale for the
numbers that are shown, and the labels of all rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LONGEST_LABEL = 24  # characters of a token beside a row or below a column
WIDE, NARROW = 44, 24  # pixels of a column: of few columns, and of many
FEW, MANY = 12, 24  # columns
SMALL = 12  # pixels of a row and a column of many tokens by many tokens
ROW = 26  # pixels of a row
BARS = 220  # pixels of height of bars
GAP = 0.08  # between cells, as a part of their distance
FAINT = 0.3  # opacity
CHOSEN, LINKED, MARKED = "#d55e00", "#0072b2", "#000000"  # frames of cells (Okabe and Ito)
FOR_TARGET, FOR_FOIL = "#2166ac", "#b2182b"  # the ends of RdBu, as in the figures
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
SIGNALS = ("linked", "chosen_row", "chosen_column")

JSON = dict[str, Any]


def number(value: float) -> float | None:
    """Return a number with nine digits, which tell every float32 apart; None if not finite."""
    return float(f"{value:.9g}") if np.isfinite(value) else None


def rows_of(**grids: np.ndarray) -> JSON:
    """Return the fields and rows of grids (rows, columns): row, column, and a number of each.

    Cells in which the first grid is not finite have no row.

    Example:
        rows_of(value=np.array([[1.0, 2.0]]))
        # {"fields": ["row", "column", "value"], "rows": [[0, 0, 1.0], [0, 1, 2.0]]}
    """
    first = next(iter(grids.values()))
    rows = [
        [row, column, *(number(float(grid[row, column])) for grid in grids.values())]
        for row, column in np.ndindex(first.shape)
        if np.isfinite(first[row, column])
    ]
    return {"fields": ["row", "column", *grids], "rows": rows}


def shown(
    name: str,
    field: str,
    caption: str,
    *,
    ends: Sequence[float] = (),
    middle: float | None = None,
    scheme: str | None = None,
) -> JSON:
    """Return one way to show a chart: a field of its rows, and how it is coloured.

    Args:
        name: in the list from which the reader chooses.
        caption: the sentence above the chart.
        ends: values that the colours span in any case, beside the numbers.
        middle: the value that favours neither side; the colours diverge from it.
        scheme: Vega's name of the colours; None: viridis, or red to blue round a middle.
    """
    return {
        "name": name,
        "field": field,
        "caption": caption,
        "ends": [one for one in map(number, ends) if one is not None],
        "middle": None if middle is None else number(middle),
        "scheme": scheme or ("viridis" if middle is None else "redblue"),
    }


def chart(
    name: str,
    spec: JSON,
    data: JSON,
    shows: Sequence[JSON],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    rows_are: str,
    columns_are: str,
    constants: Mapping[str, float] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    texts: bool = False,
    more: Mapping[str, Any] | None = None,
) -> JSON:
    """Return a chart.

    Args:
        name: in the list from which the reader chooses, where a view has several charts.
        spec: the specification in Vega-Lite; its data are named "cells".
        data: fields and rows, each with "row" and "column"; see `rows_of`.
        shows: ways to show the numbers; see `shown`. The first one is shown first.
        rows, columns: the labels of all rows and columns, which the table behind the chart
            has too.
        rows_are, columns_are: what they are: "layer", "token".
        constants: further fields that are the same in each row.
        labels: further fields: name -> the text of each row of the data.
        texts: the table shows the field "text" beside each number.
        more: further parts, which the script knows by their names.
    """
    return {
        "name": name,
        "spec": spec,
        **data,
        "shows": list(shows),
        "row_labels": list(rows),
        "column_labels": list(columns),
        "rows_are": rows_are,
        "columns_are": columns_are,
        "constants": {key: number(value) for key, value in (constants or {}).items()},
        "labels": {key: list(of_rows) for key, of_rows in (labels or {}).items()},
        "texts": texts,
        **(more or {}),
    }


# --------------------------------------------------------------------- specifications


def heatmap(
    columns: int,
    *,
    rows_are: str,
    columns_are: str,
    tooltip: Sequence[JSON],
    link: Sequence[str] = (),
    faint: str = "false",
    marked: str = "false",
    width: int | None = None,
    height: int = ROW,
) -> JSON:
    """Return the specification of a heatmap, row 0 on top.

    Args:
        columns: their number.
        link: the fields, "row" or "column" or both, that are positions of tokens.
        faint: an expression that is true of a cell that is made faint.
        marked: an expression that is true of a cell with a black frame.
        width, height: pixels of a column and of a row.
    """
    step = width or (WIDE if columns <= MANY else NARROW)
    chosen = "datum.row === chosen_row && datum.column === chosen_column"
    linked = " || ".join(f"datum.{field} === linked" for field in link) or "false"
    frames = [
        {"test": chosen, "value": CHOSEN},
        {"test": f"linked >= 0 && ({linked})", "value": LINKED},
        {"test": marked, "value": MARKED},
    ]
    colour = {"field": "shown", "type": "quantitative", "title": None, "scale": "$scale"}
    return {
        **_base(),
        "width": {"step": step},
        "height": {"step": height},
        "mark": {"type": "rect", "cursor": "pointer"},
        "encoding": {
            "x": _axis("column", columns_are, gap=GAP),
            "y": _axis("row", rows_are, gap=GAP),
            "color": colour,
            "opacity": {"condition": {"test": faint, "value": FAINT}, "value": 1},
            "stroke": {"condition": frames, "value": None},
            "strokeWidth": {"value": 2},
            "tooltip": list(tooltip),
        },
    }


def token_by_token(T: int, **how: Any) -> JSON:
    """Return the specification of a heatmap of T tokens by T tokens; of many, with small cells.

    Args:
        how: as heatmap.
    """
    width = WIDE if T <= FEW else NARROW if T <= MANY else SMALL
    return heatmap(T, width=width, height=min(width, ROW), **how)


def with_texts(spec: JSON, *, dark_above: float) -> JSON:
    """Return a heatmap whose cells show the field "text", white where the number is high.

    Args:
        dark_above: the number from which on cells are dark.
    """
    spec = {**spec, "encoding": dict(spec["encoding"])}
    own = {
        name: spec["encoding"].pop(name) for name in ("color", "stroke", "opacity", "strokeWidth")
    }
    ink = {
        "condition": {"test": f"datum.shown > {dark_above}", "value": "white"},
        "value": "black",
    }
    text = {
        "mark": {"type": "text", "fontSize": 10, "limit": 84, "cursor": "pointer"},
        "encoding": {"text": {"field": "text", "type": "nominal"}, "color": ink},
    }
    return {**spec, "layer": [{"mark": spec.pop("mark"), "encoding": own}, text]}


def bars(columns: int, *, columns_are: str, title: str, tooltip: Sequence[JSON]) -> JSON:
    """Return the specification of bars, blue above 0 and red below, a token each."""
    colour = {"condition": {"test": "datum.shown < 0", "value": FOR_FOIL}, "value": FOR_TARGET}
    frame = {"condition": {"test": "datum.column === linked", "value": CHOSEN}, "value": None}
    return {
        **_base(),
        "width": {"step": WIDE if columns <= MANY else NARROW},
        "height": BARS,
        "mark": {"type": "bar", "cursor": "pointer"},
        "encoding": {
            "x": _axis("column", columns_are, gap=0.2),
            "y": {"field": "shown", "type": "quantitative", "title": title},
            "color": colour,
            "stroke": frame,
            "strokeWidth": {"value": 3},
            "tooltip": list(tooltip),
        },
    }


def line(columns: int, *, columns_are: str, title: str, tooltip: Sequence[JSON]) -> JSON:
    """Return the specification of a line with points, from column to column."""
    spec = bars(columns, columns_are=columns_are, title=title, tooltip=tooltip)
    for name in ("color", "stroke", "strokeWidth"):
        del spec["encoding"][name]
    mark = {"type": "line", "point": {"size": 60}, "color": FOR_TARGET}
    return {**spec, "mark": mark}


def field(name: str, title: str | None = None, form: str | None = None) -> JSON:
    """Return a line of a tooltip.

    Args:
        title: None for the field's name.
        form: how a number is written, as ".4f"; None for texts.
    """
    kind = {"type": "nominal"} if form is None else {"type": "quantitative", "format": form}
    return {"field": name, "title": title or name, **kind}


def _axis(name: str, title: str, *, gap: float) -> JSON:
    """Return the encoding of rows or columns by their labels, in their order.

    Args:
        name: "row" or "column".
        gap: between two of them, as a part of their distance.
    """
    angle = {"labelAngle": -45} if name == "column" else {}
    return {
        "field": f"{name}_label",
        "type": "ordinal",
        "sort": None,
        "title": title,
        "axis": {**angle, "labelLimit": 160, "labelOverlap": False},
        "scale": {"paddingInner": gap, "domain": f"${name}s"},
    }


def _base() -> JSON:
    return {
        "$schema": SCHEMA,
        "data": {"name": "cells"},
        "params": [{"name": name, "value": -1} for name in SIGNALS],
    }
