"""The page in a real browser: it draws, follows clicks and keys, and runs nothing of a prompt."""

import shutil

import pytest
from test_page import hostile_pair

from patching import PromptPair, patch_sweep
from patching.page.report import save_page

pytestmark = pytest.mark.slow
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[ci]'")
    if BROWSER is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page that was opened, and everything that went wrong in it."""

    def __init__(self, browser, path, **settings) -> None:
        self.page = browser.new_page(**settings)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.wrong.append(said.text))
        self.page.on("dialog", lambda dialog: (self.wrong.append("a dialog"), dialog.dismiss()))
        self.page.on(
            "request",
            lambda one: (
                one.url.startswith(("file:", "blob:", "data:")) or self.wrong.append(one.url)
            ),
        )
        self.page.goto(path.as_uri())
        self.drawn(1)

    def drawn(self, times: int) -> None:
        self.page.wait_for_function(f"Number(document.body.dataset.drawn) >= {times}")


@pytest.fixture
def opened(browser, tmp_path):
    """A function that writes a sweep's page and opens it."""
    found = []

    def open_page(result, **settings) -> Opened:
        one = Opened(browser, save_page(result, tmp_path / "x.html", command="run it"), **settings)
        found.append(one)
        return one

    yield open_page
    for one in found:
        assert one.wrong == []
        one.page.close()


def test_hostile_tokens_never_run_and_are_all_shown(model, opened):
    result = patch_sweep(model, hostile_pair(), next_tokens=3)
    page = opened(result).page
    assert page.locator("#chart svg").count() == 1
    tokens = page.locator(".prompt").first.locator(".token").all_text_contents()
    assert len(tokens) == 7
    assert tokens[0].startswith("</script><script>")
    assert page.locator("b, img[src=x]").count() == 0
    assert page.locator("script").count() == 3


def test_a_click_says_what_the_patched_run_says_and_tints_what_it_can_change(model, opened):
    pair = PromptPair.from_ids([1, 5, 9, 2, 7, 3, 4], [1, 5, 8, 2, 7, 3, 4], 11, 22)
    result = patch_sweep(model, pair, next_tokens=3)
    one = opened(result)
    page = one.page
    page.locator("#chart svg path[aria-roledescription]").nth(1 * 7 + 4).click()
    one.drawn(2)
    assert page.locator("#cell h2").text_content().startswith("layer 1, ")
    assert f"patched {result.values[1, 4]:.4f}" in page.locator("#cell p").text_content()
    rows = page.locator("#cell tbody tr").all()
    assert [row.locator("td").nth(1).text_content() for row in rows] == [
        f"{score.logit:.4f}" for score in result.next_of(1, 4)
    ]
    faint = page.locator('#chart svg path[aria-roledescription][opacity="0.35"]').count()
    assert faint == 21 - 1 - 3  # all but the cell, and in the layer above it positions 4 to 6


def test_the_controls_and_the_keyboard_reach_every_value(model, opened):
    pair = PromptPair.from_ids([1, 5, 9, 2, 7, 3, 4], [1, 5, 8, 2, 7, 3, 4], 11, 22)
    result = patch_sweep(model, pair, metric="logit_diff,kl")
    one = opened(result)
    page = one.page
    page.locator("select[data-control=metric]").select_option(label="kl")
    one.drawn(2)
    page.locator("summary").first.click()
    cells = page.locator("#numbers tbody tr").nth(2).locator("button").all_text_contents()
    assert cells == [f"{value:.3f}" for value in result.metrics["kl"].values[2]]
    page.locator("#numbers button").nth(8).focus()
    page.keyboard.press("Enter")
    one.drawn(3)
    assert page.locator("#cell h2").text_content().startswith("layer 1, ")
    page.locator("select[data-control=show]").select_option("change")
    one.drawn(4)
    first = float(page.locator("#numbers button").nth(2).text_content())
    found = result.metrics["kl"]
    assert first == pytest.approx(found.values[0, 2] - found.corrupt, abs=1e-3)


def test_heads_by_position_are_shown_one_at_a_time(model, opened):
    pair = PromptPair.from_ids([1, 5, 9, 2, 7, 3, 4], [1, 5, 8, 2, 7, 3, 4], 11, 22)
    result = patch_sweep(model, pair, site="v", by_position=True)
    one = opened(result, color_scheme="dark", viewport={"width": 380, "height": 800})
    page = one.page
    page.locator("select[data-control=head]").select_option("1")
    one.drawn(2)
    page.locator("summary").first.click()
    cells = page.locator("#numbers tbody tr").nth(0).locator("button").all_text_contents()
    assert cells == [f"{value:.3f}" for value in result.values[0, 1]]
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 380  # wide parts scroll by themselves
