"""Beam search against transformers, with and without the cache."""

import pytest
import torch
from generation_cases import in_transformers, prompt
from helpers import make_model
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mingpt import ConfigError, GenerationError, Stop, beam_search, memory
from mingpt.generation.beams import bytes_needed
from mingpt.generation.sampling import log_likelihood


@settings(max_examples=40)
@given(
    seed=st.integers(0, 999),
    num_beams=st.sampled_from([1, 2, 3, 5]),
    length_penalty=st.sampled_from([1.0, 0.0, 2.0, -1.0, 0.5]),
    penalty=st.sampled_from([1.0, 1.0, 1.4]),
    end=st.sampled_from([None, 3, 14, 28, 32]),
    T=st.integers(1, 4),
    more=st.integers(1, 8),
)
# The best of all is found after one beam has ended that is better than those that go on.
@example(seed=7, num_beams=2, length_penalty=1.0, penalty=1.0, end=28, T=4, more=8)
# The search goes on until no running beam can replace the worst of those that have ended.
@example(seed=33, num_beams=4, length_penalty=1.0, penalty=1.0, end=28, T=4, more=5)
# More beams end than are kept, so that those that rank lower no longer count.
@example(seed=137, num_beams=5, length_penalty=1.0, penalty=1.4, end=32, T=4, more=9)
@example(seed=672, num_beams=2, length_penalty=2.0, penalty=1.4, end=32, T=3, more=4)
# A negative length penalty ranks beams of several lengths.
@example(seed=605, num_beams=2, length_penalty=-1.0, penalty=1.0, end=28, T=4, more=7)
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
    return model, in_transformers(model, tmp_path_factory.mktemp("model"))


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


def test_beams_that_do_not_fit_into_the_memory_are_refused(model, monkeypatch):
    said = r"num_beams 1000000000 \(--num-beams\) needs about [\d,.]+ GB of memory, and .* GB are"
    with pytest.raises(GenerationError, match=said):
        beam_search(model, [1, 2], 40, num_beams=10**9)
    need = bytes_needed(model, 2, 5, 50)
    monkeypatch.setattr(memory, "free_bytes", lambda device: need - 1)
    with pytest.raises(GenerationError, match="fewer beams"):
        beam_search(model, [1, 2], 5, num_beams=50)
    monkeypatch.setattr(memory, "free_bytes", lambda device: need)
    assert len(beam_search(model, [1, 2], 5, num_beams=50)) == 1


def test_beams_that_never_come_about_need_no_memory(model):
    assert bytes_needed(model, 2, 1, 10**9) < 10**6  # one step has one beam
    assert bytes_needed(model, 2, 2, 10**9) == bytes_needed(model, 2, 2, 1600)  # V squared
    assert bytes_needed(model, 2, 10**26, 10**26) > 10**20
    assert len(beam_search(model, [1, 2], 1, num_beams=10**9, num_samples=3)) == 3


def test_a_search_can_be_watched():
    """Each step's survivors are the next step's beams, and the last one's are the result."""
    steps = []
    samples = beam_search(make_model(), [1, 2], 4, num_beams=3, num_samples=3, observe=steps.append)
    assert [step.step for step in steps] == [0, 1, 2, 3]
    ids, totals = {0: ()}, {0: 0.0}
    for step in steps:
        ranks = [one.total for one in step.candidates]
        assert ranks == sorted(ranks, reverse=True)
        for one in step.candidates:
            assert one.total == pytest.approx(totals[one.beam] + one.log_prob, abs=1e-5)
            assert one.score == pytest.approx(one.total / (step.step + 1))
        kept = [one for one in step.candidates if one.kept_as is not None]
        ended = [(*ids[one.beam], one.token) for one in step.candidates if one.ended]
        totals = {one.kept_as: one.total for one in kept}
        ids = {one.kept_as: (*ids[one.beam], one.token) for one in kept}
        assert [*ids] == ([0, 1, 2] if step.step < 3 else [])
    assert [sample.ids for sample in samples] == ended


def test_a_candidate_that_ends_is_told_from_one_that_is_dropped():
    steps = []
    stop = Stop(end=beam_search(make_model(), [1, 2], 1, num_beams=1)[0].ids[0])
    beam_search(make_model(), [1, 2], 3, num_beams=2, stop=stop, observe=steps.append)
    first = steps[0].candidates
    assert [one.ended for one in first] == ["end", None, None, None]
    assert [one.kept_as for one in first] == [None, 0, 1, None]
