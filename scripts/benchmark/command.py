"""Measure how fast the sweep is, against the loop, other tools, and a floor.

    python scripts/bench.py                  # GPT-2 124M's shape, CPU, some minutes
    python scripts/bench.py --device cuda
    python scripts/bench.py --help

All methods run in one process, in turn, round after round; the table gives their
medians. The weights are random, and every tool loads them from the same files.
TransformerLens and nnsight take part where they are installed (the extra `bench`);
like the loop, they run the whole model once per cell. The script writes a table
(Markdown) and a plot into figures/.

The floor is the time for the multiply-adds that no exact method can skip
(scripts/benchmark/floor.py lists them), at the rate of a large matrix product
measured between the rounds.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import torch
from click import Choice, IntRange, Option
from matplotlib.figure import Figure

from benchmark.experiments import (
    against_others,
    every_site,
    growth,
    half_precision,
    peak_of_fast,
)
from benchmark.methods import all_methods, write_weights
from benchmark.report import Report, describe
from benchmark.timing import Settings
from mingpt.config import PRESETS, GPTConfig
from mingpt.files import replacing
from mingpt.model import GPT
from patching.cli.common import output
from patching.cli.common.arguments import IndexList
from patching.cli.common.command import Command, UsageError, run_command
from patching.cli.common.models import find_device
from patching.cli.common.options import files

COMMAND = "bench.py"
SHAPES = {"gpt2": PRESETS["gpt2"], "small": GPTConfig(n_layer=6, n_head=4, n_embd=64)}
MOST_APART = 1e-4  # logits; largest difference between two methods that is accepted


OPTIONS = Command(COMMAND, __doc__, "", {
    "options": [
        Option(["--shape"], type=Choice([*SHAPES]), default="gpt2"),
        Option(["--device"], type=Choice(["cpu", "cuda"]), default="cpu"),
        Option(["--lengths"], type=IndexList, default="11,32,128", metavar="LIST",
               help="tokens of the prompts; 11 is the example"),
        Option(["--rounds"], type=IntRange(1), default=5, metavar="N"),
        Option(["--patience"], type=float, default=120, metavar="SECONDS",
               help="for the rounds of a method at a length; a method that takes longer for one"
               " round is left out, except the fast sweep"),
        Option(["--threads"], type=IntRange(1), metavar="N", help="default: PyTorch's choice"),
        Option(["--out"], default="figures/", metavar="DIR", shell_complete=files),
        Option(["--quiet"], is_flag=True, help="no note of what is being run"),
    ],
})  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no network is needed: the weights are made here
    matplotlib.rcParams["font.family"] = "DejaVu Sans"
    words = sys.argv[1:] if argv is None else argv
    return run_command(OPTIONS, lambda arguments: run(arguments, words), words)


def run(arguments: SimpleNamespace, argv: Sequence[str]) -> None:
    """Measure, print the report and write it.

    Args:
        arguments: the options.
        argv: the command line, for the report.

    Raises:
        UsageError: bad arguments, or methods that disagree.
    """
    config = SHAPES[arguments.shape]
    settings = _settings(arguments, config)
    stem = f"bench-{arguments.shape}-{settings.device.type}"
    table, plot = (Path(arguments.out) / f"{stem}.{end}" for end in ("md", "png"))
    output.check_writable(table)
    output.check_writable(plot)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    report = Report(arguments.quiet)
    report.say(f"`python scripts/bench.py {' '.join(argv)}".rstrip() + "`")
    report.say()
    report.say(describe(config, settings.device, settings.rounds))
    figure, worst = _measure(report, settings, config)
    table.parent.mkdir(parents=True, exist_ok=True)
    with replacing(table) as part, replacing(plot) as drawn:
        part.write_text("\n".join(report.lines) + "\n", encoding="utf-8")
        figure.savefig(drawn, dpi=150, format="png")
    print(f"wrote {table} and {plot}", file=sys.stderr)
    if worst > MOST_APART:
        raise UsageError(f"two methods are {worst:.1e} logits apart")


def _settings(arguments: SimpleNamespace, config: GPTConfig) -> Settings:
    """Return the settings, after checking the arguments.

    Raises:
        UsageError: a number out of its range, or a device that is not there.
    """
    if not 0 < arguments.patience < float("inf"):
        raise UsageError(f"--patience must be above 0, not {arguments.patience}")
    lengths = arguments.lengths.of("length", config.block_size + 1)
    if lengths[0] < 2:
        raise UsageError("--lengths: prompts of at least 2 tokens")
    device = find_device(arguments.device, "float32")
    return Settings(lengths, arguments.rounds, arguments.patience, device)


def _measure(report: Report, settings: Settings, config: GPTConfig) -> tuple[Figure, float]:
    """Run all experiments; return the plot and the largest difference between two methods."""
    with tempfile.TemporaryDirectory() as folder:
        write_weights(config, Path(folder))
        model = GPT.from_pretrained(folder).to(settings.device)
        memory = peak_of_fast(settings, model)  # first, before another tool takes memory
        methods = all_methods(model, Path(folder), settings.device)
        results = against_others(report, settings, model, methods, memory)
        worst = max(timed.apart() for timed in results.values())
        worst = max(worst, every_site(report, settings, model))
        half_precision(report, settings, model)
        return growth(report, settings, model, methods, results), worst
