"""Models that differ in one knob, side by side."""

import pytest
import torch
from training_cases import request, text_file

import mingpt
from mingpt import ConfigError
from mingpt.errors import TrainingError
from mingpt.generation.sampling import log_likelihood
from mingpt.training.comparison import Comparison, compare
from mingpt.training.result import TrainingResult
from patching.training_curves import draw_comparison_of

SENTENCE = "the cat sat"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    asked = request(text_file(folder), steps=10)
    return folder, compare(asked, folder / "run", "n_kv_head", [2, 1], sentences=[SENTENCE])


def test_each_model_has_its_own_folder_and_its_own_numbers(found):
    folder, comparison = found
    assert [one.value for one in comparison.models] == [2, 1]
    for one in comparison.models:
        place = folder / "run" / f"n_kv_head-{one.value}"
        model, tokenizer = mingpt.load(place)
        result = TrainingResult.load(place)
        assert model.config.kv_heads == one.value
        assert one.val_loss == result.best.val_loss
        with torch.no_grad():
            expected = sum(log_likelihood(model, tokenizer.encode(SENTENCE)))
        assert one.log_likelihoods == (pytest.approx(expected),)
        # Keys and values of 2 layers, each of value heads of size 8, in float32.
        assert one.cache_bytes == 2 * 2 * one.value * 8 * 4
        assert one.ms_cached > 0
        assert one.ms_uncached > 0


def test_it_reloads(found, tmp_path):
    folder, comparison = found
    assert Comparison.load(folder / "run") == comparison
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(TrainingError, match="is no comparison"):
        Comparison.load(tmp_path)


def test_its_figure(found):
    loss, cache, times = draw_comparison_of(found[1]).axes
    models = found[1].models
    assert list(loss.get_lines()[0].get_ydata()) == [one.val_loss for one in models]
    assert not loss.patches  # a bar that does not begin at 0 would mislead
    assert [bar.get_height() for bar in cache.patches] == [one.cache_bytes for one in models]
    assert len(times.patches) == 4
    assert [label.get_text() for label in loss.get_xticklabels()] == ["n_kv_head 2", "n_kv_head 1"]


@pytest.mark.parametrize(
    ("knob", "values", "error", "message"),
    [
        ("width", [1, 2], TrainingError, "no knob 'width'"),
        ("n_kv_head", [2], TrainingError, "needs two different values of n_kv_head"),
        ("n_kv_head", [2, 2], TrainingError, "needs two different values"),
        ("n_kv_head", [2, 3], ConfigError, "not divisible by n_kv_head 3"),
    ],
)
def test_what_is_refused_before_a_model_is_trained(tmp_path, knob, values, error, message):
    with pytest.raises(error, match=message):
        compare(request(text_file(tmp_path)), tmp_path / "run", knob, values)
    assert not (tmp_path / "run").exists()
