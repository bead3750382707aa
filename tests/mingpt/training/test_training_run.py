"""A run: it learns, stops early, goes on bit for bit, and its folder is whole."""

import dataclasses
import json
import math

import pytest
import torch
from training_cases import SMALL, pair_file, request, text_file

import mingpt
from mingpt.errors import CheckpointError, ConfigError, FileError, TrainingError
from mingpt.training import checkpoint
from mingpt.training.data import MOST_TESTED, TextSequences, read_texts
from mingpt.training.request import TrainingRequest
from mingpt.training.result import TrainingResult
from mingpt.training.run import mean_loss, saved_request, train
from mingpt.training.vocabulary import SEPARATOR


def weights(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_it_learns_and_its_folder_is_a_model(tmp_path):
    asked = request(text_file(tmp_path))
    result = train(asked, tmp_path / "run")
    assert [one.step for one in result.history] == [10, 20, 30]
    assert result.history[-1].val_loss < 0.8 * math.log(257)
    assert result.ended == "steps"
    model, tokenizer = mingpt.load(tmp_path / "run")
    assert (model.config.n_layer, model.config.vocab_size) == (2, 257)
    assert tokenizer.encode("cat") == [99, 97, 116]
    assert TrainingResult.load(tmp_path / "run") == result
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.json", "model.safetensors", "vocab.json", "merges.txt",
        "checkpoint.safetensors", "training.json",
    }  # fmt: skip


def test_the_test_part_is_measured_with_the_kept_weights(tmp_path):
    path = text_file(tmp_path)
    asked = request(path)
    result = train(asked, tmp_path / "run")
    model, tokenizer = mingpt.load(tmp_path / "run")
    test = read_texts([str(path)], 0.1, 0.1).test
    loss, _ = mean_loss(model, TextSequences(test, tokenizer, 16, "test"), asked, MOST_TESTED)
    assert result.test_loss == pytest.approx(loss)
    assert result.test_perplexity == pytest.approx(math.exp(loss))
    assert result.test_bits_per_byte == pytest.approx(loss / math.log(2))  # a token is a byte


