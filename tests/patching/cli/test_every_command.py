"""What all commands have: help that teaches and is there at once, and a version."""

import importlib
import os
import subprocess
import sys

import pytest
from helpers import ROOT

import mingpt
from patching.explanation.request import METHODS

# Command -> some of the words that its help must contain.
HELP = {
    "patch": ("--clean", "recovery", "id:5437", "builtin", "examples:", "exit codes:"),
    "paths": ("--receiver", "layer.head", "recomputed", "APPROXIMATE", "examples:", "exit codes:"),
    "explain": ("--text", *METHODS, "id:3024", "examples:", "exit codes:", "opposite",
                "--method LIST the old name of --show, which still works",
                "--method means something else"),
    "generate": ("--prompt", "--num-beams", "--temperature LIST above 0", "cut by", "Wilson",
                 "examples:", "exit codes:"),
    "tokens": ("--suggest", "side by side", "a star", "examples:", "exit codes:", ".txt"),
    "fetch": ("--list", "--verify", "--remove", "HF_HUB_CACHE", "examples:", "exit codes:"),
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
def test_help_is_ascii_where_ascii_is_asked_for(name):
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), "--help"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True,
    )  # fmt: skip
    assert run.stdout.isascii()


@pytest.mark.parametrize("name", HELP)
def test_version(command, name):
    assert command(name, "--version").stdout == f"mingpt-{name} {mingpt.__version__}\n"


# Command -> a short run that needs no network.
RUNS = {
    "patch": "--model=builtin --quiet",
    "explain": "--model=builtin --quiet --show=direct",
    "generate": "--model=builtin --quiet --max-new-tokens=1",
    "tokens": "--model=builtin a",
    "fetch": "--list",
}


@pytest.mark.parametrize("name", RUNS)
def test_a_cache_that_no_longer_counts_is_named_in_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"patching.cli.{name}").main
    for old, lines in (("", 0), (str(tmp_path / "old"), 1)):
        monkeypatch.setenv("MINGPT_CACHE", old)
        assert main(RUNS[name].split()) == 0
        err = capsys.readouterr().err.splitlines()
        assert len(err) == lines
        assert all(f"mingpt-{name}: MINGPT_CACHE no longer counts" in line for line in err)
    assert not (tmp_path / "old").exists()


@pytest.mark.slow
def test_the_hubs_library_prints_nothing_of_its_own(online, files, tmp_path):
    online.add_repository("me/mine", files)
    for served in online.files.values():
        served.headers["X-HF-Warning"] = "topic; \x1b[31mred"
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "fetch.py"), "me/mine"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert not [path for path, _ in online.requests if "/api/" in path]  # nor does it ask for more
