"""The pages of explanations, continuations and studies: every number of the result is in them."""

import base64
import json

import numpy as np
import pytest
from test_page import data_of, rows_of

from patching import PromptPair, Question, explain
from patching.cli.explain import main as explain_main
from patching.cli.generate import main as generate_main
from patching.cli.study import main as study_main
from patching.continuation.request import GenerationSettings
from patching.continuation.run import continue_prompts
from patching.errors import DrawingError
from patching.explanation.result import target_minus_foil
from patching.page.attention_view import packed
from patching.page.continuation_page import continuation_page, search_tree, tree_of
from patching.page.explanation_page import MOST_TOKENS, explanation_page
from patching.page.report import page_of
from patching.page.study_page import study_page
from patching.study.run import run_study

METHODS = "alti,alti-logit,logit,lens,direct,attention"


def unpacked(view: dict) -> np.ndarray:
    """Return the weights of a page's attention view (L, nh, T, T)."""
    T = len(view["tokens"])
    whole = np.frombuffer(base64.b64decode(view["weights"]), dtype="<u2") / view["steps"]
    pattern = np.zeros((view["layers"], view["heads"], T, T))
    pattern[..., *np.tril_indices(T)] = whole.reshape(view["layers"], view["heads"], -1)
    return pattern


def grid_of(chart: dict, name: str = "value") -> np.ndarray:
    grid = np.full((len(chart["row_labels"]), len(chart["column_labels"])), np.nan)
    for row in rows_of(chart):
        grid[row["row"], row["column"]] = row[name]
    return grid


def test_the_page_of_an_explanation_holds_its_numbers(model):
    found = explain(model, Question.from_ids([1, 5, 9, 2, 7], 11, 22), methods=METHODS)
    page = explanation_page(found)
    words, alti, lens, direct, attention, scores, _ = page["views"]
    bars, by_layer, logit_bars, _ = words["charts"]
    assert np.allclose(grid_of(bars)[0], found.bars("alti-logit"), rtol=1e-6)
    assert np.allclose(grid_of(logit_bars)[0], found.bars("logit"), rtol=1e-6)
    assert np.allclose(grid_of(by_layer), found.alti_logit_layers[2], rtol=1e-6)
    assert np.allclose(np.nan_to_num(grid_of(alti["charts"][0])), found.alti, atol=1e-6)
    predictions, line = lens["charts"]
    assert np.allclose(grid_of(predictions), found.lens_probabilities, rtol=1e-6)
    texts = [row["text"] for row in rows_of(predictions)]
    assert texts == [f"id:{number}" for number in found.lens_ids.ravel()]
    assert np.allclose(grid_of(line)[0], target_minus_foil(found.trajectory), rtol=1e-6)
    parts = grid_of(direct["charts"][0])
    assert np.allclose(parts[:, :-1], found.heads[0] - found.heads[1], rtol=1e-6)
    assert np.allclose(parts[:, -1], target_minus_foil(found.mlp), rtol=1e-6)
    assert np.abs(unpacked(attention) - found.pattern).max() <= 0.5 / 65535 + 1e-7
    assert np.allclose(grid_of(scores["charts"][0]), found.head_scores[0], rtol=1e-6)
    biggest = int(np.abs(found.alti_logit_layers[2][:, 1]).argmax())
    assert bars["labels"]["layers"][1].startswith(f"{biggest} ")


def test_only_what_was_asked_for_is_on_the_page(model):
    found = explain(model, Question.from_ids([1, 5, 9], 11, 22), methods="logit")
    kinds = [
        (view["kind"], len(view.get("charts", ()))) for view in explanation_page(found)["views"]
    ]
    assert kinds == [("charts", 2), ("tables", 0)]


def test_maps_of_many_tokens_are_left_out_and_the_page_says_so(model, monkeypatch):
    monkeypatch.setattr("patching.page.explanation_page.MOST_TOKENS", 2)
    found = explain(model, Question.from_ids([1, 5, 9], 11, 22), methods="alti,attention")
    page = explanation_page(found)
    assert "attention" not in [view["kind"] for view in page["views"]]
    assert page["notes"] == ["not shown: ALTI and attention of 3 tokens; a page shows up to 2"]
    assert MOST_TOKENS == 128


def test_weights_are_packed_in_the_order_that_the_example_says():
    pattern = np.zeros((2, 3, 4, 4))
    pattern[1, 2, 3, 1] = 1.0
    (at,) = np.flatnonzero(np.frombuffer(base64.b64decode(packed(pattern)), dtype="<u2"))
    assert at == (1 * 3 + 2) * 4 * 5 // 2 + 3 * 4 // 2 + 1


# --------------------------------------------------------------------- continuations


def test_samples_are_shown_with_what_could_have_come(builtin):
    model, tokenizer = builtin
    found = continue_prompts(model, tokenizer, ["The keys to the cabinet"], num_samples=2)
    (view,) = continuation_page([found])["views"]
    for sample, one in zip(view["samples"], found[0], strict=True):
        assert sample["log_probs"] == pytest.approx(list(one.sample.log_probs), rel=1e-6)
        assert len(sample["tokens"]) == len(one.tokens)


