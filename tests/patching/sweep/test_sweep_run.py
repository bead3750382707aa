"""The sweep against hand-made runs, in the fast engine and in the loop; metrics."""

import itertools
import re

import numpy as np
import pytest
import torch
from helpers import last, make_model

from mingpt import GPT, GPTConfig, Patch
from patching import METRICS, Metric, PromptPair, SweepError, patch_sweep


def by_hand(model, pair, layer, position):
    """Return the logits after one patch by a hook, without the model's own patching."""
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
    "log_prob": lambda x, clean, corrupt: x.softmax(0)[11].log(),
    "kl": lambda x, clean, corrupt: torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=clean), torch.distributions.Categorical(logits=x)
    ),
    "prob_diff": lambda x, clean, corrupt: x.softmax(0)[22] - x.softmax(0)[11],
    "recovery": lambda x, clean, corrupt: (
        ((corrupt[22] - corrupt[11]) - (x[22] - x[11]))
        / ((corrupt[22] - corrupt[11]) - (clean[22] - clean[11]))
    ),
}


@pytest.mark.parametrize("method", ["fast", "loop"])
@pytest.mark.parametrize("metric", EXPECTED)
@torch.no_grad()
def test_every_cell_is_the_metric_of_that_patch(model, pair, metric, method):
    result = patch_sweep(model, pair, metric=metric, method=method)
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


@pytest.mark.parametrize("method", ["fast", "loop"])
def test_the_grid_has_the_shape_that_causality_gives_it(model, pair, method):
    values = patch_sweep(model, pair, method=method)
    grid = values.values
    assert grid.shape == (3, 7)
    assert grid.dtype == np.float32
    corrupt, clean = np.float32(values.corrupt_value), np.float32(values.clean_value)
    assert (grid[:, :2] == corrupt).all()  # before the first differing token
    assert (grid[-1, :-1] == corrupt).all()  # the last row but its last cell
    assert grid[-1, -1] == clean
    assert (grid[:-1, 2:] != corrupt).all()
    assert clean != corrupt


@pytest.mark.parametrize(("direction", "unchanged"), [("denoise", 0), ("noise", 1)])
def test_recovery_is_of_the_clean_run_in_both_directions(model, pair, direction, unchanged):
    result = patch_sweep(model, pair, metric="recovery", direction=direction)
    assert (result.clean_value, result.corrupt_value) == (1, 0)
    assert (result.values[:, :2] == unchanged).all()
    assert result.values[-1, -1] == 1 - unchanged


def test_noise_is_denoise_of_the_exchanged_prompts(model, pair):
    exchanged = PromptPair.from_ids(pair.corrupt_ids, pair.clean_ids, 11, 22)
    noise = patch_sweep(model, pair, direction="noise").values
    assert np.array_equal(noise, patch_sweep(model, exchanged).values)


def test_several_metrics_are_read_from_the_same_runs(model, pair):
    result = patch_sweep(model, pair, metric="recovery,kl, logit_diff", layers=[1])
    assert [*result.metrics] == ["recovery", "kl", "logit_diff"]
    assert result.metric == "recovery"
    assert result.values is result.metrics["recovery"].values
    for name, (values, clean, corrupt) in result.metrics.items():
        alone = patch_sweep(model, pair, metric=name, layers=[1])
        np.testing.assert_allclose(values, alone.values, rtol=1e-4, atol=1e-5)
        assert clean == pytest.approx(alone.clean_value, abs=1e-5)
        assert corrupt == pytest.approx(alone.corrupt_value, abs=1e-5)
    assert result.metrics["kl"].clean == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", ["fast", "loop"])
