"""Values put in place of the other run's activation: zeros, means, another prompt's."""

import json

import numpy as np
import pytest
import torch
from helpers import last, make_model

from mingpt.config import GPTConfig
from mingpt.sites import SITES, Patch
from patching import PromptPair, SweepResult, mean_over, patch_sweep, resample_from
from patching.cli.patch import main
from patching.errors import SweepError
from patching.page.sweep_page import sweep_page
from patching.sweep.engine.plan import BASE, Experiment, plan_cell
from patching.sweep.figures import Look, heatmaps, title_lines
from patching.sweep.hand_in import caption, tables
from patching.sweep.put import as_put
from patching.sweep.put_values import PutValues, bytes_of, rows_of_values
from patching.sweep.request import Request


def test_a_head_s_output_of_zeros_is_a_run_without_it(model, pair):
    result = patch_sweep(model, pair, site="z", direction="noise", put="zero")
    zero = torch.zeros(())
    for layer, head in np.ndindex(result.values.shape):
        logits = last(model, pair.clean_ids, patch=[Patch("z", layer, head=head, value=zero)])
        value = float(logits[pair.foil_ids[0]] - logits[pair.target_ids[0]])
        assert result.values[layer, head] == pytest.approx(value, abs=1e-5)


def test_without_the_last_stream_only_the_final_bias_speaks(model, pair):
    result = patch_sweep(model, pair, put="zero")
    with torch.no_grad():
        logits = model.lm_head(model.transformer.ln_f.bias)
    value = float(logits[pair.foil_ids[0]] - logits[pair.target_ids[0]])
    assert result.values[-1, -1] == pytest.approx(value, abs=1e-5)
    base = result.corrupt_value
    assert (result.values[-1, :-1] == pytest.approx(base)) and (result.values[0, 0] != base)


def several_pairs() -> list[PromptPair]:
    """Return pairs of lengths 7, 1, 12, 7 and 3, whose prompts differ at the last position."""
    generator = np.random.default_rng(0)
    clean = [generator.integers(0, 40, T).tolist() for T in (7, 1, 12, 7, 3)]
    return [PromptPair.from_ids(one, [*one[:-1], (one[-1] + 1) % 40], 11, 22) for one in clean]


@pytest.fixture
def others() -> list[PromptPair]:
    """Five pairs of seven tokens, as `pair`."""
    prompts = np.random.default_rng(0).integers(0, 40, (5, 2, 7)).tolist()
    return [PromptPair.from_ids(clean, corrupt, 11, 22) for clean, corrupt in prompts]


@pytest.fixture
def alone(pair) -> PromptPair:
    """The clean prompt of `pair` by itself."""
    return PromptPair.from_ids(pair.clean_ids, None, pair.target_ids, pair.foil_ids)


@pytest.mark.parametrize("site", SITES)
def test_a_mean_is_that_of_the_clean_prompts_recordings(site, model, pair, others):
    model(torch.tensor([one.clean_ids for one in others]), record=site)
    mean = model.recording[site].mean(1)  # (n_layer, ..., T, width)
    result = patch_sweep(model, pair, site=site, direction="noise", put=mean_over(others))
    head = None if result.axes[-1] == "position" else 1
    value = mean[1] if head is None else mean[1, head]
    one = Patch(site, 1, 2 if head is None else None, head, value[2] if head is None else value)
    logits = last(model, pair.clean_ids, patch=[one])
    expected = float(logits[pair.foil_ids[0]] - logits[pair.target_ids[0]])
    assert result.values[1, 2 if head is None else head] == pytest.approx(expected, abs=1e-5)


def test_a_mean_over_all_positions_weighs_tokens_and_takes_any_lengths(model, pair):
    prompts = several_pairs()
    total, count = 0, 0
    for one in prompts:
        model(torch.tensor([one.clean_ids]), record="mlp_out")
        total, count = total + model.recording["mlp_out"][:, 0].sum(1), count + len(one)
    patch = Patch("mlp_out", 2, -1, value=total[2] / count)
    logits = last(model, pair.corrupt_ids, patch=[patch])
    result = patch_sweep(model, pair, site="mlp_out", put=mean_over(prompts, per="all"))
    expected = float(logits[pair.foil_ids[0]] - logits[pair.target_ids[0]])
    assert result.values[2, -1] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(SweepError, match=r"has 7 tokens, and 3 of the 5 .* have 1 to 12:"):
        patch_sweep(model, pair, put=mean_over(prompts))
    with pytest.raises(SweepError, match=r"has 7 tokens, and 1 of the 1 .* have 12:"):
        patch_sweep(model, pair, put=mean_over(prompts[2]))


