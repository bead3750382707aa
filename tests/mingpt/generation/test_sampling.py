"""Sampling: batches against one by one, seeds, stops, and greedy against transformers."""

import itertools

import pytest
import torch
from generation_cases import in_transformers, prompt
from helpers import make_model

from mingpt import ConfigError, Decoding, GenerationError, GPTConfig, Stop, beam_search, generate
from mingpt.generation import sampling
from mingpt.generation.sampling import log_likelihood


def test_greedy_is_that_of_transformers(model, tmp_path):
    theirs = in_transformers(model, tmp_path)
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
