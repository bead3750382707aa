"""Requests of a sweep: their defaults, and errors before any forward pass."""

import dataclasses
import inspect
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, make_model

from mingpt import Patch
from patching import Metric, PromptPair, SweepError, patch_sweep
from patching.sweep.request import Request


def test_each_default_stands_in_the_request_alone():
    keywords = inspect.signature(patch_sweep).parameters
    for field in dataclasses.fields(Request):
        assert keywords[field.name].default is field.default, field.name
    assert [*keywords] == [
        "model",
        "pair",
        *(f.name for f in dataclasses.fields(Request)),
        "progress",
    ]


def test_a_request_is_checked_without_pytorch():
    code = (
        "import sys; from patching.sweep.request import Request\n"
        "try: Request(window=2)\n"
        "except ValueError as error: print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.startswith("a window is for attn_out"), run.stderr


def test_a_request_is_frozen_and_keeps_what_can_be_read_once():
    request = Request(layers=(n for n in (0, 2)), metric=(name for name in ("kl", "recovery")))
    assert request.layers == (0, 2)
    assert [metric.name for metric in request.metrics] == ["kl", "recovery"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.site = "z"


def test_numbers_of_numpy_are_numbers():
    request = Request("mlp_out", window=np.int64(2), rows=np.int64(5), max_memory=np.int64(9))
    assert [type(n) for n in (request.window, request.rows, request.max_memory)] == [int] * 3


def test_a_grid_of_chosen_cells():
    config = make_model().config
    grid = Request("z", by_position=True, layers=[-1], heads=[1], positions=[0, -1]).grid(config, 5)
    assert grid.shape == (3, 2, 5)
    cells = [*grid.cells()]
    assert [cell.index for cell in cells] == [(2, 1, 0), (2, 1, 4)]
    assert grid.patches(cells[1]) == [Patch("z", 2, 4, 1)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"patches of your own are for method='loop', not for 'fast': pass method='loop'"),
        (
            {"method": "attribution"},
            r"patches of your own are for method='loop', not for 'attribution'",
        ),
        ({"method": "loop", "site": "mlp_out", "window": 3}, "leave window at 1"),
        ({"method": "loop", "patches": [Patch("z", 0)]}, "patches is a function from a cell to"),
    ],
)
def test_patches_of_ones_own_are_for_the_loop(settings, message):
    with pytest.raises(SweepError, match=message) as caught:
        Request(**{"patches": lambda cell: [], **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "loss"}, "no metric 'loss'; there are logit_diff, "),
        ({"layers": [3]}, "layer 3 is out of range: there are 3, 0 to 2"),
        ({"layers": [-4]}, "layer -4 is out of range"),
        ({"positions": [7]}, "position 7 is out of range"),
        ({"positions": []}, "no positions"),
        ({"layers": [0.5]}, "layers must be whole numbers"),
        ({"layers": 1}, "layers must be whole numbers, not 1"),
        ({"positions": "12"}, "positions must be whole numbers"),
        ({"metric": []}, "no metric to read"),
        ({"metric": ["kl", "kl"]}, "the metric kl is asked for twice"),
        ({"metric": "kl,"}, "no metric ''; there are"),
        ({"metric": None}, "a metric is a name, a Metric or a function, not None"),
        ({"metric": [3]}, "a metric is a name, a Metric or a function, not 3"),
        ({"metric": Metric("a b", lambda logits, readout: 0)}, "letters, digits and _, not 'a b'"),
        (
            {"metric": Metric("kl", lambda logits, readout: 0)},
            "kl is a built-in metric; give yours another name",
        ),
        ({"max_memory": "4GB"}, "a number of bytes, not '4GB'"),
        ({"site": "resid"}, "no site 'resid'; there are resid_pre, "),
        ({"direction": "up"}, "no direction 'up'; there are denoise, noise"),
        ({"method": "slow"}, "no method 'slow'; there are fast, loop"),
        ({"by_position": True}, "resid_post is always swept by position"),
        ({"heads": [0]}, "resid_post has no heads"),
        ({"site": "z", "heads": [2]}, "head 2 is out of range"),
        ({"site": "z", "positions": [2]}, "can be chosen only where it is swept by position"),
        ({"window": 0}, "at least 1 layer, not 0"),
        ({"window": 1.5}, "at least 1 layer, not 1.5"),
        ({"window": 2}, "a window is for attn_out and mlp_out, not for resid_post"),
        ({"max_memory": 0}, "max_memory is a number of bytes"),
        ({"tf32": True}, r"TF32 is for float32 on CUDA; this model is torch\.float32 on cpu"),
    ],
)
@pytest.mark.parametrize("method", ["fast", "loop"])
def test_bad_requests_are_refused_before_any_forward(model, pair, settings, message, method):
    model.transformer.h[0].register_forward_pre_hook(lambda *_: pytest.fail("a forward pass"))
    model.transformer.h[0].ln_1.register_forward_pre_hook(lambda *_: pytest.fail("a pass"))
    with pytest.raises(SweepError, match=message):
        patch_sweep(model, pair, **{"method": method, **settings})


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (PromptPair.from_ids([1] * 13, [2] * 13, 3, 4), "13 tokens, the model reads at most 12"),
        (PromptPair.from_ids([1], [40], 3, 4), "id 40 is out of range: the model has 40 tokens"),
        (PromptPair.from_ids([1], [2], 3, 40), "id 40 is out of range"),
    ],
)
def test_pairs_that_do_not_fit_the_model_are_refused(model, pair, message):
    model.transformer.h[0].ln_1.register_forward_pre_hook(lambda *_: pytest.fail("a pass"))
    fits = PromptPair.from_ids([1], [2], 3, 4)
    for pairs, which in ((pair, ""), ([fits, pair], r"pair 1 \(from 0\): .*")):
        with pytest.raises(SweepError, match=f"^{which}.*{message}"):
            patch_sweep(model, pairs)