def test_the_mean_of_the_run_itself_changes_nothing(pair):
    model = make_model().double()
    for site in SITES:
        for direction, base in (("noise", "clean"), ("denoise", "corrupt")):
            itself = PromptPair.from_ids(pair.ids(base), [1] * len(pair), 1)
            result = patch_sweep(
                model, pair, site=site, direction=direction, put=mean_over([itself])
            )
            np.testing.assert_allclose(
                result.values, getattr(result, f"{base}_value"), rtol=0, atol=1e-9
            )


@pytest.mark.parametrize("method", ["fast", "loop"])
def test_to_resample_from_a_corrupt_prompt_is_to_patch_it(method, model, pair, alone):
    only = PromptPair.from_ids(pair.corrupt_ids, pair.clean_ids, 1)
    for site in ("resid_mid", "k", "pattern"):
        how = {"site": site, "direction": "noise"}
        put = resample_from([only, pair])  # the pair's own prompt is no choice
        got = patch_sweep(model, alone, put=put, method=method, **how)
        expected = patch_sweep(model, pair, **how)
        np.testing.assert_allclose(got.values, expected.values, rtol=0, atol=1e-5)
        assert got.put_from == {"prompt": only.clean_text, "seed": 0}


def test_the_seed_chooses_a_prompt_for_each_pair(model, pair, others):
    def prompts(seed, pairs):
        results = patch_sweep(model, pairs, put=resample_from([*others, pair], seed=seed))
        return [one.put_from["prompt"] for one in results]

    assert prompts(0, others) == [*prompts(0, others[:2]), *prompts(0, others[2:])]
    assert len({*map(tuple, (prompts(seed, others) for seed in range(4)))}) == 4
    own = [one.clean_text for one in others]
    for seed in range(9):
        assert all(a != b for a, b in zip(prompts(seed, others), own, strict=True))
    with pytest.raises(SweepError, match="no other clean prompt of 7 tokens"):
        patch_sweep(model, pair, put=resample_from([pair, several_pairs()[1]]))
    with pytest.raises(SweepError, match="seed"):
        resample_from(others, seed=-1)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_neither_prompt_of_a_pair_is_put_into_it(direction, model, others):
    mirrored = [PromptPair.from_ids(one.corrupt_ids, one.clean_ids, 22, 11) for one in others[:2]]
    both = [*others[:2], *mirrored]
    for seed in range(8):
        put = resample_from(both, seed=seed)
        for one in patch_sweep(model, both, direction=direction, put=put, layers=[0]):
            own = {one.pair.clean_text, one.pair.corrupt_text}
            assert one.put_from["prompt"] not in own
    with pytest.raises(SweepError, match="than the pair's own prompts"):
        patch_sweep(model, both[0], direction=direction, put=resample_from([both[0], both[2]]))


@pytest.mark.parametrize("window", [1, 3])
def test_pairs_of_several_lengths_take_their_own_values(window):
    model, pairs = make_model().double(), several_pairs()
    for put in (mean_over(pairs, per="all"), "zero"):
        how = {"site": "attn_out", "window": window, "put": put}
        together = patch_sweep(model, pairs, **how)
        for pair, result in zip(pairs, together, strict=True):
            alone = patch_sweep(model, pair, method="loop", **how)
            np.testing.assert_allclose(result.values, alone.values, rtol=0, atol=1e-9)


def test_prompts_that_the_model_cannot_read_are_named(model, pair, others):
    for wrong, why in (
        ([1] * 13, "has 13 tokens, the model reads at most 12"),
        ([1] * 6 + [40], "holds token id 40, the model has 40 tokens"),
    ):
        put = mean_over([*others, PromptPair.from_ids(wrong, [2] * len(wrong), 1)], per="all")
        with pytest.raises(SweepError, match=rf"prompt 5 \(from 0\) .* {why}: leave it out"):
            patch_sweep(model, pair, put=put)
    for make in (mean_over, resample_from):
        for nothing in ([], 3):
            with pytest.raises(SweepError, match="list of PromptPair"):
                make(nothing)


def test_putting_in_leaves_the_recording_as_it_was(model, pair, others):
    model(torch.tensor([pair.clean_ids]), record="z")
    recording, logits = model.recording, model.last_logits
    patch_sweep(model, pair, put=mean_over(others))
    assert model.recording is recording
    assert model.last_logits is logits


