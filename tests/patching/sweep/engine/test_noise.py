"""Gaussian noise on a subject's embeddings: the engine against the loop, and against hooks."""

import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_cases import VARIANTS, variant_id
from helpers import last, make_model

from patching import Gaussian, PromptPair, SweepResult, gaussian, patch_sweep
from patching.cli.patch import main
from patching.errors import SweepError, named
from patching.page.sweep_page import sweep_page
from patching.sweep.figures import heatmaps, title_lines
from patching.sweep.hand_in import caption
from patching.sweep.noised import draws_of, measure_draws, standard_deviation

SUBJECT = (1, 2)


@pytest.fixture
def alone() -> PromptPair:
    return PromptPair.from_ids([5, 9, 11, 3, 7, 30, 5], None, 11, 22)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_the_fast_sweep_is_the_loop(alone, variant, direction):
    model = make_model(seed=3).double()
    how = {"direction": direction, "corrupt_by": Gaussian((1, 4), draws=2), **variant}
    quick, slow = (
        patch_sweep(model, alone, method=method, metric="logit_diff,recovery,kl", **how)
        for method in ("fast", "loop")
    )
    for name, found in quick.metrics.items():
        np.testing.assert_allclose(found.values, slow.metrics[name].values, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found[1:], slow.metrics[name][1:], rtol=0, atol=1e-9)


def noised(model, ids, rows, **flags) -> torch.Tensor:
    """Return the logits (V,) of a run whose token embeddings at SUBJECT get rows (2, C)."""

    def add(module, inputs, out):
        if out.shape[:-1] == (1, len(ids)):  # tokens, not positions
            out = out.clone()
            out[0, list(SUBJECT)] += rows
        return out

    hook = model.transformer.wte.register_forward_hook(add)
    try:
        return last(model, ids, **flags)
    finally:
        hook.remove()


def test_cells_are_means_over_draws_and_recovery_is_their_ratio(alone):
    """By a hook on the token embedding, before positions are added."""
    model, noise = make_model().double(), Gaussian(SUBJECT, draws=4, seed=7)
    found = patch_sweep(model, alone, corrupt_by=noise, metric="recovery,logit_diff,prob_diff")
    entries = model.transformer.wte.weight.detach()[[9, 11]]
    std = 3 * float(entries.std())  # over all entries, as ROME's
    assert found.noise["std"] == pytest.approx(std, rel=1e-6)

    def differences(logits):
        diff, p = logits[22] - logits[11], logits.softmax(-1)
        return np.array([float(diff), float(p[22] - p[11])])

    clean = differences(last(model, alone.clean_ids, record=True))
    patched, corrupt = [], []
    for draw in draws_of(model, alone, noise, std):
        corrupt.append(differences(noised(model, alone.clean_ids, draw.rows)))
        patched.append(differences(noised(model, alone.clean_ids, draw.rows, patch=(1, 2))))
    (diff, p), (diff_corrupt, p_corrupt) = np.mean(patched, 0), np.mean(corrupt, 0)
    assert found.metrics["logit_diff"].values[1, 2] == pytest.approx(diff, abs=1e-9)
    assert found.metrics["logit_diff"].corrupt == pytest.approx(diff_corrupt, abs=1e-9)
    assert found.metrics["prob_diff"].values[1, 2] == pytest.approx(p, abs=1e-9)
    assert found.metrics["prob_diff"].corrupt == pytest.approx(p_corrupt, abs=1e-9)
    recovery = (diff_corrupt - diff) / (diff_corrupt - clean[0])
    assert found.values[1, 2] == pytest.approx(recovery, abs=1e-9)
    assert (found.clean_value, found.corrupt_value) == (1.0, 0.0)


def test_the_clean_embedding_of_the_subject_undoes_the_noise(alone):
    model, noise = make_model().double(), Gaussian((2,), draws=3)
    found = patch_sweep(model, alone, site="resid_pre", metric="recovery", corrupt_by=noise)
    assert found.values[0, 2] == pytest.approx(1, abs=1e-9)
    assert (found.values[0, [0, 1, 3, 4, 5, 6]] == 0).all()  # there the two runs begin equal
    assert found.values[:, :2] == pytest.approx(0, abs=1e-12)  # before the subject