def test_a_metric_of_ones_own(model, pair, method):
    def margin(logits):
        assert logits.shape == (40,)
        return logits[22] - logits[11]

    seconds = Metric(
        "second",
        lambda logits, readout: logits.topk(2).values[:, 1],
        words=lambda pair: "the runner-up",
        diverging=True,
    )
    asked = [margin, seconds, "logit_diff", lambda logits: 0.5, lambda logits: logits[0]]
    result = patch_sweep(model, pair, metric=asked, method=method)
    assert [*result.metrics] == ["margin", "second", "logit_diff", "custom", "custom2"]
    assert result.captions["second"] == "the runner-up"
    assert result.captions["margin"] == "margin"
    assert result.diverging == ("second",)
    for got, expected in zip(result.metrics["margin"], result.metrics["logit_diff"], strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    top = by_hand(model, pair, 0, 3).topk(2).values[1].item()
    assert result.metrics["second"].values[0, 3] == pytest.approx(top, abs=1e-5)
    assert (result.metrics["custom"].values == 0.5).all()


@pytest.mark.parametrize(
    ("site", "by_position", "shape", "axes"),
    [
        ("attn_out", False, (3, 7), ("layer", "position")),
        ("q", False, (3, 2), ("layer", "head")),
        ("pattern", True, (3, 2, 7), ("layer", "head", "position")),
    ],
)
def test_the_axes_of_each_kind_of_site(model, pair, site, by_position, shape, axes):
    result = patch_sweep(model, pair, site=site, by_position=by_position)
    assert result.values.shape == shape
    assert result.axes == axes
    assert result.site == site
    assert result.cells == result.values.size
    fields = result.to_dict()
    swept = [axis for axis in ("layer", "head", "position") if fields[f"{axis}s"] is not None]
    assert tuple(swept) == axes


@torch.no_grad()
def test_a_window_patches_the_layers_around_each(pair):
    """Windows of 2 and 3 in 4 layers, their ends cut off, against lists of patches."""
    model = make_model(n_layer=4)
    around = {2: [[0], [0, 1], [1, 2], [2, 3]], 3: [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]}
    for window, layers in around.items():
        got = patch_sweep(model, pair, site="mlp_out", window=window, metric="target_logit")
        clean = last(model, pair.clean_ids, record="mlp_out")
        for layer, position in itertools.product(range(4), range(7)):
            patches = [Patch("mlp_out", number, position) for number in layers[layer]]
            patched = last(model, pair.corrupt_ids, patch=patches)
            expected = (patched - clean)[11].item()
            assert got.values[layer, position] == pytest.approx(expected, abs=1e-5)


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


@pytest.mark.parametrize("method", ["fast", "loop"])
def test_chosen_layers_and_positions(model, pair, method):
    full = patch_sweep(model, pair, method=method).values
    part = patch_sweep(model, pair, layers=[-1, 0, 0], positions=[2, -1], method=method)
    assert part.layers == (0, 2)
    assert part.positions == (2, 6)
    assert part.heads is None
    asked = np.zeros((3, 7), dtype=bool)
    asked[np.ix_([0, 2], [2, 6])] = True
    assert np.array_equal(np.isnan(part.values), ~asked)
    np.testing.assert_allclose(part.values[asked], full[asked], atol=1e-5)


def test_chosen_layers_may_come_from_a_generator(model, pair):
    for result in patch_sweep(model, [pair, pair], layers=(number for number in (0, 2))):
        assert result.layers == (0, 2)


def test_chosen_heads(model, pair):
    full = patch_sweep(model, pair, site="v", by_position=True).values
    part = patch_sweep(model, pair, site="v", by_position=True, heads=[-1], positions=[2, 3])
    assert part.cells == 3 * 2
    np.testing.assert_allclose(part.values[:, 1, 2:4], full[:, 1, 2:4], atol=1e-5)
    assert np.isnan(part.values[:, 0]).all()


def test_one_token_and_one_layer():
    model = make_model(n_layer=1)
    result = patch_sweep(model, PromptPair.from_ids([3], [4], 1, 2))
    assert result.values.shape == (1, 1)
    assert result.values[0, 0] == np.float32(result.clean_value)


def test_progress_of_the_loop_counts_the_cells(model, pair):
    seen = []
    progress = lambda *step: seen.append(step)  # noqa: E731
    patch_sweep(model, pair, layers=[1], method="loop", progress=progress)
    assert seen == [(done, 7) for done in range(8)]


def test_training_mode_is_put_back_and_dropout_is_off(pair):
    model = make_model(resid_pdrop=0.5)
    expected = patch_sweep(model, pair).values
    model.train()
    assert np.array_equal(patch_sweep(model, pair).values, expected)
    assert model.training


def test_no_pairs_at_all_are_refused(model):
    with pytest.raises(SweepError, match="no pairs to sweep"):
        patch_sweep(model, [])


@pytest.mark.parametrize("method", ["fast", "loop"])
def test_recovery_is_refused_where_clean_and_corrupt_agree(model, method):
    with torch.no_grad():
        model.transformer.wte.weight[22] = model.transformer.wte.weight[11]
    pair = PromptPair.from_ids([5, 11, 3], [5, 22, 3], 1, 2)
    with pytest.raises(SweepError, match="recovery is undefined"):
        patch_sweep(model, pair, metric="recovery", method=method)
    other = PromptPair.from_ids([5, 11, 3], [5, 12, 3], 1, 2)
    with pytest.raises(SweepError, match=r"^pair 1 \(from 0\): recovery is undefined"):
        patch_sweep(model, [other, pair], metric="recovery", method=method)
    assert patch_sweep(model, pair).values.shape == (3, 3)


@pytest.mark.parametrize("method", ["fast", "loop"])
def test_logits_that_overflow_are_refused(model, pair, method):
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(6e4)
    with pytest.raises(SweepError, match="the model's logits are not finite in float16"):
        patch_sweep(model.half(), pair, method=method)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9"),
    ],
)
def test_running_out_of_memory_is_an_error_that_says_what_to_do(model, pair, monkeypatch, error):
    def full(*args, **settings):
        raise error

    monkeypatch.setattr("patching.sweep.engine.measure.run_packed", full)
    with pytest.raises(SweepError, match="the memory is not enough; allow the fast sweep less"):
        patch_sweep(model, pair)