def test_the_memory_of_the_values_counts(model, pair, others):
    def least(put) -> int:
        with pytest.raises(SweepError, match="needs at least") as caught:
            patch_sweep(model, pair, put=put, max_memory=1024)
        return int(str(caught.value).split("max_memory=")[1].rstrip(")"))

    held = 4 * 3 * 7 * 16  # float32, layers, tokens, width
    assert held - 1024 <= least(mean_over(others)) - least("zero") <= held + 1024


@pytest.mark.parametrize("site", ["resid_post", "z", "k", "pattern"])
def test_the_bytes_of_the_values_are_known_before_they_are_computed(site, others):
    model, pairs = make_model(), several_pairs()
    for put, of in (
        (mean_over(others), others),
        (resample_from(others), others),
        *([(mean_over(pairs, per="all"), pairs)] if site != "pattern" else []),
    ):
        source = PutValues(model, put)
        values = source.of(of, site)
        tensors = [*(one.tensor for one in values), *rows_of_values(values, site)]
        assert source.bytes_at_least(of, site)[0] == bytes_of(tensors)
    assert PutValues(model, as_put("zero")).bytes_at_least(pairs, site) == (0, 0)


def test_too_little_memory_is_refused_before_any_run(model, pair, others, monkeypatch):
    def run(*args):
        raise AssertionError("a prompt was run")

    monkeypatch.setattr(type(model), "stream", run)
    for put in (mean_over(others), resample_from(others), mean_over(others, per="all")):
        with pytest.raises(SweepError, match="needs at least"):
            patch_sweep(model, pair, put=put, max_memory=4096)


def test_prompts_run_together_as_memory_allows_and_equal_draws_share_a_tensor(others, monkeypatch):
    model, sizes = make_model().double(), []
    stream = type(model).stream
    monkeypatch.setattr(
        type(model),
        "stream",
        lambda self, ids, tap: sizes.append(len(ids)) or stream(self, ids, tap),
    )
    for put in (mean_over(others), resample_from(others)):
        together = PutValues(model, put).of(others, "z")
        assert len(sizes) == 1
        sizes.clear()
        alone = PutValues(model, put).of(others, "z", allowed=1)
        assert set(sizes) == {1}
        sizes.clear()
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a.tensor, b.tensor, rtol=0, atol=1e-12)
    pairs = [PromptPair.from_ids(one.clean_ids, one.corrupt_ids, 1) for one in (others[0],) * 2]
    a, b = PutValues(model, resample_from(others)).of(pairs, "z")
    assert a.tensor is b.tensor


def test_every_position_can_change_but_those_that_nothing_reads():
    config = GPTConfig(n_layer=3, n_head=2, n_embd=8, vocab_size=40, block_size=8)

    def experiments(site: str, **how) -> set[tuple[int, ...]]:
        grid = Request(site, put="zero", **how).grid(config, 4)
        planned = {cell.index: plan_cell(grid, cell, (2,)) for cell in grid.cells()}
        assert {*map(type, planned.values())} <= {Experiment, str}
        assert {one for one in planned.values() if isinstance(one, str)} <= {BASE}
        return {index for index, one in planned.items() if isinstance(one, Experiment)}

    for site in ("resid_post", "mlp_out"):
        below = {(layer, position) for layer in range(2) for position in range(4)}
        assert experiments(site) == below | {(2, 3)}
    assert (0, 0, 0) not in experiments("q", by_position=True)  # one key has all the weight
    assert (0, 0, 0) in experiments("pattern", by_position=True)


def test_what_does_not_go_together_is_refused(model, pair):
    for how, words in (
        ({"put": "nothing"}, "choose recorded, zero, mean, resample"),
        ({"put": 0}, "put is a name"),
        ({"put": "mean"}, r"in Python put=mean_over\(pairs\), in the shell --mean-over FILE"),
        ({"put": "resample"}, r"put=resample_from\(pairs\), in the shell --resample-from"),
        ({"put": mean_over([pair], per="all"), "site": "pattern"}, "take the mean per position"),
        ({"put": "zero", "method": "attribution"}, "zero ablation is for .* not attribution"),
        ({"put": "zero", "method": "loop", "patches": lambda cell: []}, "leave put at recorded"),
    ):
        with pytest.raises(SweepError, match=words):
            patch_sweep(model, pair, **how)