def test_beams_are_a_tree(builtin):
    model, tokenizer = builtin
    steps = []
    settings = GenerationSettings(num_beams=3, max_new_tokens=3)
    found = continue_prompts(
        model, tokenizer, ["They flew to"], settings, num_samples=3,
        observe_beams=lambda prompt, step: steps.append(step),
    )  # fmt: skip

    def ends(nodes, before=()):
        for node in nodes:
            path = (*before, node["token"])
            yield from ((path, note) for note in node["notes"])
            yield from ends(node["next"], path)

    def count(nodes) -> int:
        return sum(1 + count(node["next"]) for node in nodes)

    ours = {path for path, _ in ends(tree_of(found[0]))}
    searched = search_tree(steps, tokenizer.token)
    assert len(ours) == 3
    assert ours <= {path for path, _ in ends(searched)}
    assert count(searched) == sum(len(step.candidates) for step in steps)
    assert not searched[-1]["is_kept"]
    (_, view) = continuation_page([found], trees=[{0: searched}])["views"]
    assert view["nodes"] == searched


# --------------------------------------------------------------------- studies


@pytest.fixture
def study(model):
    pairs = [
        PromptPair.from_ids([n, 1, 2 + n, 9, 8, n], [n, 1, 30 - n, 9, 8, n], 31 + n, 22)
        for n in range(8)
    ]
    return run_study(model, pairs, site="resid_post,z", metric="logit_diff,recovery",
                     progress=False)  # fmt: skip


def test_the_page_of_a_study_holds_its_summary_and_its_pairs(study, monkeypatch):
    table = study.summary(draws=100)
    maps, pairs = study_page(study, table, draws=100)["views"]
    assert [chart["name"] for chart in maps["charts"]] == [
        "resid_post, logit_diff", "resid_post, recovery", "z, logit_diff", "z, recovery"
    ]  # fmt: skip
    found = table[(table["site"] == "resid_post") & (table["metric"] == "recovery")]
    tested = found[found["p_corrected"].notna()]
    rows = rows_of(maps["charts"][1])
    assert len(rows) == len(tested)
    for row, (_, cell) in zip(rows, tested.iterrows(), strict=True):
        assert (row["row"], row["column"]) == (cell["layer"], cell["position"])
        for name, column in (("value", "mean"), ("low", "low"), ("high", "high")):
            assert row[name] == pytest.approx(cell[column], rel=1e-6)
        assert row["survives"] == (cell["p_corrected"] < 0.05)
    effects = study.cells("z", "logit_diff").effects
    strips = maps["charts"][2]["strips"]
    assert strips["effects"]["2,1"] == pytest.approx(effects[:, 2 * 2 + 1].tolist(), rel=1e-6)
    assert [row[0] for row in pairs["rows"]] == [*range(8)]
    monkeypatch.setattr("patching.page.study_page.MOST_EFFECTS", 4 * 40)
    monkeypatch.setattr("patching.page.study_page.MOST_PAIRS", 3)
    maps, pairs = study_page(study, table, draws=100)["views"]
    assert maps["charts"][0]["strips"]["pairs"] == [0, 4]
    assert "one pair in 4" in maps["charts"][0]["strips"]["caption"]
    assert pairs["title"] == "3 pairs (one in 3 of 8)"


# --------------------------------------------------------------------- the commands


@pytest.mark.slow
def test_explain_generate_and_study_write_pages(tmp_path, capsys, study):
    out = f"{tmp_path}/x.png"
    base = ["--model", "builtin", "--html", "--quiet"]
    assert explain_main([*base, "--show", "lens,attention", "--out", out]) == 0
    page = data_of((tmp_path / "x.html").read_text("utf-8"))
    assert [view["kind"] for view in page["views"]][:2] == ["charts", "attention"]
    assert (tmp_path / "x.html").stat().st_size < 1.5e6
    assert generate_main([*base, "--max-new-tokens", "3", "--out", f"{tmp_path}/g.json"]) == 0
    (view,) = data_of((tmp_path / "g.html").read_text("utf-8"))["views"]
    saved = json.loads((tmp_path / "g.json").read_text("utf-8"))["values"][0]
    assert view["samples"][0]["log_probs"] == pytest.approx(saved["log_probs"], rel=1e-6)
    assert [len(step) >= 10 for step in view["samples"][0]["steps"]] == [True] * 3
    beams = [*base, "--num-beams", "2", "--max-new-tokens", "2", "--out", f"{tmp_path}/b.json"]
    assert generate_main(beams) == 0
    views = data_of((tmp_path / "b.html").read_text("utf-8"))["views"]
    assert any(not node["is_kept"] for node in views[1]["nodes"])
    assert (
        study_main(["show", str(study.folder), "--html", "--quiet", "--out", f"{tmp_path}/s"]) == 0
    )
    assert data_of((tmp_path / "s/study.html").read_text("utf-8"))["name"] == "study"
    assert generate_main([*base, "--num-samples", "1000"]) == 2
    assert "shows at most 6,000" in capsys.readouterr().err


def test_a_page_is_of_a_result():
    with pytest.raises(DrawingError, match="there is no page of 3"):
        page_of(3)
