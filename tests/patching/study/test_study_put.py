"""Studies that put in zeros, means and other prompts' activations."""

import numpy as np
import pytest
from helpers import make_model
from study_cases import some_pairs

from patching import PromptPair, mean_over, patch_sweep, resample_from
from patching.cli.study import main
from patching.errors import StudyError
from patching.page.study_page import study_page
from patching.study.figures import study_map, study_strips
from patching.study.request import StudyRequest
from patching.study.result import Study
from patching.study.run import run_study
from patching.sweep.put import PUTS
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


def test_a_mean_is_computed_once_for_all_batches(model, monkeypatch):
    counted = []
    of = PutValues._mean
    monkeypatch.setattr(PutValues, "_mean", lambda *a: counted.append(a[2]) or of(*a))
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


def test_titles_say_what_was_put_in(model):
    study = run_study(model, some_pairs(3), site="z", put="mean", **QUIET)
    said = "mean ablation of z, clean run, mean at each position"
    how = {"draws": 9}
    assert f"Mean of {said}" in study_map(study, study.summary(**how), **how).title[0]
    assert said in study_strips(study, **how).title[0]
    assert study_page(study, study.summary(**how), **how)["title"] == f"Study: {said}"
    assert "mean ablation into clean (noise)" in repr(study)


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
    capsys.readouterr()
    assert main([*base, "--put", "zero", "--mean-over", "pairs.csv"]) == 2
    assert "--mean-over is for --put mean" in capsys.readouterr().err


def test_in_float64_a_mean_of_one_prompt_is_its_run():
    model, (pair, other) = make_model().double(), some_pairs(2)
    study = run_study(model, [pair, pair], put=mean_over([other]), site="k", **QUIET)
    (sweep,) = patch_sweep(model, [pair], put=resample_from([other]), site="k", direction="noise")
    effects = study.cells("k", "logit_diff").effects[0]
    np.testing.assert_allclose(effects, (sweep.values - sweep.clean_value).ravel(), atol=1e-9)