def test_titles_and_files_say_what_was_put_in(model, pair, tmp_path):
    result = patch_sweep(model, pair, site="z", direction="noise", put="zero")
    assert title_lines(result, [])[0].startswith(
        "Zero ablation of z of a head, all positions at once, clean run (noise); model"
    )
    assert "z of the clean run is set to zero" in caption(result, "logit_diff")
    assert caption(result, "logit_diff").startswith("Zero ablation in")
    assert sweep_page(result)["title"] == "Zero ablation of z, clean run"
    assert "z, zeros into clean" in repr(result)
    assert heatmaps(result, look=Look(title="mine")).title[:2] == ("mine", "zeros are put in")
    assert "zeros are put in" not in caption(result, "logit_diff")  # it has said so
    result.save(tmp_path / "x")
    assert SweepResult.load(tmp_path / "x").put == "zero"


@pytest.mark.parametrize(
    ("make", "title", "words"),
    [
        (mean_over, "Mean ablation", "the mean of 5 clean prompts at each position"),
        (resample_from, "Resample ablation", "the run of \u201cid:"),
    ],
)
def test_what_is_taken_from_prompts_is_said(make, title, words, model, pair, others, tmp_path):
    result = patch_sweep(model, pair, site="z", direction="noise", put=make(others))
    assert sweep_page(result)["title"] == f"{title} of z, clean run"
    assert any(words in note for note in result.notes)
    assert words in caption(result, "logit_diff")
    assert caption(result, "logit_diff").count(words) == 1
    if result.put == "resample":
        assert "is replaced by that of the run of" in caption(result, "logit_diff")
    assert f"{words}" in repr(result)
    result.save(tmp_path / "x")
    assert SweepResult.load(tmp_path / "x").put_from == result.put_from
    assert set(result.put_from) == {"mean": {"prompts", "per", "checksum"}}.get(
        result.put, {"prompt", "seed"}
    )


def test_a_hostile_prompt_that_is_put_in_is_printed_escaped(model, pair):
    hostile = {3: "\x1b[2J\n", 4: "\u202e"}
    texts = {number: hostile.get(number, "a") for number in range(40)}
    other = PromptPair.from_ids([3, 4, 3, 4, 3, 4, 3], [5] * 7, 11, 22, texts)
    result = patch_sweep(model, pair, put=resample_from([other]))
    assert "\\x1b[2J" in repr(result)
    assert all(char.isprintable() or char == "\n" for char in repr(result))


