"""The cost of explanations and of attribution patching: GPT-2 124M's shape, random weights."""

import ctypes
import gc
import sys
from pathlib import Path

import pytest
import torch
from helpers import median_seconds

from mingpt import GPT, GPTConfig
from patching import PromptPair, Question, explain, patch_sweep

SIDE = 1536  # rows and columns of the product that measures the machine's rate
pytestmark = pytest.mark.cost


@pytest.fixture(scope="module")
def gpt2_shape() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig()).eval()


def prompt(T: int) -> torch.Tensor:
    return torch.randint(50257, (T,), generator=torch.Generator().manual_seed(0))


def prompts(T: int) -> PromptPair:
    ids = prompt(T).tolist()
    return PromptPair.from_ids(ids, [ids[0], 3797, *ids[2:]], 262, 1107)


def products(config: GPTConfig, T: int) -> tuple[int, int]:
    """Return the multiply-adds that explain, and attribution, need at least.

    explain: the blocks, the lens at every block and position, and each head's values
    through c_proj. Attribution: two forward passes and one backward pass of the blocks.
    """
    C, V, L = config.n_embd, config.vocab_size, config.n_layer
    blocks = L * T * (12 * C * C + 2 * T * C)  # q, k, v, c_proj, the MLP; scores and z
    heads = L * T * C * C + L * T * T * config.n_head * C
    return blocks + L * T * C * V + heads, 3 * blocks


@torch.no_grad()
def test_eleven_tokens_take_a_few_forward_passes(gpt2_shape):
    ids, pair = prompt(11), prompts(11)
    question = Question.from_ids(ids, 262, 1107)
    factor = torch.randn(SIDE, SIDE)
    product, forward, explained, attributed, by_rules = median_seconds(
        [
            lambda: factor @ factor,
            lambda: gpt2_shape(ids[None]),
            lambda: explain(gpt2_shape, question),
            lambda: patch_sweep(gpt2_shape, pair, method="attribution"),
            lambda: patch_sweep(gpt2_shape, pair, method="relp"),
        ],
        rounds=5,
    )
    floors = (count * product / SIDE**3 for count in products(gpt2_shape.config, 11))
    for name, seconds, floor in zip(
        ("explain", "attribution"), (explained, attributed), floors, strict=True
    ):
        print(f"\n{name}: {seconds / forward:.2f} forward passes, {seconds / floor:.1f} x floor")
    assert explained <= 3 * forward
    assert attributed <= 6 * forward
    print(f"\nrelp: {by_rules / attributed:.2f} x attribution")
    assert by_rules <= 1.5 * attributed  # the same products; more work element by element


def kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is read from /proc")
def test_256_tokens_take_little_memory_beside_the_model(gpt2_shape):
    question, pair = Question.from_ids(prompt(256), 262, 1107), prompts(256)
    attribution = {"site": "pattern", "method": "attribution"}
    for name, run in (
        ("explain", lambda: explain(gpt2_shape, question)),
        ("attribution", lambda: patch_sweep(gpt2_shape, pair, **attribution)),
    ):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # returns freed memory, so that reusing it counts
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = kilobytes("VmRSS")
        run()
        peak = (kilobytes("VmHWM") - before) / 1024
        print(f"\n{name}: {peak:.0f} MB beside the model")
        assert 30 < peak < 1500  # MB; at least the logits of a portion
