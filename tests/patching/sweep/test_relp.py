"""RelP and integrated attribution against autograd on hooks of transformers' GPT-2, in float64."""

import hooked_gpt2 as hooks
import numpy as np
import pytest
import torch
from helpers import make_model
from torch import nn

from mingpt import SITES
from mingpt.loading.model_files import load_model
from mingpt.sites import HEAD_SITES
from patching import PromptPair, SweepError, SweepResult, patch_sweep
from patching.cli.patch import main
from patching.errors import ResultError
from patching.page.sweep_page import sweep_page
from patching.sweep.figures import heatmaps, title_lines
from patching.sweep.hand_in import caption, write_folder
from patching.sweep.relp import propagation
from patching.sweep.request import DIRECTIONS, Request

IDS = {"clean": [9, 3, 14, 15, 9, 2], "corrupt": [9, 3, 26, 15, 40, 2], "target": 7, "foil": 31}
PAIR = PromptPair.from_ids(IDS["clean"], IDS["corrupt"], IDS["target"], IDS["foil"])
RULES = [("ln",), ("gelu",), ("pattern",), ("ln", "gelu"), ("ln", "gelu", "pattern")]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return a random GPT-2 of transformers and ours with the same weights, in float64."""
    theirs = hooks.make_model()
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):  # scales of 1 would hide that they are used
            module.weight.data += 0.3 * torch.randn_like(module.weight)
    folder = tmp_path_factory.mktemp("random-gpt2")
    theirs.save_pretrained(folder)
    return theirs.double(), load_model(folder).double()


def by_hooks(theirs, site, direction, *, by_position=True, **how):
    """Return base + effect in our sign, foil - target."""
    base = DIRECTIONS[direction][0]
    effects = hooks.attribution(theirs, IDS, site, base=base, **how)
    if site in HEAD_SITES and not by_position:
        effects = effects.sum(-1)
    ends = dict(zip(("clean", "corrupt"), hooks.unpatched(theirs, IDS), strict=True))
    return -(ends[base] + effects).numpy()


def ours(model, site, direction, *, by_position=True, **how):
    return patch_sweep(
        model, PAIR, site=site, direction=direction,
        by_position=by_position and site in HEAD_SITES, progress=False, **how,
    ).values  # fmt: skip


@pytest.mark.parametrize("rules", RULES)
def test_every_site_equals_autograd_on_hooks(both, rules):
    theirs, model = both
    for site in SITES:
        if "pattern" in rules and site in ("q", "k"):
            with pytest.raises(SweepError, match=f"the only path from {site} to the logits"):
                ours(model, site, "denoise", method="relp", relp_rules=rules)
            continue
        for direction in DIRECTIONS:
            found = ours(model, site, direction, method="relp", relp_rules=rules)
            expected = by_hooks(theirs, site, direction, rules=rules)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9, err_msg=site)
    together = ours(model, "v", "denoise", method="relp", relp_rules=rules, by_position=False)
    expected = by_hooks(theirs, "v", "denoise", by_position=False, rules=rules)
    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-9)


def test_every_rule_changes_the_estimates(both):
    _, model = both
    found = [ours(model, "resid_pre", "denoise", method="relp", relp_rules=one) for one in RULES]
    found.append(ours(model, "resid_pre", "denoise", method="attribution"))
    for number, one in enumerate(found):
        for other in found[:number]:
            assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("steps", [1, 3])
def test_integrated_attribution_equals_a_loop_over_hooks(both, steps):
    theirs, model = both
    for site in SITES:
        for direction in DIRECTIONS:
            found = ours(model, site, direction, method="attribution-ig", steps=steps)
            expected = by_hooks(theirs, site, direction, steps=steps)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9, err_msg=site)


def test_one_step_is_the_gradient_at_the_source_run(both):
    """So its effects are those of attribution in the other direction, with the sign turned."""
    _, model = both
    for direction, other in (("denoise", "noise"), ("noise", "denoise")):
        one = patch_sweep(model, PAIR, site="z", direction=direction,
                          method="attribution-ig", steps=1)  # fmt: skip
        back = patch_sweep(model, PAIR, site="z", direction=other, method="attribution")
        bases = [getattr(found, f"{DIRECTIONS[way][0]}_value")
                 for found, way in ((one, direction), (back, other))]  # fmt: skip
        np.testing.assert_allclose(one.values - bases[0], bases[1] - back.values, atol=1e-9)


def test_effects_of_the_embeddings_add_up_to_the_difference_of_the_runs(both):
    _, model = both
    off = []
    for steps in (8, 64):
        found = patch_sweep(model, PAIR, site="resid_pre", layers=[0],
                            method="attribution-ig", steps=steps)  # fmt: skip
        total = (found.values[0] - found.corrupt_value).sum()
        off.append(abs(total - (found.clean_value - found.corrupt_value)))
    assert off[1] < 0.2 * off[0]
    assert off[1] < 0.05 * abs(found.clean_value - found.corrupt_value)


def test_in_a_linear_model_every_method_is_exact():
    """The blocks add constants, and the final norm divides by a number that hardly changes."""
    model = make_model().double()
    model.transformer.ln_f.eps = 1e14
    with torch.no_grad():
        model.transformer.ln_f.weight *= 1e7
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
            block.mlp.c_proj.weight.zero_()
    pair = PromptPair.from_ids([1, 2, 3], [1, 4, 5], 6, 7)
    exact = patch_sweep(model, pair).values
    assert np.ptp(exact) > 0.1
    for how in ({"method": "attribution"}, {"method": "relp"},
                {"method": "attribution-ig", "steps": 1},
                {"method": "attribution-ig", "steps": 3}):  # fmt: skip
        np.testing.assert_allclose(patch_sweep(model, pair, **how).values, exact, atol=1e-9)


@pytest.mark.parametrize("rules", [("ln",), ("gelu",), ("ln", "gelu")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_forward_pass_stays_bit_for_bit(rules, dtype):
    model = make_model().to(dtype)
    ids = torch.arange(9)[None]
    plain = model(ids, record=["resid_post", "z"])[0]
    recorded = model.recording
    with propagation(model, rules):
        again = model(ids, record=["resid_post", "z"])[0]
    assert torch.equal(plain, again)
    assert all(torch.equal(recorded[site], model.recording[site]) for site in recorded)
    assert not any(module._forward_hooks for module in model.modules())


X = [-3.0, -1e-3, -1e-6, 0.0, 1e-6, 0.5, 4.0]


@pytest.mark.parametrize("name", ["gelu_new", "gelu", "relu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_the_activation_multiplies_by_a_constant(name, dtype):
    model = make_model(activation=name).to(dtype)
    act = model.transformer.h[1].mlp.act
    x = torch.tensor(X, dtype=dtype, requires_grad=True)
    with propagation(model, ["gelu"]):
        (slope,) = torch.autograd.grad(act(x).sum(), x)
    wide = x.detach().double()
    expected = act(wide) / wide
    expected[wide == 0] = 0.0 if name == "relu" else 0.5
    torch.testing.assert_close(slope.double(), expected, rtol=2e-3 if dtype == torch.float16 else
                               1e-6, atol=1e-3 if dtype == torch.float16 else 1e-6)  # fmt: skip


def test_a_relu_s_rule_changes_nothing(pair):
    model = make_model(activation="relu")
    found = [
        patch_sweep(model, pair, **how).values
        for how in ({"method": "attribution"}, {"method": "relp", "relp_rules": "gelu"})
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_a_model_without_biases_and_with_shared_heads(pair):
    model = make_model(bias=False, n_kv_head=1, n_head=4)
    for site in ("k", "resid_pre"):
        result = patch_sweep(model, pair, site=site, method="relp")
        assert np.isfinite(result.values).all()


@pytest.mark.parametrize("method", ["relp", "attribution-ig"])
def test_the_model_stays_as_it_was(model, pair, method):
    def broken(logits):
        raise SweepError("broken")

    model(torch.arange(4)[None], record="z")
    recording, logits = model.recording, model.last_logits
    model.requires_grad_(False)
    first = patch_sweep(model, pair, method=method).values
    with torch.inference_mode():
        np.testing.assert_array_equal(patch_sweep(model, pair, method=method).values, first)
    with pytest.raises(SweepError, match="broken"):
        patch_sweep(model, pair, metric=broken, method=method)
    assert (model.recording, model.last_logits) == (recording, logits)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("how", "passes"),
    [({"method": "relp"}, 4), ({"method": "attribution-ig", "steps": 3}, 2 + 3 * (1 + 2))],
)
def test_progress_counts_passes(model, pair, how, passes):
    seen = []
    patch_sweep(model, [pair, pair], metric="logit_diff,recovery", **how,
                progress=lambda *step: seen.append(step))  # fmt: skip
    assert seen == [(done, 2 * passes) for done in range(2 * passes + 1)]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"relp_rules": "ln"}, "relp_rules are for the method relp, not for fast"),
        ({"method": "attribution", "relp_rules": "ln"}, "relp, not for attribution"),
        ({"steps": 5}, "steps are for the method attribution-ig, not for fast"),
        ({"method": "relp", "steps": 5}, "attribution-ig, not for relp"),
        ({"method": "relp", "relp_rules": "ln,half"}, "no RelP rule 'half'; there are ln, gelu"),
        ({"method": "relp", "relp_rules": "ln,ln"}, "the RelP rule ln is asked for twice"),
        ({"method": "relp", "relp_rules": ""}, "no RelP rule ''"),
        ({"method": "relp", "relp_rules": []}, "no RelP rule; there are"),
        ({"method": "relp", "relp_rules": [1]}, "relp_rules are some of ln, gelu, pattern"),
        ({"method": "relp", "relp_rules": 3}, "relp_rules are some of ln, gelu, pattern"),
        ({"method": "attribution-ig", "steps": 0}, "steps is a whole number of at least 1, not 0"),
        ({"method": "attribution-ig", "steps": 1.5}, "steps is a whole number"),
        ({"method": "relp", "put": "zero"}, "fast and loop, not relp"),
        ({"method": "attribution-ig", "put": "zero"}, "fast and loop, not attribution-ig"),
        (
            {"method": "attribution-ig", "steps": 1, "metric": "kl"},
            "at its minimum in the clean run, .*; take more steps",
        ),
        ({"method": "relp", "next_tokens": 3}, "relp runs no cell"),
        ({"method": "relp", "direction": "noise", "metric": "kl"}, "relp cannot estimate it"),
        ({"method": "attribution-ig", "steps": 1, "metric": "kl"}, "attribution-ig cannot"),
    ],
)
def test_what_does_not_go_together_is_refused(how, words):
    with pytest.raises(SweepError, match=words):
        Request(**how)


def test_a_divergence_has_a_slope_between_the_runs(model, pair):
    for direction in DIRECTIONS:
        found = patch_sweep(model, pair, metric="kl", direction=direction,
                            method="attribution-ig")  # fmt: skip
        assert found.steps == 5
        assert np.ptp(found.values) > 1e-3


def test_titles_files_and_reprs_say_which_estimate_it_is(model, pair, tmp_path, monkeypatch):
    monkeypatch.setattr("patching.sweep.hand_in.draw_heatmaps", lambda plot, path: path.touch())
    for how, name, words in (
        ({"method": "relp", "relp_rules": "gelu,ln"}, "RelP", "approximate; rules ln, gelu"),
        ({"method": "attribution-ig", "steps": 1}, "Attribution patching",
         "approximate, integrated over 1 step"),
        ({"method": "attribution-ig", "steps": 3}, "Attribution patching",
         "approximate, integrated over 3 steps"),
    ):  # fmt: skip
        result = patch_sweep(model, pair, site="z", **how)
        title = f"{name} ({words}) of z"
        assert title_lines(result, [])[0].startswith(title)
        assert sweep_page(result)["title"].startswith(title)
        assert heatmaps(result).caption.endswith(", approximate")
        said = caption(result, "logit_diff")
        assert said.startswith(f"{name} in ")
        assert f"estimated from gradients ({words})" in said
        write_folder(result, tmp_path / "hand-in")
        report = (tmp_path / "hand-in" / "report.md").read_text(encoding="utf-8")
        assert report.startswith(f"# {name} ({words}) of z, clean into corrupt: ")
        assert f"cells patched, {words}" in repr(result)
        result.save(tmp_path / "x")
        again = SweepResult.load(tmp_path / "x")
        assert (again.method, again.relp_rules, again.steps) == (
            how["method"], result.relp_rules, how.get("steps"))  # fmt: skip
        assert again.is_approximate
        assert result.relp_rules == (("ln", "gelu") if name == "RelP" else None)


@pytest.mark.parametrize("fields", [{"relp_rules": None}, {"steps": 3}, {"method": "fast"}])
def test_a_file_whose_settings_do_not_agree_is_refused(model, pair, tmp_path, fields):
    result = patch_sweep(model, pair, method="relp")
    SweepResult(**{**vars(result), **fields}).save(tmp_path / "x")
    with pytest.raises(ResultError, match=r"method and (relp_rules|steps)"):
        SweepResult.load(tmp_path / "x")


def test_the_command_compares_with_the_exact_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("patching.sweep.figures.draw_agreement", lambda *results, **how: None)
    monkeypatch.setattr("patching.drawing.sweep.draw_heatmaps", lambda *plots, **how: None)
    monkeypatch.setattr(
        "patching.drawing.style.save_figure", lambda figure, path, results: path.touch()
    )
    base = ["--model=builtin", "--site=mlp_out", "--quiet", f"--out={tmp_path}/"]
    relp, integrated = "--method=relp", "--method=attribution-ig"
    for more in ([relp], [relp, "--relp-rules=ln"], [integrated, "--steps=2"]):
        assert main([*base, *more, "--compare-exact"]) == 0
    found = [SweepResult.load(path) for path in tmp_path.glob("*.npz")]
    assert {(one.method, one.relp_rules, one.steps) for one in found} == {
        ("fast", None, None), ("relp", ("ln", "gelu"), None), ("relp", ("ln",), None),
        ("attribution-ig", None, 2),
    }  # fmt: skip
    assert len(found) == 6
    capsys.readouterr()
    for wrong in (["--relp-rules=ln"], ["--steps=2"], [relp, "--relp-rules=x"],
                  [relp, "--relp-rules=pattern", "--site=k"],
                  [integrated, "--steps=0"]):  # fmt: skip
        assert main([*base, *wrong]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
