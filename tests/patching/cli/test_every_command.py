"""What all commands have: help that teaches and is there at once, and a version."""

import subprocess
import sys

import pytest
from helpers import ROOT

import mingpt
from patching.explanation.request import METHODS

# Command -> some of the words that its help must contain.
HELP = {
    "patch": ("--clean", "recovery", "id:5437", "builtin", "examples:", "exit codes:"),
    "explain": ("--text", *METHODS, "id:3024", "examples:", "exit codes:", "opposite",
                "--method LIST the old name of --show, which still works",
                "--method means something else"),
    "generate": ("--prompt", "--num-beams", "--temperature LIST above 0", "cut by", "Wilson",
                 "examples:", "exit codes:"),
    "tokens": ("--suggest", "side by side", "a star", "examples:", "exit codes:", ".txt"),
    "fetch": ("--list", "--verify", "--remove", "MINGPT_CACHE", "examples:", "exit codes:"),
}  # fmt: skip


@pytest.mark.parametrize("name", HELP)
def test_help_teaches_and_needs_no_pytorch(name):
    run = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "scripts" / f"{name}.py"), "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = " ".join(run.stdout.split())
    assert [word for word in HELP[name] if word not in said] == []
    imported = {line.split("|")[-1].strip() for line in run.stderr.splitlines()}
    assert "patching.cli.common.command" in imported  # the command itself is imported by its name
    assert not imported & {"torch", "numpy", "matplotlib", "requests"}


@pytest.mark.parametrize("name", HELP)
def test_version(command, name):
    assert command(name, "--version").stdout == f"mingpt-{name} {mingpt.__version__}\n"