@pytest.mark.parametrize("stop_at", [1, 10, 17, 25])
def test_a_run_that_goes_on_ends_with_the_weights_of_an_undisturbed_one(tmp_path, stop_at):
    knobs = {**SMALL, "resid_pdrop": 0.2}  # dropout draws from the random state
    asked = request(text_file(tmp_path), accumulate=2, knobs=knobs)
    whole = train(asked, tmp_path / "whole")
    steps = []
    first = train(
        asked, tmp_path / "broken",
        should_stop=lambda: steps.append(1) or len(steps) == stop_at,
    )  # fmt: skip
    assert first.ended == "interrupted"
    assert saved_request(tmp_path / "broken") == asked
    again = train(asked, tmp_path / "broken", resume=True)
    assert again.history == whole.history
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    names = [tmp_path / one / checkpoint.NAME for one in ("broken", "whole")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_a_caller_that_draws_numbers_changes_nothing(tmp_path):
    asked = request(text_file(tmp_path), knobs={**SMALL, "resid_pdrop": 0.2})
    train(asked, tmp_path / "plain")
    modes = []

    def watch(run):
        modes.append(run.model.training)
        torch.rand(3)

    train(asked, tmp_path / "watched", evaluated=watch)
    assert modes == [False] * 3
    assert weights(tmp_path / "plain") == weights(tmp_path / "watched")


def test_patience_ends_a_run_and_the_best_weights_are_kept(tmp_path):
    """A learning rate so high that the loss rises after its first steps."""
    asked = request(
        text_file(tmp_path), steps=200, eval_every=5, patience=3, learning_rate=0.5, warmup_steps=0
    )
    kept = []
    result = train(
        asked, tmp_path / "run",
        evaluated=lambda run: kept.append(run.model.transformer.wte.weight.detach().clone()),
    )  # fmt: skip
    assert result.ended == "patience"
    losses = [one.val_loss for one in result.history]
    best = losses.index(min(losses))
    assert len(losses) - 1 - best == 3
    model = mingpt.load(tmp_path / "run")[0]
    assert torch.equal(model.transformer.wte.weight, kept[best])
    again = train(asked, tmp_path / "run", resume=True)  # there is nothing left to do
    assert again.history == result.history


def test_without_patience_all_steps_are_done(tmp_path):
    asked = request(
        text_file(tmp_path), steps=60, eval_every=5, patience=0, learning_rate=0.5, warmup_steps=0
    )
    assert train(asked, tmp_path / "run").history[-1].step == 60


def test_fine_tuning_goes_on_from_a_model(tmp_path):
    asked = request(text_file(tmp_path))
    train(asked, tmp_path / "first")
    tuned = TrainingRequest(
        texts=asked.texts, start=str(tmp_path / "first"), steps=2, batch_size=4, seed=1,
        knobs={"resid_pdrop": 0.0},
    )  # fmt: skip
    result = train(tuned, tmp_path / "second")
    before = TrainingResult.load(tmp_path / "first").best.val_loss
    assert result.history[-1].val_loss == pytest.approx(before, abs=0.2)
    with pytest.raises(TrainingError, match=f"n_layer is the model's, which {tmp_path}"):
        train(dataclasses.replace(tuned, knobs={"n_layer": 3}), tmp_path / "third")
    with pytest.raises(TrainingError, match=r"has no token <\|sep\|>, which pairs need"):
        pairs = dataclasses.replace(tuned, texts=(), pairs=str(pair_file(tmp_path)))
        train(pairs, tmp_path / "third")


def test_pairs_are_trained_on(tmp_path):
    asked = TrainingRequest(
        pairs=str(pair_file(tmp_path)), knobs=SMALL, steps=150, batch_size=8, learning_rate=2e-2,
        eval_every=50,
    )  # fmt: skip
    result = train(asked, tmp_path / "run")
    assert result.history[-1].val_loss < 1.6
    _, tokenizer = mingpt.load(tmp_path / "run")
    assert tokenizer.encode(f"1{SEPARATOR}")[-1] == tokenizer.vocab[SEPARATOR]
    assert (tmp_path / "run" / "added_tokens.json").exists()


def test_auto_is_one_of_both_and_is_saved(tmp_path):
    train(request(text_file(tmp_path), precision="auto"), tmp_path / "run")
    assert saved_request(tmp_path / "run").precision in ("float32", "bfloat16")


def test_fine_tuning_keeps_the_base_where_nothing_is_better(tmp_path):
    asked = request(text_file(tmp_path))
    train(asked, tmp_path / "base")
    bad = TrainingRequest(
        texts=asked.texts, start=str(tmp_path / "base"), steps=6, batch_size=4, eval_every=2,
        learning_rate=0.3, warmup_steps=0,
    )  # fmt: skip
    result = train(bad, tmp_path / "tuned")
    assert [one.step for one in result.history] == [0, 2, 4, 6]
    assert result.best.step == 0
    assert result.history[0].train_loss is None
    assert (
        mingpt.load(tmp_path / "tuned")[0].checksum()
        == mingpt.load(tmp_path / "base")[0].checksum()
    )


def test_a_validation_loss_that_is_not_finite_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("mingpt.training.run.mean_loss", lambda *arguments: (math.nan, 1))
    with pytest.raises(TrainingError, match=r"validation loss is nan at step 10: try a smaller"):
        train(request(text_file(tmp_path)), tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("knobs", [{"n_layer": 2**24}, {"n_embd": 2**16}])
def test_a_model_that_is_larger_than_the_memory_is_refused_before_it_is_made(tmp_path, knobs):
    asked = request(text_file(tmp_path), knobs={**SMALL, **knobs})
    with pytest.raises(TrainingError, match=r"^training [\d,.]+M parameters needs about"):
        train(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_killed_run_left_half_written_is_deleted(tmp_path):
    asked = request(text_file(tmp_path))
    train(asked, tmp_path / "run", should_stop=lambda: True)
    (tmp_path / "run" / ".abc.part.safetensors").write_bytes(b"half")
    train(asked, tmp_path / "run", resume=True)
    assert not [*(tmp_path / "run").glob(".*")]


def test_bfloat16_learns_too(tmp_path):
    exact, rough = (
        train(request(text_file(tmp_path), precision=one), tmp_path / one)
        for one in ("float32", "bfloat16")
    )
    assert rough.history[-1].val_loss == pytest.approx(exact.history[-1].val_loss, abs=0.2)
    assert rough.history != exact.history


# --------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"texts": ()}, TrainingError, "needs texts, or a file of pairs"),
        ({"pairs": "x"}, TrainingError, "one of the two"),
        ({"preset": "huge"}, TrainingError, "no preset 'huge'; there are nano, micro, mini"),
        ({"vocab": "bpe"}, TrainingError, "no vocabulary 'bpe'"),
        ({"vocab": "bpe:257"}, TrainingError, "more than 257 tokens"),
        ({"knobs": {"width": 3}}, TrainingError, "no knob 'width'"),
        ({"knobs": {"n_head": 5}}, ConfigError, "not divisible by n_head 5"),
        ({"steps": 0}, ConfigError, "steps must be a whole number of at least 1"),
        ({"learning_rate": math.nan}, ConfigError, "learning_rate must be a number above 0"),
        ({"val_fraction": 0.5}, TrainingError, "between 0 and 0.5"),
        ({"precision": "int8"}, TrainingError, "no precision 'int8'"),
    ],
)
def test_requests_that_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        TrainingRequest(**{"texts": ("x",), **fields})


def test_a_request_survives_its_file():
    asked = TrainingRequest(texts=("a", "b"), knobs={"n_kv_head": 1}, vocab="bpe:300", steps=5)
    assert TrainingRequest.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked
    with pytest.raises(TrainingError, match="other fields"):
        TrainingRequest.from_dict({"texts": []})


def test_a_folder_that_is_taken_is_left_alone(tmp_path):
    asked = request(text_file(tmp_path))
    train(asked, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(TrainingError, match="holds a run already"):
        train(asked, tmp_path / "run")
    (tmp_path / "run" / checkpoint.NAME).rename(tmp_path / "kept")
    with pytest.raises(TrainingError, match="holds a model already"):
        train(asked, tmp_path / "run")
    with pytest.raises(TrainingError, match="holds no run to go on with"):
        train(asked, tmp_path / "run", resume=True)
    (tmp_path / "kept").rename(tmp_path / "run" / checkpoint.NAME)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}


def test_texts_that_changed_are_noticed(tmp_path):
    path = text_file(tmp_path)
    train(request(path), tmp_path / "run")
    path.write_text(path.read_text("utf-8") + "more\n", "utf-8")
    with pytest.raises(TrainingError, match="made with other texts"):
        train(request(path), tmp_path / "run", resume=True)


@pytest.mark.parametrize("cut", [0, 40, 2000])
def test_a_damaged_checkpoint_is_refused(tmp_path, cut):
    asked = request(text_file(tmp_path))
    train(asked, tmp_path / "run")
    path = tmp_path / "run" / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="is no checkpoint of a training run"):
        train(asked, tmp_path / "run", resume=True)


def test_a_checkpoint_of_another_shape_does_not_fit(tmp_path):
    path = text_file(tmp_path)
    train(request(path), tmp_path / "run")
    other = request(path, knobs={**SMALL, "n_embd": 32})
    with pytest.raises(CheckpointError, match="its weights have other names or shapes"):
        train(other, tmp_path / "run", resume=True)


@pytest.mark.parametrize("change", [lambda f: f.pop("history"), lambda f: f.update(ended="x")])
def test_a_changed_result_is_refused(tmp_path, change):
    train(request(text_file(tmp_path), steps=10), tmp_path / "run")
    path = tmp_path / "run" / "training.json"
    fields = json.loads(path.read_text("utf-8"))
    change(fields)
    path.write_text(json.dumps(fields), "utf-8")
    with pytest.raises(TrainingError, match="is no result of a training run"):
        TrainingResult.load(tmp_path / "run")


def test_a_full_disk_is_one_error_and_no_half_file(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mingpt.loading.tensor_files.save_file", full)
    with pytest.raises(FileError, match="No space left"):
        train(request(text_file(tmp_path)), tmp_path / "run")
    assert not [*(tmp_path / "run").glob("*.safetensors")]
    assert not [*(tmp_path / "run").glob(".*")]
