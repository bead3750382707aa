"""The wheel: built without a network, installed outside the clone, its commands run."""

import os
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import requests
from helpers import ROOT

pytestmark = pytest.mark.slow
COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "scripts"
]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "mingpt", "patching")
# Patterns of files that are not Python and must be installed too.
DATA = ("py.typed", "README.md", "builtin/*", "published/*.json", "page.css", "script/*.js")


def run(*arguments: str | Path, **settings) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [*map(str, arguments)], capture_output=True, text=True, encoding="utf-8", **settings
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


def pip(*arguments: str | Path) -> None:
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: files of earlier builds in the clone would get into it."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source)
    offline = ("--no-build-isolation", "--no-deps", "--no-index")
    pip("wheel", *offline, "--wheel-dir", built, source)
    (path,) = built.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder that the wheel was installed into."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", target, wheel)
    return target


@pytest.fixture
def elsewhere(installed, tmp_path):
    """A function that runs an installed command in an empty folder outside the clone."""

    def run_there(command: str, *arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(installed), "MPLBACKEND": "agg"}
        return run(
            sys.executable, installed / "bin" / command, *arguments, cwd=tmp_path, env=environment
        )

    return run_there


def test_it_holds_every_file_of_the_packages(wheel):
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in ("mingpt", "patching")
        for pattern in ("*.py", *DATA)
        for path in (ROOT / package).rglob(pattern)
        if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == wanted
    assert {"mingpt/py.typed", "patching/py.typed", "mingpt/builtin/model.safetensors"} <= held


def test_it_says_its_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    assert "License-Expression: MIT" in about
    assert any(name.endswith("/LICENSE") for name in names)


# Command -> a run of it without a network, a text that it prints, and the suffixes of its files.
RUNS = {
    "mingpt-patch": ("--model builtin --out run/", "model: builtin", [".json", ".npz", ".png"]),
    "mingpt-paths": ("--model builtin --mib --out run/", "21 senders",
                     [".json", ".json", ".npz", ".png"]),
    "mingpt-explain": ("--model builtin --show direct --out run/", "model: builtin",
                       [".json", ".npz", ".png"]),
    "mingpt-generate": ("--model builtin --max-new-tokens 2 --plot --out run/", "model: builtin",
                        [".json", ".png"]),
    "mingpt-tokens": ("--model builtin one", "one", []),
    "mingpt-fetch": ("--list", "folder", []),
    "mingpt-embeddings": ("--model builtin --words Paris Rome --out run/", "cosine",
                          [".json", ".png", ".png"]),
    "mingpt-train": ("--text words.txt --steps 2 --out run/ --vocab bpe:300", "all steps are done",
                     [".json", ".json", ".json", ".png", ".safetensors", ".safetensors", ".txt"]),
    "mingpt-study": ("make ioi --n 3 --model builtin --out run/a.csv", "distinct pairs", [".csv"]),
    "mingpt-verify": ("--model builtin --samples 1 --out run/x.json", "rows hold", [".json"]),
}  # fmt: skip


def test_the_live_page_is_served(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed), "MPLBACKEND": "agg"}
    command = [sys.executable, installed / "bin/mingpt-live", "--model", "builtin", "--port", "0"]
    with subprocess.Popen([*map(str, command), "--no-browser"], stdout=subprocess.PIPE, text=True,
                          cwd=tmp_path, env=environment) as process:  # fmt: skip
        address = next(line.split()[0] for line in process.stdout if line.startswith("http"))
        assert "mingpt-live" in requests.get(address, timeout=20).text
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"mingpt-live"}))
def test_every_command_runs(elsewhere, tmp_path, command):
    asked, printed, suffixes = RUNS[command]
    (tmp_path / "words.txt").write_text("one two three four\n" * 900, "utf-8")
    assert f"Usage: {command}" in elsewhere(command, "--help").stdout
    assert printed in elsewhere(command, *asked.split()).stdout
    assert sorted(path.suffix for path in (tmp_path / "run").glob("*")) == suffixes


def test_the_commands_run_the_packages_that_were_installed(installed, tmp_path):
    code = "import mingpt, patching.cli.patch as p; print(mingpt.__file__, p.__file__, sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    files = run(sys.executable, "-c", code, cwd=tmp_path, env=environment).stdout.split()
    assert all(Path(file).is_relative_to(installed) for file in files)
