"""mingpt-patch: one pair of prompts -> tokens, next-token tables, heatmap, result files.

What the user asked for is checked as far as it can be before anything is
loaded; the work is patching's; the words are report.py's.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mingpt
from mingpt.files import expanded
from mingpt.sites import DEFAULT_SITE, SITES
from patching.cli import common
from patching.cli.common import Bars, IndexList, UsageError
from patching.errors import DrawingError
from patching.grid import DIRECTIONS, METHODS, Request
from patching.memory import parse_size
from patching.metrics import METRICS, metrics_asked

if TYPE_CHECKING:
    from patching.result import SweepResult

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
  q, k, v            queries, keys, values of each attention head
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

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return common.run_command(COMMAND, run, sys.argv[1:] if argv is None else argv)


def build_parser() -> common.Parser:
    """The command's options; --help is meant to teach."""
    parser = common.Parser(prog=COMMAND, description=DESCRIPTION, epilog=EPILOG)
    prompts = parser.add_argument_group("prompts (without any of them: the README's example)")
    prompts.add_argument("--clean", metavar="TEXT", help="the prompt that asks for the target")
    prompts.add_argument("--corrupt", metavar="TEXT", help="the prompt that asks for the foil")
    prompts.add_argument("--target", metavar="WORD", help="the clean prompt's next word")
    prompts.add_argument("--foil", metavar="WORD", help="the corrupt prompt's next word")
    common.add_model_arguments(parser)
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
        help="fast (default), or loop: the whole model once per cell, the same numbers",
    )  # fmt: skip
    speed.add_argument(
        "--max-memory", metavar="SIZE",
        help="of the fast method beside the model, as 800M or 4GB; default: half of what is free",
    )  # fmt: skip
    speed.add_argument(
        "--tf32", action="store_true",
        help="CUDA: round float32 factors to 10 bits, faster; figure and result say so",
    )  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument(
        "--top-k", type=int, default=20, metavar="K", help="rows of the table; default: 20"
    )
    output.add_argument(
        "--out",
        default="figures/",
        metavar="FILE|DIR",
        help="the figure's file, or a folder in which it is named after the prompt and a hash of"
        " the run; the result goes beside it as .npz and .json; default: figures/",
    )
    output.add_argument(
        "--format", metavar="NAME", help="of a figure in a folder: png (default), svg or pdf"
    )
    output.add_argument("--cmap", metavar="NAME", help="a matplotlib colour map, e.g. magma")
    output.add_argument(
        "--json", action="store_true", help="the result as JSON on stdout, all else on stderr"
    )
    output.add_argument(
        "--quiet", action="store_true", help="only the model's line and the paths written; no bar"
    )
    parser.add_argument("--version", action="version", version=f"{COMMAND} {mingpt.__version__}")
    return parser


def run(argv: Sequence[str]) -> None:
    """Parse, load, sweep, print and write."""
    arguments = build_parser().parse_args(argv)
    texts = _prompt_texts(arguments)
    if arguments.top_k < 1:
        raise UsageError(f"--top-k must be at least 1, not {arguments.top_k}")
    metrics = metrics_asked(arguments.metric)
    names = ("site", "direction", "by_position", "window")
    chosen = {name: getattr(arguments, name) for name in names}
    check = {axis: [0] if getattr(arguments, axis) else None for axis in ("heads", "positions")}
    Request(**chosen, **check).check()  # before anything is loaded
    max_memory = None if arguments.max_memory is None else parse_size(arguments.max_memory)

    # Only now what takes time to import.
    import matplotlib

    from patching.cli import report
    from patching.plot import check_cmap
    from patching.prompts import PromptPair
    from patching.sweep import patch_sweep, run_unpatched
    from patching.text import escaped

    place = _Place.of(arguments, [metric.name for metric in metrics])
    check_cmap(arguments.cmap)
    out = sys.stderr if arguments.json else sys.stdout

    def say(text: str, *, always: bool = False) -> None:
        if always or not arguments.quiet:
            common.tell(text, out)

    bars = Bars(arguments.quiet)
    loaded = common.load_model(arguments, bars)
    model = loaded.model
    say(report.model_line(model, loaded.fallback), always=True)
    pair = PromptPair.from_text(loaded.tokenizer, **texts)
    sizes = {
        "layers": model.config.n_layer, "heads": model.config.n_head, "positions": len(pair)
    }  # fmt: skip
    for axis, size in sizes.items():
        asked = getattr(arguments, axis)
        chosen[axis] = asked and asked.of(axis.removesuffix("s"), size)

    say(f"\n{report.pair_table(pair)}")
    unpatched = run_unpatched(model, pair)
    tables = [unpatched.next_tokens(run, arguments.top_k) for run in ("clean", "corrupt")]
    say(f"\n{report.next_token_table(*tables)}")

    with bars.bar("patching") as progress:
        result = patch_sweep(
            model,
            pair,
            **chosen,
            metric=metrics,
            method=arguments.method,
            max_memory=max_memory,
            tf32=arguments.tf32,
            progress=progress,
        )
    result.unpatched = unpatched  # the tables that were printed are those that are saved
    result.top_k = arguments.top_k
    result.arguments["command"] = {
        **{
            name: getattr(arguments, name)
            for name in ("model", "n_head", "device", "dtype", "seed")
        },
        **{"cmap": arguments.cmap, "format": place.format},
    }
    result.versions["matplotlib"] = matplotlib.__version__
    if loaded.fallback is not None:
        result.notes = (f"builtin in place of gpt2: {loaded.fallback}", *result.notes)
    say("")
    for metric in metrics:
        found = result.metrics[metric.name]
        words = escaped(result.captions[metric.name])
        say(f"{words}: clean {found.clean:.4f}, corrupt {found.corrupt:.4f}")
    say(f"{result.cells} cells in {result.seconds:.2f} s")
    written = _write(result, place, arguments.cmap)
    for path, existed in written.items():
        say(f"{'overwrote' if existed else 'wrote'} {path}", always=True)
    if arguments.json:
        paths = [str(path) for path in written]
        common.tell(json.dumps({**result.to_dict(), "paths": paths}, allow_nan=False), sys.stdout)


