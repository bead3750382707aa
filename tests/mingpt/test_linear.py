"""Linear layers by parts against PyTorch's own."""

import pytest
import torch
from torch import nn

from mingpt import linear
from mingpt.linear import Linear


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    monkeypatch.setattr(linear, "FEWEST_WEIGHTS", 1)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


def both(inputs: int, outputs: int, bias: bool = True, dtype=torch.float64):
    torch.manual_seed(0)
    theirs = nn.Linear(inputs, outputs, bias=bias).to(dtype)
    ours = Linear(inputs, outputs, bias=bias).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.fixture
def batches(monkeypatch):
    """A list that gets the number of vectors of each shared product."""
    seen = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: seen.append(a.shape[:2]) or bmm(a, b))
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [1, 2, 3, 9, 10, 11])
@pytest.mark.parametrize("shape", [(7,), (1, 7), (2, 7), (1, 1, 7), (2, 3, 7), (8, 7), (0, 7)])
def test_it_is_the_linear_layer(shape, outputs, bias, batches):
    ours, theirs = both(7, outputs, bias)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ours(x), theirs(x))
    assert len(batches) == (len(shape) > 1)
    gradients = [torch.autograd.grad(layer(x).square().sum(), x)[0] for layer in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_a_matrix_that_lies_transposed(batches):
    """GPT-2's files store the matrices so."""
    ours, theirs = both(7, 10)
    ours.weight = nn.Parameter(ours.weight.detach().t().contiguous().t())
    x = torch.randn(3, 7, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    assert batches == [(3, 3)]


@pytest.mark.parametrize("case", ["many", "small", "half", "one thread"])
def test_where_there_is_nothing_to_gain_it_is_pytorchs_own(case, batches, monkeypatch):
    dtype = torch.bfloat16 if case == "half" else torch.float32
    ours, theirs = both(7, 10, dtype=dtype)
    x = torch.randn(9 if case == "many" else 1, 7, dtype=dtype)
    if case == "small":
        monkeypatch.setattr(linear, "FEWEST_WEIGHTS", 71)
    if case == "one thread":
        torch.set_num_threads(1)
    assert torch.equal(ours(x), theirs(x))
    assert batches == []
