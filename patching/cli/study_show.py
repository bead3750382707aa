"""mingpt-study show: tables and figures of a study's folder, and two studies compared."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from click import Argument, Choice, IntRange, Option

from mingpt.files import expanded
from patching.cli.common import output
from patching.cli.common.command import Command, Several, UsageError, print_line, run_command
from patching.cli.common.models import import_libraries
from patching.cli.common.options import Seed, files, look_options
from patching.cli.common.page import check_html, command_line, html_option
from patching.cli.study_options import (
    FORMATS,
    MOST_ROWS,
    TABLE_ROWS,
    check_libraries,
    statistics,
    statistics_options,
)

if TYPE_CHECKING:
    import pandas

    from patching.study.result import Study

COMMAND = "mingpt-study show"
COMPARED = (
    "confidence",
    "draws",
    "flips",
    "seed",
    "max_memory",
)  # the statistics that a comparison has
OF_PAIRS = ("only_correct", "confidence", "draws", "method", "seed")
FIGURES = "figures"  # the folder of figures in a study's folder
DESCRIPTION = """\
Show a study: tables of the largest effects, maps, what was left out and why.

A study that is still being run is shown as far as it is. Figures go into the study's
folder, or into --out.
"""
EPILOG = f"""\
examples:
  {COMMAND} runs/ioi
  {COMMAND} runs/ioi --only-correct --interval bca --rows 20
  {COMMAND} --compare runs/ioi-gpt2 runs/ioi-distilgpt2
      the difference of two studies: pair by pair where the pairs are the same

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted.
"""
OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "studies": [
        Several(["--compare"], multiple=True, metavar="A B", shell_complete=files,
                help="two studies' folders: the effects of A minus those of B"),
    ],
    "statistics": [
        *statistics_options(),
        Option(["--seed"], type=Seed(), default=0, metavar="N", help="seed of the statistics"),
    ],
    "figures": [
        Option(["--cell"], metavar="CELL", multiple=True,
               help="draw this cell's single pairs, as 3:S2 (layer and role or position), or 4.2"
               " (a head); repeat it for several  [default: the largest effects]"),
        *look_options(),
        Option(["--format"], type=Choice(FORMATS), default="png"),
    ],
    "output": [
        Option(["--rows"], type=IntRange(1, MOST_ROWS), default=TABLE_ROWS, metavar="N",
               help="rows of each map's table"),
        Option(["--out"], metavar="DIR", shell_complete=files,
               help=f"folder for the figures  [default: the study's folder, {FIGURES}]"),
        html_option("means with what survives, click a cell for its single pairs, sort the pairs"),
        Option(["--json"], is_flag=True,
               help="print the study and its summary as JSON on stdout, text on stderr"),
        Option(["--quiet"], is_flag=True, help="print only the paths written"),
    ],
}, Argument(["folder"], required=False))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """Load the study, or two, and show them."""
    how = statistics(arguments)
    paths = _folders(arguments)
    if arguments.html:
        if arguments.compare:
            raise UsageError("--html shows one study: leave out --compare")
        check_html()
    check_libraries()
    import_libraries(drawing=True)
    from patching.drawing.style import check_cmap
    from patching.page.report import write_page
    from patching.page.study_page import study_page
    from patching.study.result import Study

    check_cmap(arguments.cmap)
    say = output.make_say(arguments)
    studies = [Study.load(path) for path in paths]
    look = Look(arguments.format, arguments.cmap, arguments.title, tuple(arguments.cell or ()))
    out = expanded(arguments.out) if arguments.out else studies[0].folder / FIGURES
    output.check_writable(out / f"map.{look.format}")
    if len(studies) == 2:
        compare(studies, how, arguments, say, out, look)
        return
    table = studies[0].summary(**how)
    report(studies[0], table, how, say, rows=arguments.rows)
    written = draw(studies[0], table, how, out, look)
    if arguments.html:
        page = out / "study.html"
        written[page] = page.exists()
        shown = study_page(studies[0], table, command_line("mingpt-study"), **how)
        write_page(shown, page, title=look.title)
    output.say_written(say, written)
    if arguments.json:
        found = as_json(studies[0], table, how)
        print_line(json.dumps({**found, "paths": [str(path) for path in written]}), sys.stdout)


def report(
    study: Study,
    table: pandas.DataFrame,
    how: Mapping[str, Any],
    say: Callable[..., None],
    rows: int = TABLE_ROWS,
    with_pairs: bool = True,
) -> None:
    """Print what a study's folder holds, and each map's largest effects."""
    from patching.cli import study_report

    say(study_report.facts(study, with_pairs=with_pairs))
    for block in study_report.maps(study, table, how, rows):
        say(f"\n{block}")
    say("\n" + study_report.notes(study, table, how))


def compare(
    studies: Sequence[Study],
    how: Mapping[str, Any],
    arguments: SimpleNamespace,
    say: Callable[..., None],
    folder: Path,
    look: Look,
) -> None:
    """Print and draw where two studies' effects differ most, map by map.

    Raises:
        UsageError: they have no map in common.
    """
    from patching.cli import study_report
    from patching.drawing.study import draw_map
    from patching.study.comparison import compare_studies
    from patching.study.figures import comparison_map

    for name, study in zip("AB", studies, strict=True):
        say(f"{name}: {study!r}")
    a, b = studies
    theirs = {metric.name for metric in b.request.read}
    metrics = [metric.name for metric in a.request.read if metric.name in theirs]
    sites = [site for site in a.request.sites if site in b.request.sites]
    maps = [(site, metric) for site in sites for metric in metrics]
    if not maps:
        raise UsageError("the two studies have no map in common: other sites or other metrics")
    settings = {name: how[name] for name in ("only_correct", *COMPARED) if name in how}
    tables = {
        (site, metric): compare_studies(a, b, site=site, metric=metric, **settings)
        for site, metric in maps
    }
    written: dict[Path, bool] = {}
    for (site, metric), found in tables.items():
        block = study_report.difference(site, metric, found, how["confidence"], arguments.rows)
        say(f"\n{block}")
        if not ("head" in found and {"position", "role"} & {*found.columns}):
            path = folder / f"{site}-{metric}-difference.{look.format}"
            written[path] = path.exists()
            drawn = comparison_map(a, b, found, site, metric, cmap=look.cmap, title=look.title,
                                   confidence=how["confidence"])  # fmt: skip
            draw_map(drawn, path)
    output.say_written(say, written)
    if arguments.json:
        parts = [
            {"site": site, "metric": metric, "cells": json.loads(found.to_json(orient="records"))}
            for (site, metric), found in tables.items()
        ]
        fields = [study.fields for study in studies]
        paths = [str(path) for path in written]
        found_all = {"studies": fields, "how": settings, "maps": parts, "paths": paths}
        print_line(json.dumps(found_all), sys.stdout)


def write_summary(study: Study, table: pandas.DataFrame) -> dict[Path, bool]:
    """Write the summary into the folder; return path -> True if it replaced a file."""
    from patching.study.summary import save_summary, summary_paths

    stem = study.folder / "summary"
    existed = {path: path.exists() for path in summary_paths(stem)}
    save_summary(table, stem)
    return existed


@dataclass(frozen=True)
class Look:
    """The look of the figures, and whose single pairs are drawn."""

    format: str = "png"
    cmap: str | None = None
    title: str | None = None
    cells: tuple[str, ...] = ()  # by name; none: those of the largest effects


def draw(
    study: Study,
    table: pandas.DataFrame,
    how: Mapping[str, Any],
    folder: Path,
    look: Look,
) -> dict[Path, bool]:
    """Draw every map, and single pairs; return path -> True if it replaced a file."""
    from patching.study.figures import draw_study, draw_study_pairs, heads_to_draw
    from patching.study.labels import find_cell, is_of

    written: dict[Path, bool] = {}

    def path(*parts: str) -> Path:
        found = folder / f"{'-'.join(parts)}.{look.format}"
        written[found] = found.exists()
        return found

    # All cells are found before a figure is drawn.
    read = [metric.name for metric in study.request.read]
    axes = {site: study.cells(site, read[0]).axes for site in study.request.sites}
    chosen = {
        site: [find_cell(axes[site], name) for name in look.cells if is_of(axes[site], name)]
        for site in study.request.sites
    }
    if look.cells and not any(chosen.values()):
        find_cell(axes[study.request.sites[0]], look.cells[0])  # says what a cell is
    settings = {"summary": table, "cmap": look.cmap, "title": look.title, **how}
    for site in study.request.sites:
        for metric in study.request.metrics:
            for head in heads_to_draw(table, site, metric):
                end = () if head is None else (f"head{head}",)
                draw_study(study, path(site, metric, *end), site=site, metric=metric, head=head,
                           **settings)  # fmt: skip
        for metric in read:
            draw_study_pairs(
                study, path(site, metric, "pairs"), site=site, metric=metric,
                cells=chosen[site] or None, title=look.title,
                **{name: how[name] for name in OF_PAIRS},
            )  # fmt: skip
    return written


def as_json(study: Study, table: pandas.DataFrame, how: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study's facts and its summary, row by row, in types that JSON has."""
    accuracy = {
        run: {name: None if math.isnan(share) else share for name, share in shares.items()}
        for run, shares in study.accuracy().items()
    }
    rows = json.loads(table.to_json(orient="records", double_precision=15))
    return {"study": study.fields, "accuracy": accuracy, "how": dict(how), "summary": rows}


def _folders(arguments: SimpleNamespace) -> list[Path]:
    """Return the folders of one study, or of the two to compare.

    Raises:
        UsageError: none, one beside --compare, or not two with it.
    """
    compared = list(arguments.compare or ())
    if compared and (arguments.folder is not None or len(compared) != 2):
        raise UsageError("--compare takes two folders, and no third one: --compare A B")
    if not compared and not arguments.folder:
        raise UsageError(f"which study? Name its folder, as in {COMMAND} runs/ioi")
    return [expanded(path) for path in compared or [arguments.folder]]
