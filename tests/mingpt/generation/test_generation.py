"""Decoding against transformers, the cache against the definition, batches against one by one."""

import itertools

import numpy as np
import pytest
import torch
from helpers import make_model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel, LogitsProcessorList
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mingpt import (
    SITES,
    ConfigError,
    Decoding,
    GenerationError,
    GPTConfig,
    KVCache,
    Patch,
    PatchError,
    Stop,
    beam_search,
    generate,
)
from mingpt.generation import sampling
from mingpt.generation.decoding import draw
from mingpt.generation.sampling import log_likelihood
from mingpt.loading.model_files import save
from mingpt.sites import HEAD_SITES


def prompt(T: int, seed: int = 0) -> list[int]:
    return torch.randint(40, (T,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture
def theirs(model, tmp_path) -> GPT2LMHeadModel:
    """Return the same model in transformers."""
    save(model, tmp_path)
    return GPT2LMHeadModel.from_pretrained(tmp_path).eval()


# --------------------------------------------------------------------- the definition, the cache


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


# --------------------------------------------------------------------- decoding

settings_ = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([1.0, 0.3, 0.8, 2.5]),
        "top_k": st.sampled_from([None, 1, 3, 17, 40, 99]),
        "top_p": st.sampled_from([None, 1.0, 0.95, 0.7, 0.2, 0.01]),
        "repetition_penalty": st.sampled_from([1.0, 1.3, 0.6]),
    }
)


@settings(max_examples=60)
@given(fields=settings_, seed=st.integers(0, 999), ties=st.booleans())
def test_the_distribution_is_that_of_transformers_processors(fields, seed, ties):
    random = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(5, 40, generator=random)
    if ties:
        # Among equal scores, the sort decides which ones top-p keeps; top-k keeps all.
        logits, fields = logits.round(), {**fields, "top_p": None}
    ids = torch.randint(40, (5, 7), generator=random)
    processors = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(fields["repetition_penalty"])]
    )
    processors.append(TemperatureLogitsWarper(fields["temperature"]))
    if fields["top_k"] is not None:
        processors.append(TopKLogitsWarper(fields["top_k"]))
    if fields["top_p"] not in (None, 1.0):
        processors.append(TopPLogitsWarper(fields["top_p"]))
    expected = processors(ids, logits.clone()).softmax(-1)
    got = Decoding(**fields).filtered(logits, ids).softmax(-1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("p", "kept"), [(0.1, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (0.9, 4), (1e-30, 1)]
)
def test_top_p_keeps_the_token_that_crosses_the_line(p, kept):
    logits = torch.tensor([[0.125, 0.5, 0.0625, 0.25, 0.0625]], dtype=torch.float64).log()
    keep = Decoding(top_p=p).filtered(logits, torch.zeros(1, 1, dtype=torch.long)).isfinite()
    assert logits.exp()[keep].sort(descending=True).values.tolist() == pytest.approx(
        [*[0.5, 0.25, 0.125, 0.0625][:kept]]
    )


def test_top_p_of_one_cuts_nothing():
    """Even if the likeliest token's probability is 1 in float32."""
    logits = torch.zeros(1, 40)
    logits[0, 3] = 60
    ids = torch.zeros(1, 1, dtype=torch.long)
    assert Decoding(top_p=1.0).filtered(logits, ids).isfinite().all()
    assert Decoding(top_p=0.999).filtered(logits, ids).isfinite().sum() == 1


def test_rows_that_top_k_leaves_different_numbers_of():
    """Ties with the k-th are kept, in one row and not in the other."""
    logits = torch.tensor([[3.0, 2, 2, 2, 2, 0], [5.0, 4, 3, 2, 1, 0]])
    ids = torch.zeros(2, 1, dtype=torch.long)
    kept = Decoding(top_k=2, top_p=0.99).filtered(logits, ids).isfinite()
    assert kept.tolist() == [[True] * 5 + [False], [True] * 2 + [False] * 4]


@pytest.mark.parametrize("p", [1e-8, 1e-50])
def test_the_likeliest_is_kept_however_small_p_is(p):
    kept = Decoding(top_p=p).filtered(torch.zeros(1, 40), torch.zeros(1, 1, dtype=torch.long))
    assert kept.isfinite().sum() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_cut_in_float32(dtype):
    """Penalty, temperature and sums are not rounded to the few digits that the logits have."""
    random = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(3, 2000, generator=random)).to(dtype)
    ids = torch.randint(2000, (3, 50), generator=random)
    for decoding in (Decoding(), Decoding(top_p=0.9), Decoding(0.7, 300, 0.8, 1.3)):
        expected = decoding.filtered(logits.float(), ids)
        torch.testing.assert_close(decoding.filtered(logits, ids), expected, rtol=0, atol=0)
    even = Decoding(top_p=0.9).filtered(torch.zeros(1, 2000, dtype=dtype), ids[:1]).isfinite()
    assert abs(even.sum().item() - 1800) <= 1


