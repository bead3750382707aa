"""The number of threads that a command uses where other processes keep cores busy."""

import os
import subprocess
import sys

import pytest
import torch

from patching.cli.common import threads
from patching.cli.common.threads import CoreTimes, free_cores


def times(at: float, busy: float, own: float, cores: int = 4) -> CoreTimes:
    return CoreTimes(at, busy, own, cores)


@pytest.mark.parametrize(
    ("busy", "own", "free"),
    [(2.0, 2.0, 4), (4.0, 2.0, 3), (8.0, 2.0, 1), (9.0, 1.0, 1), (2.6, 2.0, 4), (3.2, 2.0, 3)],
)
def test_cores_that_others_use_are_not_free(busy, own, free):
    """Within 2 s: 4 cores, whose work for other processes is busy - own seconds."""
    assert free_cores(times(10, 100, 50), times(12, 100 + busy, 50 + own)) == free


def test_a_moment_is_too_short_to_tell():
    assert free_cores(times(10, 100, 50), times(10.1, 100, 50)) is None


def test_a_line_of_times():
    assert threads._busy_ticks("cpu0 10 1 5 900 7 0 2 0 0 0") == 18


@pytest.mark.skipif(not threads.STAT.exists(), reason="only Linux has /proc/stat")
def test_ones_own_work_is_not_counted_as_that_of_others():
    before = CoreTimes.now()
    while (after := CoreTimes.now()).at - before.at < 0.4:
        pass
    assert after.own - before.own > 0.1
    assert after.busy - before.busy >= after.own - before.own - 0.1
    assert after.cores == len(os.sched_getaffinity(0))


def test_a_system_that_does_not_tell_changes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "STAT", tmp_path / "none")
    assert threads.prepare() is None
    before = torch.get_num_threads()
    threads.choose(None)
    assert torch.get_num_threads() == before


def test_busy_cores_are_left_alone(monkeypatch):
    chosen = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(CoreTimes, "now", lambda: times(12, 104, 50))
    threads.choose(times(10, 100, 50))  # two cores worked for others
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    threads.choose(times(10, 100, 50))
    assert chosen == [2]


@pytest.mark.slow
def test_the_option_says_how_many():
    code = (
        "import sys, torch; from patching.cli.generate import main;"
        "main(['--model', 'builtin', '--max-new-tokens', '1', '--threads', '1', '--quiet']);"
        "print(torch.get_num_threads())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "1"
