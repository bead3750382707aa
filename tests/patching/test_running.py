"""Running a model: its mode, its precision, and memory that runs out."""

import pytest
import torch

from patching import SweepError
from patching.running import ready


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
