"""The pages in a real browser: they draw, follow clicks and keys, and run nothing of a prompt."""

import numpy as np
import pytest
from test_page import HOSTILE, hostile_pair

from patching import PromptPair, Question, explain, patch_sweep
from patching.continuation.request import GenerationSettings
from patching.continuation.run import continue_prompts
from patching.study.run import run_study

pytestmark = pytest.mark.slow


@pytest.fixture
def pair():
    return PromptPair.from_ids([1, 5, 9, 2, 7, 3, 4], [1, 5, 8, 2, 7, 3, 4], 11, 22)


def table_of(page, chart: int = 0) -> list[list[str]]:
    """Open the numbers of a chart; return its rows without their heads."""
    folded = page.locator("details", has_text="numbers of the figure").nth(chart)
    if folded.get_attribute("open") is None:
        folded.locator("summary").click()
    folded.locator("table").wait_for()
    return [row.locator("td").all_text_contents() for row in folded.locator("tbody tr").all()]


def open_folded(page, summary: str) -> None:
    folded = page.locator("details", has_text=summary)
    folded.locator("summary").click()
    folded.locator("table").wait_for()


def written(values) -> list[str]:
    return [f"{value:.4f}" for value in values]


# --------------------------------------------------------------------- hostile texts


def test_hostile_tokens_never_run_and_are_all_shown(model, opened):
    page = opened(patch_sweep(model, hostile_pair(), next_tokens=3)).page
    assert page.locator(".chart svg").count() == 1
    tokens = page.locator(".prompt").first.locator(".token").all_text_contents()
    assert len(tokens) == 7
    assert tokens[0].startswith("</script><script>")
    assert page.locator("main b, main img").count() == 0
    assert page.locator("script").count() == 3


def test_hostile_tokens_never_run_in_an_explanation(model, opened):
    tokens = [HOSTILE[n] if n < len(HOSTILE) else f"<b>{n}</b>" for n in range(40)]
    question = Question.from_ids([*range(1, 12)], 13, 14, tokens)
    methods = "alti,alti-logit,logit,lens,direct,attention"
    one = opened(explain(model, question, methods=methods))
    assert one.page.locator("main b, main img").count() == 0
    assert one.page.locator("h1").text_content() == "Why <b>13</b> rather than <b>14</b>?"
    for token in one.page.locator(".view-attention .token").all():
        token.hover()


def test_hostile_texts_never_run_in_samples_and_studies(builtin, model, opened):
    prompt = "".join(HOSTILE).replace("\x00", "") + "</b>"
    found = continue_prompts(*builtin, [prompt], GenerationSettings(max_new_tokens=3))
    page = opened(found).page
    assert page.locator("main b, main img, main script").count() == 0
    assert page.locator("h2").first.text_content().startswith("</script><script>")
    study = run_study(model, [hostile_pair()] * 3, progress=False)
    page = opened(study).page
    open_folded(page, "show the pairs")
    cells = page.locator(".view-pairs tbody tr").first.locator("td").all_text_contents()
    assert "</script><script>alert(1)</script>" in cells[1]
    assert page.locator("main b, main img, main script").count() == 0


# --------------------------------------------------------------------- sweeps


def test_a_click_says_what_the_patched_run_says_and_tints_what_it_can_change(model, opened, pair):
    result = patch_sweep(model, pair, next_tokens=3)
    one = opened(result)
    page = one.page
    one.after(one.cells().nth(1 * 7 + 4).click)
    assert page.locator(".cell h3").text_content().startswith("layer 1, ")
    assert f"patched value {result.values[1, 4]:.4f}" in page.locator(".cell p").text_content()
    rows = page.locator(".cell tbody tr").all()
    assert [row.locator("td").nth(1).text_content() for row in rows] == [
        f"{score.logit:.4f}" for score in result.next_of(1, 4)
    ]
    page.wait_for_timeout(100)
    faint = page.locator('.chart svg path[aria-roledescription][opacity="0.3"]').count()
    assert faint == 21 - 1 - 3  # all but the cell, and in the layer above it positions 4 to 6


def test_a_tint_covers_what_a_patch_leaves_as_it_is(model, opened, pair):
    """Patch one query, and look at which queries later change: those that are not faint."""
    result = patch_sweep(model, pair, site="q", by_position=True)
    one = opened(result)
    one.after(one.cells().nth(0 * 7 + 3).click)
    one.page.wait_for_timeout(100)
    faint = {
        at for at, cell in enumerate(one.cells().all()) if cell.get_attribute("opacity") == "0.3"
    }
    kept = {(0, 3), (1, 3), *((2, position) for position in range(3, 7))}
    assert {divmod(at, 7) for at in range(21) if at not in faint} == kept


