"""mingpt-paths: one pair of prompts -> a map of senders, or of all edges, with figures and results.

Options are checked before a model is loaded, as far as that is possible.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from click import Choice, IntRange, Option

from patching.cli import paths_output
from patching.cli.common import output
from patching.cli.common.arguments import IndexList, parse_rows
from patching.cli.common.command import Command, UsageError, print_line, run_command
from patching.cli.common.models import import_libraries, load_model
from patching.cli.common.options import look_options, model_options, output_options
from patching.cli.common.page import check_html, html_option
from patching.cli.common.pair import pair_texts, prompt_options, with_command
from patching.paths.graph import KINDS
from patching.paths.request import (
    EDGE_METHODS,
    END,
    MLPS,
    MOST_STRONGEST,
    STEPS,
    STRONGEST,
    EdgeRequest,
    PathRequest,
)
from patching.sweep.engine.memory import parse_size
from patching.sweep.metrics import METRICS
from patching.sweep.request import DIRECTIONS

if TYPE_CHECKING:
    from patching.cli.common.models import LoadedModel
    from patching.paths.result import PathsFound
    from patching.prompts import PromptPair

COMMAND = paths_output.COMMAND
EXAMPLE = {
    "clean": "When Mary and John went to the store, John gave a drink to",
    "corrupt": "When Mary and John went to the store, Mary gave a drink to",
    "target": "Mary",
    "foil": "John",
}
ONLY_MAPS = ("receiver", "mlps", "sender_positions")  # options that a map of edges has not
ONLY_EDGES = ("kinds", "steps", "strongest", "compare_exact")


DESCRIPTION = """\
Path patching: which head talks to which?

Each sender (a head, an MLP, the embeddings) gets its output from the other prompt's run,
and every other head keeps its own. What then arrives at the receivers is put into an
unpatched run, and the metric is read. So a cell shows what the sender says to the
receivers alone, and not all that it changes (that is mingpt-patch).
--edges measures every sender to every single receiver. Numbers are exact, but for those of
--method eap and eap-ig.
"""
EPILOG = f"""\
prompts:
  As in mingpt-patch: both prompts have the same number of tokens; target and foil are one
  token each, or repeated, a set of words.

receivers:
  logits             what the last layer norm reads at the last position (default)
  q:9.9,9.6,10.0     queries of heads, as layer.head; also k: and v: (where heads share
                     keys and values, k and v have fewer heads)
  mlp:8,9            the inputs of MLPs
  q:9.9,k:9.9,mlp:8  several kinds. Several receivers do not influence one another: each
                     hears the sender as it would alone.

MLPs between sender and receiver:
  recomputed         they carry the sender's message on (Wang et al. 2022)
  frozen             the direct path alone (Goldowsky-Dill et al. 2023); edges always

the numbers:
  A value is the metric of the last run, as in mingpt-patch, and not an effect. The colour
  bar shows the percent change of the unpatched run beside it, as the papers report it. A
  sender that writes after the receivers read has no path, and is hatched.
  Attention is frozen between sender and receiver. A path therefore stays at its position.

methods:
  fast               exact: nothing that stays the same is computed again
  loop               the definition, slow: two runs of the model for each sender or edge
  eap, eap-ig        of edges, APPROXIMATE, by gradients: of the unpatched run, or averaged
                     over --steps runs whose embeddings go over to the other prompt's.
                     --compare-exact measures the exact edges too, and how well they agree.

