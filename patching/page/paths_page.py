"""The page of paths: a map of senders for each metric, or edges by the receivers' layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from patching.page.charts import JSON, chart, field, heatmap, rows_of, shown
from patching.page.parts import charts, made, page, prompt, score_table, tables
from patching.paths.figures import experiment_words
from patching.paths.graph import Receiver
from patching.paths.result import EdgeResult, PathResult, PathsFound
from patching.text import counted, escaped

MOST_ROWS = 30  # strongest edges in the table
STRONGEST = ("edge", "value", "change", "in %")  # its columns


def paths_page(result: PathResult, command: str = "") -> JSON:
    """Return the page of a map of senders.

    Args:
        command: the command line that repeats the run; "" if there is none.
    """
    senders = counted(len(result.by_sender()), "sender")
    views = [charts("From each sender to the receivers",
                    [_sender_chart(result, metric) for metric in result.metrics], choose="metric",
                    caption="The embeddings are in the last row. Grey: no path.")]  # fmt: skip
    return _page(result, f"{senders} to {result.receiver}", views, command)


def edges_page(result: EdgeResult, command: str = "") -> JSON:
    """Return the page of a map of edges.

    Args:
        command: as paths_page.
    """
    found = [
        _layer_chart(result, metric, layer, columns)
        for metric in result.metrics
        for layer, columns in _by_layer(result.hearing).items()
    ]
    strongest = [_strongest(result, metric) for metric in result.metrics]
    approximate = ", approximate" if result.is_approximate else ""
    views = [
        charts(
            "From each sender to each receiver", found, choose="receivers", caption="Grey: no path."
        ),
        tables("Strongest edges", strongest),
    ]
    return _page(result, f"{counted(result.count, 'edge')}{approximate}", views, command)


def _page(result: PathsFound, what: str, views: list[JSON], command: str) -> JSON:
    pair = result.pair
    prompts = [
        prompt(run, getattr(pair, f"{run}_tokens"), marked=pair.differing, answers=answers)
        for run, answers in (("clean", pair.target_tokens), ("corrupt", pair.foil_tokens))
    ]
    next_tokens = [
        score_table(f"after the {run} prompt", scores.top)
        for run, scores in (("clean", result.clean_next), ("corrupt", result.corrupt_next))
        if scores is not None
    ]
    return page(
        experiment_words(result),
        f"model {result.model_name}; {what}",
        [*views, tables("Next tokens of the unpatched runs", next_tokens)],
        name=result.KIND,
        prompts=prompts,
        notes=result.notes,
        command=command,
        provenance=made(
            result.model_name, result.checksum, result.created, method=result.method,
            seconds=f"{result.seconds:.2f}", **result.versions,
        ),
    )  # fmt: skip


def _sender_chart(result: PathResult, metric: str) -> JSON:
    found = result.metrics[metric]
    n_layer, n_head = found.heads.shape
    grid = np.full((n_layer + 1, n_head + 1), np.nan)
    grid[:-1, :-1], grid[:-1, -1], grid[-1, -1] = found.heads, found.mlps, found.embedding[0]
    rows = [*map(str, range(n_layer)), "embeddings"]
    columns = [*map(str, range(n_head)), "MLP"]
    senders = [f"a{layer}.h{head}" if head < n_head else f"m{layer}" if layer < n_layer else "input"
               for layer, head in np.argwhere(np.isfinite(grid))]  # fmt: skip
    return _chart(
        result, metric, metric, grid, rows, columns, ("layer", "head"), {"sender": senders}
    )


def _layer_chart(result: EdgeResult, metric: str, layer: str, columns: list[int]) -> JSON:
    """Return the chart of the receivers of one layer, with the senders that have a path."""
    grid = result.metrics[metric].edges[:, columns]
    there = np.flatnonzero(np.isfinite(grid).any(axis=1))
    rows = [result.senders[one] for one in there]
    names = [result.receivers[one] for one in columns]
    name = layer if len(result.metrics) == 1 else f"{metric}, {layer}"
    return _chart(result, metric, name, grid[there], rows, names, ("sender", "receiver"))


def _chart(
    result: PathsFound,
    metric: str,
    name: str,
    grid: np.ndarray,
    rows: list[str],
    columns: list[str],
    axes: tuple[str, str],
    labels: dict[str, list[str]] | None = None,
) -> JSON:
    """Return a chart of a grid of values.

    Args:
        labels: a field of the tooltip in place of row and column -> a text for each cell.
    """
    base = result.base_value(metric)
    caption = escaped(result.captions[metric])
    grids = {"value": grid, "change": grid - base}
    said = "estimated, approximate, minus" if result.is_approximate else "patched minus"
    approximate = ", approximate" if result.is_approximate else ""
    shows = [
        shown("change", "change", f"{caption}: {said} unpatched, {base:.4f}", middle=0.0),
        shown("value", "value", f"{caption}{approximate}", middle=base),
    ]
    tooltip = [
        *(
            [field(name) for name in labels]
            if labels
            else [field("row_label", axes[0]), field("column_label", axes[1])]
        ),
        field("value", form=".4f"),
        field("change", form="+.4f"),
    ]
    if base:
        grids["percent"] = 100 * (grid - base) / base
        words = f"{caption}: change in % of the unpatched run, {base:.4f}{approximate}"
        shows.append(shown("percent change", "percent", words, middle=0.0))
        tooltip.append(field("percent", "in %", "+.2f"))
    spec = heatmap(len(columns), rows_are=axes[0], columns_are=axes[1], tooltip=tooltip)
    return chart(
        name, spec, rows_of(**grids), shows, rows=rows, columns=columns, rows_are=axes[0],
        columns_are=axes[1], labels=labels, more={"has_blanks": True},
    )  # fmt: skip


def _by_layer(receivers: Sequence[Receiver]) -> dict[str, list[int]]:
    """Return "layer 0", ..., "logits" -> the places of its receivers."""
    found: dict[str, list[int]] = {}
    for place, one in enumerate(receivers):
        found.setdefault("logits" if one.layer is None else f"layer {one.layer}", []).append(place)
    return found


def _strongest(result: EdgeResult, metric: str) -> JSON:
    base = result.base_value(metric)
    rows = []
    for sender, receiver, change in result.strongest(MOST_ROWS, metric):
        percent = f"{100 * change / base:+.2f}" if base else ""
        rows.append(
            (f"{sender} \u2192 {receiver}", f"{base + change:z.4f}", f"{change:+z.4f}", percent)
        )
    approximate = ", approximate" if result.is_approximate else ""
    return {
        "caption": f"{escaped(result.captions[metric])}{approximate}",
        "columns": STRONGEST,
        "rows": rows,
    }
