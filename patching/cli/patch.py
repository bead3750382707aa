"""mingpt-patch: one pair of prompts -> tokens, next-token tables, heatmap, result files.

What the user asked for is checked as far as it can be before anything is
loaded; the work is patching's; the words are tables.py's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mingpt.sites import DEFAULT_SITE, SITES, heads_at
from mingpt.version import __version__
from patching.cli.common import output
from patching.cli.common.arguments import IndexList, Parser, add_model_arguments, texts_asked
from patching.cli.common.command import UsageError, run_command, tell
from patching.cli.common.models import load_model
from patching.cli.common.progress import Bars
from patching.sweep.engine.memory import parse_size
from patching.sweep.metrics import METRICS, check_slopes, metrics_asked
from patching.sweep.request import DIRECTIONS, METHODS, Request

if TYPE_CHECKING:
    from patching.sweep.result import SweepResult

COMMAND = "mingpt-patch"
EXAMPLE = {
    "clean": "Michelle Jones was a top-notch student. Michelle",
    "corrupt": "Michelle Smith was a top-notch student. Michelle",
    "target": "Jones",
    "foil": "Smith",
}

DESCRIPTION = """\
Activation patching: which vector carries the answer?

The clean and the corrupt prompt are run, and then, for every layer and every
token, the corrupt prompt with that one residual-stream vector replaced by the
clean one. Each time the logit difference
    logit(foil) - logit(target)
of the next token is read: positive where the model still gives the foil,
negative where the patch has turned it to the target. The heatmap shows them
all, layer 0 on top. Other places than the stream, the opposite direction and
other metrics: --site, --direction, --metric.
"""
EPILOG = f"""\
prompts:
  Both prompts must have the same number of tokens. Target and foil must be one
  token each: a word is looked up with a leading space ("Jones" is the token
  " Jones"), text that starts with a space or a punctuation mark is taken as it
  is, and id:5437 names a token directly.

sites, in the order of a block:
  resid_pre          the residual stream as it enters the block
  q, k, v            queries, keys, values of each attention head (where heads
                     share keys and values, k and v have fewer heads)
  pattern            attention weights of each head, a row for each query
  z                  output of each head, before c_proj mixes them
  attn_out           what attention adds to the stream
  resid_mid          the stream between attention and MLP
  mlp_out            what the MLP adds to the stream
  resid_post         the stream as it leaves the block (default)

metrics (several with commas between them, read from the same runs):
  logit_diff         logit(foil) - logit(target)
  target_logit       logit(target), patched minus clean
  log_prob           ln p(target)
  prob_diff          p(foil) - p(target)
  kl                 KL(clean || patched) of the next token, in nats
  recovery           of logit_diff: 0 is the corrupt run, 1 the clean one

directions:
  denoise            clean into corrupt: what is enough to bring the answer back?
  noise              corrupt into clean: what is the answer lost without?
  The metrics are the same; in noise, recovery 1 means that nothing was broken.
  Mind the sign: logit_diff is positive for the foil; in mingpt-explain a
  positive number speaks for the target.

methods:
  fast               every cell, exactly, in one pass
  loop               the same numbers by definition: the whole model once per cell
  attribution        APPROXIMATE, to first order: two passes and a gradient, no
                     patched run. Poor on the residual stream, above all in low
                     layers, and where attention is saturated (q, k); better, as a
                     rule, on z, v, attn_out and mlp_out. Poor too for metrics that
                     are saturated themselves (log_prob, prob_diff, kl), whose
                     estimates can leave their range. --compare-exact says how good.

examples:
  {COMMAND} --model builtin
      the example of the README on the model that ships with the project
  {COMMAND} --clean "When Mary and John went to the store, John gave a drink to" \\
      --corrupt "When Mary and John went to the store, Mary gave a drink to" \\
      --target Mary --foil John --metric recovery --model builtin
  {COMMAND} --model builtin --site z --direction noise --metric recovery,kl
      which heads is the answer lost without?
  {COMMAND} --model gpt2 --site mlp_out --window 5 --out run/
      five layers' MLPs at a time, as causal tracing does
  {COMMAND} --model gpt2 --layers 0,3,5-7 --positions -1 --json --out run/
  {COMMAND} --model gpt2-xl --site z --method attribution
      where to look first, at the price of a few passes

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(COMMAND, run, sys.argv[1:] if argv is None else argv)