def test_the_standard_deviation_is_as_asked_and_of_all_the_subjects(alone):
    model = make_model()
    other = PromptPair.from_ids([1, 2, 3, 4], None, 11, 22)
    entries = model.transformer.wte.weight.detach()[[9, 11, 2, 3]]
    found = standard_deviation(model, [alone, other], [Gaussian(SUBJECT, "2s")] * 2)
    assert found == pytest.approx(2 * float(entries.double().std()), rel=1e-6)
    for asked in (0.4, "0.4"):
        assert standard_deviation(model, [alone], [Gaussian(SUBJECT, asked)]) == 0.4
    several = patch_sweep(model, [alone, other], corrupt_by=Gaussian(SUBJECT, "2s", draws=2))
    assert several[1].noise["std"] == pytest.approx(found)
    single = patch_sweep(model, other, corrupt_by=Gaussian(SUBJECT, found, draws=2))
    np.testing.assert_allclose(several[1].values, single.values, rtol=0, atol=1e-5)


def test_draws_are_seeded_and_the_same_in_every_dtype(alone):
    noise = Gaussian(SUBJECT, draws=200, seed=1)
    wide, half = (
        draws_of(make_model().to(d), alone, noise, 0.5) for d in (torch.float64, torch.float16)
    )
    assert torch.equal(wide[3].rows.half(), half[3].rows)
    assert float(torch.stack([one.rows for one in wide]).std()) == pytest.approx(0.5, rel=0.05)
    another = PromptPair.from_ids(alone.clean_ids[::-1], None, 11, 22)
    for pair, with_seed in ((alone, replace(noise, seed=2)), (another, noise)):
        other = draws_of(make_model().double(), pair, with_seed, 0.5)
        assert not torch.equal(other[0].rows, wide[0].rows)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_clean_run_is_computed_once_for_all_draws(alone, direction, monkeypatch):
    """Ten draws embed one clean run, and cost at most ten sweeps of a pair less nine such runs."""
    model, embedded = make_model(), []
    embed = type(model).embed
    monkeypatch.setattr(
        type(model),
        "embed",
        lambda self, ids, at: embedded.append(len(ids)) or embed(self, ids, at),
    )

    def work(draws: int) -> int:
        seen = []
        noise = Gaussian(SUBJECT, draws=draws)
        patch_sweep(
            model, alone, direction=direction, corrupt_by=noise,
            progress=lambda *step: seen.append(step),
        )  # fmt: skip
        assert seen[-1][0] == seen[-1][1]
        return seen[-1][1]

    T, first = len(alone), SUBJECT[0]
    clean, noised = (T - first, T) if direction == "denoise" else (T, T - first)
    ten, one = work(10), work(1)
    assert embedded == [clean + 10 * noised, clean + noised]
    assert ten == 10 * one - 9 * clean * model.config.n_layer


def test_ten_draws_cost_ten_sweeps_at_most(alone, pair):
    def work(pair, **how) -> int:
        seen = []
        patch_sweep(make_model(), pair, progress=lambda *step: seen.append(step), **how)
        return seen[-1][1]

    first = PromptPair.from_ids(pair.clean_ids, [5, 8, *pair.clean_ids[2:]], 11, 22)  # at 1, too
    assert work(alone, corrupt_by=Gaussian(SUBJECT)) < 10 * work(first)


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_chunks_cut_among_the_draws_give_the_same(alone, variant):
    model = make_model().double()
    how = {"corrupt_by": Gaussian((5,), draws=5), "direction": "noise", **variant}
    whole = patch_sweep(model, alone, **how)
    with pytest.raises(SweepError, match="at least") as caught:
        patch_sweep(model, alone, max_memory=1, **how)
    least = int(re.search(r"max_memory=(\d+)", str(caught.value)).group(1))
    cut = patch_sweep(model, alone, max_memory=2 * least, **how)
    np.testing.assert_allclose(cut.values, whole.values, rtol=0, atol=1e-9)


def test_an_error_names_the_pair_and_not_the_draw(alone):
    def by(pairs, grids, metrics, values):
        with named(4, len(pairs)):
            raise SweepError("no number")

    noise = Gaussian(SUBJECT, draws=3)
    for count, said in ((2, "pair 1 (from 0): no number"), (1, "no number")):
        with pytest.raises(SweepError) as caught:
            some = [alone] * count
            measure_draws(make_model(), some, [None] * count, [], [noise] * count, 0.5, by)
        assert str(caught.value) == said
    with pytest.raises(SweepError, match=r"^pair 4 \(from 0\)") as caught:
        by([alone] * 6, [], [], [])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # as workers send it