def test_other_errors_are_left_as_they_are(model, pair, monkeypatch):
    monkeypatch.setattr(
        "patching.sweep.engine.measure.run_packed", lambda *a, **k: torch.zeros(2) @ torch.zeros(3)
    )
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        patch_sweep(model, pair)


def test_tables_of_logits_that_overflow_are_refused(model, pair):
    """Another token than target and foil overflows, so the sweep itself is finite."""
    model = model.half()
    with torch.no_grad():
        model.transformer.wte.weight[39] = 6e4
    with pytest.raises(SweepError, match="the model's logits are not finite in float16"):
        patch_sweep(model, pair)
    with pytest.raises(SweepError, match=r"^pair 0 \(from 0\): the model's logits are not finite"):
        patch_sweep(model, [pair, pair])


@pytest.mark.parametrize("method", ["fast", "loop"])
def test_a_cell_that_is_no_number_is_refused_and_not_drawn_as_unpatched(model, pair, method):
    def odd(logits):
        return (logits[11] - last_clean[11]).sqrt()  # of a negative number in some cells

    last_clean = last(model, pair.clean_ids)
    with pytest.raises(SweepError, match=r"odd is not a finite number in \d+ of 21 cells"):
        patch_sweep(model, pair, metric=odd, method=method)


def test_progress_may_be_off(model, pair):
    for method in ("fast", "loop", "attribution"):
        assert patch_sweep(model, pair, method=method, progress=False).cells == 21


@torch.no_grad()
def test_patches_of_ones_own_may_be_at_any_site(model, pair):
    """Both attention and MLP of a block, by a list of patches and by a cell's function."""

    def whole_block(cell):
        return [Patch(site, cell.layer, cell.position) for site in ("attn_out", "mlp_out")]

    found = patch_sweep(model, pair, patches=whole_block, method="loop", metric="target_logit")
    clean = last(model, pair.clean_ids, record=["attn_out", "mlp_out"])
    for layer, position in itertools.product(range(3), range(7)):
        patches = [Patch(site, layer, position) for site in ("attn_out", "mlp_out")]
        expected = (last(model, pair.corrupt_ids, patch=patches) - clean)[11].item()
        assert found.values[layer, position] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("site", ["resid_post", "z"])
def test_the_loop_records_no_more_than_it_needs(model, pair, site):
    patch_sweep(model, pair, site=site, method="loop")
    assert {*model.recording} == {site, "resid_post"}


def test_patches_may_be_one_or_none(model, pair):
    one = Patch("resid_post", 1, position=3)
    alone = patch_sweep(model, pair, method="loop", patches=lambda cell: one)
    listed = patch_sweep(model, pair, method="loop", patches=lambda cell: [one])
    np.testing.assert_array_equal(alone.values, listed.values)
    nothing = patch_sweep(model, pair, method="loop", patches=lambda cell: [])
    assert (nothing.values == nothing.corrupt_value).all()


