"""mingpt-study: make pairs, run a study of them, show it. Each is a command of its own.

The first word names it: make (study_make.py), run (study_run.py) or show (study_show.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from types import SimpleNamespace

import click

from patching.cli.common.command import Command, UsageError, run_command

COMMAND = "mingpt-study"
ACTIONS = {
    "make": "make pairs of a family, as a file that run reads",
    "run": "sweep every pair of a file into a folder, and summarize",
    "show": "tables and figures of such a folder; two of them compared",
}
DESCRIPTION = """\
Studies: activation patching over many pairs of prompts, with statistics.

A study sweeps every pair of a file, and reports for each cell the mean over pairs,
a bootstrap interval, and whether the cell differs from "no effect" beyond chance.
"""
EPILOG = f"""\
commands (each has its own --help):
{chr(10).join(f"  {COMMAND} {name:<6}{text}" for name, text in ACTIONS.items())}

examples:
  {COMMAND} make ioi --n 200 --model builtin --out ioi.csv
  {COMMAND} run ioi.csv --model builtin --metric logit_diff,recovery --out runs/ioi
  {COMMAND} show runs/ioi
"""


class Overview(Command):
    """The command without its first word."""

    @property
    def completed(self) -> click.Command:
        """All the commands, whose options a shell completes."""
        commands = {name: import_module(_module(name)).OPTIONS for name in ACTIONS}
        return click.Group(COMMAND, commands=commands)


OPTIONS = Overview(COMMAND, DESCRIPTION, EPILOG, {}, click.Argument(["words"], nargs=-1))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in ACTIONS:
        code: int = import_module(_module(words[0])).main(words[1:])
        return code
    return run_command(OPTIONS, _refuse, words)


def _module(name: str) -> str:
    return f"patching.cli.study_{name}"


def _refuse(arguments: SimpleNamespace) -> None:
    """Raise UsageError: there is no first word, or it names no command."""
    known = ", ".join(ACTIONS)
    if not arguments.words:
        raise UsageError(f"what to do is missing: {known} (see --help)")
    raise UsageError(f"no command {arguments.words[0]!r:.60}; there are {known} (see --help)")
