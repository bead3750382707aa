"""Sets of answers, and pairs without a foil, against their definition in float64."""

import json

import numpy as np
import pytest
import torch

from mingpt import GPT, GPTConfig
from patching import (
    Metric,
    PromptPair,
    SweepResult,
    compare_sweeps,
    draw_agreement,
    draw_explanation,
    draw_heatmap,
    patch_sweep,
)
from patching.errors import DrawingError, PromptError, SweepError
from patching.sweep.metrics import METRICS

CLEAN, CORRUPT = [3, 7, 1, 9, 3], [3, 8, 1, 2, 3]
TARGETS, FOILS = (11, 12, 30), (22, 5)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=40)
    return GPT(config).double().eval()


@torch.no_grad()
def by_definition(model, metric, layer, position):
    """Compute a metric of sets from probabilities alone, as the definition says."""
    model(torch.tensor([CLEAN]), record=True)
    runs = {"clean": model.last_logits[0].clone()}
    model(torch.tensor([CORRUPT]), patch=(layer, position))
    runs["patched"] = model.last_logits[0].clone()
    model(torch.tensor([CORRUPT]))
    runs["corrupt"] = model.last_logits[0].clone()
    found = {}
    for run, logits in runs.items():
        p, partition = logits.softmax(-1), logits.exp().sum()
        target, foil = p[list(TARGETS)].sum(), p[list(FOILS)].sum()
        # The logit of a set: the number whose softmax with the others is the set's probability.
        found[run] = {
            "logit_diff": (foil * partition).log() - (target * partition).log(),
            "target_logit": (target * partition).log(),
            "log_prob": target.log(),
            "prob_diff": foil - target,
        }
    patched, clean, corrupt = found["patched"], found["clean"], found["corrupt"]
    if metric == "target_logit":
        return patched[metric] - clean[metric]
    if metric == "recovery":
        gap = corrupt["logit_diff"] - clean["logit_diff"]
        return (corrupt["logit_diff"] - patched["logit_diff"]) / gap
    return patched[metric]


@pytest.mark.parametrize("method", ["fast", "loop"])
@pytest.mark.parametrize(
    "metric", ["logit_diff", "target_logit", "log_prob", "prob_diff", "recovery"]
)
def test_metrics_of_sets(model, metric, method):
    pair = PromptPair.from_ids(CLEAN, CORRUPT, TARGETS, FOILS)
    values = patch_sweep(model, pair, metric=metric, method=method).values
    for layer, position in np.ndindex(values.shape):
        expected = by_definition(model, metric, layer, position)
        assert values[layer, position] == pytest.approx(expected.item(), abs=1e-10)


