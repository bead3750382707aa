"""The candidates of one step: their probabilities, what is cut, what is chosen."""

import math

import pytest
import torch

from mingpt import Decoding
from mingpt.generation.sampling import Choice
from patching.continuation.step_candidates import step_candidates

LOGITS = torch.tensor([0.0625, 0.5, 0.125, 0.25, 0.0625]).log() + 3


def step(token: int, decoding: Decoding, k: int = 5, greedy: bool = False, ids=(0,)):
    choice = Choice(0, 0, 0, LOGITS, torch.tensor(ids), token, 0.0, None)
    return step_candidates(choice, decoding, k, "abcde".__getitem__, greedy=greedy)


def test_the_candidates_of_a_step():
    found = step(3, Decoding(top_k=3, top_p=0.8))
    assert [one.token for one in found[:3]] == ["b", "d", "c"]
    assert [one.rank for one in found] == [1, 2, 3, 4, 5]
    assert [one.logit for one in found] == pytest.approx(
        [math.log(p) + 3 for p in (0.5, 0.25, 0.125, 0.0625, 0.0625)], abs=1e-6
    )
    assert [one.probability for one in found] == pytest.approx(
        [0.5, 0.25, 0.125, 0.0625, 0.0625], abs=1e-6
    )
    assert [one.cumulative for one in found] == pytest.approx([4 / 7, 6 / 7, 1, 1, 1], abs=1e-6)
    # Among the tokens that top-k keeps, b and d have 6/7 of the probability: enough for 0.8.
    assert [one.cut for one in found] == [None, None, "top-p", "top-k", "top-k"]
    assert [one.drawn_with for one in found] == pytest.approx([2 / 3, 1 / 3, 0, 0, 0], abs=1e-6)
    assert [one.is_chosen for one in found] == [False, True, False, False, False]


def test_the_one_chosen_is_shown_wherever_it_ranks():
    found = step(2, Decoding(), k=1)
    assert [(one.rank, one.token, one.is_chosen) for one in found] == [
        (1, "b", False),
        (3, "c", True),
    ]


def test_probabilities_are_after_penalty_and_temperature():
    found = step(3, Decoding(0.5, repetition_penalty=2.0), ids=(1, 1))
    penalised = LOGITS.clone()
    penalised[1] /= 2
    expected = (penalised / 0.5).softmax(-1)
    for one in found:
        assert one.probability == pytest.approx(expected[one.id].item(), abs=1e-6)
        assert one.logit == pytest.approx(LOGITS[one.id].item())
    assert found[0].token == "d"


def test_greedy_cuts_nothing_and_takes_the_first():
    found = step(1, Decoding(), greedy=True)
    assert [one.cut for one in found] == [None] * 5
    assert [one.drawn_with for one in found] == [1, 0, 0, 0, 0]
    tied = Choice(0, 0, 0, torch.zeros(5), torch.tensor([0]), 0, 0.0, None)
    found = step_candidates(tied, Decoding(), 5, "abcde".__getitem__, greedy=True)
    assert sorted(one.drawn_with for one in found) == [0, 0, 0, 0, 1]
