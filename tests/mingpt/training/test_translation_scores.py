"""Translations and their scores."""

import sys

import pytest
from training_cases import SMALL, pair_file

import mingpt
from mingpt.training.request import TrainingRequest
from mingpt.training.run import train
from mingpt.training.translation import score, translate


def test_exact_bleu_and_chrf():
    wanted = ["La casa roja es grande.", "El coche es rojo."]
    assert score(wanted, wanted) == {
        "pairs": 2, "exact": 1, "bleu": pytest.approx(100), "chrf": pytest.approx(100)
    }  # fmt: skip
    found = score(["La casa roja es grande.", "El coche es azul."], wanted)
    assert found["exact"] == 0.5
    assert 40 < found["bleu"] < 95


def test_without_sacrebleu_the_exact_share_is_left(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert score(["a"], ["b"]) == {"pairs": 1, "exact": 0}


@pytest.mark.slow
def test_a_translation_ends_at_the_end_of_text(tmp_path):
    asked = TrainingRequest(
        pairs=str(pair_file(tmp_path)), knobs={**SMALL, "n_embd": 32}, steps=250, batch_size=16,
        learning_rate=1e-2, eval_every=125,
    )  # fmt: skip
    result = train(asked, tmp_path / "run")
    model, tokenizer = mingpt.load(tmp_path / "run")
    sources = ["105", "117", "120"]  # of different lengths none, and in one batch
    found = translate(model, tokenizer, sources)
    assert [len(one) for one in found] == [3, 3, 3]
    assert found[0] == translate(model, tokenizer, sources[:1])[0]
    assert result.translation["pairs"] == 6
    assert 0 <= result.translation["exact"] <= 1
