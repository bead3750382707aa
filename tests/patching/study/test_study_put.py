"""Studies that put in zeros, means and other prompts' activations."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import last, make_model
from study_cases import some_pairs

from mingpt.sites import Patch
from patching import PromptPair, draw_study, mean_over, patch_sweep, resample_from
from patching.cli.study import main
from patching.cli.study_report import maps
from patching.errors import ResultError, StudyError, SweepError
from patching.page.study_page import study_page
from patching.study.figures import study_map, study_strips
from patching.study.generators.make import make_pairs, write_rows
from patching.study.on_disk import read_study, write_study
from patching.study.pairs_file import read_pairs
from patching.study.request import StudyRequest
from patching.study.result import Study
from patching.study.run import run_study
from patching.study.words import experiment_words
from patching.sweep.put import PUTS, Put
from patching.sweep.put_values import PutValues

QUIET = {"progress": False, "direction": "noise"}


@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize(("site", "by_position"), [("resid_mid", False), ("z", False), ("v", True)])
def test_cells_are_the_sweeps_of_each_pair(model, put, site, by_position):
    pairs = some_pairs(7)
    how = {"site": site, "by_position": by_position}
    study = run_study(model, pairs, batch=3, put=put, **how, **QUIET)
    own = {"mean": mean_over(pairs), "resample": resample_from(pairs)}.get(put, put)
    sweeps = patch_sweep(model, pairs, put=own, direction="noise", **how)
    effects = study.cells(site, "logit_diff").effects
    for row, sweep in enumerate(sweeps):
        expected = (sweep.values - sweep.clean_value).ravel()
        np.testing.assert_allclose(effects[row], expected, rtol=0, atol=1e-5)


def test_other_pairs_can_be_named_and_make_another_study(model, tmp_path):
    pairs, others = some_pairs(4), some_pairs(5, seed=1)
    study = run_study(model, pairs, put=mean_over(others), out=tmp_path, **QUIET)
    (first, *_) = patch_sweep(model, pairs, put=mean_over(others), direction="noise")
    effects = study.cells("resid_post", "logit_diff").effects[0]
    np.testing.assert_allclose(effects, (first.values - first.clean_value).ravel(), atol=1e-5)
    assert Study.load(tmp_path).request == study.request
    for put, words in (("mean", "pairs put_from"), ("zero", "put: mean there, zero asked for")):
        with pytest.raises(StudyError, match=words):
            run_study(model, pairs, put=put, out=tmp_path, **QUIET)


def test_a_mean_per_role_is_over_the_tokens_of_that_role(builtin, tmp_path):
    model, tokenizer = builtin
    rows = make_pairs("ioi", tokenizer, 8).rows
    pairs, _ = read_pairs(tokenizer, write_rows(tmp_path / "ioi.csv", rows), roles="roles")
    assert len({len(pair) for pair in pairs}) > 1
    put = Put("mean", per="role")
    study = run_study(model, pairs, put=put, site="resid_post,z", by_position=True, **QUIET)
    places = [study.column("keys")[number].index("S2") for number in range(len(pairs))]
    streams, heads = [], []
    for pair, place in zip(pairs, places, strict=True):
        model(torch.tensor([pair.clean_ids]), record=["resid_post", "z"])
        streams.append(model.recording["resid_post"][1, 0, place])
        heads.append(model.recording["z"][2, 0, 3, place])
    patches = (
        ("resid_post", Patch("resid_post", 1, places[0], value=torch.stack(streams).mean(0)[None])),
        ("z", Patch("z", 2, places[0], 3, value=torch.stack(heads).mean(0)[None])),
    )
    for site, patch in patches:
        cells = study.cells(site, "logit_diff")
        at = cells.axes["role"] == "S2"
        at &= cells.axes["layer"] == patch.layer
        at &= patch.head is None or cells.axes["head"] == patch.head
        logits = last(model, pairs[0].clean_ids, patch=patch)
        value = float(logits[pairs[0].foil_ids[0]] - logits[pairs[0].target_ids[0]])
        found = cells.base[0] + float(cells.effects[0, at].squeeze())
        assert found == pytest.approx(value, abs=1e-4)
    assert "of each role" in study_map(study, study.summary(draws=50, flips=50)).title[0]
    for how, words in (
        ({"put": Put("mean", per="role"), "align": "end"}, "a mean per role is for studies"),
        ({"put": Put("mean", per="role"), "site": "pattern"}, "no mean over all positions or per"),
    ):
        with pytest.raises(StudyError, match=words):
            run_study(model, pairs, **how, **QUIET)
    with pytest.raises(SweepError, match="a mean per role is for studies"):
        patch_sweep(model, pairs[0], put=mean_over(pairs, per="role"), direction="noise")


def test_a_mean_is_computed_once_for_all_batches(model, monkeypatch):
    counted = []
    of = PutValues._mean
    monkeypatch.setattr(PutValues, "_mean", lambda *a, **how: counted.append(a[2]) or of(*a, **how))
    run_study(model, some_pairs(6), site="z,mlp_out", batch=2, put="mean", **QUIET)
    assert counted == ["z", "mlp_out"]


def test_a_study_that_puts_in_what_was_recorded_is_saved_as_before():
    fields = StudyRequest().to_dict()
    assert {"put", "mean_per", "put_seed"}.isdisjoint(fields)
    assert StudyRequest.from_dict(fields) == StudyRequest()
    request = StudyRequest(put="mean", mean_per="all")
    assert StudyRequest.from_dict(request.to_dict()) == request


def test_what_does_not_go_together_is_refused(model):
    unequal = some_pairs(4, lengths=(6, 5))
    alone = PromptPair.from_ids([1, 2, 3], None, 4, 5)
    for pairs, put, words in (
        (unequal, "mean", "pair 0 .* needs prompts of equal length: the pair has 6 tokens, and 2"),
        (some_pairs(2), "nothing", "nothing called"),
        ([*some_pairs(2), alone], "zero", "pair 2 .* no corrupt prompt"),
        ([*some_pairs(2), *some_pairs(1, lengths=(5,))], "resample", "no other clean prompt of 5"),
    ):
        with pytest.raises(StudyError, match=words) as caught:
            run_study(model, pairs, put=put, **QUIET)
        assert "\n" not in str(caught.value)
    run_study(model, unequal, put=mean_over(unequal, per="all"), **QUIET)


@pytest.fixture
def alone() -> list[PromptPair]:
    """Prompts of five tokens without a corrupt one."""
    pairs = some_pairs(4, lengths=(5,))
    return [PromptPair.from_ids(p.clean_ids, None, p.target_ids, p.foil_ids) for p in pairs]


@pytest.mark.parametrize("put", ["zero", "mean", "resample"])
@pytest.mark.parametrize(("site", "by_position"), [("resid_pre", False), ("v", True)])
def test_clean_runs_are_ablated_without_corrupt_prompts(model, alone, put, site, by_position):
    how = {"site": site, "by_position": by_position}
    study = run_study(model, alone, put=put, batch=3, **how, **QUIET)
    own = {"mean": mean_over(alone), "resample": resample_from(alone)}.get(put, put)
    effects = study.cells(site, "logit_diff").effects
    for row, sweep in enumerate(patch_sweep(model, alone, put=own, direction="noise", **how)):
        expected = (sweep.values - sweep.clean_value).ravel()
        np.testing.assert_allclose(effects[row], expected, rtol=0, atol=1e-5)
    assert (study.align, study.why) == ("start", "all pairs have the same length")


def test_a_study_without_corrupt_prompts_shows_the_clean_run_alone(model, alone, tmp_path):
    study = run_study(model, alone, put="zero", out=tmp_path, **QUIET)
    assert not Study.load(tmp_path).has_corrupt
    assert all(np.isnan(values).all() for values in study.unpatched("corrupt").values())
    table = study.summary(draws=9)
    drawn = study_map(study, table, draws=9)
    assert np.isfinite([drawn.scale.low, drawn.scale.high]).all()
    draw_study(study, tmp_path / "map.png", summary=table, draws=9)
    page = study_page(study, table, draws=9)
    json.dumps(page, allow_nan=False)
    assert page["views"][-1]["columns"][1:3] == ["clean", "target"]
    assert page["views"][-1]["columns"][-1] == "logit_diff, clean run"
    said = "\n".join(maps(study, table, {"only_correct": None, "correction": "max-t", "seed": 0,
                                         "confidence": 0.95}, 3))  # fmt: skip
    assert "; clean " in said
    assert "corrupt" not in said
    with pytest.raises(StudyError, match="no corrupt prompts to answer"):
        study.chosen("both")


def test_what_needs_a_corrupt_prompt_is_refused_without(model, alone):
    unequal = [*alone, PromptPair.from_ids([1, 2, 3], None, 4, 5)]
    for pairs, how, words in (
        (alone, {"put": "zero", "direction": "denoise"}, "pair 0 .* that is direction noise"),
        (alone, {"put": "recorded"}, "pair 0 .* nothing is recorded to be put in"),
        (alone, {"put": "zero", "metric": "recovery"}, "pair 0 .* compares with the corrupt run"),
        (alone, {"put": "zero", "align": "first-diff"}, "no token differs, as first-diff needs"),
        (alone, {"paths": "logits"}, "pair 0 .* which path patching needs"),
        ([*alone, *some_pairs(1)], {"put": "zero"}, "pair 4 .* has one corrupt prompt, and pair 0"),
    ):
        with pytest.raises(StudyError, match=words) as caught:
            run_study(model, pairs, **{**QUIET, **how})
        assert "\n" not in str(caught.value)
    study = run_study(model, unequal, put="zero", **QUIET)
    assert study.why == "lengths vary, and the pairs have neither corrupt prompts nor roles"
    assert study.align == "end"


def test_titles_say_what_was_put_in(model):
    study = run_study(model, some_pairs(3), site="z", put="mean", **QUIET)
    said = "ablation of z, clean run, by the mean of 3 clean prompts at each position"
    how = {"draws": 9}
    assert f"Mean of {said}" in study_map(study, study.summary(**how), **how).title[0]
    assert said in study_strips(study, **how).title[0]
    assert study_page(study, study.summary(**how), **how)["title"] == f"Study: {said}"
    assert "mean ablation into clean (noise)" in repr(study)
    assert repr(study).endswith("; put in: the mean of 3 clean prompts at each position")
    put = replace(resample_from(some_pairs(5), seed=5), file="a/\x1b[2J.csv")
    study = run_study(model, some_pairs(3), put=put, **QUIET)
    said = (
        "resample ablation of z, clean run, by another of 5 clean prompts of \\x1b[2J.csv, seed 5"
    )
    assert experiment_words(study, "z") == said
    del study.fields["put_from"]  # as an older study
    assert experiment_words(study, "z").endswith(", by another of the clean prompts, seed 5")


def test_damaged_words_about_the_prompts_are_refused(model, tmp_path):
    run_study(model, some_pairs(3), put="mean", out=tmp_path, **QUIET)
    fields = read_study(tmp_path)
    write_study(tmp_path, fields | {"put_from": {"prompts": "3", "file": None}})
    with pytest.raises(ResultError, match="put_from"):
        Study.load(tmp_path)


@pytest.mark.slow
def test_the_command_ablates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = ["clean,corrupt,target,foil"]
    text = "Michelle {} was a top-notch student. Michelle"
    for a, b in (("Jones", "Smith"), ("Brown", "Jones"), ("Smith", "Brown")):
        rows.append(f"{text.format(a)},{text.format(b)},{a},{b}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows), encoding="utf-8")
    base = ["run", "pairs.csv", "--model", "builtin", "--site", "z", "--direction", "noise"]
    base += ["--draws", "100"]
    assert main([*base, "--put", "mean", "--out", "a"]) == 0
    assert Study.load(tmp_path / "a").request.put == "mean"
    more = ["--put", "resample", "--seed", "3", "--resample-from", "pairs.csv"]
    assert main([*base, *more, "--out", "b"]) == 0
    assert Study.load(tmp_path / "b").request.put_seed == 3
    assert Study.load(tmp_path / "b").fields["put_from"] == {"prompts": 3, "file": "pairs.csv"}
    assert Study.load(tmp_path / "a").fields["put_from"] == {"prompts": 3, "file": None}
    capsys.readouterr()
    prompts = [f"{text.format(name)},{name}" for name in ("Jones", "Brown", "Smith")]
    (tmp_path / "alone.csv").write_text("\n".join(["clean,target", *prompts]), encoding="utf-8")
    of_alone = [base[0], "alone.csv", *base[2:], "--metric", "log_prob"]
    assert main([*of_alone, "--put", "zero", "--out", "c"]) == 0
    out = capsys.readouterr().out
    assert "3 pairs (clean, target)" in out
    assert "differ:" not in out
    assert not Study.load(tmp_path / "c").has_corrupt
    assert main([*of_alone, "--out", "d"]) == 2
    assert "needed corrupt" in capsys.readouterr().err
    assert main([*base, "--put", "zero", "--mean-over", "pairs.csv"]) == 2
    assert "--mean-over is for --put mean" in capsys.readouterr().err


def test_in_float64_a_mean_of_one_prompt_is_its_run():
    model, (pair, other) = make_model().double(), some_pairs(2)
    study = run_study(model, [pair, pair], put=mean_over([other]), site="k", **QUIET)
    (sweep,) = patch_sweep(model, [pair], put=resample_from([other]), site="k", direction="noise")
    effects = study.cells("k", "logit_diff").effects[0]
    np.testing.assert_allclose(effects, (sweep.values - sweep.clean_value).ravel(), atol=1e-9)
