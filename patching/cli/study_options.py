"""What run and show of mingpt-study share: the statistics' options, and the library they need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from click import FLOAT, Choice, IntRange, Option

from patching.cli.common.command import UsageError
from patching.sweep.engine.memory import parse_size

MOST_DRAWS = 10**6
MOST_ROWS = 10**6
FORMATS = ("png", "svg", "pdf")  # patching.drawing.style's, whose import is slow
TABLE_ROWS = 10  # of each map's table


def statistics_options() -> list[Option]:
    """Return the options that decide what the summary says."""
    return [
        Option(["--only-correct"], is_flag=True,
               help="only pairs whose clean run prefers the target to the foil"),
        Option(["--both-correct"], is_flag=True,
               help="... and whose corrupt run prefers the foil"),
        Option(["--recovery"], type=Choice(["ratio", "mean"]), default="ratio",
               help="over pairs: the ratio of the means, or the mean of the pairs' own recoveries,"
               " without the pairs that have nearly no gap"),
        Option(["--interval"], type=Choice(["percentile", "bca"]), default="percentile",
               help="kind of bootstrap interval over pairs; bca corrects bias and skew"),
        Option(["--confidence"], type=FLOAT, default=0.95, metavar="X", help="of the intervals"),
        Option(["--correction"], type=Choice(["max-t", "bh"]), default="max-t",
               help="of p over a map's cells. max-t: the chance of any false alarm in the map; bh:"
               " Benjamini and Hochberg's share of false alarms, for screening"),
        Option(["--draws"], type=IntRange(1, MOST_DRAWS), default=5_000, metavar="N",
               help="resamples of the intervals"),
        Option(["--flips"], type=IntRange(1, MOST_DRAWS), default=10_000, metavar="N",
               help="random flips of signs; up to 13 pairs, all of them"),
        Option(["--max-memory"], metavar="SIZE",
               help="memory of a batch's runs beside the model, and of the statistics of a map, as"
               " 800M or 4GB  [default: 1GB for runs, 256MB for statistics]"),
    ]  # fmt: skip


def statistics(arguments: SimpleNamespace) -> dict[str, Any]:
    """Return the arguments of Study.summary that the options ask for.

    Raises:
        UsageError: a confidence that is no share.
    """
    if not 0 < arguments.confidence < 1:
        raise UsageError(
            f"--confidence {arguments.confidence:g}: a share between 0 and 1, such as 0.95"
        )
    memory = {}
    if arguments.max_memory is not None:
        memory["max_memory"] = parse_size(arguments.max_memory)
    only = "both" if arguments.both_correct else "clean" if arguments.only_correct else None
    return {
        "only_correct": only,
        "recovery": arguments.recovery,
        "method": arguments.interval,
        "confidence": arguments.confidence,
        "correction": arguments.correction,
        "draws": arguments.draws,
        "flips": arguments.flips,
        "seed": arguments.seed,
        **memory,
    }


def check_libraries() -> None:
    """Raise StudyError or ResultError if pyarrow or pandas is not installed."""
    from patching.frames import frame
    from patching.study.on_disk import pyarrow_parquet

    pyarrow_parquet()
    frame({})


def texts_of(columns: str | None) -> dict[str, str]:
    """Return what --columns names, "clean=sentence,target=answer", by what it holds.

    Raises:
        UsageError: a part is not NAME=COLUMN.
    """
    found = {}
    for part in (columns or "").split(",") if columns is not None else ():
        name, equals, column = part.partition("=")
        if not equals or not column:
            raise UsageError(
                f"--columns {columns!r:.80}: write what a column holds and its name, as"
                " clean=sentence,target=answer"
            )
        found[name.strip()] = column
    return found
