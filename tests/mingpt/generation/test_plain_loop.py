"""Generation with a cache against the definition, GPT.generate: one forward pass a token."""

import itertools

import numpy as np
import pytest
import torch
from generation_cases import prompt
from helpers import make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt import SITES, ConfigError, Decoding, KVCache, Patch, PatchError, generate
from mingpt.generation.decoding import draw
from mingpt.sites import HEAD_SITES


def both_ways(model, prompts, more, **asked):
    """Return the samples with the cache and without it, and the logits of the last step."""
    found = []
    for use_cache in (True, False):
        samples = generate(model, prompts, more, use_cache=use_cache, **asked)
        found.append((samples, model.last_logits))
    return found


def fed_by_seed(monkeypatch, seed: int) -> None:
    """Make torch.multinomial, which GPT.generate uses, draw by the random numbers of a seed."""
    random = np.random.default_rng(seed)

    def multinomial(probabilities, num_samples):
        uniform = torch.full((len(probabilities),), random.random(), dtype=torch.float64)
        return draw(probabilities.log(), uniform)[:, None]

    monkeypatch.setattr(torch, "multinomial", multinomial)


SHAPES = {
    "seed": st.integers(0, 99),
    "n_kv_head": st.sampled_from([1, 2, 4]),
    "flag": st.sampled_from([{}, {"reorder_and_upcast_attn": True}, {"bias": False}]),
    "B": st.integers(1, 3),
    "T": st.integers(1, 12),  # the context is 12; with `more`, sequences go beyond it
    "more": st.integers(1, 16),
}


