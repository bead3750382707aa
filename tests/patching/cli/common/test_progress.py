"""Bars on stderr: when there are none, and what they show."""

import os
import pty
import subprocess
import sys
import time

from helpers import ROOT

from patching.cli.common.progress import Bars


def test_bars_are_off_without_a_terminal_and_when_quiet(monkeypatch):
    assert not Bars(quiet=False).shown
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert Bars(quiet=False).shown
    assert not Bars(quiet=True).shown
    with Bars(quiet=True).bar("x") as progress:
        assert progress is None


def test_a_bar_is_drawn_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("patching.cli.common.progress.SECONDS_BEFORE_A_BAR", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Bars(quiet=False).bar("patching") as progress:
        for done in range(1, 4):
            progress(done, 3)
            time.sleep(0.15)
    assert "patching" in capsys.readouterr().err


def test_one_bar_for_one_file_and_another_for_the_next(monkeypatch):
    made = []

    class Spy:
        def __init__(self, total, **settings):
            self.total, self.n = total, 0
            made.append(self)

        def update(self, more):
            self.n += more

        def close(self):
            self.total = "closed"

    monkeypatch.setattr("tqdm.tqdm", Spy)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Bars(quiet=False).bar("fetching", in_bytes=True) as progress:
        for step in [(1, 0), (5, 0), (3, 10), (10, 10)]:  # the first of unknown length
            progress(*step)
    assert [bar.n for bar in made] == [5, 10]
    assert all(bar.total == "closed" for bar in made)


def test_a_bar_is_drawn_on_a_terminal_that_says_it_has_no_size(tmp_path):
    code = (
        "import time; from patching.cli.common.progress import Bars\n"
        "with Bars(quiet=False).bar('patching') as progress:\n"
        "    for done in range(1, 16): time.sleep(0.1); progress(done, 15)"
    )
    ours, theirs = pty.openpty()
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    assert run.returncode == 0
    assert b"patching:" in os.read(ours, 10_000)
    os.close(ours)
