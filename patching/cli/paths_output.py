"""Name and write the files of mingpt-paths: figures, results, MIB's scores, the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from patching.cli.common import output
from patching.cli.common.command import UsageError
from patching.cli.common.page import command_line, html_path
from patching.interrupts import check_interrupted
from patching.paths.graph import LOGITS
from patching.paths.request import STRONGEST, EdgeRequest, PathRequest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mingpt.config import GPTConfig
    from patching.cli.common.models import LoadedModel
    from patching.paths.result import PathsFound

COMMAND = "mingpt-paths"
LOOK = ("cmap", "title", "strongest")  # options of the figures
# Settings that the name of a run's files stands for; a result has those of its kind.
NAMED_SETTINGS = (
    "receiver", "mlps", "sender_positions", "receiver_positions", "method", "rows", "senders",
    "receivers", "positions", "steps",
)  # fmt: skip


def place(arguments: SimpleNamespace, request: PathRequest | EdgeRequest) -> output.OutputPlace:
    """Return the place for the figures (of each metric) and the results."""
    metrics = [metric.name for metric in request.metrics]
    kinds = _kinds(arguments)
    ends = [
        "".join(f"-{part}" for part in (*[metric] * (len(metrics) > 1), *[kind] * bool(kind)))
        for kind in kinds
        for metric in metrics
    ]
    return output.OutputPlace.of(arguments, ends, ["", *["-exact"] * arguments.compare_exact])


def check_mib(
    arguments: SimpleNamespace, request: PathRequest | EdgeRequest, config: GPTConfig
) -> None:
    """Check, before the work, that MIB's scores can be written.

    Raises:
        UsageError: MIB's graph has no such scores.
    """
    if not arguments.mib:
        return
    if isinstance(request, PathRequest):
        if request.receivers != (LOGITS,):
            raise UsageError("--mib needs --edges, or --receiver logits for scores of nodes")
    elif len(request.receivers) < len(EdgeRequest.receivers):
        raise UsageError("--mib needs every kind of receiver: leave --kinds out")
    elif config.kv_heads != config.n_head:
        raise UsageError("--mib: MIB's graph has keys and values for each head; this model's share")


def write(
    results: Sequence[PathsFound],
    place: output.OutputPlace,
    loaded: LoadedModel,
    arguments: SimpleNamespace,
    nodes: Mapping[str, float] | None,
) -> dict[Path, bool]:
    """Write figures and results; return path -> True if it replaced a file.

    Args:
        nodes: the nodes' effects, for MIB's scores of nodes.
    """
    from patching.drawing.style import save_figure
    from patching.paths.mib import write_mib
    from patching.result_files import saved_checksum

    result = results[0]
    name = _run_name(result, loaded)
    files = place.files(name)
    existed = {path: path.exists() for path in files}
    check_interrupted()
    checksums = []
    for found, end in zip(results, place.results, strict=True):
        _, readable = found.save(place.stem(name, end))
        checksums.append(saved_checksum(readable))
    drawn = [(kind, metric) for kind in _kinds(arguments) for metric in result.metrics]
    for (kind, metric), path in zip(drawn, files, strict=False):
        figure = _figure(results, kind, metric, arguments)
        save_figure(figure, path, checksums if kind == "compared" else checksums[:1])
    if arguments.mib:
        scores = place.stem(name).with_name(f"{place.stem(name).name}.mib.json")
        existed[scores] = scores.exists()
        write_mib(result, scores, nodes=nodes)  # type: ignore[arg-type]
    if arguments.html:
        from patching.page.report import save_page

        page = html_path(place.stem(name))
        existed[page] = page.exists()
        save_page(result, page, command=command_line(COMMAND), title=arguments.title)  # type: ignore[arg-type]
    return existed


def _kinds(arguments: SimpleNamespace) -> list[str]:
    """Return the kinds of figures, each drawn for every metric."""
    if not arguments.edges:
        return [""]
    return ["matrix", "circuit", *["compared"] * arguments.compare_exact]


def _figure(
    results: Sequence[PathsFound], kind: str, metric: str, arguments: SimpleNamespace
) -> Figure:
    from patching.paths.figures import draw_edge_agreement, draw_paths

    if kind == "compared":
        return draw_edge_agreement(
            *results,  # type: ignore[arg-type]
            metric=metric,
            cmap=arguments.cmap,
            title=arguments.title,
        )
    return draw_paths(
        results[0],
        metric=metric,
        figure=kind or "matrix",
        edges=arguments.strongest or STRONGEST,
        cmap=arguments.cmap,
        title=arguments.title,
    )


def _run_name(result: PathsFound, loaded: LoadedModel) -> str:
    """Return a file name that is the same for equal runs and differs for others."""
    pair, command = result.pair, result.command or {}
    is_fallback = loaded.fallback is not None
    defining = (
        output.model_identity(loaded.model, result.checksum, is_fallback=is_fallback),
        ([getattr(result, name, None) for name in NAMED_SETTINGS], [*result.metrics]),
        [command[name] for name in ("seed", "compare_exact", *LOOK)],
        (pair.clean_ids, pair.corrupt_ids, pair.target_ids, pair.foil_ids),
        (result.versions["device"], result.versions["dtype"]),
    )
    return output.run_name(pair.clean_text, result.KIND, result.direction, defining=defining)