def build_parser() -> Parser:
    """The command's options; --help is meant to teach."""
    parser = Parser(prog=COMMAND, description=DESCRIPTION, epilog=EPILOG)
    prompts = parser.add_argument_group("prompts (without any of them: the README's example)")
    prompts.add_argument("--clean", metavar="TEXT", help="the prompt that asks for the target")
    prompts.add_argument("--corrupt", metavar="TEXT", help="the prompt that asks for the foil")
    prompts.add_argument("--target", metavar="WORD", help="the clean prompt's next word")
    prompts.add_argument("--foil", metavar="WORD", help="the corrupt prompt's next word")
    add_model_arguments(parser)
    sweep = parser.add_argument_group("sweep")
    sweep.add_argument(
        "--site", choices=tuple(SITES), default=DEFAULT_SITE, help=f"default: {DEFAULT_SITE}"
    )
    sweep.add_argument(
        "--direction", choices=tuple(DIRECTIONS), default="denoise", help="default: denoise"
    )
    sweep.add_argument(
        "--metric", metavar="LIST", default="logit_diff",
        help=f"one or more of {', '.join(METRICS)}; default: logit_diff",
    )  # fmt: skip
    sweep.add_argument(
        "--layers", type=IndexList, metavar="LIST", help="as 0,3,5-7 or -1; default: all"
    )
    sweep.add_argument("--positions", type=IndexList, metavar="LIST", help="likewise, of tokens")
    sweep.add_argument(
        "--heads",
        type=IndexList,
        metavar="LIST",
        help="likewise, of heads, where there are any",
    )
    sweep.add_argument(
        "--by-position", action="store_true",
        help="heads: patch each position alone instead of all at once; drawn for each head",
    )  # fmt: skip
    sweep.add_argument(
        "--window", type=int, default=1, metavar="N",
        help="patch N layers around each one together (attn_out and mlp_out); default: 1",
    )  # fmt: skip
    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--method", choices=METHODS, default="fast",
        help="fast (default); loop: the whole model once per cell, the same numbers;"
        " attribution: approximate, by gradients",
    )  # fmt: skip
    speed.add_argument(
        "--compare-exact", action="store_true",
        help="attribution: run the exact sweep too; print and draw how well the two agree",
    )  # fmt: skip
    speed.add_argument(
        "--max-memory", metavar="SIZE",
        help="of the fast method beside the model, as 800M or 4GB; default: half of what is free",
    )  # fmt: skip
    speed.add_argument(
        "--tf32", action="store_true",
        help="CUDA: round float32 factors to 10 bits, faster; figure and result say so",
    )  # fmt: skip
    output.add_output_arguments(parser, top_k=20)
    parser.add_argument("--version", action="version", version=f"{COMMAND} {__version__}")
    return parser


