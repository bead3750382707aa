"""Head scores against a plain loop over a recorded pattern."""

import numpy as np
import pytest
import torch

from mingpt import GPT, GPTConfig
from mingpt.errors import ConfigError
from patching.head_scores import repeated_ids, score_heads

SHAPE = GPTConfig(n_layer=2, n_head=3, n_embd=12, block_size=12, vocab_size=300)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return GPT(SHAPE).eval()


@torch.no_grad()
def test_scores_are_means_of_weights(model):
    n, B = 5, 3
    ids = repeated_ids(SHAPE, n, B, seed=4)
    assert ids.shape == (B, 2 * n)
    assert torch.equal(ids[:, :n], ids[:, n:])
    scores = score_heads(model, ids)
    model(ids, record="pattern")
    pattern = model.recording["pattern"].numpy()  # (L, B, nh, T, T)
    for name, back in (("previous_token", 1), ("duplicate_token", n), ("induction", n - 1)):
        for layer, head in np.ndindex(2, 3):
            weights = [
                pattern[layer, b, head, t, t - back] for b in range(B) for t in range(back, 2 * n)
            ]
            assert scores[name][layer, head] == pytest.approx(np.mean(weights), abs=1e-6)


def test_ids_are_drawn_by_seed():
    assert torch.equal(repeated_ids(SHAPE, 4, seed=1), repeated_ids(SHAPE, 4, seed=1))
    assert not torch.equal(repeated_ids(SHAPE, 4, seed=1), repeated_ids(SHAPE, 4, seed=2))


@pytest.mark.parametrize("ids", [torch.arange(6)[None], torch.arange(5)[None], torch.zeros(4)])
def test_what_is_not_repeated(model, ids):
    with pytest.raises(ConfigError):
        score_heads(model, ids)


def test_too_long():
    with pytest.raises(ConfigError, match="the model reads 2 to 12 tokens"):
        repeated_ids(SHAPE, 7)
