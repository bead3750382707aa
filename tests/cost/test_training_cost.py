"""Tokens a second in training: ours, transformers' in the same loop, the floor of products."""

import os

import pytest
import torch
from helpers import median_seconds
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from mingpt import GPT, GPTConfig
from mingpt.training.request import PRESETS
from mingpt.training.run import loss_function

pytestmark = pytest.mark.cost

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SIDE = 1024  # of the matrices whose product measures the rate
# Name -> shape, tokens of a row, rows of a batch.
CASES = {
    "GPT-2 124M": (GPTConfig(), 128, 2),
    "mini": (GPTConfig.preset("gpt-mini", vocab_size=257, block_size=128), 128,
             PRESETS["mini"].batch_size),
}  # fmt: skip


def stepper(model, loss_of):
    """Return a function that takes one step of the loop that both models are trained in."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def floor_seconds(config: GPTConfig, rows: int, T: int) -> float:
    """Return the time of a step's products, forward and twice that backward, at a large one's rate.

    Of attention, only the products with positions that may be read count.
    """
    C = config.n_embd
    linear = config.n_layer * (4 * C * C + 2 * C * config.inner_size) + C * config.vocab_size
    attention = 2 * config.n_layer * C * (T + 1) / 2
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    (seconds,) = median_seconds([lambda: a @ b], rounds=20)
    return 3 * rows * T * (linear + attention) * seconds / SIDE**3


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_as_fast_as_transformers(name):
    config, T, rows = CASES[name]
    names = ("n_layer", "n_head", "n_embd", "vocab_size", "embd_pdrop", "resid_pdrop", "attn_pdrop")
    same = {field: getattr(config, field) for field in names}
    theirs = GPT2LMHeadModel(
        GPT2Config(**same, n_positions=config.block_size, bos_token_id=None, eos_token_id=None)
    )
    ids = torch.randint(config.vocab_size, (rows, T + 1))
    loss, batch = loss_function("float32"), (ids[:, :-1], ids[:, 1:])
    steps = [
        stepper(GPT(config), lambda model: loss(model, batch)),
        # transformers shifts the labels itself.
        stepper(theirs, lambda model: model(batch[0], labels=batch[0]).loss),
    ]
    a, b = median_seconds(steps, rounds=ROUNDS)
    floor = floor_seconds(config, rows, T)
    print(
        f"\n{name}, {rows} x {T} tokens: {rows * T / a:,.0f} tokens/s, transformers"
        f" {rows * T / b:,.0f}, ratio {b / a:.2f}; {a / floor:.2f} x the floor of products"
    )
    assert a <= 1.1 * b
