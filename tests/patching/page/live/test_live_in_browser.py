"""The live page in a real browser: it follows what one types, and its address is its state."""

import json
import re
import time

import numpy as np
import pytest
from pages import STATE, LivePage
from test_page import HOSTILE

from patching import PromptPair, SweepResult, explain, patch_sweep
from patching.page.live import server
from patching.prompts import Question

pytestmark = pytest.mark.slow


@pytest.fixture
def live(browser, served):
    opened = []

    def open_page(hash_: str = "", **settings) -> LivePage:
        opened.append(LivePage(browser, served, hash_, **settings))
        return opened[-1]

    yield open_page
    for one in opened:
        assert one.wrong == []
        one.page.close()


def written(values) -> list[str]:
    return [f"{value:.4f}" for value in values]


def test_the_map_follows_what_one_types(live, builtin):
    model, tokenizer = builtin
    one = live()
    assert one.page.locator("[name=clean]").input_value() == STATE["clean"]
    one.fill("target", "Davis")
    one.after(lambda: one.page.locator("[data-control=metric]").select_option("recovery"))
    one.fill("clean", "Michelle Davis was a top-notch student. Michelle")
    pair = PromptPair.from_text(
        tokenizer, "Michelle Davis was a top-notch student. Michelle", STATE["corrupt"], "Davis",
        "Smith",
    )  # fmt: skip
    result = patch_sweep(model, pair, metric="recovery")
    rows = one.numbers()
    assert np.allclose(np.array(rows, dtype=float), result.values, atol=2e-4)
    assert float(one.page.evaluate("document.body.dataset.milliseconds")) > 0


def test_the_address_is_the_experiment(live):
    one = live()
    one.fill("foil", "Davis")
    one.after(lambda: one.page.locator("[data-control=site]").select_option("z"))
    one.fill("heads", "0,2")
    address = one.page.url
    assert "site=z" in address and "heads=0%2C2" in address
    again = live("#" + address.partition("#")[2])
    assert again.page.locator("[name=foil]").input_value() == "Davis"
    assert again.page.locator("[data-control=site]").input_value() == "z"
    assert (
        again.page.locator(".caption").text_content() == one.page.locator(".caption").text_content()
    )
    again.after(lambda: again.page.evaluate("location.hash = '#mode=tokens&clean=x'"))
    assert again.page.locator("[data-mode=tokens]").get_attribute("aria-pressed") == "true"


def test_it_helps_where_it_cannot_sweep(live):
    one = live()
    one.fill("corrupt", "Michelle Abernathy was a top-notch student. Michelle")
    assert "same number of tokens" in one.page.locator(".problem").text_content()
    assert one.page.locator(".results").evaluate("x => x.classList.contains('stale')")
    one.after(lambda: one.page.locator(".fitting button").first.click())
    assert one.page.locator(".problem").count() == 0
    assert not one.page.locator(".results").evaluate("x => x.classList.contains('stale')")
    one.fill("target", "Jonesville")
    assert " + " in one.page.locator(".answers .wrong").text_content()


def test_the_other_views_show_the_model(live, builtin):
    model, tokenizer = builtin
    one = live()
    one.after(one.page.locator("[data-mode=explain]").click)
    question = Question.from_text(tokenizer, STATE["clean"], "Jones", "Smith")
    found = explain(model, question, methods="alti-logit")
    assert one.numbers()[0] == written(found.bars("alti-logit"))
    one.after(one.page.locator("[data-mode=attention]").click)
    assert one.page.locator(".heads canvas").count() == 16
    one.after(one.page.locator("[data-mode=tokens]").click)
    assert "10 and 10 tokens" in one.page.locator(".results caption").text_content()


def test_the_next_token_is_chosen_step_by_step(live):
    one = live("#mode=next&clean=The+keys+to+the&top_k=2")
    rows = one.page.locator("table.next tbody tr").all()
    assert [row.get_attribute("class") for row in rows[:3]] == ["", "", "cut"]
    first = rows[0].locator("button").text_content()
    one.after(rows[0].locator("button").click)
    assert (
        one.page.locator("[name=clean]").input_value()
        == f"The keys to the{first.replace('␣', ' ')}"
    )
    one.after(lambda: one.page.locator("[aria-label='top_k slider']").fill("5"))
    assert one.page.locator("table.next tr.cut").count() == 45
    one.after(lambda: one.page.locator("[aria-label='top_p slider']").fill("0.1"))
    assert "top-p" in one.page.locator("table.next").text_content()
    one.after(one.page.locator("button.drawn").click)
    assert one.page.locator("[name=clean]").input_value().count(" ") == 5


def test_two_models_are_shown_side_by_side(live):
    one = live("#models=0,1&" + "&".join(f"{name}={text}" for name, text in STATE.items()))
    articles = one.page.locator("article")
    assert articles.count() == 2
    assert articles.nth(0).locator(".chart svg").count() == 1
    boxes = [articles.nth(at).bounding_box() for at in range(2)]
    assert boxes[1]["x"] > boxes[0]["x"] + boxes[0]["width"] - 1
    one.after(lambda: one.page.locator("[data-model='1']").uncheck())
    assert one.page.locator("article").count() == 1


