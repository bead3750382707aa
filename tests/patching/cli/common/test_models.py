"""The model that a command line names, and its device."""

import pytest
import torch

from patching.cli.common import models
from patching.cli.common.command import UsageError


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
