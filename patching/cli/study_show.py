"""mingpt-study show: tables and figures of a study's folder, and two studies compared."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from click import Argument, IntRange, Option

from mingpt.files import expanded
from patching.cli.common import output
from patching.cli.common.command import Command, Several, UsageError, print_line, run_command
from patching.cli.common.models import import_libraries
from patching.cli.common.options import Seed, files, look_options
from patching.cli.study_options import (
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
COMPARED = ("confidence", "draws", "flips", "seed")  # the statistics that a comparison has
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
    "figures": look_options(),
    "output": [
        Option(["--rows"], type=IntRange(1, MOST_ROWS), default=TABLE_ROWS, metavar="N",
               help="rows of each map's table"),
        Option(["--out"], metavar="DIR", shell_complete=files,
               help=f"folder for the figures  [default: the study's folder, {FIGURES}]"),
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
    check_libraries()
    import_libraries(drawing=True)
    from patching.drawing.style import check_cmap
    from patching.study.result import Study

    check_cmap(arguments.cmap)
    say = output.make_say(arguments)
    studies = [Study.load(path) for path in paths]
    out = expanded(arguments.out) if arguments.out else studies[0].folder / FIGURES
    output.check_writable(out / "map.png")
    if len(studies) == 2:
        compare(studies, how, arguments, say)
        return
    table = studies[0].summary(**how)
    report(studies[0], table, how, say, rows=arguments.rows)
    written = draw(studies[0], table, how, arguments, out)
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
    say("\n" + study_report.notes(table, how))


def compare(
    studies: Sequence[Study],
    how: Mapping[str, Any],
    arguments: SimpleNamespace,
    say: Callable[..., None],
) -> None:
    """Print where two studies' effects differ most, map by map.

    Raises:
        UsageError: they have no map in common.
    """
    from patching.cli import study_report
    from patching.study.comparison import compare_studies

    for name, study in zip("AB", studies, strict=True):
        say(f"{name}: {study!r}")
    a, b = (study.request for study in studies)
    metrics = [one.name for one in a.read if one.name in {other.name for other in b.read}]
    maps = [(site, metric) for site in a.sites if site in b.sites for metric in metrics]
    if not maps:
        raise UsageError("the two studies have no map in common: other sites or other metrics")
    settings = {name: how[name] for name in ("only_correct", *COMPARED)}
    tables = {}
    for site, metric in maps:
        found = compare_studies(*studies, site=site, metric=metric, **settings)
        tables[site, metric] = found
        block = study_report.difference(site, metric, found, how["confidence"], arguments.rows)
        say(f"\n{block}")
    if arguments.json:
        parts = [
            {"site": site, "metric": metric, "cells": json.loads(found.to_json(orient="records"))}
            for (site, metric), found in tables.items()
        ]
        fields = [study.fields for study in studies]
        print_line(json.dumps({"studies": fields, "how": settings, "maps": parts}), sys.stdout)


def write_summary(study: Study, table: pandas.DataFrame) -> dict[Path, bool]:
    """Write the summary into the folder; return path -> True if it replaced a file."""
    from patching.study.summary import save_summary, summary_paths

    stem = study.folder / "summary"
    existed = {path: path.exists() for path in summary_paths(stem)}
    save_summary(table, stem)
    return existed


def draw(
    study: Study,
    table: pandas.DataFrame,
    how: Mapping[str, Any],
    arguments: SimpleNamespace,
    folder: Path,
) -> dict[Path, bool]:
    """Write the figures; return path -> True if it replaced a file."""
    return {}


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