def test_the_command_ablates_and_names_its_files_apart(tmp_path, capsys):
    base = ["--model", "builtin", "--site", "z", "--direction", "noise", "--out", f"{tmp_path}/"]
    assert main([*base, "--quiet"]) == 0
    assert main([*base, "--quiet", "--put", "zero"]) == 0
    assert len([*tmp_path.glob("*.npz")]) == 2
    assert {SweepResult.load(path).put for path in tmp_path.glob("*.npz")} == {"recorded", "zero"}
    capsys.readouterr()
    assert main([*base, "--put", "zero", "--method", "attribution"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_command_reads_what_is_put_in_from_a_file(tmp_path, capsys):
    rows = ["clean,corrupt,target,foil"]
    for a, b in (("Jones", "Smith"), ("Brown", "Jones"), ("Smith", "Brown")):
        text = "Michelle {} was a top-notch student. Michelle"
        rows.append(f"{text.format(a)},{text.format(b)},{a},{b}")
    file = tmp_path / "pairs.csv"
    file.write_text("\n".join(rows), encoding="utf-8")
    base = ["--model", "builtin", "--site", "z", "--direction", "noise", "--out", f"{tmp_path}/"]
    assert main([*base, "--put", "mean", "--mean-over", str(file)]) == 0
    out = capsys.readouterr().out
    assert "3 rows read, 3 pairs" in out
    assert "put in is the mean of 3 clean prompts at each position" in out
    assert main([*base, "--quiet", "--put", "resample", "--resample-from", str(file)]) == 0
    found = {one.put: one.command for one in map(SweepResult.load, tmp_path.glob("*.npz"))}
    assert found.keys() == {"mean", "resample"}
    assert found["mean"]["mean_over"] == found["resample"]["resample_from"] == str(file)
    assert (found["mean"]["mean_per"], found["mean"]["resample_from"]) == ("position", None)
    capsys.readouterr()
    for wrong, words in (
        (["--put", "mean"], "--put mean needs --mean-over FILE"),
        (["--put", "zero", "--mean-over", "x.csv"], "--mean-over is for --put mean"),
        (["--mean-per", "all"], "--mean-per is for --put mean"),
        (["--put", "mean", "--mean-over", "no-such.csv"], "no-such.csv"),
    ):
        assert main([*base, *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


# --------------------------------------------------------------------- without a corrupt prompt


@pytest.mark.parametrize("site", SITES)
def test_an_ablation_of_the_clean_run_needs_no_corrupt_prompt(site, pair, alone, others):
    model = make_model().double()
    for put in ("zero", mean_over(others), resample_from(others)):
        how = {"site": site, "direction": "noise", "put": put, "metric": "logit_diff,kl"}
        expected = patch_sweep(model, pair, **how)
        for method in ("fast", "loop"):
            got = patch_sweep(model, alone, method=method, **how)
            assert got.clean_value == pytest.approx(expected.clean_value, abs=1e-9)
            for name in ("logit_diff", "kl"):
                both = got.metrics[name].values, expected.metrics[name].values
                np.testing.assert_allclose(*both, rtol=0, atol=1e-9)
    together = patch_sweep(model, [pair, alone, alone], site=site, direction="noise", put="zero")
    np.testing.assert_allclose(together[0].values, together[2].values, rtol=0, atol=1e-9)


def test_what_needs_a_corrupt_run_is_refused_without_one(model, alone):
    for how, words in (
        ({}, "nothing is recorded to be put in"),
        ({"method": "attribution"}, "nothing is recorded to be put in"),
        ({"put": "zero"}, "direction noise"),
        ({"put": "zero", "direction": "noise", "metric": "recovery"}, "recovery compares with"),
    ):
        with pytest.raises(SweepError, match=words) as caught:
            patch_sweep(model, alone, **how)
        assert "\n" not in str(caught.value)


def test_nothing_of_a_corrupt_run_is_said_where_there_is_none(model, alone, tmp_path):
    result = patch_sweep(model, alone, direction="noise", put="zero")
    assert result.corrupt_next is None
    lines = title_lines(result, [])
    assert lines == (
        "Zero ablation of resid_post, clean run (noise); model GPT",
        *result.notes,
        f"clean: {alone.clean_text}",
    )
    notes = [note.split(" id:")[0] for note in result.notes]
    assert notes == ["zeros are put in", "the clean run prefers the foil"]
    plot = heatmaps(result)
    assert plot.columns_are == "token and position"
    assert [name for name, _ in plot.scale.marks] == ["clean"]
    page = sweep_page(result)
    for said in (repr(result), *lines, json.dumps(page), caption(result, "logit_diff")):
        assert "corrupt" not in said
    assert [table.title for table in tables(result)][:2] == [
        "Tokens of the prompt",
        "The likeliest next tokens of the clean prompt, the target and the foil",
    ]
    assert "corrupt_token" not in result.to_frame()
    result.save(tmp_path / "x")
    loaded = SweepResult.load(tmp_path / "x")
    saved = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert saved["corrupt_value"] is saved["metrics"]["logit_diff"]["corrupt"] is None
    assert np.isnan([result.corrupt_value, loaded.corrupt_value]).all()
    assert loaded.pair == result.pair
    assert not loaded.pair.has_corrupt
    assert repr(loaded) == repr(result)


@pytest.mark.slow
def test_the_command_ablates_one_prompt(tmp_path, capsys):
    base = ["--model", "builtin", "--out", f"{tmp_path}/", "--clean", "The keys to the cabinet"]
    base += ["--target", "are", "--foil", "is"]
    assert main([*base, "--put", "zero", "--html"]) == 0
    assert "corrupt" not in capsys.readouterr().out
    (path,) = tmp_path.glob("*.npz")
    assert SweepResult.load(path).direction == "noise"
    assert main(base) == 2
    assert "--corrupt missing: give it too, or ablate the" in capsys.readouterr().err


def test_the_command_ablates_the_example_s_clean_prompt(tmp_path, capsys):
    assert main(["--model", "builtin", "--out", f"{tmp_path}/", "--put", "zero", "--quiet"]) == 0
    (path,) = tmp_path.glob("*.npz")
    result = SweepResult.load(path)
    assert (result.direction, result.pair.has_corrupt) == ("noise", False)


@pytest.mark.parametrize("prompt", [[], ["--clean", "a", "--target", "b", "--foil", "c"]])
def test_what_needs_a_corrupt_prompt_is_refused_before_the_model_loads(prompt, tmp_path, capsys):
    base = ["--model", str(tmp_path / "no-such-model"), "--put", "zero", *prompt]
    for wrong, words in (
        (["--direction", "denoise"], "that is direction noise (--direction noise), or give"),
        (["--metric", "recovery"], "recovery compares with the corrupt run"),
    ):
        assert main([*base, *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
