"""Commands interrupted at random moments: one line, the shell's exit code, whole files only.

A signal that comes while Python itself starts cannot be caught. So the process imports the
command's entry, says so, and the delay before the signal starts there.
"""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from fuzzing import Problem, check_problems, numbers, random_of
from helpers import ROOT

from mingpt import MinGPTError
from patching import Continuations, Explanation, SweepResult

pytestmark = pytest.mark.slow  # hundreds of processes
FEW, FULL = 5, 200
SIGNALS = (signal.SIGINT, signal.SIGINT, signal.SIGTERM)
COMMANDS = {
    "patch": ["--metric", "logit_diff,kl", "--site", "z", "--by-position"],
    "explain": [],
    "generate": ["--plot", "--count", "he", "she", "--num-samples", "5"],
}
LOAD = {"patch": SweepResult.load, "explain": Explanation.load, "generate": Continuations.load_all}
ENTRIES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
# What an installed command does. A shell ignores SIGINT for what it runs in the background;
# the first line undoes that.
LAUNCH = """\
import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)
from {} import {} as entry
print("started", flush=True)
sys.exit(entry())
"""
SECONDS = 60
# A run may end well if the signal comes so late, in shares of a whole run, that the work is
# done. One that goes on for longer has swallowed the signal.
LATE = 0.25


def started(command: str, folder: Path) -> subprocess.Popen:
    """Start a command that writes into a folder, and wait until its entry is called."""
    launch = LAUNCH.format(*ENTRIES[f"mingpt-{command}"].split(":"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", launch, "--model", "builtin", "--out", "out/", *COMMANDS[command]],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout.readline() == "started\n"
    return process


@functools.cache
def seconds_of(command: str, folder: Path) -> float:
    """Return how long a command takes that nobody interrupts."""
    process = started(command, folder)
    begun = time.monotonic()
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (0, "")
    return time.monotonic() - begun


def interrupted(number: int, folder: Path) -> Problem | None:
    """Interrupt one run; return what is wrong with its end."""
    draw = random_of(number)
    command = draw.choice([*COMMANDS])
    sent = SIGNALS[number % len(SIGNALS)]
    whole = seconds_of(command, folder)
    delay = draw.uniform(0, 1.15 * whole)
    process = started(command, folder)
    time.sleep(delay)
    begun = time.monotonic()
    process.send_signal(sent)  # does nothing if the process has ended
    out, err = process.communicate(timeout=SECONDS)
    took = time.monotonic() - begun
    went_on = took > max(1.0, LATE * whole)
    end = _wrong_end(command, sent, process.returncode, out, err, went_on)
    wrong = [what for what in (end, _wrong_files(command, folder)) if what is not None]
    if not wrong:
        return None
    when = f"{sent.name} after {delay:.2f} of {whole:.2f} s, then {took:.2f} s"
    said = "\n".join([when, f"exit code {process.returncode}", *err.splitlines()[-8:]])
    return Problem(f"{command}, {sent.name}: {' and '.join(wrong)}", said)


def _wrong_end(
    command: str, sent: signal.Signals, code: int, out: str, err: str, went_on: bool
) -> str | None:
    """Say what is wrong with an exit code and the text on stderr."""
    if "Traceback" in err or "Exception ignored" in err:
        return "a traceback"
    if code == 0 and went_on:
        return "it went on to the end"
    if code == 0:
        return None if err == "" else "exit 0 with text on stderr"
    if code == 128 + sent:
        lines = err.splitlines()
        fine = len(lines) == 1 and lines[0].startswith(f"mingpt-{command}: ")
        return None if fine else f"{len(lines)} lines on stderr"
    if code == -sent and "wrote " in out and not err:
        return None  # it had finished, and Python was shutting down
    return f"exit code {code}"


def _wrong_files(command: str, folder: Path) -> str | None:
    """Say what is wrong with the files that are left."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    if any(path.name.startswith(".") for path in paths):
        return "a temporary file is left"
    results = {path for path in paths if path.suffix in (".json", ".npz")}
    stems = {path.with_suffix("") for path in results}
    if len(results) != len(stems) * (1 if command == "generate" else 2):
        return "half of a result is left"
    try:
        for stem in stems:
            LOAD[command](stem)
    except MinGPTError:
        return "a result is left that cannot be loaded"
    figures = [path.read_bytes() for path in paths if path.suffix == ".png"]
    whole = all(data.endswith(b"IEND\xaeB`\x82") for data in figures)
    return None if whole else "half of a figure is left"


def test_an_interrupt_leaves_one_line_and_whole_files(tmp_path):
    """SIGINT in two of three cases, SIGTERM in one, from the call of its entry on."""
    found = {}
    for number in numbers(few=FEW, full=FULL):
        problem = interrupted(number, tmp_path / "work")
        if problem is not None:
            found[number] = problem
    check_problems(__file__, found)