def test_attribution_of_sets_is_the_slope(model):
    """The estimate's gradient goes through the log-sum-exp: a small step agrees with it."""
    pair = PromptPair.from_ids(CLEAN, CORRUPT, TARGETS, FOILS)
    found = patch_sweep(model, pair, site="mlp_out", method="attribution")
    exact = patch_sweep(model, pair, site="mlp_out")
    effect, estimate = (r.values - r.corrupt_value for r in (exact, found))
    assert np.corrcoef(effect.ravel(), estimate.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("metric", [*METRICS])
def test_a_set_of_one_token_is_that_token(model, metric):
    model = GPT(model.config).eval()  # float32, where another order of sums would show
    alone = PromptPair.from_ids(CLEAN, CORRUPT, 11, 22)
    as_set = PromptPair.from_ids(CLEAN, CORRUPT, [11], [22])
    assert alone == as_set
    values = patch_sweep(model, alone, metric=metric).values
    model(torch.tensor([CLEAN]), record=True)
    clean = model.last_logits[0].clone()
    logits, expected = {}, {}
    for layer, position in np.ndindex(values.shape):
        model(torch.tensor([CORRUPT]), patch=(layer, position))
        logits[layer, position] = model.last_logits[0].clone()
    for cell, one in logits.items():
        expected[cell] = {
            "logit_diff": one[22] - one[11],
            "target_logit": one[11] - clean[11],
            "log_prob": one.log_softmax(-1)[11],
            "prob_diff": one.softmax(-1)[22] - one.softmax(-1)[11],
        }.get(metric)
    looped = patch_sweep(model, alone, metric=metric, method="loop").values
    for cell, value in expected.items():
        assert value is None or looped[cell] == value.item()  # bit for bit


def test_no_foil_where_no_metric_reads_it(model):
    pair = PromptPair.from_ids(CLEAN, CORRUPT, 11)
    both = PromptPair.from_ids(CLEAN, CORRUPT, 11, 22)
    metrics = ["target_logit", "log_prob", "kl"]
    found, other = (patch_sweep(model, one, metric=metrics) for one in (pair, both))
    for name in metrics:
        np.testing.assert_array_equal(found.metrics[name].values, other.metrics[name].values)
    assert found.clean_next.foil == ()
    assert patch_sweep(model, pair, metric=lambda logits: logits[11]).values.shape == (2, 5)
    for name in ("logit_diff", "recovery", "prob_diff"):
        with pytest.raises(SweepError, match=f"{name} compares the target with a foil"):
            patch_sweep(model, pair, metric=["kl", name])


@pytest.mark.parametrize(
    ("target", "foil", "message"),
    [
        ((), 22, "there is no target"),
        ((11, 11), 22, "the target holds the token id:11 \\(11\\) twice"),
        (11, (22, 22), "the foil holds the token"),
        ((11, 12), (22, 12), "target and foil are the same token id:12"),
        ("Jones", 22, "target_id must be whole numbers, not .*; for words there is from_text"),
        (11, [2.5], "foil_id must be whole numbers"),
    ],
)
def test_answers_that_are_refused(target, foil, message):
    with pytest.raises(PromptError, match=message):
        PromptPair.from_ids(CLEAN, CORRUPT, target, foil)


def test_a_result_of_sets_reloads(model, tmp_path):
    pair = PromptPair.from_ids(CLEAN, CORRUPT, TARGETS, FOILS)
    result = patch_sweep(model, pair, metric="recovery")
    again = SweepResult.load(result.save(tmp_path / "sets")[0])
    assert again.pair == result.pair
    assert again.clean_next == result.clean_next
    assert again.neutral == result.neutral == {"recovery": 0.0}
    assert result.captions["recovery"].endswith(
        "logit({id:22, id:5}) - logit({id:11, id:12, id:30})"
    )
    assert "clean: " in repr(again)
    four = PromptPair.from_ids(CLEAN, CORRUPT, (1, 2, 3, 4), 22)
    assert patch_sweep(model, four).captions["logit_diff"].endswith("{id:1, id:2, id:3, 1 more})")


def test_a_file_of_version_03_is_read(model, tmp_path):
    """It has one target and one foil, and no neutral values."""
    result = patch_sweep(model, PromptPair.from_ids(CLEAN, CORRUPT, 11, 22), metric="recovery")
    new, _ = result.save(tmp_path / "new")
    with np.load(new) as file:
        arrays = {name: file[name] for name in file.files if name != "content_sha256"}
    pair = json.loads(str(arrays["pair"]))
    for name in ("target_id", "foil_id", "target_token", "foil_token"):
        (pair[name],) = pair.pop(f"{name}s")
    arrays["pair"] = np.asarray(json.dumps(pair))
    for name in ("clean_next", "corrupt_next"):
        table = json.loads(str(arrays[name]))
        (table["target"],), (table["foil"],) = table["target"], table["foil"]
        arrays[name] = np.asarray(json.dumps(table))
    del arrays["neutral"]
    from patching.result_files import content_checksum

    arrays["content_sha256"] = np.asarray(content_checksum(arrays))
    np.savez(tmp_path / "old.npz", **arrays)
    old = SweepResult.load(tmp_path / "old.npz")
    assert old.to_dict() == SweepResult.load(new).to_dict()


def test_a_metric_that_is_no_number(model):
    pair = PromptPair.from_ids(CLEAN, CORRUPT, 11, 22)
    for method in ("fast", "loop", "attribution"):
        with pytest.raises(SweepError, match=r"numbers of shape \(40,\), not one number"):
            patch_sweep(model, pair, metric=lambda logits: logits, method=method)
        whole = Metric("whole", lambda logits, readout: logits)
        with pytest.raises(SweepError, match=r"whole returned \(1, 40\)|whole returned \(2, 40\)"):
            patch_sweep(model, pair, metric=whole, method=method)


@pytest.mark.parametrize("wrong", [("a", "b"), "text", 3, [("a", "b")], [None]])
def test_what_is_no_pair(model, wrong):
    with pytest.raises(SweepError, match=r"a sweep takes a PromptPair .*PromptPair\.from_text"):
        patch_sweep(model, wrong)


def test_what_is_no_result(model):
    pair = PromptPair.from_ids(CLEAN, CORRUPT, 11, 22)
    result = patch_sweep(model, pair)
    message = "expected SweepResult, not list; pass one of its items"
    with pytest.raises(DrawingError, match=message):
        draw_heatmap([result])
    with pytest.raises(DrawingError, match=message):
        draw_agreement([result], result)
    with pytest.raises(SweepError, match=message):
        compare_sweeps(result, [result])
    with pytest.raises(DrawingError, match="expected Explanation, not SweepResult"):
        draw_explanation(result)
