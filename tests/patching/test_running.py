"""Running a model: its mode and precision, and progress that is counted and drawn."""

import sys

import pytest
import torch

from patching import SweepError
from patching.running import progress_or_bar, ready, steps


def test_a_model_is_as_before_after_it_was_ready(model):
    model.train()
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(ZeroDivisionError), ready(model, SweepError("full")):
            assert not model.training
            assert torch.get_float32_matmul_precision() == "highest"
            raise ZeroDivisionError
        assert model.training
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_memory_that_runs_out_is_the_callers_error(model):
    with pytest.raises(SweepError, match="full"), ready(model, SweepError("full")):
        raise torch.OutOfMemoryError
    with pytest.raises(RuntimeError, match="shapes"), ready(model, SweepError("full")):
        raise RuntimeError("shapes do not fit")


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


@pytest.mark.parametrize(("asked", "terminal", "drawn"), [(None, True, True), (None, False, False),
                                                          (False, True, False)])  # fmt: skip
def test_a_bar_is_drawn_on_a_terminal_only(monkeypatch, capsys, asked, terminal, drawn):
    monkeypatch.setattr("patching.running.SECONDS_BEFORE_A_BAR", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with progress_or_bar(asked, "patching") as report:
        assert (report is not None) == drawn
        if report is not None:
            report(0, 10)
            report(10, 10)
    assert ("patching: " in capsys.readouterr().err) == drawn
