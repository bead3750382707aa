"""Studies with Gaussian noise on each pair's subject, in place of corrupt prompts."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import make_model
from study_cases import some_pairs

from patching import Gaussian, PromptPair, noise_on_subjects, patch_sweep, read_pairs
from patching.cli.study import main
from patching.errors import PairsError, StudyError
from patching.page.study_page import study_page
from patching.study import on_disk
from patching.study.comparison import compare_studies
from patching.study.figures import comparison_map, study_map, study_strips
from patching.study.request import StudyRequest
from patching.study.result import Study
from patching.study.run import run_study

QUIET = {"progress": False}
FACTS = [
    ("The capital of France is", "France", "Paris"),
    ("The keys to the old cabinet", "keys", "are"),
    ("Michelle Jones was a top-notch student. Michelle", "Michelle Jones", "Jones"),
]


def alone(count: int, lengths=(6, 5)) -> list[PromptPair]:
    """Return prompts without a corrupt one, for make_model()."""
    pairs = some_pairs(count, lengths)
    return [PromptPair.from_ids(p.clean_ids, None, p.target_ids, p.foil_ids) for p in pairs]


def noise(pairs, **how) -> list[Gaussian]:
    """Return noise on one or two tokens of each pair."""
    settings = {"draws": 3, "seed": 4, **how}
    return [Gaussian((1, 2)[: 1 + number % 2], **settings) for number in range(len(pairs))]


@pytest.fixture
def facts(tmp_path):
    """Write facts as ROME's file has them; return its path."""
    rows = [dict(zip(("prompt", "subject", "attribute"), one, strict=True)) for one in FACTS]
    (tmp_path / "facts.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path / "facts.json"


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(("site", "by_position"), [("mlp_out", False), ("v", True)])
def test_cells_are_the_sweeps_of_each_pair(direction, site, by_position):
    """With the standard deviation of the whole study, and each pair's own draws."""
    model, pairs = make_model().double(), alone(5)
    how = {"site": site, "by_position": by_position, "direction": direction}
    study = run_study(model, pairs, corrupt_by=noise(pairs), batch=2, align="end", **how, **QUIET)
    frame = study.to_frame()
    for number, (pair, one) in enumerate(zip(pairs, noise(pairs), strict=True)):
        own = replace(one, std=study.noise_std)
        sweep = patch_sweep(model, pair, corrupt_by=own, metric="logit_diff", progress=False, **how)
        found = frame[frame["pair"] == number]["value"].to_numpy()
        np.testing.assert_allclose(found, sweep.values.ravel(), rtol=0, atol=1e-9)
        for run in ("clean", "corrupt"):
            value = study.unpatched(run)["logit_diff"][number]
            assert value == pytest.approx(getattr(sweep, f"{run}_value"), abs=1e-9)


def test_the_size_of_the_noise_is_of_all_subjects_of_the_study(model, tmp_path):
    pairs = alone(4)
    study = run_study(model, pairs, corrupt_by=noise(pairs, std="2s"), out=tmp_path, **QUIET)
    ids = [p.clean_ids[at] for p, one in zip(pairs, noise(pairs), strict=True)
           for at in one.positions]  # fmt: skip
    entries = model.transformer.wte.weight.detach()[ids].double()
    assert study.noise_std == pytest.approx(2 * float(entries.std()), rel=1e-6)
    fields = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert fields["noise_std"] == Study.load(tmp_path).noise_std == study.noise_std
    assert fields["request"]["noise_std"] == "2s"
    assert study.column("subject") == [list(one.positions) for one in noise(pairs)]
    absolute = run_study(model, pairs, corrupt_by=noise(pairs, std=0.4), **QUIET)
    assert absolute.noise_std == 0.4


def test_recovery_is_a_ratio_of_means_over_pairs_and_draws(model):
    pairs = alone(4, lengths=(6,))
    study = run_study(model, pairs, corrupt_by=noise(pairs), metric="recovery", align="start",
                      **QUIET)  # fmt: skip
    sweeps = [
        patch_sweep(model, pair, corrupt_by=replace(one, std=study.noise_std), metric="logit_diff")
        for pair, one in zip(pairs, noise(pairs), strict=True)
    ]
    corrupt, clean = (np.mean([getattr(s, f"{run}_value") for s in sweeps])
                      for run in ("corrupt", "clean"))  # fmt: skip
    patched = np.mean([sweep.values for sweep in sweeps], axis=0)
    found = study.summary(draws=9)["mean"].to_numpy()
    expected = (corrupt - patched) / (corrupt - clean)
    np.testing.assert_allclose(found, expected.ravel(), rtol=0, atol=1e-4)


def test_numbers_depend_neither_on_batches_nor_on_where_a_study_stopped(tmp_path):
    model, pairs = make_model().double(), alone(6)
    how = {"corrupt_by": noise(pairs), "site": "z", **QUIET}
    whole = run_study(model, pairs, batch=3, out=tmp_path / "a", **how)
    other = run_study(model, pairs, batch=1, **how)
    effects = whole.cells("z", "logit_diff").effects
    np.testing.assert_allclose(other.cells("z", "logit_diff").effects, effects, rtol=0, atol=1e-9)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    on_disk.shard_path(tmp_path / "b", 1).unlink()
    again = run_study(model, pairs, batch=3, out=tmp_path / "b", **how)
    assert (again.cells("z", "logit_diff").effects == effects).all()


def test_draws_of_a_pair_share_a_clean_run_in_studies_too(model, monkeypatch):
    embedded = []
    embed = type(model).embed
    monkeypatch.setattr(
        type(model),
        "embed",
        lambda self, ids, at: embedded.append(len(ids)) or embed(self, ids, at),
    )
    pairs = alone(2, lengths=(6,))
    run_study(model, pairs, corrupt_by=[Gaussian((2,), draws=5)] * 2, **QUIET)
    assert embedded == [2 * (4 + 5 * 6)]  # the clean run from position 2 on, five noised runs


def test_a_folder_refuses_other_noise(model, tmp_path):
    pairs = alone(3)
    run_study(model, pairs, corrupt_by=noise(pairs), out=tmp_path, **QUIET)
    elsewhere = [replace(one, positions=(0,)) for one in noise(pairs)]
    for other, words in (
        (noise(pairs, seed=5), "noise_seed: 4 there, 5 asked for"),
        (noise(pairs, draws=2), "noise_draws: 3 there, 2 asked for"),
        (noise(pairs, std=0.4), "noise_std: 3s there, 0.4 asked for"),
        (elsewhere, "pairs subjects"),
    ):
        with pytest.raises(StudyError, match=words):
            run_study(model, pairs, corrupt_by=other, out=tmp_path, **QUIET)


def test_a_request_without_noise_is_saved_as_before():
    assert {"corrupt_by", "noise_std"}.isdisjoint(StudyRequest().to_dict())
    request = StudyRequest(corrupt_by="gaussian", noise_std="0.4", noise_draws=2, noise_seed=1)
    assert StudyRequest.from_dict(request.to_dict()) == request


def test_positions_are_aligned_by_the_subject(model):
    pairs = alone(4)
    study = run_study(model, pairs, corrupt_by=noise(pairs), **QUIET)
    assert (study.align, study.why) == (
        "last-diff", "lengths or subjects vary: 0 is a subject's last token",
    )  # fmt: skip
    (first, second, *_) = study.column("keys")
    assert first == ["-1", "0", "1", "2", "3", "4"]  # position 1 alone
    assert second == ["-2", "-1", "0", "1", "2"]  # positions 1 and 2
    equal = alone(3, lengths=(6,))
    same = run_study(model, equal, corrupt_by=[Gaussian((2,), draws=2)] * 3, **QUIET)
    assert same.align == "start"
    assert "have their subject at the same positions" in same.why
    assert study_map(study, study.summary(draws=9)).columns_are == (
        "position from the last token of the subject"
    )


def test_what_does_not_go_together_is_refused(model):
    pairs, with_corrupt = alone(3), some_pairs(3)
    several = noise(pairs)
    for of, how, words in (
        (pairs, {}, "pair 0 .* no corrupt prompt"),
        (with_corrupt, {"corrupt_by": several}, "pair 0 .* takes the place of a corrupt prompt"),
        (pairs, {"corrupt_by": several[:2]}, "a Gaussian for each of the 3 pairs"),
        (pairs, {"corrupt_by": "gaussian"}, "a Gaussian for each of the 3 pairs"),
        (pairs, {"corrupt_by": 3}, "a Gaussian for each of the 3 pairs"),
        (pairs, {"corrupt_by": [*several[:2], replace(several[2], draws=9)]}, "noise of pair 2"),
        (pairs, {"corrupt_by": [*several[:2], replace(several[2], positions=(6,))]}, "pair 2 .* 6"),
        (pairs, {"corrupt_by": several, "put": "zero"}, "leave put at recorded"),
        (pairs, {"corrupt_by": several, "paths": "logits"}, "paths go neither"),
    ):
        with pytest.raises(StudyError, match=words) as caught:
            run_study(model, of, **how, **QUIET)
        assert "\n" not in str(caught.value)
    with pytest.raises(StudyError, match="no corruption"):
        StudyRequest(corrupt_by="laplace")
    with pytest.raises(StudyError, match="no subjects"):
        noise_on_subjects(pairs)


def test_titles_pages_and_comparisons_say_what_the_noise_was(model):
    pairs = alone(4)
    study = run_study(model, pairs, corrupt_by=noise(pairs), **QUIET)
    other = run_study(model, pairs, corrupt_by=noise(pairs, std=0.4), **QUIET)
    said = (
        "noised: Gaussian noise on each subject's token embeddings, standard deviation"
        f" {study.noise_std:.4g} (3 x that of the subjects' embeddings), mean over 3 draws, seed 4"
    )
    how = {"draws": 9}
    table = study.summary(**how)
    assert said in study_map(study, table, **how).title
    assert said in study_map(study, table, title="mine", **how).title
    assert said in study_strips(study, title="mine", **how).title
    assert said in repr(study)
    page = study_page(study, table, **how)
    assert said in json.dumps(page, ensure_ascii=False)
    assert page["title"] == "Study: activation patching of resid_post, clean into noised"
    assert page["views"][-1]["columns"][1:3] == ["clean", "target"]  # without corrupt prompts
    assert page["views"][-1]["columns"][-1] == "logit_diff, noised run"
    found = compare_studies(study, other, site="resid_post", metric="logit_diff", **how)
    assert found["paired"].all()
    drawn = comparison_map(study, other, found, "resid_post", "logit_diff")
    assert "noise of sd 0.4 on subjects" in drawn.title[0]


def test_a_noised_run_has_no_right_answer(model):
    pairs = alone(4)
    study = run_study(model, pairs, corrupt_by=noise(pairs), **QUIET)
    assert np.isnan(study.unpatched("corrupt")["top"]).all()
    assert np.isfinite(study.unpatched("clean")["top"]).all()
    with pytest.raises(StudyError, match="no corrupt prompts to answer"):
        study.chosen("both")


def test_a_file_of_facts_is_read_with_its_subjects(builtin, facts):
    _, tokenizer = builtin
    pairs, report = read_pairs(tokenizer, facts, subject="subject")
    assert pairs.subjects == ((3,), (1,), (0, 1))
    assert not any(pair.has_corrupt or pair.foil_ids for pair in pairs)
    assert report.columns == {"clean": "prompt", "target": "attribute", "subject": "subject"}
    assert any(line == "tokens of the subject: 1 (2 pairs), 2 (1 pairs)" for line in report.lines())
    assert pairs[1:].subjects == pairs.subjects[1:]
    settings = {(one.std, one.draws, one.seed) for one in noise_on_subjects(pairs, draws=2, seed=7)}
    assert settings == {("3s", 2, 7)}


def test_subjects_are_read_from_columns_or_roles(builtin, tmp_path):
    _, tokenizer = builtin
    path = tmp_path / "pairs.csv"

    def read(*rows: str, **how):
        path.write_text("\n".join(rows), encoding="utf-8")
        return read_pairs(tokenizer, path, **how)

    head = "clean,corrupt,target,foil,roles"
    row = "The keys to the cabinet,The key to the cabinet,are,is,S:1 end:-1"
    pairs, report = read(head, row, subject="S", roles="roles")
    assert pairs.subjects == ((1,),)
    assert report.kept == ("corrupt",)  # not read
    assert report.columns["subject"] == "S"
    pairs, _ = read(
        "clean,target", "The {S:keys} to the {O:cabinet},are", subject="O", roles="marks"
    )
    assert pairs.subjects == ((4,),)
    _, report = read(
        "clean,target,who",
        "The keys to the cabinet,are,cabinet",
        "The keys to the cabinet,are,keys",  # another subject: no duplicate
        "The keys to the door,are,cabinet",
        "The keys to the door,are,key",
        "The keys to the door,are,",
        subject="who",
    )
    assert {one.reason: one.places for one in report.left_out} == {
        "a subject that is no whole words of the prompt": (4, 5),
        "no subject": (6,),
    }
    for wrong, words in (
        ({"subject": "what"}, "no column 'what' of subjects, and no roles are read"),
        ({"subject": "what", "roles": "roles", "strict": True}, "no role 'what', whose tokens"),
        ({"subject": "roles", "columns": {"corrupt": "corrupt"}}, "no corrupt prompts are read"),
    ):
        with pytest.raises(PairsError, match=words):
            read(head, row, **wrong)
    with pytest.raises(PairsError, match="needed corrupt"):
        read("clean,target", "The keys,are")


def test_the_command_traces_facts(facts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = ["run", "facts.json", "--model", "builtin", "--draws", "50", "--flips", "50"]
    how = ["--corrupt-by", "gaussian", "--noise-draws", "2", "--seed", "3", "--metric", "log_prob"]
    assert main([*base, *how, "--out", "a", "--site", "mlp_out"]) == 0
    said = capsys.readouterr().out
    assert "standard deviation 0.2" in said
    assert "noised -" in said
    study = Study.load(tmp_path / "a")
    assert (study.request.noise_draws, study.request.noise_seed) == (2, 3)
    for wrong, words in (
        (["--subject", "x"], "--subject is for --corrupt-by gaussian"),
        (["--noise-draws", "3"], "--noise-draws is for --corrupt-by gaussian"),
        ([*how, "--subject", "who"], "no column 'who' of subjects"),
        ([*how, "--subject", ""], "--subject is empty"),
        ([*how, "--noise-std", "-1"], "a multiple such as 3s, not '-1'"),
        ([*how, "--put", "zero"], "leave put at recorded"),
        ([*how[:4], "--metric", "logit_diff"], "pair has none; metrics"),
        ([], "missing columns"),
    ):
        assert main([*base, *wrong, "--out", "b"]) == 2
        (*_, line) = capsys.readouterr().err.splitlines()
        assert words in line
    assert not (tmp_path / "b").exists()


def test_a_dry_run_of_noise_says_how_long_it_takes(facts, tmp_path, capsys):
    path = tmp_path / "two.json"
    rows = json.loads(facts.read_text(encoding="utf-8"))
    path.write_text(json.dumps([rows[0], {**rows[0], "prompt": "The capital of Italy is",
                                          "subject": "Italy", "attribute": "Rome"}]))  # fmt: skip
    how = ["--corrupt-by", "gaussian", "--noise-draws", "1", "--metric", "kl", "--dry-run"]
    assert main(["run", str(path), "--model", "builtin", "--out", str(tmp_path / "s"), *how]) == 0
    assert "for 2 pairs" in capsys.readouterr().out


def test_noise_is_the_same_in_every_dtype():
    pairs = alone(3)
    wide, narrow = (
        run_study(make_model().to(dtype), pairs, corrupt_by=noise(pairs), **QUIET)
        for dtype in (torch.float64, torch.float32)
    )
    effects = [study.cells("resid_post", "logit_diff").effects for study in (wide, narrow)]
    np.testing.assert_allclose(effects[1], effects[0], rtol=0, atol=1e-4)