def test_what_does_not_go_together_is_refused(alone, pair):
    model, noise = make_model(), Gaussian(SUBJECT, draws=2)
    for of, how, words in (
        (pair, {}, "noise takes the place of a corrupt prompt"),
        (alone, {"method": "attribution"}, "fast and loop, not attribution"),
        (alone, {"put": "zero"}, "leave put at recorded"),
        (alone, {"next_tokens": 3}, "leave next_tokens at 0"),
        (alone, {"corrupt_by": Gaussian((7,))}, "position 7, and the prompt has 7 tokens"),
        (alone, {"corrupt_by": "gaussian"}, "corrupt_by is gaussian"),
        (alone, {"corrupt_by": Gaussian((6,), 1e-9), "metric": "recovery"}, "mean logit diff"),
    ):
        with pytest.raises(SweepError, match=words) as caught:
            patch_sweep(model, of, **{"corrupt_by": noise, **how})
        assert "\n" not in str(caught.value)
    for wrong in ({"positions": ()}, {"std": "s"}, {"std": "-3s"}, {"std": "nan"}, {"std": 0},
                  {"std": True}, {"draws": 0}, {"draws": 10**5}, {"seed": -1},
                  {"positions": (-1,)}):  # fmt: skip
        with pytest.raises(SweepError):
            Gaussian(**{"positions": SUBJECT, **wrong})


def test_a_subject_is_found_by_its_tokens(builtin):
    _, tokenizer = builtin
    prompt = "TheJones met na\u00efve Michelle Jones and Jones"
    ids = tokenizer.encode(prompt)
    for subject, before in (
        ("Michelle Jones", "TheJones met na\u00efve"),
        ("na\u00efve", "TheJones met"),
        ("Jones", "TheJones met na\u00efve Michelle"),  # not the end of the first word
        ("met", "TheJones"),
    ):
        positions = gaussian(tokenizer, prompt, subject).positions
        first, end = positions[0], positions[-1] + 1
        assert positions == tuple(range(first, end))
        assert tokenizer.decode(ids[:first]) == before
        assert tokenizer.decode(ids[:end]) == f"{before} {subject}"
    for subject, words in (("Jon", "a part of a word"), ("Paris", "is not in"), (" ", "is not in")):
        with pytest.raises(SweepError, match=words):
            gaussian(tokenizer, prompt, subject)


def test_titles_and_files_say_what_the_noise_was(alone, tmp_path):
    model = make_model()
    noise = Gaussian(SUBJECT, draws=2, seed=5, subject="the key")
    found = patch_sweep(model, alone, corrupt_by=noise)
    assert title_lines(found, [])[0].startswith("Activation patching of resid_post, clean into noi")
    said = (
        "Gaussian noise on the token embeddings of \u201cthe key\u201d (positions 1, 2): standard"
        f" deviation {found.noise['std']:.4g} (3 x that of the subject's embeddings), mean over 2"
        " draws, seed 5"
    )
    assert any(said in note for note in found.notes)
    assert said in caption(found, "logit_diff")
    assert said in json.dumps(sweep_page(found), ensure_ascii=False)
    assert [name for name, _ in heatmaps(found).scale.marks] == ["clean", "corrupt"]
    assert f"corrupt {found.corrupt_value:.4f}" in repr(found)
    found.save(tmp_path / "x")
    assert SweepResult.load(tmp_path / "x").noise == found.noise


def test_the_command_traces(tmp_path, capsys):
    base = ["--model", "builtin", "--out", f"{tmp_path}/", "--metric", "recovery", "--draws", "2"]
    noise = ["--corrupt-by", "gaussian", "--subject", "Michelle Jones"]
    assert main([*base, *noise, "--site", "mlp_out", "--window", "2"]) == 0
    assert "standard deviation 0.2927" in capsys.readouterr().out
    (path,) = tmp_path.glob("*.npz")
    assert SweepResult.load(path).noise["positions"] == [0, 1]
    for wrong, words in (
        (noise[:2], "needs --subject"),
        ([], "--draws is for --corrupt-by gaussian"),
        ([*noise, "--corrupt", "x"], "takes the place of --corrupt"),
        ([*noise, "--noise-std", "x"], "a multiple such as 3s, not 'x'"),
        ([*noise, "--method", "attribution"], "not attribution"),
        ([*noise[:3], "Paris"], "is not in the clean prompt"),
    ):
        assert main([*base, *wrong]) == 2
        (*_, line) = capsys.readouterr().err.splitlines()
        assert words in line


@pytest.mark.slow
def test_the_command_writes_a_page_of_noise(tmp_path):
    noise = ["--corrupt-by", "gaussian", "--subject", "Michelle Jones", "--draws", "2"]
    assert main(["--model", "builtin", "--out", f"{tmp_path}/", *noise, "--html"]) == 0
    (page,) = tmp_path.glob("*.html")
    assert "Gaussian noise" in page.read_text(encoding="utf-8")
