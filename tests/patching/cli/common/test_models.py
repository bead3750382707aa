"""The model that a command line names, and its device."""

import os
import signal
import sys

import matplotlib.backends.backend_agg
import pytest
import torch

from patching.cli.common import models
from patching.cli.common.command import UsageError
from patching.interrupts import run_watched


def test_float64_on_mps_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UsageError, match="mps has no float64"):
        models.find_device("mps", "float64")


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert models.find_device("auto", "float64") == torch.device("cpu")
    with pytest.raises(UsageError, match="--device cuda: this machine"):
        models.find_device("cuda", "float32")


class Interrupting:
    """A finder of modules that is interrupted when it is asked for one of matplotlib's."""

    def find_spec(self, name, path, target=None) -> None:
        if name == "matplotlib.backends.backend_agg":
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_the_end_of_an_import(monkeypatch, capsys):
    name = "matplotlib.backends.backend_agg"
    monkeypatch.setattr(matplotlib.backends, "backend_agg", matplotlib.backends.backend_agg)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])

    def body() -> int:
        models.import_libraries(drawing=False)
        models.import_libraries(drawing=True)
        pytest.fail("the interrupt is lost")

    assert run_watched("x", body) == 130
    assert name in sys.modules