@pytest.mark.parametrize("returned", [None, 3, [(0, 1)], "z"])
def test_patches_that_are_none_are_refused_with_their_cell(model, pair, returned):
    with pytest.raises(SweepError, match=r"patches returned .* for Cell\(index=\(0, 0\)"):
        patch_sweep(model, pair, method="loop", patches=lambda cell: returned)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda logits: logits, r"returned numbers of shape \(40,\), not one number"),
        (lambda logits: None, "returned None, not a number"),
        (lambda logits: "much", "returned 'much', not a number"),
    ],
)
@pytest.mark.parametrize("method", ["fast", "loop"])
def test_a_metric_that_returns_no_number_is_refused(model, pair, metric, message, method):
    with pytest.raises(SweepError, match=message):
        patch_sweep(model, pair, metric=metric, method=method)


def test_the_repr_of_a_sweep_of_patches_names_them(model, pair):
    def zeros(cell):
        return [Patch("mlp_out", cell.layer, value=torch.zeros(16))]

    result = patch_sweep(model, pair, site="mlp_out", method="loop", patches=zeros)
    assert "patches of zeros() into corrupt" in repr(result)


def test_too_little_memory_names_what_is_enough_for_pairs_of_any_length():
    model = make_model()
    pairs = [PromptPair.from_ids([*range(n)], [9, *range(1, n)], 11, 22) for n in (2, 12, 5)]
    with pytest.raises(SweepError, match="too little memory") as refused:
        patch_sweep(model, pairs, max_memory=1)
    least = int(re.search(r"max_memory=(\d+)", str(refused.value))[1])
    assert len(patch_sweep(model, pairs, max_memory=least)) == 3


@pytest.mark.parametrize("method", ["fast", "loop"])
def test_recovery_is_0_at_corrupt_and_1_at_clean_whichever_is_larger(method):
    """Also where the clean run prefers the foil: the difference of corrupt to clean is negative."""
    signs = set()
    for target, foil in ((11, 22), (22, 11)):
        pair = PromptPair.from_ids([5, 9, 11, 3], [5, 9, 22, 3], target, foil)
        result = patch_sweep(make_model(), pair, metric="logit_diff,recovery", method=method)
        found = result.metrics["logit_diff"]
        signs.add(found.corrupt > found.clean)
        expected = (found.corrupt - found.values) / (found.corrupt - found.clean)
        np.testing.assert_allclose(
            result.metrics["recovery"].values, expected, rtol=1e-4, atol=1e-5
        )
    assert signs == {True, False}


@pytest.mark.parametrize("method", ["fast", "loop"])
def test_recovery_over_a_difference_of_rounding_is_refused(method):
    """The bound is 1e-4, and in half precision some roundings of the logits."""
    model = make_model()
    with torch.no_grad():
        model.transformer.wte.weight[22] = model.transformer.wte.weight[11]
        model.transformer.wte.weight[22, 0] += 1e-6
    pair = PromptPair.from_ids([5, 9, 11, 3], [5, 9, 23, 3], 11, 22)
    with pytest.raises(SweepError, match=r"recovery is undefined: .* less than 0\.0001 apart"):
        patch_sweep(model, pair, metric="recovery", method=method)
    torch.manual_seed(1462)
    config = GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=23, block_size=8)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    pair = PromptPair.from_ids([1, 2, 3, 4], [1, 5, 3, 4], 6, 7)
    patch_sweep(model, pair, metric="recovery", method=method)
    with pytest.raises(SweepError, match=r"recovery is undefined: .* apart"):
        patch_sweep(model.bfloat16(), pair, metric="recovery", method=method)


@pytest.mark.parametrize("site", ["attn_out", "z"])
def test_a_channel_that_attention_never_writes_makes_no_row_equal(site):
    """A row of the base run's counts as unchanged only if all its channels are equal."""
    model = make_model()
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_proj.weight[0] = 0.0
            block.attn.c_proj.bias[0] = 0.0
    pair = PromptPair.from_ids([5, 9, 11, 3], [5, 9, 22, 3], 11, 22)
    fast, loop = (patch_sweep(model, pair, site=site, method=m) for m in ("fast", "loop"))
    np.testing.assert_allclose(fast.values, loop.values, rtol=1e-4, atol=1e-5)
    assert np.ptp(fast.values) > 0.01