def test_the_keyboard_s_focus_and_open_tables_outlive_an_answer(live):
    one = live("#mode=next&clean=The+keys+to+the")
    focused = "document.activeElement.className || document.activeElement.dataset.mode"
    one.page.locator("button.drawn").focus()
    for _ in range(2):
        one.after(lambda: one.page.keyboard.press("Enter"))
        assert one.page.evaluate(focused) == "drawn"
    one.page.locator("[data-mode=patch]").focus()
    one.after(lambda: one.page.keyboard.press("Enter"))
    assert one.page.evaluate(focused) == "patch"
    for name in ("clean", "corrupt", "target", "foil"):
        one.fill(name, STATE[name])
    one.numbers()
    one.fill("foil", "Davis")
    table = one.page.locator("details", has_text="numbers of the figure").first.locator("table")
    assert table.locator("tbody tr").count() == 4


def test_an_error_of_one_model_stands_under_its_name(live, monkeypatch):
    def of_second(models, checked, request, say, progress):
        say({"model": 1, "error": "no such head"})

    monkeypatch.setattr(server, "answer", of_second)
    one = live("#models=0,1&" + "&".join(f"{name}={text}" for name, text in STATE.items()))
    assert one.page.locator("article").text_content() == "no such headmodel again"


def test_the_gallery_fills_in_an_example(live):
    one = live()
    choices = one.page.locator("[data-control=example] option").all_text_contents()
    assert len(choices) >= 4
    one.after(lambda: one.page.locator("[data-control=example]").select_option(choices[2]))
    assert one.page.locator("[name=clean]").input_value() != STATE["clean"]
    assert one.page.locator("article .chart svg").count() == 1


def test_files_are_saved_and_commands_copied(live, tmp_path, builtin):
    one = live()
    for kind in ("html", "png", "npz"):
        with one.page.expect_download() as download:
            one.page.locator(f"[data-format={kind}]").click()
        assert download.value.suggested_filename == f"patch.{kind}"
        download.value.save_as(tmp_path / f"patch.{kind}")
    result = SweepResult.load(tmp_path / "patch.npz")
    pair = PromptPair.from_text(builtin[1], *STATE.values())
    assert np.allclose(result.values, patch_sweep(builtin[0], pair).values, atol=1e-5)
    assert one.page.locator(".copied pre").first.text_content().startswith("mingpt-patch --clean")


def test_hostile_texts_never_run(live):
    one = live()
    for text in (*HOSTILE, "".join(HOSTILE)):
        one.fill("corrupt", text.replace("\x00", "") or "x")
        one.fill("target", text.replace("\x00", "").replace("\n", "") or "x")
    one.after(
        lambda: one.page.evaluate("location.hash = '#clean=%3C/script%3E%3Cimg src=x>&mode=<b>'")
    )
    assert one.page.locator("main img, main b, main script").count() == 0


def test_an_error_is_said_and_typing_on_gives_up_the_last_question(live, monkeypatch):
    one = live()
    begun, given_up = [], []

    def slow(models, checked, request, say, progress):
        begun.append(request.target)
        try:
            for at in range(400):
                progress(at, 400)
                time.sleep(0.01)
        except Exception:
            given_up.append(request.target)
            raise

    monkeypatch.setattr(server, "answer", slow)
    box = one.page.locator("[name=target]")
    box.fill("Davis")
    while not begun:
        one.page.wait_for_timeout(10)
    one.page.wait_for_timeout(1200)
    assert one.page.locator("progress").is_visible()  # a bar after a second
    monkeypatch.undo()
    one.fill("target", "Jones")
    assert given_up == ["Davis"]

    def broken(*arguments):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(server, "answer", broken)
    one.fill("target", "Davis")
    said = one.page.locator("article .problem").text_content()
    assert said == "an error in the model: RuntimeError: no such luck"


def test_it_fits_a_narrow_dark_window(live):
    one = live(color_scheme="dark", viewport={"width": 380, "height": 800})
    for mode in ("patch", "explain", "attention", "next", "tokens"):
        one.after(one.page.locator(f"[data-mode={mode}]").click)
        assert one.page.evaluate("document.documentElement.scrollWidth") <= 380


def test_a_result_is_shown_in_a_frame_of_a_notebook(browser, builtin, tmp_path):
    pair = PromptPair.from_text(builtin[1], *STATE.values())
    shown = patch_sweep(*builtin[:1], pair).show(height=500)
    html = shown._repr_html_()
    assert re.match(r'<iframe sandbox="allow-scripts allow-downloads" srcdoc="', html)
    (tmp_path / "notebook.html").write_text(f"<body>{html}</body>", encoding="utf-8")
    page = browser.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda one: one.url.startswith("file:") or wrong.append(one.url))
    page.goto((tmp_path / "notebook.html").as_uri())
    frame = page.frame_locator("iframe")
    frame.locator(".chart svg").wait_for()
    assert frame.locator(".prompt").count() == 2
    assert wrong in ([], ["about:srcdoc"]) and json.dumps(wrong)
    page.close()
