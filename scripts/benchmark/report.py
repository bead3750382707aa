"""Print the report line by line, and keep its lines for the file."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path

import torch

from mingpt.config import GPTConfig
from patching.cli.common.command import print_line


class Report:
    """The lines of the report. Notes on what is being run go to stderr, on a terminal only."""

    def __init__(self, quiet: bool) -> None:
        self.lines: list[str] = []
        self.on_terminal = sys.stderr.isatty() and not quiet

    def say(self, line: str = "") -> None:
        """Add and print a line."""
        self.step("")
        self.lines.append(line)
        print_line(line, sys.stdout)

    def row(self, *cells: str) -> None:
        """Add a row of a table."""
        self.say(f"| {' | '.join(cells)} |")

    def head(self, *cells: str) -> None:
        """Add the first row of a table."""
        self.say()
        self.row(*cells)
        self.row(*("---:" for _ in cells))

    def step(self, what: str) -> None:
        """Show the name of what is being run, over the one shown before."""
        if self.on_terminal:
            print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


def describe(config: GPTConfig, device: torch.device, rounds: int) -> str:
    """Describe the model, the machine, the versions and the rounds."""
    versions = []
    for name in ("torch", "numpy", "transformers", "transformer-lens", "nnsight"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{_processor()}, {torch.get_num_threads()} threads"
    return (
        f"{config.n_layer} layers, {config.n_head} heads, width {config.n_embd}, random weights,"
        f" float32; {where}; Python {platform.python_version()}, {', '.join(versions)}."
        f" Medians of {rounds} rounds, all methods in turn, after a warm-up; where fewer"
        " fitted, their number is given."
    )


def short(seconds: float) -> str:
    """Return a time with three digits and its unit."""
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1e3 * seconds:.3g} ms"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
