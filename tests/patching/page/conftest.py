"""A browser, and results' pages opened in it, which must not complain nor ask for anything."""

import pytest
from pages import Opened, started_browser

from patching.page.report import Result, save_page


@pytest.fixture(scope="session")
def browser():
    with started_browser() as started:
        yield started


@pytest.fixture
def opened(browser, tmp_path):
    """A function that writes a result's page, or takes a page that was written, and opens it."""
    found = []

    def open_page(result: Result, **settings) -> Opened:
        path = save_page(result, tmp_path / "x.html", command="run it")
        one = Opened(browser, path.as_uri(), **settings)
        one.drawn(1)
        one.page.wait_for_timeout(100)  # every chart of the page
        found.append(one)
        return one

    yield open_page
    for one in found:
        assert one.wrong == []
        one.page.close()