def test_no_temperature_is_too_low_or_too_high():
    logits = torch.tensor([[3.0, 80.0, -50.0]])
    ids = torch.zeros(1, 1, dtype=torch.long)
    for temperature, expected in ((1e-300, [0, 1, 0]), (1e300, [1 / 3] * 3)):
        got = Decoding(temperature).filtered(logits, ids).softmax(-1)
        torch.testing.assert_close(got, torch.tensor([expected], dtype=torch.float32))


def test_a_draw_is_the_inverse_of_the_cumulative_distribution():
    probability = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0], dtype=torch.float64)
    numbers = [0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53]
    drawn = draw(probability.log().expand(6, 6), torch.tensor(numbers, dtype=torch.float64))
    assert drawn.tolist() == [1, 1, 3, 3, 4, 4]
    # In float32 such a long sum would be off by dozens of tokens.
    flat, number = torch.zeros(1, 2_000_000), torch.tensor([0.7300001], dtype=torch.float64)
    assert abs(draw(flat, number).item() - 1_460_000) <= 1
    even = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    scores = torch.randn(40, generator=torch.Generator().manual_seed(0))
    shares = draw(scores.expand(4000, 40), even).bincount(minlength=40) / 4000
    torch.testing.assert_close(shares, scores.softmax(-1), rtol=0, atol=1 / 4000)


def test_greedy_is_that_of_transformers(model, theirs):
    for penalty, end in itertools.product((1.0, 1.5), (None, 7, 21, 30)):
        (sample,) = generate(
            model, [prompt(4)], 8, greedy=True, stop=Stop(end),
            decoding=Decoding(repetition_penalty=penalty),
        )[0]  # fmt: skip
        expected = theirs.generate(
            torch.tensor([prompt(4)]), attention_mask=torch.ones(1, 4), max_new_tokens=8,
            do_sample=False, repetition_penalty=penalty, eos_token_id=end, pad_token_id=0,
        )  # fmt: skip
        assert [*sample.prompt, *sample.ids] == expected[0].tolist()
        assert sample.ended == ("end" if sample.ids[-1] == end else "length")
        assert sample.seed is None


@settings(max_examples=40)
@given(
    seed=st.integers(0, 999),
    num_beams=st.sampled_from([1, 2, 3, 5]),
    length_penalty=st.sampled_from([1.0, 0.0, 2.0, -1.0, 0.5]),
    penalty=st.sampled_from([1.0, 1.0, 1.4]),
    end=st.sampled_from([None, 3, 14, 28]),
    T=st.integers(1, 4),
    more=st.integers(1, 8),
)
# The best of all is found after one beam has ended that is better than those that go on.
@example(seed=7, num_beams=2, length_penalty=1.0, penalty=1.0, end=28, T=4, more=8)
def test_beams_are_those_of_transformers(
    beam_models, seed, num_beams, length_penalty, penalty, end, T, more
):
    model, theirs = beam_models
    ids = prompt(T, seed)
    found = beam_search(
        model, ids, more, num_beams=num_beams, num_samples=num_beams,
        length_penalty=length_penalty, repetition_penalty=penalty, stop=Stop(end),
    )  # fmt: skip
    expected = theirs.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, T), max_new_tokens=more,
        num_beams=num_beams, num_return_sequences=num_beams, length_penalty=length_penalty,
        repetition_penalty=penalty, do_sample=False, early_stopping=False,
        eos_token_id=end, pad_token_id=39 if end is None else end,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    for sample, sequence in zip(found, expected.sequences.tolist(), strict=True):
        length = T + len(sample.ids)
        assert [*ids, *sample.ids] == sequence[:length]
        assert set(sequence[length:]) <= {39 if end is None else end}
        assert sample.ended == ("end" if sample.ids[-1] == end else "length")
    if num_beams > 1:
        scores = [sample.score for sample in found]
        assert scores == pytest.approx(expected.sequences_scores.tolist(), abs=1e-5)
        assert scores == sorted(scores, reverse=True)


