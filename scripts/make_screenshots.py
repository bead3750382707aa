"""Take the screenshots of the pages again, with the shipped model and Debian's chromium.

Run: python scripts/make_screenshots.py [--out DIR]. It needs playwright (pip install '.[ci]') and a
browser (apt-get install chromium), and no network.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from make_figures import folder_of
from playwright.sync_api import Browser, sync_playwright

import mingpt
from patching.cli.explain import EXAMPLE as SUMMER
from patching.explanation.run import explain
from patching.page.report import save_page
from patching.prompts import Question

CELL = 1 * 10 + 9  # of the live page's map that is clicked: layer 1, the last of 10 tokens
HEAD = "head 3.0"  # the head that is shown large
TOKEN = 10  # the token under the pointer: the last one
SETTLED = 700  # milliseconds


def main(argv: Sequence[str] | None = None) -> int:
    """Write both screenshots into the folder that --out names and print their paths."""
    folder = folder_of(argv, __doc__)
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        live_page(browser, folder / "readme-live.png")
        report(browser, folder / "readme-attention.png")
        browser.close()
    return 0


def live_page(browser: Browser, path: Path) -> None:
    """Show the README's example on the live page, with a cell clicked."""
    with served() as address:
        page = browser.new_page(viewport={"width": 900, "height": 1180})
        page.goto(address)
        page.wait_for_timeout(SETTLED)
        page.locator(".chart svg path[aria-roledescription]").nth(CELL).click()
        page.mouse.move(0, 0)
        page.wait_for_timeout(SETTLED)
        page.screenshot(path=path)
    print(path)


def report(browser: Browser, path: Path) -> None:
    """Show an explanation's page at its attention, with a token under the pointer."""
    model, tokenizer = mingpt.load("builtin")
    question = Question.from_text(tokenizer, **SUMMER)
    found = explain(model, question, methods="alti-logit,attention", progress=False)
    with tempfile.TemporaryDirectory() as folder:
        file = save_page(found, Path(folder) / "x.html")
        page = browser.new_page(viewport={"width": 900, "height": 900})
        page.goto(file.as_uri())
        page.wait_for_timeout(SETTLED)
        page.get_by_label(HEAD, exact=True).click()
        page.locator(".view-attention h2").evaluate("x => x.scrollIntoView()")
        page.locator(".view-attention .token").nth(TOKEN).hover()
        page.wait_for_timeout(SETTLED)
        page.screenshot(path=path)
    print(path)


@contextmanager
def served() -> Iterator[str]:
    """Serve the live page in a process of its own; yield its address."""
    command = [sys.executable, ROOT / "scripts" / "live.py", "--model", "builtin", "--port", "0"]
    with subprocess.Popen(
        [*map(str, command), "--no-browser"], stdout=subprocess.PIPE, text=True
    ) as process:
        lines = process.stdout or ()
        address = next((line.split()[0] for line in lines if line.startswith("http")), None)
        if address is None:
            raise SystemExit("scripts/live.py ended before it served the page")
        yield address
        process.terminate()


if __name__ == "__main__":
    sys.exit(main())
