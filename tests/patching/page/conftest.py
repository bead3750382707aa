"""Pages in a real browser, which must not complain, and must ask for nothing from elsewhere."""

import shutil

import pytest

from patching.page.report import Result, save_page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="session")
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

    def __init__(self, browser, address: str, own: str = "file:", **settings) -> None:
        """Open an address; requests to what does not begin with `own` count as wrong."""
        self.page = browser.new_page(**settings)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.wrong.append(said.text))
        self.page.on("dialog", lambda dialog: (self.wrong.append("a dialog"), dialog.dismiss()))
        self.page.on(
            "request",
            lambda one: one.url.startswith((own, "blob:", "data:")) or self.wrong.append(one.url),
        )
        self.page.goto(address)

    @property
    def drawings(self) -> int:
        return int(self.page.evaluate("document.body.dataset.drawn ?? 0"))

    def drawn(self, times: int) -> None:
        self.page.wait_for_function(f"Number(document.body.dataset.drawn) >= {times}")

    def after(self, act) -> None:
        """Do something and wait until the page has drawn again."""
        before = self.drawings
        act()
        self.drawn(before + 1)

    def cells(self, chart: int = 0):
        """Return the cells of a chart, in the order of its rows."""
        return self.page.locator(".chart").nth(chart).locator("svg path[aria-roledescription]")


@pytest.fixture
def opened(browser, tmp_path):
    """A function that writes a result's page, or takes a page that was written, and opens it."""
    found = []

    def open_page(result: Result, **settings) -> Opened:
        path = save_page(result, tmp_path / "x.html", command="run it")
        one = Opened(browser, path.as_uri(), **settings)
        one.page.wait_for_function("document.querySelectorAll('main h2').length > 0")
        one.drawn(1)
        one.page.wait_for_timeout(100)  # every chart of the page
        found.append(one)
        return one

    yield open_page
    for one in found:
        assert one.wrong == []
        one.page.close()
