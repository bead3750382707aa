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
from patching.cli import common
from patching.cli.common import Bars, IndexList, UsageError
from patching.errors import DrawingError
from patching.metrics import METRICS

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
Activation patching: which residual-stream vector carries the answer?

The clean prompt is run once and the vector after every block, at every token,
is recorded. The corrupt prompt is then run once per layer and token, each time
with that one vector replaced by the clean one, and the logit difference
    logit(foil) - logit(target)
of the next token is read: positive where the model still gives the foil,
negative where the patch has turned it to the target. The heatmap shows them
all, layer 0 on top.
"""
EPILOG = f"""\
prompts:
  Both prompts must have the same number of tokens. Target and foil must be one
  token each: a word is looked up with a leading space ("Jones" is the token
  " Jones"), text that starts with a space or a punctuation mark is taken as it
  is, and id:5437 names a token directly.

metrics:
  logit_diff    logit(foil) - logit(target)
  target_logit  logit(target), patched minus clean
  prob_diff     p(foil) - p(target)
  recovery      of logit_diff: 0 is the corrupt run, 1 the clean one

examples:
  {COMMAND} --model builtin
      the example of the README on the model that ships with the project
  {COMMAND} --clean "When Mary and John went to the store, John gave a drink to" \\
      --corrupt "When Mary and John went to the store, Mary gave a drink to" \\
      --target Mary --foil John --metric recovery --model builtin
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
    prompts.add_argument("--clean", metavar="TEXT", help="the prompt whose activations are put in")
    prompts.add_argument("--corrupt", metavar="TEXT", help="the prompt that is run and patched")
    prompts.add_argument("--target", metavar="WORD", help="the clean prompt's next word")
    prompts.add_argument("--foil", metavar="WORD", help="the corrupt prompt's next word")
    common.add_model_arguments(parser)
    sweep = parser.add_argument_group("sweep")
    sweep.add_argument(
        "--metric", choices=tuple(METRICS), default="logit_diff", help="default: logit_diff"
    )
    sweep.add_argument(
        "--layers", type=IndexList, metavar="LIST", help="as 0,3,5-7 or -1; default: all"
    )
    sweep.add_argument("--positions", type=IndexList, metavar="LIST", help="likewise, of tokens")
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

    # Only now what takes time to import.
    import matplotlib

    from patching.cli import report
    from patching.plot import check_cmap
    from patching.prompts import PromptPair
    from patching.sweep import patch_sweep, run_unpatched
    from patching.text import escaped

    place = _Place.of(arguments)
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
    layers = arguments.layers and arguments.layers.of("layer", model.config.n_layer)
    positions = arguments.positions and arguments.positions.of("position", len(pair))

    say(f"\n{report.pair_table(pair)}")
    unpatched = run_unpatched(model, pair)
    tables = [unpatched.next_tokens(run, arguments.top_k) for run in ("clean", "corrupt")]
    say(f"\n{report.next_token_table(*tables)}")

    with bars.bar("patching") as progress:
        result = patch_sweep(
            model,
            pair,
            metric=arguments.metric,
            layers=layers,
            positions=positions,
            progress=progress,
        )
    result.top_k = arguments.top_k
    result.arguments["command"] = {
        **{name: getattr(arguments, name) for name in ("model", "device", "dtype", "seed")},
        **{"cmap": arguments.cmap, "format": place.format},
    }
    result.versions["matplotlib"] = matplotlib.__version__
    if loaded.fallback is not None:
        result.notes = (f"builtin in place of gpt2: {loaded.fallback}",)
    cells = len(result.arguments["layers"]) * len(result.arguments["positions"])
    say(
        f"\n{escaped(METRICS[result.metric].words(pair))}:"
        f" clean {result.clean_value:.4f}, corrupt {result.corrupt_value:.4f}"
        f"\n{cells} cells in {result.seconds:.2f} s"
    )
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
    """Where the figure goes: a file, or a folder in which it is named after the run."""

    path: Path
    is_folder: bool
    format: str

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> _Place:
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
        for file in _outputs(path / "figure.png" if is_folder else path):
            common.check_writable(file)
        return cls(path, is_folder, chosen)

    def figure(self, result: SweepResult) -> Path:
        """The figure's path for this run."""
        if not self.is_folder:
            return self.path
        return self.path / f"{_run_name(result)}.{self.format}"


def _run_name(result: SweepResult) -> str:
    """A file name from the prompt's first words and all that defines the run.

    Nothing of the prompt but a-z and 0-9 gets into it.
    """
    pair = result.pair
    sweep = [result.arguments[name] for name in ("metric", "layers", "positions")]
    asked = result.arguments["command"]
    defining = (
        (result.model_name, result.checksum, bool(result.notes)),
        dataclasses.asdict(result.unpatched.model.config),  # not all of it shows in the weights
        (*sweep, result.top_k, asked["seed"], asked["cmap"]),
        (pair.clean_ids, pair.corrupt_ids, pair.target_id, pair.foil_id),
        (result.versions["device"], result.versions["dtype"]),
    )
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()
    return f"{common.slug(pair.clean_text)}-{digest[:12]}"


def _outputs(figure: Path) -> tuple[Path, Path, Path]:
    """The figure, and the .npz and the .json beside it."""
    from patching.result import result_paths

    return (figure, *result_paths(figure.with_suffix("")))


def _write(result: SweepResult, place: _Place, cmap: str | None) -> dict[Path, bool]:
    """Write figure and result; the paths, and whether something was there before."""
    from patching.plot import heatmap

    figure, *saved = _outputs(place.figure(result))
    existed = {path: path.exists() for path in (figure, *saved)}
    heatmap(result, figure, cmap=cmap)
    result.save(saved[0])
    return existed