def _prompt_texts(arguments: argparse.Namespace) -> dict[str, str]:
    """The four texts; the example's if none was given.

    Raises:
        UsageError: some are given and some are not.
    """
    given = {name: getattr(arguments, name) for name in EXAMPLE}
    missing = [f"--{name}" for name, text in given.items() if text is None]
    if len(missing) == len(EXAMPLE):
        return EXAMPLE
    if missing:
        raise UsageError(f"{', '.join(missing)} missing: the four prompt options go together")
    return given


@dataclass(frozen=True)
class _Place:
    """Where the figures go: a file, or a folder in which they are named after the run."""

    path: Path
    is_folder: bool
    format: str
    metrics: list[str]

    @classmethod
    def of(cls, arguments: argparse.Namespace, metrics: list[str]) -> _Place:
        """What --out and --format say.

        Raises:
            UsageError: no such format, the two contradict each other, or it
                cannot be written.
        """
        from patching.plot import check_format

        path = expanded(arguments.out)
        common.check_name(path)
        suffix = path.suffix.removeprefix(".")
        is_folder = arguments.out.endswith(("/", os.sep)) or path.is_dir() or not suffix
        chosen = (arguments.format or "png") if is_folder else suffix
        try:
            check_format(chosen)
        except DrawingError as error:
            hint = "" if is_folder else f" (--out {path}/ with a slash would be a folder)"
            raise UsageError(f"{error}{hint}") from None
        if (arguments.format or chosen).lower() != chosen.lower():
            raise UsageError(f"--out {path} and --format {arguments.format} contradict each other")
        place = cls(path, is_folder, chosen, metrics)
        for file in place.files(path / "figure" if is_folder else path.with_suffix("")):
            common.check_writable(file)
        return place

    def stem(self, result: SweepResult) -> Path:
        """This run's files without their suffixes."""
        return self.path / _run_name(result) if self.is_folder else self.path.with_suffix("")

    def files(self, stem: Path) -> list[Path]:
        """A figure for each metric, named after it where there are several; .npz and .json."""
        from patching.result import result_paths

        several = len(self.metrics) > 1
        names = [f"{stem.name}-{name}" if several else stem.name for name in self.metrics]
        suffix = self.format if self.is_folder else self.path.suffix.removeprefix(".")
        return [*(stem.with_name(f"{name}.{suffix}") for name in names), *result_paths(stem)]


def _run_name(result: SweepResult) -> str:
    """A file name from the prompt's first words, site, direction and all that defines the run.

    Nothing of the prompt but a-z and 0-9 gets into it.
    """
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
        (result.model_name, result.checksum, bool(result.notes)),
        dataclasses.asdict(result.unpatched.model.config),  # not all of it shows in the weights
        (sweep, result.top_k, asked),
        (pair.clean_ids, pair.corrupt_ids, pair.target_id, pair.foil_id),
        (result.versions["device"], result.versions["dtype"]),
    )
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()
    words = common.slug(pair.clean_text)
    return f"{words}-{result.site}-{result.direction}-{digest[:12]}"


def _write(result: SweepResult, place: _Place, cmap: str | None) -> dict[Path, bool]:
    """Write figures and result; the paths, and whether something was there before."""
    from patching.plot import heatmap

    stem = place.stem(result)
    files = place.files(stem)
    existed = {path: path.exists() for path in files}
    for metric, figure in zip(place.metrics, files, strict=False):  # the result's files follow
        heatmap(result, figure, metric=metric, cmap=cmap)
    result.save(stem)
    return existed
