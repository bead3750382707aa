"""Free memory: what is found, and what is said where it is not enough."""

import pytest
import torch

from mingpt import CheckpointError, memory
from mingpt.memory import enough_memory, free_bytes, in_words, lack, physical_bytes


def test_what_is_free_is_part_of_the_machine():
    free, physical = free_bytes(), physical_bytes()
    assert free is None or free > 2**20
    assert physical is None or 2**27 < physical < 2**50
    assert None in (free, physical) or free <= physical
    assert free_bytes(torch.device("cpu")) is None or free_bytes(torch.device("cpu")) > 2**20


def test_what_is_lacking_is_said_in_words(monkeypatch):
    assert lack(0) is None
    assert lack(10**18) is not None
    monkeypatch.setattr(memory, "free_bytes", lambda device: 3_100_000_000)
    assert lack(3_100_000_000) is None
    assert lack(6 * 10**9) == "needs about 6.0 GB of memory, and 3.1 GB are free"
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)  # as on macOS
    monkeypatch.setattr(memory, "physical_bytes", lambda: 8 * 10**9)
    assert lack(8 * 10**9) is None
    assert lack(9 * 10**9) == "needs about 9.0 GB of memory, and 8.0 GB are in the machine"
    monkeypatch.setattr(memory, "physical_bytes", lambda: None)
    assert lack(10**18) is None


def test_the_container_counts_where_it_allows_less(monkeypatch):
    for machine, container, free in ((5, None, 5), (5, 3, 3), (2, 3, 2), (None, None, None)):
        monkeypatch.setattr(memory, "_available", lambda machine=machine: machine)
        monkeypatch.setattr(memory, "_left_in_the_container", lambda left=container: left)
        assert free_bytes() == free


def test_amounts_in_words():
    assert in_words(1_500_000) == "1.5 MB"
    assert in_words(12_345_678_901_234) == "12,345.7 GB"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_memory_that_runs_out_is_the_callers_error(error):
    with pytest.raises(CheckpointError, match="full"), enough_memory(CheckpointError("full")):
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(CheckpointError("full")):
        raise RuntimeError("shapes do not fit")
