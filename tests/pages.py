"""Pages in a real browser, and a server of the live page in a thread, for several tests."""

import contextlib
import json
import shutil
import socket
import threading
import time

import pytest
import requests

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# The README's example, as fields of the live page.
STATE = {
    "clean": "Michelle Jones was a top-notch student. Michelle",
    "corrupt": "Michelle Smith was a top-notch student. Michelle",
    "target": "Jones",
    "foil": "Smith",
}


@contextlib.contextmanager
def started_browser():
    """Start a browser, or skip the test and say what is missing."""
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
        begun = time.monotonic()  # the page's policy forbids a script that would wait in it
        while self.drawings < times:
            assert time.monotonic() - begun < 20
            self.page.wait_for_timeout(5)

    def after(self, act) -> None:
        """Do something and wait until the page has drawn again."""
        before = self.drawings
        act()
        self.drawn(before + 1)

    def cells(self, chart: int = 0):
        """Return the cells of a chart, in the order of its rows."""
        return self.page.locator(".chart").nth(chart).locator("svg path[aria-roledescription]")


class LivePage(Opened):
    """The live page, opened."""

    def __init__(self, browser, served, hash_: str = "", **settings) -> None:
        super().__init__(browser, f"{served.origin}/{hash_}", own=served.origin, **settings)
        self.until(0)

    @property
    def answered(self) -> int:
        return int(self.page.evaluate("document.body.dataset.answered ?? 0"))

    def until(self, before: int) -> None:
        begun = time.monotonic()
        while self.answered <= before:
            assert time.monotonic() - begun < 20, self.page.locator(".status").text_content()
            self.page.wait_for_timeout(5)

    def after(self, act) -> None:
        """Do something and wait until the page has answered."""
        before = self.answered
        act()
        self.until(before)

    def fill(self, name: str, text: str) -> None:
        self.after(lambda: self.page.locator(f"[name={name}]").fill(text))

    def numbers(self) -> list[list[str]]:
        """Return the numbers of the first chart."""
        folded = self.page.locator("details", has_text="numbers of the figure").first
        folded.locator("summary").click()
        folded.locator("table").wait_for()
        rows = folded.locator("tbody tr").all()
        return [row.locator("td").all_text_contents() for row in rows]


class Served:
    """A running server, and the page's way to ask it."""

    def __init__(self, models: list) -> None:
        pytest.importorskip("uvicorn")
        from patching.cli.live import make_server, own_hosts
        from patching.page.live.jobs import Worker
        from patching.page.live.server import Live, make_app

        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.live = Live(models, own_hosts("127.0.0.1", self.port), Worker())
        self.server = make_server(make_app(self.live))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def post(self, path: str, data: object, **more) -> requests.Response:
        headers = {"Origin": self.origin, **more.pop("headers", {})}
        return requests.post(self.origin + path, json=data, headers=headers, timeout=20, **more)

    def ask(self, **fields) -> list[dict]:
        """Return the lines of an answer to the example with other fields."""
        response = self.post("/api/run", {**STATE, **fields})
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]

    def close(self) -> None:
        self.live.worker.close()
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()
