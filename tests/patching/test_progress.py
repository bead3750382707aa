"""Progress: steps that add up, and bars on stderr."""

import os
import pty
import subprocess
import sys
import time
import types

import pytest
from helpers import ROOT

from patching.progress import bar, progress_or_bar, steps


def make_a_terminal(monkeypatch):
    """Make stderr a terminal on which bars are drawn at once.

    This is no fixture, because pytest exchanges stderr after the fixtures have run.
    """
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("patching.progress.SECONDS_BEFORE_A_BAR", 0)


def test_steps_add_up():
    told = []
    step = steps(lambda *both: told.append(both), 5)
    step()
    step(3)
    assert told == [(0, 5), (1, 5), (4, 5)]


def test_ones_own_progress_is_passed_on():
    def progress(done, total):
        pass

    with progress_or_bar(progress, "patching") as report:
        assert report is progress


def test_there_is_no_bar_without_a_terminal():
    for asked in (bar("x"), progress_or_bar(None, "x")):
        with asked as progress:
            assert progress is None


def test_there_is_no_bar_if_none_is_wanted(monkeypatch):
    make_a_terminal(monkeypatch)
    for asked in (bar("x", quiet=True), progress_or_bar(False, "x")):
        with asked as progress:
            assert progress is None


def test_a_bar_is_drawn_on_a_terminal(monkeypatch, capsys):
    make_a_terminal(monkeypatch)
    for asked in (bar("patching"), progress_or_bar(None, "patching")):
        with asked as progress:
            for done in range(1, 4):
                progress(done, 3)
                time.sleep(0.15)
        assert "patching: " in capsys.readouterr().err


class Spy:
    """A bar that only notes what it is told."""

    made = []  # noqa: RUF012  # each test empties it

    def __init__(self, total, **settings):
        self.total, self.n, self.settings = total, 0, settings
        self.made.append(self)

    def update(self, more):
        self.n += more

    def close(self):
        self.total = "closed"


@pytest.fixture
def bars(monkeypatch):
    Spy.made.clear()
    monkeypatch.setattr("tqdm.auto.tqdm", Spy)
    return Spy.made


def test_one_bar_for_one_file_and_another_for_the_next(monkeypatch, bars):
    make_a_terminal(monkeypatch)
    with bar("fetching", in_bytes=True) as progress:
        for step in [(1, 0), (5, 0), (3, 10), (10, 10)]:  # the first of unknown length
            progress(*step)
    assert [one.n for one in bars] == [5, 10]
    assert all(one.total == "closed" and one.settings["unit"] == "B" for one in bars)


def test_a_notebook_gets_a_bar_of_its_own_size(monkeypatch, bars):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    with progress_or_bar(None, "patching") as progress:
        progress(1, 2)
    assert bars[0].n == 1
    assert {"ncols", "nrows", "file"}.isdisjoint(bars[0].settings)


@pytest.mark.slow
def test_a_bar_is_drawn_on_a_terminal_that_says_it_has_no_size():
    code = (
        "import time; from patching.progress import bar\n"
        "with bar('patching') as progress:\n"
        "    for done in range(1, 16): time.sleep(0.1); progress(done, 15)"
    )
    ours, theirs = pty.openpty()
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    assert run.returncode == 0
    assert b"patching:" in os.read(ours, 10_000)
    os.close(ours)
