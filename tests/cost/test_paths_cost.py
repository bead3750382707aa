"""The cost of paths on GPT-2 124M's shape: against the loop of two forwards for each sender.

The pair has 15 tokens of which the last 5 can differ, as the IOI task's have.
"""

from dataclasses import replace

import pytest
import torch
from helpers import median_seconds
from torch.utils.flop_counter import FlopCounterMode

from mingpt import GPT, GPTConfig
from patching import PromptPair, patch_edges, patch_paths
from patching.paths import loop
from patching.paths.request import EdgeRequest, PathRequest

pytestmark = pytest.mark.cost
T, DIFFERS = 15, 10
SENDERS = 2  # of the loop, whose time is taken; the others take as long


@pytest.fixture(scope="module")
def pair():
    ids = torch.randint(50257, (T,), generator=torch.Generator().manual_seed(0)).tolist()
    return PromptPair.from_ids(ids, [*ids[:DIFFERS], 3797, *ids[DIFFERS + 1 :]], 262, 1107)


def made(n_layer=12):
    torch.manual_seed(0)
    return GPT(GPTConfig(n_layer=n_layer)).eval()


def macs(function):
    """Return the multiply-adds of the products in a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 2


def large_product():
    """Return a call of a product of 2**32 multiply-adds, whose rate gives the floor's time."""
    x, y = torch.randn(1024, 2048), torch.randn(2048, 2048)
    return lambda: x @ y


def of_loop(model, pair, paths):
    """Return a call of the loop with a few senders, and by how much all of them take longer."""
    some = [paths.senders[number] for number in paths.sending[:SENDERS]]
    few = replace(paths, senders=tuple(some))
    # The two recorded runs are counted once, beside two runs for each sender.
    times = (2 + 2 * len(paths.sending)) / (2 + 2 * SENDERS)
    metrics = PathRequest().metrics
    return lambda: loop.measure(model, pair, few, "denoise", metrics, lambda: None), times


@pytest.mark.parametrize(
    ("how", "arithmetic"),
    [({}, 53), ({"receiver": "q:9.9,9.6,10.0", "receiver_positions": "end"}, 38)],
    ids=["logits", "queries"],
)
def test_a_map_takes_a_fraction_of_the_loop(pair, how, arithmetic):
    model = made()
    paths = PathRequest(**how).paths(model.config, T)
    one, times = of_loop(model, pair, paths)

    def fast():
        return patch_paths(model, pair, progress=False, **how)

    ratio = macs(one) * times / macs(fast)
    seconds = median_seconds([fast, one, large_product()], rounds=3)
    floor = macs(fast) * seconds[2] / 2**32
    print(
        f"\n{how or 'logits'}: {len(paths.sending)} senders, {seconds[0]:.3f} s; the loop takes"
        f" {seconds[1] * times / seconds[0]:.1f} x as long and {ratio:.1f} x the multiply-adds."
        f" Its own take {floor:.3f} s at a large product's rate: {seconds[0] / floor:.2f} x that"
    )
    assert ratio > 0.9 * arithmetic
    assert seconds[1] * times > arithmetic / 2 * seconds[0]


@pytest.mark.parametrize(("positions", "arithmetic"), [(None, 55), ("end", 160)])
def test_edges_take_a_fraction_of_the_loop(pair, positions, arithmetic):
    """4 layers: the fewer there are, the smaller the share of blocks above the receivers."""
    model = made(4)
    request = EdgeRequest(receivers="q", positions=positions)
    paths = request.paths(model.config, T)
    one, _ = of_loop(model, pair, replace(paths, receivers=paths.receivers[-1:]))
    times = (2 + 2 * paths.count) / (2 + 2 * SENDERS)

    def fast():
        return patch_edges(model, pair, receivers="q", positions=positions, progress=False)

    ratio = macs(one) * times / macs(fast)
    seconds = median_seconds([fast, one], rounds=3)
    print(
        f"\n{paths.count} edges to q, 4 layers, positions {positions}: {seconds[0]:.2f} s; the"
        f" loop takes {seconds[1] * times / seconds[0]:.1f} x as long, {ratio:.1f} x the"
        " multiply-adds"
    )
    assert ratio > arithmetic
    assert seconds[1] * times > arithmetic / 2 * seconds[0]