def test_the_pointer_shows_the_numbers_of_a_cell(model, opened, pair):
    result = patch_sweep(model, pair, next_tokens=3)
    one = opened(result)
    one.cells().nth(5).hover()
    tooltip = one.page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    text = tooltip.text_content()
    assert f"{result.values[0, 5]:.4f}" in text and f"{result.clean_value:.4f}" in text
    linked = one.page.locator(".prompt .token.linked")
    assert linked.count() == 2  # of both prompts
    assert linked.first.get_attribute("title") == "position 5"


def test_the_controls_and_the_keyboard_reach_every_value(model, opened, pair):
    result = patch_sweep(model, pair, metric="logit_diff,kl")
    one = opened(result)
    page = one.page
    one.after(lambda: page.locator("select[data-control=metric]").select_option(label="kl"))
    assert table_of(page)[2] == written(result.metrics["kl"].values[2])
    page.locator("table.numbers button").nth(8).focus()
    one.after(lambda: page.keyboard.press("Enter"))
    assert page.locator(".cell h3").text_content().startswith("layer 1, ")
    one.after(lambda: page.locator("select[data-control=show]").select_option("change"))
    found = result.metrics["kl"]
    assert table_of(page)[0] == written(found.values[0] - found.corrupt)
    one.after(lambda: page.locator("select[data-control=colours]").select_option("greys"))


def test_heads_by_position_are_shown_one_at_a_time(model, opened, pair):
    result = patch_sweep(model, pair, site="v", by_position=True)
    one = opened(result, color_scheme="dark", viewport={"width": 380, "height": 800})
    page = one.page
    one.after(lambda: page.locator("select[data-control=head]").select_option("1"))
    assert table_of(page)[0] == written(result.values[0, 1])
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 380  # wide parts scroll by themselves


def test_the_numbers_can_be_saved(model, opened, pair):
    one = opened(patch_sweep(model, pair))
    one.page.locator("details", has_text="how it was made").locator("summary").click()
    assert one.page.locator("code").text_content() == "run it"
    with one.page.expect_download() as download:
        one.page.get_by_text("save the numbers").click()
    assert download.value.suggested_filename == "sweep.json"


# --------------------------------------------------------------------- the other results


def test_a_word_is_marked_in_every_view_of_an_explanation(model, opened):
    question = Question.from_ids([1, 5, 9, 2, 7], 11, 22)
    found = explain(model, question, methods="alti,alti-logit,attention")
    one = opened(found)
    page = one.page
    page.locator(".prompt .token").nth(1).hover()
    page.wait_for_timeout(150)
    assert one.cells(0).nth(1).get_attribute("stroke") == "#d55e00"
    framed = [cell.get_attribute("stroke") == "#0072b2" for cell in one.cells(1).all()]
    assert sum(framed) == 1 + 4  # ALTI: the row of position 1 and the column of token 1
    said = page.locator(".reads").text_content()
    assert said.startswith("id:5 (1) reads ")
    weights = found.pattern[0, 0, 1]
    assert f"{weights[:2].max():.3f}" in said
    assert table_of(page, 0)[0] == written(found.bars("alti-logit"))


def test_a_head_is_shown_large_and_its_weights_can_be_read(model, opened):
    found = explain(model, Question.from_ids([1, 5, 9, 2, 7], 11, 22), methods="attention")
    one = opened(found)
    page = one.page
    one.after(page.get_by_label("head 1.1", exact=True).click)
    rows = table_of(page, 0)
    for t, row in enumerate(rows):
        ours = [float(text) for text in row if text]
        assert np.allclose(ours, found.pattern[1, 1, t, : t + 1], atol=1e-4)


def test_a_sample_s_token_says_what_else_could_have_come(builtin, opened, tmp_path):
    found = continue_prompts(*builtin, ["The keys to the"], GenerationSettings(max_new_tokens=3))
    one = opened(found)
    one.page.locator(".sample .token").nth(1).hover()
    told = one.page.locator(".cell").text_content()
    assert f"p = {np.exp(found[0][0].sample.log_probs[1]):#.3g}" in told


def test_a_study_s_cell_shows_its_pairs_and_the_table_sorts(model, opened, pair):
    pairs = [PromptPair.from_ids([n, 5, 9, 2], [n, 5, 8, 2], 11, 22) for n in range(6)]
    study = run_study(model, pairs, progress=False)
    one = opened(study)
    page = one.page
    one.after(one.cells().nth(1).click)
    page.locator(".strip svg").wait_for()
    open_folded(page, "numbers of the pairs")
    rows = page.locator(".cell tbody tr").all()
    effects = study.cells("resid_post", "logit_diff").effects
    shown = [row.locator("td").nth(1).text_content() for row in rows]
    assert shown in [written(column) for column in effects.T]
    open_folded(page, "show the pairs")
    column = page.locator(".view-pairs thead th").nth(5)
    column.locator("button").click()
    texts = [
        float(row.locator("td").nth(5).text_content())
        for row in page.locator(".view-pairs tbody tr").all()
    ]
    assert texts == sorted(texts) and column.get_attribute("aria-sort") == "ascending"
