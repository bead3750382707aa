"""Helpers of several tests: small models, known repositories, timings."""

import dataclasses
import statistics
import time
from pathlib import Path

import torch
from hub_server import ROWS

from mingpt import GPT, GPTConfig
from mingpt.loading import repositories

ROOT = Path(__file__).resolve().parent.parent


def make_model(seed: int = 0, **fields) -> GPT:
    """Return a random model in eval mode, with weights large enough to make positions matter."""
    torch.manual_seed(seed)
    shape = {"n_layer": 3, "n_head": 2, "n_embd": 16, "vocab_size": 40, "block_size": 12}
    model = GPT(GPTConfig(**{**shape, "initializer_range": 0.3, **fields}))
    with torch.no_grad():  # biases and layer norms start as 0 and 1, which would hide mistakes
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def known_with(files, name: str, **more) -> repositories.Repository:
    """Return the repository known as `name`, changed to the shape of the small model."""
    config = make_model(vocab_size=ROWS).config
    return dataclasses.replace(repositories.KNOWN[name], preset=config, **more)


def median_seconds(functions, rounds=5) -> list[float]:
    """Return the median time of each function; they run in turn, after a warm-up."""
    times = [[] for _ in functions]
    for _ in range(rounds + 1):
        for function, seconds in zip(functions, times, strict=True):
            started = time.perf_counter()
            result = function()
            seconds.append(time.perf_counter() - started)
            del result
    return [statistics.median(seconds[1:]) for seconds in times]


def last(model: GPT, ids, **flags) -> torch.Tensor:
    """Return the logits (V,) after one prompt; `flags` are passed to forward."""
    model(torch.tensor([ids]), **flags)
    return model.last_logits[0]
