"""Name and write the files of mingpt-patch: figures and results, or the folder to hand in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from mingpt.files import expanded
from patching.cli.common import output
from patching.cli.common.command import UsageError
from patching.cli.common.options import DEFAULT_OUT
from patching.cli.common.page import command_line, html_path
from patching.interrupts import check_interrupted

if TYPE_CHECKING:
    from patching.cli.common.models import LoadedModel
    from patching.sweep.figures import Look
    from patching.sweep.request import Request
    from patching.sweep.result import SweepResult

COMMAND = "mingpt-patch"

LOOK = ("cmap", "title", "scale", "vmin", "vmax", "cell_values")  # options of the figure
# Settings that the name of a run's files stands for. Site and direction are in it as words;
# where heads are patched at each position, `positions` is not None.
NAMED_SETTINGS = (
    "layers", "heads", "positions", "window", "put", "put_from", "noise", "method", "relp_rules",
    "steps", "tf32", "rows",
)  # fmt: skip


def report_folder(arguments: SimpleNamespace) -> Path | None:
    """Return the folder of --report, after checking that it can be written; None without it.

    Raises:
        UsageError: it cannot, or another option has no place in it.
    """
    if arguments.report is None:
        return None
    if arguments.out != DEFAULT_OUT or arguments.format is not None or arguments.compare_exact:
        raise UsageError(
            "--report goes with none of --out, --format and --compare-exact: it is a folder of its"
            " own, with PNG and SVG"
        )
    if arguments.html:
        raise UsageError("--html does not go with --report: leave one out")
    if not arguments.report:
        raise UsageError("--report is empty: name a folder")
    folder = expanded(arguments.report)
    output.check_writable(folder / "report.md", "--report")
    return folder


def place(arguments: SimpleNamespace, request: Request) -> output.OutputPlace:
    """Return the place for the figures (one for each metric) and the results."""
    metrics = request.metrics
    ends = [f"-{metric.name}" if len(metrics) > 1 else "" for metric in metrics]
    results = [""]
    if arguments.compare_exact:
        ends += [f"{end}-compared" for end in ends]
        results.append("-exact")
    return output.OutputPlace.of(arguments, ends, results)


def _run_name(result: SweepResult, loaded: LoadedModel) -> str:
    """Return a file name that is the same for equal runs and differs for others."""
    pair, command = result.pair, result.command or {}
    is_fallback = loaded.fallback is not None
    defining = (
        output.model_identity(loaded.model, result.checksum, is_fallback=is_fallback),
        ([getattr(result, name) for name in NAMED_SETTINGS], [*result.metrics]),
        [command[name] for name in ("seed", "compare_exact", *LOOK)],
        (pair.clean_ids, pair.corrupt_ids, pair.target_ids, pair.foil_ids),
        (result.versions["device"], result.versions["dtype"]),
    )
    return output.run_name(pair.clean_text, result.site, result.direction, defining=defining)


def write_report(result: SweepResult, folder: Path | None, look: Look) -> dict[Path, bool]:
    """Write the folder to hand in; return path -> True if it replaced a file."""
    from patching.sweep.hand_in import write_folder

    if folder is None:
        return {}
    before = {*folder.iterdir()} if folder.is_dir() else set()
    paths = write_folder(result, folder, command=command_line(COMMAND), look=look)
    return {path: path in before for path in paths}


def write(
    results: Sequence[SweepResult],
    place: output.OutputPlace,
    loaded: LoadedModel,
    look: Look,
    *,
    html: bool,
) -> dict[Path, bool]:
    """Write figures and results; return path -> True if it replaced a file.

    Args:
        html: write the page too.
    """
    from patching.drawing.style import save_figure
    from patching.drawing.sweep import check_drawable, draw_heatmaps
    from patching.result_files import saved_checksum
    from patching.sweep.figures import draw_agreement, heatmaps

    metrics = list(results[0].metrics)
    plots = [heatmaps(results[0], metric, look=look) for metric in metrics]
    for plot in plots:
        check_drawable(plot)  # before a file is written
    name = _run_name(results[0], loaded)
    files = place.files(name)
    existed = {path: path.exists() for path in files}
    check_interrupted()
    checksums = []
    for result, end in zip(results, place.results, strict=True):
        _, readable = result.save(place.stem(name, end))
        checksums.append(saved_checksum(readable))
    for plot, path in zip(plots, files, strict=False):
        save_figure(draw_heatmaps(plot), path, checksums[:1])
    if len(results) > 1:
        for metric, path in zip(metrics, files[len(metrics) :], strict=False):
            figure = draw_agreement(results[0], results[1], metric=metric, cmap=look.cmap)
            save_figure(figure, path, checksums)
    if html:
        from patching.page.report import save_page

        page = html_path(place.stem(name))
        existed[page] = page.exists()
        save_page(results[0], page, command=command_line(COMMAND), title=look.title)
    return existed
