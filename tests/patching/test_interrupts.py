"""Signals: noted, raised, told in one line; and what a command leaves when one comes."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from helpers import ROOT

from patching import interrupts
from patching.cli.common.command import print_line
from patching.interrupts import check_interrupted, held, run_watched
from patching.progress import steps

HANDLERS = {number: signal.getsignal(number) for number in interrupts.SIGNALS}


def send(number: int = signal.SIGINT) -> int:
    """Send this process a signal, and let its handler run."""
    os.kill(os.getpid(), number)
    return 0


def test_a_body_without_a_signal(capsys):
    assert run_watched("x", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        run_watched("x", lambda: 1 // 0)
    assert capsys.readouterr() == ("", "")
    assert {number: signal.getsignal(number) for number in HANDLERS} == HANDLERS


@pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "terminated")],
)
def test_a_signal_is_one_line_and_the_shells_code(capsys, number, word):
    assert run_watched("mingpt-x", lambda: send(number)) == 128 + number
    assert capsys.readouterr() == ("", f"mingpt-x: {word}\n")
    assert {number: signal.getsignal(number) for number in HANDLERS} == HANDLERS
    assert run_watched("x", lambda: 0) == 0  # the next call starts afresh


def test_an_interrupt_that_no_signal_made(capsys):
    def body() -> int:
        raise KeyboardInterrupt

    assert run_watched("mingpt-x", body) == 130
    assert capsys.readouterr().err == "mingpt-x: interrupted\n"


def test_what_a_library_makes_of_it_does_not_matter(capsys):
    def body() -> int:
        try:
            return send()
        except KeyboardInterrupt:
            raise ImportError("numpy could not be imported") from None

    assert run_watched("mingpt-x", body) == 130
    assert capsys.readouterr().err == "mingpt-x: interrupted\n"


class Swallowing:
    """Its destructor is interrupted: Python reports that on stderr, and goes on."""

    def __del__(self) -> None:
        send()


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (check_interrupted, ["swallowed"]),
        (lambda: steps(None, 1), ["swallowed"]),
        (lambda: print_line("", sys.stdout), ["swallowed"]),
        (lambda: None, ["swallowed", "all of the work"]),
    ],
)
def test_an_interrupt_that_is_swallowed_ends_the_work(capsys, monkeypatch, look, expected):
    """Where the work looks, or else at its end."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    reached = []

    def body() -> int:
        Swallowing()
        reached.append("swallowed")
        look()
        reached.append("all of the work")
        return 0

    assert run_watched("mingpt-x", body) == 130
    assert reached == expected
    assert capsys.readouterr() == ("", "mingpt-x: interrupted\n")  # no "Exception ignored in"


def test_a_signal_is_held_until_the_end_of_a_block(capsys):
    done = []

    def body() -> int:
        with held():
            send()
            done.append("all of the block")
        done.append("too much")
        return 0

    assert run_watched("x", body) == 130
    assert done == ["all of the block"]


@pytest.mark.parametrize(("seconds", "cleaned"), [(60.0, True), (-1.0, False)])
def test_an_impatient_second_signal_leaves_time_to_clean_up(capsys, monkeypatch, seconds, cleaned):
    monkeypatch.setattr(interrupts, "SECONDS_TO_CLEAN_UP", seconds)
    done = []

    def body() -> int:
        try:
            return send()
        finally:
            send(signal.SIGTERM)
            done.append(True)

    assert run_watched("x", body) == 130  # the first one's
    assert bool(done) is cleaned
    assert capsys.readouterr().err == "x: interrupted\n"


def test_a_call_in_a_call_leaves_the_end_to_the_outer_one(capsys):
    def body() -> int:
        run_watched("inner", send)
        pytest.fail("the inner call returned")

    assert run_watched("outer", body) == 130
    assert capsys.readouterr().err == "outer: interrupted\n"


def test_what_is_ignored_stays_ignored(capsys):
    """As nohup wants it of SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_watched("x", lambda: send(signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_installs_nothing():
    found = []

    def body() -> int:
        found.extend(signal.getsignal(number) for number in HANDLERS)
        return 0

    thread = threading.Thread(target=run_watched, args=("x", body))
    thread.start()
    thread.join()
    assert found == [*HANDLERS.values()]


# ------------------------------------------------------------------- commands

# Sends a signal once, at a moment that an audit event names: Python calls the hook for
# each import (with the name first), each renamed file and so on.
AT_A_MOMENT = """
import atexit, os, sys
number, event, word = int(os.environ["SEND"]), *os.environ["MOMENT"].split(":")
waiting = [number]

def send():
    if waiting:
        os.kill(os.getpid(), waiting.pop())

def hook(name, arguments):
    if name == event and any(word in str(one) for one in arguments[:1 + (name != "import")]):
        send()

if event == "exit":
    atexit.register(send)
else:
    sys.addaudithook(hook)
"""


def run_until(folder, moment: str, number: int) -> subprocess.CompletedProcess:
    """Run mingpt-patch and send it a signal at a moment."""
    (folder / "sitecustomize.py").write_text(AT_A_MOMENT)
    (folder / "run").mkdir()
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "patch.py"), "--model=builtin", "--out=a.png"],
        cwd=folder / "run",
        env={
            **os.environ, "PYTHONPATH": str(folder), "MOMENT": moment, "SEND": str(int(number)),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("import:click", signal.SIGINT),  # before the command itself is imported
        ("import:numpy.linalg", signal.SIGINT),  # within PyTorch's import, called from C++
        pytest.param("import:matplotlib.ft2font", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("open:config.json", signal.SIGHUP, marks=pytest.mark.slow),
        # The result's files are written, not yet moved.
        pytest.param("os.rename:.part", signal.SIGTERM, marks=pytest.mark.slow),
        ("os.rename:a.png", signal.SIGINT),  # the figure's
    ],
)
def test_a_command_that_a_signal_ends(tmp_path, moment, number):
    ended = run_until(tmp_path, moment, number)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert (ended.returncode, ended.stderr) == (128 + number, f"mingpt-patch: {word}\n")
    assert not [path for path in (tmp_path / "run").iterdir() if ".part" in path.name]


@pytest.mark.slow
def test_a_signal_after_the_work_is_done(tmp_path):
    ended = run_until(tmp_path, "exit:", signal.SIGINT)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"a.png", "a.npz", "a.json"}