@settings(max_examples=25)
@given(**SHAPES, top_k=st.sampled_from([None, 1, 5, 100]))
def test_it_is_the_plain_loop(seed, n_kv_head, flag, B, T, more, top_k):
    model = make_model(seed, n_head=4, n_kv_head=n_kv_head, **flag).double()
    ids = torch.randint(40, (B, T), generator=torch.Generator().manual_seed(seed))
    greedy = [found[0].ids for found in generate(model, ids.tolist(), more, greedy=True)]
    assert greedy == list(map(tuple, model.generate(ids, more)[:, T:].tolist()))
    decoding = Decoding(temperature=2.0, top_k=top_k)
    samples = generate(model, ids.tolist(), more, decoding=decoding, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        fed_by_seed(patch, seed)
        plain = model.generate(ids, more, temperature=2.0, do_sample=True, top_k=top_k)
    assert [found[0].ids for found in samples] == list(map(tuple, plain[:, T:].tolist()))


@settings(max_examples=25)
@given(**SHAPES)
def test_the_cache_changes_nothing(seed, n_kv_head, flag, B, T, more):
    model = make_model(seed, n_head=4, n_kv_head=n_kv_head, **flag).double()
    prompts = torch.randint(40, (B, T), generator=torch.Generator().manual_seed(seed)).tolist()
    for asked in ({"decoding": Decoding(2.0), "seed": seed}, {"greedy": True}):
        (cached, last), (plain, expected) = both_ways(model, prompts, more, **asked)
        assert [one.ids for found in cached for one in found] == [
            one.ids for found in plain for one in found
        ]
        assert {len(one.ids) for found in cached for one in found} == {more}
        torch.testing.assert_close(last, expected)


@pytest.mark.parametrize("site", SITES)
def test_the_cache_and_the_plain_loop_agree_under_a_patch(site, monkeypatch):
    model = make_model(n_head=4, n_kv_head=2).double()
    clean, corrupt = torch.tensor([prompt(7), prompt(7, seed=1)])[:, None]
    model(clean, record=site)
    decoding = Decoding(2.0)
    generate(model, corrupt.tolist(), 5, decoding=decoding)
    unpatched = model.last_logits
    heads = [None, 0] if site in HEAD_SITES else [None]
    for position, head in itertools.product((None, 2, -1), heads):
        patch = Patch(site, 0, position, head)
        # Nine tokens go past the context, where the patch ends.
        for more in (5, 9) if position is None else (9,):
            (cached, last), (plain, expected) = both_ways(
                model, corrupt.tolist(), more, decoding=decoding, patch=patch
            )
            assert cached[0][0].ids == plain[0][0].ids
            torch.testing.assert_close(last, expected)
            with pytest.MonkeyPatch.context() as fed:
                fed_by_seed(fed, 0)
                loop = model.generate(corrupt, more, 2.0, do_sample=True, patch=patch)
            assert tuple(loop[0, 7:].tolist()) == plain[0][0].ids
            if more == 5 and position is None:
                assert (last - unpatched).abs().max() > 1e-3  # the patch changes later tokens


def test_patches_from_a_recording_are_for_one_prompt_and_values_for_several(model):
    prompts = [prompt(5), prompt(7, seed=1)]
    model(torch.tensor([prompts[0]]), record=True)
    with pytest.raises(PatchError, match="are for one prompt; give patches with values"):
        generate(model, prompts, 3, greedy=True, patch=(0, 1))
    zero = Patch("mlp_out", 1, value=torch.zeros(16))
    both = generate(model, prompts, 3, greedy=True, patch=zero)
    for ids, (sample,) in zip(prompts, both, strict=True):
        plain = model.generate(torch.tensor([ids]), 3, patch=zero)
        assert sample.ids == tuple(plain[0, len(ids) :].tolist())


def test_step_by_step_with_a_cache_is_the_forward_pass(model):
    model = model.double()
    ids = torch.tensor([prompt(9), prompt(9, seed=1)])
    expected = model(ids)[0]
    cache = KVCache(model.config, 2, 11, model.lm_head.weight)
    for first, last in ((0, 4), (4, 5), (5, 9)):
        logits = model.next_logits(ids[:, first:last], cache)
        torch.testing.assert_close(logits, expected[:, last - 1])
        assert cache.length == last
    cache.select(torch.tensor([1, 1, 0]))
    torch.testing.assert_close(
        model.next_logits(torch.tensor([[3], [4], [3]]), cache),
        model(torch.cat((ids[[1, 1, 0]], torch.tensor([[3], [4], [3]])), 1))[0][:, -1],
    )
    with pytest.raises(ConfigError, match="room for 11 tokens, not for 10 and 2 more"):
        model.next_logits(ids[[0, 0, 0], :2], cache)
    with pytest.raises(ConfigError, match="1 sequences for a cache of 3"):
        model.next_logits(ids[:1, :1], cache)
    with pytest.raises(ConfigError, match="room for 1 to 12 tokens, not 13"):
        KVCache(model.config, 2, 13, model.lm_head.weight)


def test_the_cache_shrinks_with_the_heads():
    sizes = {}
    for n_kv_head in (1, 2, 4, None):
        model = make_model(n_head=4, n_kv_head=n_kv_head)
        sizes[n_kv_head] = KVCache(model.config, 5, 10, model.lm_head.weight).nbytes
    assert sizes[None] == 2 * 3 * 5 * 10 * 16 * 4  # k and v, layers, B, T, C, float32
    assert [sizes[None] // sizes[n] for n in (4, 2, 1)] == [1, 2, 4]


def test_generate_reads_one_token_a_step(model, monkeypatch):
    read = []
    stream = model.stream
    monkeypatch.setattr(
        model, "stream", lambda idx, *rest: read.append(tuple(idx.shape)) or stream(idx, *rest)
    )
    generate(model, [prompt(10)], 5, greedy=True)
    assert read == [(1, 10), (1, 1), (1, 1), (1, 12), (1, 12)]  # then the window moves
    read.clear()
    generate(model, [prompt(10)], 3, greedy=True, use_cache=False)
    assert read == [(1, 10), (1, 11), (1, 12)]
    read.clear()
    model.generate(torch.tensor([prompt(10)]), 4)
    assert read == [(1, 10), (1, 11), (1, 12), (1, 12)]
