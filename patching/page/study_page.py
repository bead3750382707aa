"""The page of a study: mean maps with the cells that survive, single pairs, the table of pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from patching.page.charts import JSON, chart, field, heatmap, number, shown
from patching.page.parts import charts, made, page
from patching.study.figures import heads_to_draw, study_map
from patching.study.request import RECOVERY
from patching.study.result import Study
from patching.study.statistics import CONFIDENCE
from patching.study.words import ALPHA, corrupt_name, experiment_words, unpatched_words
from patching.sweep.metrics import METRICS
from patching.text import counted, escaped, shortened, visible

if TYPE_CHECKING:
    import pandas

MOST_EFFECTS = 40_000  # single pairs' effects in a page, 0.4 MB; of more, one pair in n has them
MOST_PAIRS = 2000  # rows of the table of pairs
NUMBERS = ("mean", "low", "high", "sd")  # columns of the summary
LONGEST_PROMPT = 160  # characters in the table


def study_page(study: Study, table: pandas.DataFrame, command: str = "", **how: Any) -> JSON:
    """Return the page of a study.

    Args:
        table: what study.summary returned with `how`.
        command: the command line that repeats it; "" if there is none.
    """
    model = study.fields["model"]
    maps = [
        (site, metric, head)
        for site in study.request.sites
        for metric in study.request.metrics
        for head in heads_to_draw(table, site, metric)
    ]
    budget = MOST_EFFECTS // len(maps)
    of = [_map(study, table, *one, budget, how) for one in maps]
    return page(
        f"Study: {experiment_words(study, ', '.join(study.request.sites))}",
        repr(study).partition(": ")[2],
        [
            charts("Mean effects", of, choose="map",
                   caption=f"Framed in black: differs from no effect, corrected p < {ALPHA:g}."
                   " Grey: nothing can change there. A click shows the single pairs of a cell."),
            _pairs(study, how.get("only_correct")),
        ],
        name="study",
        command=command,
        provenance=made(model["name"], model.get("checksum"), study.fields["created"],
                        **study.fields["versions"]),
    )  # fmt: skip


def _map(
    study: Study,
    table: pandas.DataFrame,
    site: str,
    metric: str,
    head: int | None,
    budget: int,
    how: dict[str, Any],
) -> JSON:
    """Return one map: means, ends of the intervals, corrected p, and single pairs.

    Args:
        head: where heads were patched by position.
        budget: the most effects of single pairs.
    """
    drawn = study_map(study, table, site, metric, head=head, **how)
    found = table[(table["site"] == site) & (table["metric"] == metric)]
    if head is not None:
        found = found[found["head"] == head]
    named = ("role", "position", "head", "sender")
    columns_are = next(name for name in named if drawn.columns_are.startswith(name))
    name = f"{site}, {metric}" + ("" if head is None else f", head {head}")
    spec = heatmap(
        len(drawn.columns),
        rows_are="layer",
        columns_are=columns_are,
        tooltip=[
            field("row", "layer"),
            field("column_label", columns_are),
            field("value", "mean", ".4f"),
            *(field(name, form=".4f") for name in NUMBERS[1:]),
            field("p", "p corrected", ".4g"),
        ],
        marked="datum.survives === 1",
    )
    # What travels one path is little beside the gap between the runs: colours span the cells.
    ends = [] if study.request.paths is not None else [end for _, end in drawn.scale.marks]
    confidence = how.get("confidence", CONFIDENCE)
    caption = (
        f"{drawn.caption} of {counted(int(found['n'].iloc[0]), 'pair')}"
        f" ({unpatched_words(study, metric, how.get('only_correct'), '.4f')}); intervals of"
        f" {confidence:.0%}"
    )
    return chart(
        name,
        spec,
        _rows(found, columns_are),
        [shown("mean", "value", caption, ends=ends, middle=drawn.scale.centre)],
        rows=[str(row) for row in range(len(drawn.mean))],
        columns=drawn.columns,
        rows_are="layer",
        columns_are=columns_are,
        more={"has_blanks": True, "strips": _strips(study, site, metric, head, budget, how)},
    )


def _rows(found: pandas.DataFrame, column: str) -> JSON:
    """Return the rows of the cells that can change.

    Args:
        found: the summary's rows of one map.
        column: the name of what the map's columns are, in their order.
    """
    place = {key: at for at, key in enumerate(dict.fromkeys(found[column]))}
    rows = []
    for _, cell in found.iterrows():
        p = float(cell["p_corrected"])
        if not np.isnan(p):
            numbers = (number(float(cell[name])) for name in NUMBERS)
            at = int(cell["layer"]), place[cell[column]]
            rows.append([*at, *numbers, number(p), int(p < ALPHA)])
    return {"fields": ["row", "column", "value", *NUMBERS[1:], "p", "survives"], "rows": rows}


def _strips(
    study: Study, site: str, metric: str, head: int | None, budget: int, how: dict[str, Any]
) -> JSON:
    """Return every pair's effect in each cell; of many pairs, those of one in n.

    Returns:
        {"effects": "row,column" -> a number for each pair, "pairs": their numbers, "caption"}.
    """
    read = "logit_diff" if metric == RECOVERY else metric
    cells = study.cells(site, read, only_correct=how.get("only_correct"))
    where = np.arange(cells.effects.shape[1])
    if head is not None:
        where = where[cells.axes["head"] == head]
    columns = len(where) // (int(cells.axes["layer"].max()) + 1)
    every = -(-len(cells.pairs) * len(where) // budget)
    effects = cells.effects[::every][:, where]  # (pairs, cells)
    of_cell = {
        f"{at // columns},{at % columns}": [number(float(value)) for value in effects[:, at]]
        for at in range(len(where))
        if (effects[:, at] != 0).any()
    }
    which = "" if every == 1 else f", one pair in {every}"
    caption = f"{METRICS[read].name}, patched minus unpatched, of single pairs{which}"
    return {"effects": of_cell, "pairs": cells.pairs[::every].tolist(), "caption": caption}


def _pairs(study: Study, only_correct: str | None) -> JSON:
    """Return the table of pairs, which the reader can sort."""
    chosen = study.chosen(only_correct)
    every = -(-len(chosen) // MOST_PAIRS)
    numbers = chosen[::every]
    metric = study.request.read[0].name
    of_runs = {"clean": study.unpatched("clean")[metric]}
    if study.has_corrupt or study.request.corrupt_by is not None:
        of_runs[corrupt_name(study)] = study.unpatched("corrupt")[metric]
    names = ("clean_text", "corrupt_text") if study.has_corrupt else ("clean_text",)
    texts = {name: study.column(name) for name in names}
    answers = {name: study.column(name) for name in ("target_tokens", "foil_tokens")}
    rows = [
        [
            int(at),
            *(shortened(escaped(column[at]), LONGEST_PROMPT) for column in texts.values()),
            *(" ".join(map(visible, column[at])) for column in answers.values()),
            *(number(float(values[at])) for values in of_runs.values()),
        ]
        for at in numbers
    ]
    which = "" if every == 1 else f" (one in {every} of {len(chosen):,})"
    return {
        "kind": "pairs",
        "title": f"{counted(len(rows), 'pair')}{which}",
        "columns": ["pair", *(name.removesuffix("_text") for name in names), "target", "foil",
                    *(f"{metric}, {run} run" for run in of_runs)],
        "rows": rows,
    }  # fmt: skip