examples:
  {COMMAND} --model builtin
      the example: every head and MLP to the logits
  {COMMAND} --model builtin --receiver q:3.1 --direction noise
  {COMMAND} --model gpt2 --receiver v:7.3,7.9,8.6,8.10 --mlps frozen
  {COMMAND} --model gpt2 --receiver q:9.9,9.6,10.0 --receiver-positions end
      to the queries of the name movers, at the last token
  {COMMAND} --model builtin --edges
      every edge: a matrix, and the strongest edges as a circuit
  {COMMAND} --model builtin --edges --method eap-ig --compare-exact
  {COMMAND} --model builtin --edges --direction noise --mib
      scores as MIB's circuit track reads them

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted.
"""


def positions(text: str) -> IndexList | str:
    """Return the value of an option for positions: END, or a list of indices."""
    return END if text == END else IndexList(text)


OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "prompts (default: an example)": prompt_options(),
    "model": model_options(seed="accepted for scripts; nothing here is random"),
    "paths": [
        Option(["--receiver"], metavar="TEXT",
               help="logits, q:9.9,9.6 or mlp:8; see below  [default: logits]"),
        Option(["--edges"], is_flag=True,
               help="every sender to every single receiver, MLPs frozen"),
        Option(["--kinds"], metavar="LIST",
               help=f"of edges: kinds of receivers, of {', '.join(KINDS)}  [default: all]"),
        Option(["--mlps"], type=Choice(MLPS),
               help="between sender and receiver  [default: recomputed]"),
        Option(["--sender-positions"], type=positions, metavar="LIST",
               help="tokens at which senders write, as 0,3,5-7, -1 or end  [default: all]"),
        Option(["--receiver-positions"], type=positions, metavar="LIST",
               help="tokens at which receivers read  [default: all; logits: the last]"),
        Option(["--direction"], type=Choice([*DIRECTIONS]), default=PathRequest.direction),
        Option(["--metric"], metavar="LIST", default=PathRequest.metric,
               help=f"one or more of {', '.join(METRICS)}"),
    ],
    "speed": [
        Option(["--method"], type=Choice(EDGE_METHODS), default=PathRequest.method,
               help="loop: the definition, the same numbers as fast; eap, eap-ig: edges,"
               " approximate, by gradients"),
        Option(["--steps"], type=IntRange(1, 10**6), metavar="N",
               help=f"of eap-ig: runs whose gradients are averaged  [default: {STEPS}]"),
        Option(["--compare-exact"], is_flag=True,
               help="eap, eap-ig: measure the exact edges too; print and draw how well they agree"),
        Option(["--max-memory"], metavar="SIZE",
               help="memory for the fast method beside the model, as 800M or 4GB; default:"
               " half of what is free"),
    ],
    "figure": [
        *look_options(),
        Option(["--strongest"], type=IntRange(1, MOST_STRONGEST), metavar="N",
               help=f"edges of the circuit  [default: {STRONGEST}]"),
    ],
    "output": [
        *output_options(PathRequest.rows),
        html_option("hover and click cells, read the strongest edges"),
        Option(["--mib"], is_flag=True,
               help="also write scores that MIB's circuit track reads, NAME.mib.json, of the first"
               " metric, positive where the answer needs the part: of edges; or without --edges"
               " each node's total effect (a run of the model for each)"),
    ],
})  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """Load, patch, print and write."""
    request = _request(arguments)
    texts = pair_texts(arguments, EXAMPLE, request.metrics)
    rows = parse_rows(arguments, PathRequest.rows)

    import_libraries(drawing=True)  # after the first checks: it is slow
    from patching.cli import paths_report
    from patching.cli.common import tables
    from patching.drawing.style import check_cmap
    from patching.prompts import PromptPair
    from patching.sweep.run import check_pair

    check_cmap(arguments.cmap)
    if arguments.html:
        check_html()
    place = paths_output.place(arguments, request)
    say = output.make_say(arguments)
    loaded = load_model(arguments, arguments.model)
    say(tables.model_line(loaded.model, loaded.fallback), always=True)
    limit = loaded.model.config.block_size
    pair = PromptPair.from_text(loaded.tokenizer, **texts, most_tokens=limit)
    check_pair(loaded.model, pair)
    request = replace(request, rows=rows, **_positions(arguments, len(pair)))
    paths_output.check_mib(arguments, request, loaded.model.config)
    say(f"\n{tables.pair_table(pair)}")
    results = _results(arguments, loaded, pair, request)
    result = results[0]
    say(f"\n{tables.next_tokens_of(result)}\n")
    say(paths_report.report(result, output.fallback_notes(loaded.fallback)))
    more: dict[str, Any] = {}
    if len(results) > 1:
        from patching.paths.agreement import compare_edges

        agreement = compare_edges(result, results[1])  # type: ignore[arg-type]
        say(f"\n{paths_report.agreement_lines(results[1], agreement)}")
        more["agreement"] = {name: asdict(found) for name, found in agreement.items()}
    nodes = _nodes(arguments, loaded, pair, request)
    written = paths_output.write(results, place, loaded, arguments, nodes)
    output.say_written(say, written)
    if arguments.json:
        more["paths"] = [str(path) for path in written]
        print_line(json.dumps({**result.to_dict(), **more}, allow_nan=False), sys.stdout)


def _request(arguments: SimpleNamespace) -> PathRequest | EdgeRequest:
    """Return the request, checked as far as that is possible without a model.

    Raises:
        UsageError: options that do not go together.
    """
    other = ONLY_MAPS if arguments.edges else ONLY_EDGES
    given = next((name for name in other if getattr(arguments, name) not in (None, False)), None)
    if given is not None:
        option = f"--{given.replace('_', '-')}"
        why = "is not for --edges" if arguments.edges else "is for --edges"
        raise UsageError(f"{option} {why}: leave one out" if arguments.edges else
                         f"{option} {why}: add it")  # fmt: skip
    settings: dict[str, Any] = {
        "direction": arguments.direction,
        "metric": arguments.metric,
        "method": arguments.method,
        "max_memory": None if arguments.max_memory is None else parse_size(arguments.max_memory),
    }
    if not arguments.edges:
        if arguments.method in ("eap", "eap-ig"):
            raise UsageError(f"--method {arguments.method} estimates edges: add --edges")
        at = arguments.receiver_positions
        return PathRequest(
            receiver="logits" if arguments.receiver is None else arguments.receiver,
            mlps=arguments.mlps or PathRequest.mlps,
            receiver_positions=at if at in (None, END) else [0],  # until T is known
            **settings,
        )
    if arguments.steps is not None and arguments.method != "eap-ig":
        raise UsageError("--steps is for --method eap-ig: leave one out")
    if arguments.compare_exact and arguments.method not in ("eap", "eap-ig"):
        raise UsageError("--compare-exact needs --method eap or eap-ig; the others are exact")
    kinds = EdgeRequest.receivers if arguments.kinds is None else arguments.kinds
    return EdgeRequest(receivers=kinds, steps=arguments.steps or STEPS, **settings)


def _positions(arguments: SimpleNamespace, T: int) -> dict[str, Any]:
    """Return the positions of the command line; None means all."""
    found: dict[str, Any] = {}
    for name in ("sender_positions", "receiver_positions"):
        asked = getattr(arguments, name)
        found[name] = asked.of("position", T) if isinstance(asked, IndexList) else asked
    return {"positions": found["receiver_positions"]} if arguments.edges else found


def _nodes(
    arguments: SimpleNamespace,
    loaded: LoadedModel,
    pair: PromptPair,
    request: PathRequest | EdgeRequest,
) -> dict[str, float] | None:
    """Return each node's total effect, for --mib without --edges; else None."""
    if not arguments.mib or arguments.edges:
        return None
    from patching.paths.nodes import node_effects

    return node_effects(
        loaded.model,
        pair,
        direction=request.direction,
        metric=request.metric,
        progress=False if arguments.quiet else None,
    )


def _results(
    arguments: SimpleNamespace,
    loaded: LoadedModel,
    pair: PromptPair,
    request: PathRequest | EdgeRequest,
) -> list[PathsFound]:
    """Return the result (with --compare-exact also the exact one) with the command's arguments."""
    from patching.paths.run import run_edges, run_paths

    requests = [request]
    if arguments.compare_exact:
        requests.append(replace(request, method="fast"))
    asked = (*output.MODEL_ARGUMENTS, *paths_output.LOOK, "format", "compare_exact")
    results = []
    for one in requests:
        progress = False if arguments.quiet else None
        found: PathsFound = (
            run_edges(loaded.model, pair, one, progress)
            if isinstance(one, EdgeRequest)
            else run_paths(loaded.model, pair, one, progress)
        )
        results.append(with_command(found, arguments, asked, loaded))
    return results