def run(argv: Sequence[str]) -> None:
    """Parse, load, sweep, print and write."""
    arguments = build_parser().parse_args(argv)
    texts = texts_asked(arguments, EXAMPLE)
    metrics = metrics_asked(arguments.metric)
    names = ("site", "direction", "by_position", "window")
    chosen = {name: getattr(arguments, name) for name in names}
    check = {axis: [0] if getattr(arguments, axis) else None for axis in ("heads", "positions")}
    Request(**chosen, **check).check()  # before anything is loaded
    max_memory = None if arguments.max_memory is None else parse_size(arguments.max_memory)
    if arguments.method == "attribution":
        check_slopes(metrics, arguments.direction)
    if arguments.compare_exact and arguments.method != "attribution":
        raise UsageError("--compare-exact is for --method attribution: the others are exact")

    # Only now what takes time to import.
    from patching.cli.common import tables
    from patching.prompts import PromptPair
    from patching.sweep.agreement import compare
    from patching.sweep.run import patch_sweep, run_unpatched
    from patching.text import escaped

    several = len(metrics) > 1
    ends = [f"-{metric.name}" if several else "" for metric in metrics]
    if arguments.compare_exact:
        ends += [f"{end}-compared" for end in ends]
    output.check_output(arguments)
    place = output.Place.of(arguments, ends, ["", *["-exact"] * arguments.compare_exact])
    say = output.speaker(arguments)
    bars = Bars(arguments.quiet)
    loaded = load_model(arguments, arguments.model, bars)
    model = loaded.model
    say(tables.model_line(model, loaded.fallback), always=True)
    pair = PromptPair.from_text(loaded.tokenizer, **texts)
    heads = heads_at(arguments.site, model.config)
    sizes = {"layers": model.config.n_layer, "heads": heads, "positions": len(pair)}
    for axis, size in sizes.items():
        asked = getattr(arguments, axis)
        chosen[axis] = asked and asked.of(axis.removesuffix("s"), size)

    say(f"\n{tables.pair_table(pair)}")
    unpatched = run_unpatched(model, pair)
    runs = {run: unpatched.next_tokens(run, arguments.top_k) for run in ("clean", "corrupt")}
    say(f"\n{tables.next_token_table(**runs)}")

    chosen |= {"metric": metrics, "max_memory": max_memory, "tf32": arguments.tf32}
    results = []
    for method in (arguments.method, *["fast"] * arguments.compare_exact):
        with bars.bar("patching") as progress:
            one = patch_sweep(model, pair, **chosen, method=method, progress=progress)
        one.unpatched = unpatched  # the tables that were printed are those that are saved
        results.append(_recorded(one, arguments, loaded.fallback))
    result = results[0]
    say("")
    for metric in metrics:
        found = result.metrics[metric.name]
        words = escaped(result.captions[metric.name])
        say(f"{words}: clean {found.clean:.4f}, corrupt {found.corrupt:.4f}")
    approximate = " (approximate)" if result.is_approximate else ""
    say(f"{result.cells} cells in {result.seconds:.2f} s{approximate}")
    more = {}
    if arguments.compare_exact:
        agreement = compare(*results)
        more = {"agreement": {name: asdict(found) for name, found in agreement.items()}}
        say(f"\n{tables.agreement_table(*results, agreement)}\n")
    written = _write(results, place, arguments.cmap)
    output.tell_written(say, written)
    if arguments.json:
        more["paths"] = [str(path) for path in written]
        tell(json.dumps({**result.to_dict(), **more}, allow_nan=False), sys.stdout)


def _recorded(
    result: SweepResult, arguments: argparse.Namespace, fallback: str | None
) -> SweepResult:
    """The result with all that the command knows of the run."""
    import matplotlib

    asked = (*output.MODEL_ARGUMENTS, "cmap", "format", "compare_exact")
    result.top_k = arguments.top_k
    result.arguments["command"] = {name: getattr(arguments, name) for name in asked}
    result.versions["matplotlib"] = matplotlib.__version__
    result.notes = (*output.fallback_notes(fallback), *result.notes)
    return result


def _run_name(result: SweepResult) -> str:
    """A file name for all that defines the run."""
    pair = result.pair
    asked = {**result.arguments["command"]}
    for name in ("model", "device", "dtype", "format"):
        del asked[name]
    sweep = {
        name: value
        for name, value in result.arguments.items()
        if name not in ("command", "max_memory")
    }
    defining = (
        output.of_model(result.unpatched.model, result.checksum, result.notes),
        (sweep, result.top_k, asked),
        (pair.clean_ids, pair.corrupt_ids, pair.target_id, pair.foil_id),
        (result.versions["device"], result.versions["dtype"]),
    )
    return output.run_name(pair.clean_text, result.site, result.direction, defining=defining)


def _write(
    results: Sequence[SweepResult], place: output.Place, cmap: str | None
) -> dict[Path, bool]:
    """Write figures and results; the paths, and whether something was there before."""
    from patching.drawing.sweep import agreement, heatmap

    name = _run_name(results[0])
    files = place.files(name)
    existed = {path: path.exists() for path in files}
    for result, end in zip(results, place.results, strict=True):
        result.save(place.stem(name, end))
    metrics = [*results[0].metrics]
    for metric, path in zip(metrics, files, strict=False):
        heatmap(results[0], path, metric=metric, cmap=cmap)
    if len(results) > 1:
        for metric, path in zip(metrics, files[len(metrics) :], strict=False):
            agreement(*results, path, metric=metric, cmap=cmap)
    return existed
