"""Decoding: penalty, temperature and cuts against transformers, and draws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mingpt import ConfigError, Decoding
from mingpt.generation.decoding import draw

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
