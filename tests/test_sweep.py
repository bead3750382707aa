"""The sweep against hand-made runs; metrics; results and their files."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import make_model

from patching import METRICS, PromptPair, ResultError, SweepError, SweepResult, patch_sweep


def last(model, ids, **flags):
    model(torch.tensor([ids]), **flags)
    return model.last_logits[0]


def by_hand(model, pair, layer, position):
    """Logits after one patch, done with a hook instead of the model's own patching."""
    keep = {}

    def clean_hook(module, inputs, output):
        keep["vector"] = output[0, position].clone()

    def patch_hook(module, inputs, output):
        output = output.clone()
        output[0, position] = keep["vector"]
        return output

    block = model.transformer.h[layer]
    for hook, ids in ((clean_hook, pair.clean_ids), (patch_hook, pair.corrupt_ids)):
        handle = block.register_forward_hook(hook)
        logits = last(model, ids)
        handle.remove()
    return logits


EXPECTED = {
    "logit_diff": lambda x, clean, corrupt: x[22] - x[11],
    "target_logit": lambda x, clean, corrupt: x[11] - clean[11],
    "prob_diff": lambda x, clean, corrupt: x.softmax(0)[22] - x.softmax(0)[11],
    "recovery": lambda x, clean, corrupt: (
        ((corrupt[22] - corrupt[11]) - (x[22] - x[11]))
        / ((corrupt[22] - corrupt[11]) - (clean[22] - clean[11]))
    ),
}


@pytest.mark.parametrize("metric", EXPECTED)
@torch.no_grad()
def test_every_cell_is_the_metric_of_that_patch(model, pair, metric):
    result = patch_sweep(model, pair, metric=metric)
    clean, corrupt = last(model, pair.clean_ids), last(model, pair.corrupt_ids)
    expected = [
        [EXPECTED[metric](by_hand(model, pair, layer, p), clean, corrupt).item() for p in range(7)]
        for layer in range(3)
    ]
    np.testing.assert_allclose(result.values, expected, rtol=1e-4, atol=1e-5)
    for value, run in ((result.clean_value, clean), (result.corrupt_value, corrupt)):
        assert value == pytest.approx(EXPECTED[metric](run, clean, corrupt).item(), abs=1e-6)


def test_all_metrics_are_tested():
    assert METRICS.keys() == EXPECTED.keys()


def test_the_shape_that_section_one_promises(model, pair):
    values = patch_sweep(model, pair)
    grid = values.values
    assert grid.shape == (3, 7)
    assert grid.dtype == np.float32
    corrupt, clean = np.float32(values.corrupt_value), np.float32(values.clean_value)
    assert (grid[:, :2] == corrupt).all()  # before the first differing token
    assert (grid[-1, :-1] == corrupt).all()  # the last row but its last cell
    assert grid[-1, -1] == clean
    assert (grid[:-1, 2:] != corrupt).all()
    assert clean != corrupt


def test_recovery_is_zero_and_one_at_its_ends(model, pair):
    grid = patch_sweep(model, pair, metric="recovery").values
    assert (grid[:, :2] == 0).all()
    assert grid[-1, -1] == 1


def test_a_float64_model_gives_float64(model, pair):
    result = patch_sweep(model.double(), pair)
    assert result.values.dtype == np.float64
    assert result.versions["dtype"] == "float64"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_identities(model, pair, dtype):
    result = patch_sweep(model.to(dtype), pair)
    assert result.values.dtype == np.float32
    assert (result.values[:, :2] == np.float32(result.corrupt_value)).all()
    assert result.values[-1, -1] == np.float32(result.clean_value)


def test_chosen_layers_and_positions(model, pair):
    full = patch_sweep(model, pair).values
    part = patch_sweep(model, pair, layers=[-1, 0, 0], positions=[2, -1])
    assert part.arguments["layers"] == [0, 2]
    assert part.arguments["positions"] == [2, 6]
    asked = np.zeros((3, 7), dtype=bool)
    asked[np.ix_([0, 2], [2, 6])] = True
    assert np.array_equal(np.isnan(part.values), ~asked)
    assert np.array_equal(part.values[asked], full[asked])


def test_one_token_and_one_layer():
    model = make_model(n_layer=1)
    result = patch_sweep(model, PromptPair.from_ids([3], [4], 1, 2))
    assert result.values.shape == (1, 1)
    assert result.values[0, 0] == np.float32(result.clean_value)


def test_progress_counts_the_cells(model, pair):
    seen = []
    patch_sweep(model, pair, layers=[1], progress=lambda *step: seen.append(step))
    assert seen == [(done, 7) for done in range(1, 8)]