@pytest.fixture(scope="module")
def beam_models(tmp_path_factory):
    model = make_model(initializer_range=0.2)
    directory = tmp_path_factory.mktemp("model")
    save(model, directory)
    return model, GPT2LMHeadModel.from_pretrained(directory).eval()


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_beams_carry_the_models_own_log_probabilities(model, penalty):
    for use_cache in (True, False):
        found = beam_search(
            model.double(), prompt(5), 6, num_beams=4, num_samples=3, length_penalty=0.7,
            repetition_penalty=penalty, use_cache=use_cache,
        )  # fmt: skip
        for sample in found:
            ids = [*sample.prompt, *sample.ids]
            assert sample.log_probs == pytest.approx(log_likelihood(model, ids)[4:])
            if penalty == 1:
                assert sample.score == pytest.approx(sample.log_prob / 6**0.7)
        assert len({sample.ids for sample in found}) == 3


def test_beams_go_on_past_the_context(model):
    cached, plain = (
        beam_search(model.double(), prompt(9), 8, num_beams=3, use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert cached[0].ids == plain[0].ids
    assert len(cached[0].ids) == 8


def test_a_text_to_stop_at_ends_a_beam(model):
    ends = Stop(texts=("28",), decode=lambda ids: " ".join(map(str, ids)))
    found = beam_search(model, prompt(5), 6, num_beams=4, num_samples=4, stop=ends)
    for sample in found:
        text = [str(number) for number in sample.ids]
        assert "28" not in text[:-1]
        assert sample.ended == ("stop" if text[-1] == "28" else "length")
    assert {sample.ended for sample in found} == {"stop", "length"}


# --------------------------------------------------------------------- samples

PROMPTS = [prompt(5), prompt(3, 1), prompt(5, 2), prompt(12, 3), prompt(1, 4)]
DECODING = Decoding(0.9, 20, 0.95, 1.1)


def samples_of(model, prompts, more=6, **asked):
    return generate(model, prompts, more, decoding=DECODING, stop=Stop(34), **asked)


@pytest.mark.parametrize("room", [sampling.BATCH_BYTES, 20_000, 1])
def test_a_batch_is_its_prompts_one_by_one(monkeypatch, room):
    model = make_model(n_kv_head=1).double()
    alone = [samples_of(model, [ids], num_samples=3, seed=5)[0] for ids in PROMPTS]
    monkeypatch.setattr(sampling, "BATCH_BYTES", room)
    together = samples_of(model, PROMPTS, num_samples=3, seed=5)
    plain = samples_of(model, PROMPTS, num_samples=3, seed=5, use_cache=False)
    for batched in (together, plain):
        for expected, got in zip(alone, batched, strict=True):
            assert [(s.prompt, s.ids, s.ended, s.seed) for s in got] == [
                (s.prompt, s.ids, s.ended, s.seed) for s in expected
            ]
            for one, other in zip(got, expected, strict=True):
                assert one.log_probs == pytest.approx(other.log_probs, abs=1e-9)
    ended = {sample.ended for samples in alone for sample in samples}
    assert ended == {"end", "length"}  # some leave the batch before the others


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_draws_the_same(model):
    model = model.double()
    here = samples_of(model, PROMPTS, num_samples=3)
    there = samples_of(model.cuda(), PROMPTS, num_samples=3)
    assert [[s.ids for s in of_prompt] for of_prompt in there] == [
        [s.ids for s in of_prompt] for of_prompt in here
    ]
    beams = beam_search(model, PROMPTS[0], 6, num_beams=4, num_samples=4)
    assert [s.ids for s in beams] == [
        s.ids for s in beam_search(model.cpu(), PROMPTS[0], 6, num_beams=4, num_samples=4)
    ]


def test_a_batch_has_no_more_than_fits():
    """Count GPT-2's keys and values, its scores, and attention weights of a whole window."""
    config = GPTConfig()
    short = sampling.at_once(config, 11, 211, 4)
    assert 20 < short < sampling.BATCH_BYTES / (73728 * 211)
    assert sampling.at_once(config, 1000, 1024, 4) <= 3
    assert sampling.at_once(config, 11, 1025, 4) <= 3
    assert sampling.at_once(GPTConfig(n_kv_head=1), 11, 211, 4) > 3 * short
    # In half precision nearly twice as many; of the candidates, as much.
    assert 1.5 < sampling.at_once(config, 11, 211, 2) / short < 2


def test_every_sample_can_be_drawn_again_by_its_seed(model):
    (several,) = samples_of(model, [PROMPTS[0]], num_samples=4, seed=10)
    assert [sample.seed for sample in several] == [10, 11, 12, 13]
    for sample in several:
        assert samples_of(model, [PROMPTS[0]], seed=sample.seed)[0][0].ids == sample.ids
    assert len({sample.ids for sample in several}) == 4


def test_log_probabilities_are_the_models_own(model):
    (sample,) = samples_of(model, [PROMPTS[0]])[0]
    ids = torch.tensor([[*sample.prompt, *sample.ids]])
    expected = model(ids)[0].log_softmax(-1)[0, range(4, ids.size(1) - 1), sample.ids]
    assert sample.log_probs == pytest.approx(expected.tolist(), abs=1e-5)
    assert sample.log_prob == pytest.approx(expected.sum().item(), abs=1e-5)
    whole = log_likelihood(model, ids[0].tolist())
    assert whole[4:] == pytest.approx(sample.log_probs, abs=1e-5)
    assert log_likelihood(model, [3]) == []


def test_samples_follow_the_distribution(model):
    """Over many seeds, each first token occurs as often as its probability says."""
    (drawn,) = generate(model, [prompt(5)], 1, num_samples=3000)
    shares = torch.tensor([sample.ids[0] for sample in drawn]).bincount(minlength=40) / 3000
    expected = model(torch.tensor([prompt(5)]))[0][0, -1].softmax(-1)
    # Each share is within five standard deviations of a binomial's.
    assert ((shares - expected).abs() <= 5 * (expected / 3000).sqrt() + 1e-3).all()


def test_texts_to_stop_at(model):
    def decode(ids):
        return "".join(chr(97 + number % 26) for number in ids)

    (plain,) = generate(model, [prompt(5)], 7, greedy=True)[0]
    text = decode(plain.ids)
    (sample,) = generate(
        model, [prompt(5)], 7, greedy=True, stop=Stop(texts=("?", text[2:4]), decode=decode)
    )[0]
    first = text.index(text[2:4]) + 2
    assert decode(sample.ids) == text[:first]
    assert sample.ended == "stop"


def test_a_text_to_stop_at_may_begin_and_end_inside_tokens(model):
    def decode(ids):
        return "".join(f"<{number}>" for number in ids)

    (plain,) = generate(model, [prompt(5)], 7, seed=1)[0]
    text = f"{plain.ids[2]}><{str(plain.ids[3])[0]}"
    (sample,) = generate(model, [prompt(5)], 7, seed=1, stop=Stop(texts=(text,), decode=decode))[0]
    assert sample.ids == plain.ids[:4]
    assert sample.ended == "stop"


def test_only_the_end_of_a_long_text_is_decoded_for_each_token():
    seen = []
    stop = Stop(texts=("\u4e2d",), decode=lambda ids: seen.append(len(ids)) or "")
    stop.reason(range(1000))
    assert seen == [7]


def test_log_probabilities_of_half_precision_are_worked_out_in_float32():
    model = make_model().bfloat16()
    (sample,) = generate(model, [prompt(5)], 1)[0]
    (beam,) = beam_search(model, prompt(5), 1, num_beams=1)
    for one in (sample, beam):
        logits = model(torch.tensor([prompt(5)]))[0][0, -1].float()
        assert one.log_probs[0] == pytest.approx(
            logits.log_softmax(-1)[one.ids[0]].item(), abs=1e-5
        )


def test_a_prompt_is_read_once_for_all_its_samples(model, monkeypatch):
    read = []
    stream = model.stream
    monkeypatch.setattr(
        model, "stream", lambda idx, *rest: read.append(tuple(idx.shape)) or stream(idx, *rest)
    )
    generate(model, [prompt(5), prompt(5, 2)], 3, num_samples=4)
    assert read == [(2, 5), (8, 1), (8, 1)]


def test_greedy_asks_for_the_likeliest_at_any_temperature(model):
    expected = generate(model, [prompt(5)], 5, greedy=True)[0][0].ids
    for fields in ({"temperature": 1e45}, {"temperature": 1e-45}, {"top_p": 0.1}):
        found = generate(model, [prompt(5)], 5, greedy=True, decoding=Decoding(**fields))
        assert found[0][0].ids == expected


def test_what_an_observer_sees(model):
    seen = []
    samples = samples_of(model, PROMPTS[:2], num_samples=2, observe=seen.append)
    for number, of_prompt in enumerate(samples):
        for n, sample in enumerate(of_prompt):
            mine = [choice for choice in seen if (choice.prompt, choice.sample) == (number, n)]
            assert [choice.step for choice in mine] == [*range(len(sample.ids))]
            assert [choice.token for choice in mine] == [*sample.ids]
            assert [choice.log_prob for choice in mine] == [*sample.log_probs]
            assert [choice.ended for choice in mine] == [None] * (len(mine) - 1) + [sample.ended]
            for choice in mine:
                before = [*sample.prompt, *sample.ids[: choice.step]]
                assert choice.ids.tolist() == before
                expected = model(torch.tensor([before]))[0][0, -1]
                torch.testing.assert_close(choice.logits, expected, rtol=1e-4, atol=1e-5)


def test_no_token_at_all(model):
    (beam,) = beam_search(model, prompt(3), 0, num_beams=2)
    assert (beam.ids, beam.ended, beam.score) == ((), "length", 0)
    (sample,) = generate(model, [prompt(3)], 0)[0]
    assert (sample.ids, sample.ended, sample.log_prob) == ((), "length", 0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompts": []}, "there is no prompt"),
        ({"prompts": [[1], []]}, r"^prompt 2 has 0 tokens, the model reads 1 to 12$"),
        ({"prompts": [[1] * 13]}, r"^the prompt has 13 tokens, the model reads 1 to 12$"),
        ({"prompts": [[40]]}, "ids that are not from 0 to 39"),
        ({"prompts": [1, 2]}, "prompt 1 is no sequence of token ids: 1"),
        ({"prompts": ["ab"]}, "the prompt is no sequence of token ids: 'ab'"),
        ({"greedy": True, "num_samples": 2}, "greedy has one continuation of a prompt, not 2"),
        ({"prompts": [[-1]]}, "ids that are not from 0 to 39"),
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1, not 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"max_new_tokens": -1}, "max_new_tokens must be a whole number of at least 0, not -1"),
    ],
)
def test_bad_requests(model, asked, message):
    with pytest.raises(ConfigError, match=message):
        generate(model, **{"prompts": [[1]], "max_new_tokens": 1, **asked})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0}, "temperature must be a number above 0, not 0"),
        ({"temperature": float("nan")}, "temperature must be a number above 0, not nan"),
        ({"temperature": float("inf")}, "temperature must be a number above 0, not inf"),
        ({"temperature": "1"}, "temperature must be a number above 0, not '1'"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1, not 0"),
        ({"top_k": 2.5}, "top_k must be a whole number of at least 1, not 2.5"),
        ({"top_p": 0}, r"top_p must be a number in \(0, 1\], not 0"),
        ({"top_p": 1.01}, r"top_p must be a number in \(0, 1\], not 1.01"),
        (
            {"repetition_penalty": 0},
            "repetition_penalty must be a number from 0.001 to 1000, not 0",
        ),
        ({"repetition_penalty": 1e-40}, "must be a number from 0.001 to 1000"),
        ({"temperature": True}, "temperature must be a number above 0, not True"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(ConfigError, match=message):
        Decoding(**fields)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"num_beams": 0}, "num_beams must be a whole number of at least 1, not 0"),
        ({"num_beams": 2, "num_samples": 3}, "2 beams cannot give 3 continuations"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty must be from -10"),
        ({"num_beams": 2, "length_penalty": 1e9}, "length_penalty must be from -10 to 10"),
        ({"num_beams": 2, "repetition_penalty": 0}, "repetition_penalty must be a number from"),
        ({"num_beams": 2, "length_penalty": "1"}, "length_penalty must be from -10 to 10"),
        ({"num_beams": 2, "num_samples": 0}, "num_samples must be a whole number"),
        ({"num_beams": 2, "prompt": []}, "the prompt has 0 tokens"),
    ],
)
def test_bad_beams(model, asked, message):
    with pytest.raises(ConfigError, match=message):
        beam_search(model, **{"prompt": [1], "max_new_tokens": 1, **asked})


def test_texts_to_stop_at_are_checked():
    with pytest.raises(ConfigError, match="a text to stop at is empty"):
        Stop(texts=("a", ""), decode=str)
    with pytest.raises(ConfigError, match="need a tokenizer's decode"):
        Stop(texts=("a",))
    with pytest.raises(ConfigError, match="are several, in a tuple, not 'ab'"):
        Stop(texts="ab", decode=str)


def test_logits_that_are_not_finite_are_refused(model):
    with torch.no_grad():
        model.transformer.wte.weight[3] = float("nan")
    for run in (
        lambda: generate(model, [[1]], 1),
        lambda: beam_search(model, [1], 1, num_beams=2),
        lambda: log_likelihood(model, [1, 2]),
        lambda: model.generate(torch.tensor([[1]]), 1),
        lambda: model.generate(torch.tensor([[1]]), 1, do_sample=True),
    ):
        with pytest.raises(GenerationError, match="logits are not finite in float32"):
            run()