def test_training_mode_is_put_back_and_dropout_is_off(pair):
    model = make_model(resid_pdrop=0.5)
    expected = patch_sweep(model, pair).values
    model.train()
    assert np.array_equal(patch_sweep(model, pair).values, expected)
    assert model.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "loss"}, "no metric 'loss'; there are logit_diff, "),
        ({"layers": [3]}, "layer 3 is out of range: there are 3, 0 to 2"),
        ({"layers": [-4]}, "layer -4 is out of range"),
        ({"positions": [7]}, "position 7 is out of range"),
        ({"positions": []}, "no positions"),
        ({"layers": [0.5]}, "layers must be whole numbers"),
    ],
)
def test_bad_requests_are_refused_before_any_forward(model, pair, settings, message):
    with pytest.raises(SweepError, match=message):
        patch_sweep(model, pair, **settings)
    assert model.last_logits is None


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (PromptPair.from_ids([1] * 13, [2] * 13, 3, 4), "13 tokens, the model reads at most 12"),
        (PromptPair.from_ids([1], [40], 3, 4), "id 40 is out of range: the model has 40 tokens"),
        (PromptPair.from_ids([1], [2], 3, 40), "id 40 is out of range"),
    ],
)
def test_pairs_that_do_not_fit_the_model_are_refused(model, pair, message):
    with pytest.raises(SweepError, match=message):
        patch_sweep(model, pair)
    assert model.last_logits is None


def test_recovery_is_refused_where_clean_and_corrupt_agree(model):
    with torch.no_grad():
        model.transformer.wte.weight[22] = model.transformer.wte.weight[11]
    pair = PromptPair.from_ids([5, 11, 3], [5, 22, 3], 1, 2)
    with pytest.raises(SweepError, match="recovery is undefined"):
        patch_sweep(model, pair, metric="recovery")
    assert patch_sweep(model, pair).values.shape == (3, 3)


def test_logits_that_overflow_are_refused(model, pair):
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(6e4)
    with pytest.raises(SweepError, match="not finite in float16"):
        patch_sweep(model.half(), pair)


# --------------------------------------------------------------------- results


def test_next_tokens(model, pair):
    result = patch_sweep(model, pair)
    logits = last(model, pair.corrupt_ids)
    probabilities = logits.double().softmax(0)
    order = logits.argsort(descending=True).tolist()
    table = result.corrupt_next
    assert [row.id for row in table.top] == order[:20]
    assert [row.rank for row in table.top] == [*range(1, 21)]
    assert table.top[3].probability == pytest.approx(probabilities[order[3]].item())
    assert table.foil.id == 22
    assert table.foil.rank == order.index(22) + 1
    assert table.foil.logit == pytest.approx(logits[22].item())
    assert table.target.token == "id:11"
    assert result.clean_next != table


@pytest.mark.parametrize("name", ["run", "run.npz", "run.json", "v1.2-run"])
def test_save_and_load(model, pair, tmp_path, name):
    result = patch_sweep(model, pair, layers=[0, 1])
    result.notes = ("a note",)
    npz, readable = result.save(tmp_path / "sub" / name)
    assert npz.name == name.removesuffix(".npz").removesuffix(".json") + ".npz"
    again = SweepResult.load(npz)
    assert np.array_equal(again.values, result.values, equal_nan=True)
    assert again.values.dtype == result.values.dtype
    assert again.pair == pair
    assert again.checksum == model.checksum()
    assert again.clean_next == result.clean_next
    assert again.to_dict() == result.to_dict()
    assert json.loads(readable.read_text()) == json.loads(json.dumps(result.to_dict()))
    with np.load(npz, allow_pickle=False) as arrays:
        assert {"values", "pair", "metric", "clean_value", "corrupt_value"} <= set(arrays.files)
        assert set(arrays.files) == set(result.to_dict())
        assert arrays["metric"].item() == "logit_diff"
        assert arrays["clean_value"].item() == result.clean_value
    again.save(tmp_path / "again")
    assert SweepResult.load(tmp_path / "again").to_dict() == again.to_dict()


def test_nan_is_null_in_json(model, pair):
    values = patch_sweep(model, pair, layers=[0]).to_dict()["values"]
    assert values[1] == [None] * 7
    assert not any(value is None or math.isnan(value) for value in values[0])


def test_awkward_tokens_survive_saving(model, tmp_path):
    tokens = {1: "\x00", 2: "a\x00", 3: '"\n', 4: "\u202e🙂"}
    pair = PromptPair.from_ids([1, 3], [2, 3], 3, 4, tokens=tokens)
    npz, _ = patch_sweep(model, pair).save(tmp_path / "x")
    assert SweepResult.load(npz).pair == pair


def test_the_checksum_is_not_worked_out_inside_the_sweep(model, pair, monkeypatch):
    monkeypatch.setattr(type(model), "checksum", lambda self: pytest.fail("too early"))
    result = patch_sweep(model, pair)
    monkeypatch.undo()
    assert result.checksum == model.checksum()


def test_a_checksum_asked_for_too_late_is_none(model, pair):
    result = patch_sweep(model, pair)
    with torch.no_grad():
        model.transformer.ln_f.bias += 1
    assert result.checksum is None


@pytest.mark.parametrize("content", [None, b"", b"not a zip", "foreign"])
def test_what_is_no_result_is_refused(tmp_path, content):
    path = tmp_path / "x.npz"
    if content == "foreign":
        np.savez(path, values=np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ResultError, match="no saved sweep"):
        SweepResult.load(path)
