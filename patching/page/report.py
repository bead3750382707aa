"""Write a result as one HTML file that needs no network: data, our script, Vega's library.

The page's policy lets run these two scripts, by their hashes, and nothing else: no script
that a prompt might hold, no request to anywhere.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mingpt.files import replacing
from patching.errors import DrawingError
from patching.page.escape import as_json, as_text, script_hash
from patching.page.views import sweep_page
from patching.sweep.result import SweepResult

NEEDS = "--html needs the package vl-convert-python: pip install 'patched-mingpt[page]'"

TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<header>
<h1 id="title"></h1>
<p id="subtitle"></p>
<ul id="notes"></ul>
</header>
<main>
<section id="prompts" aria-label="prompts"></section>
<form id="controls" aria-label="what is shown"></form>
<p id="caption"></p>
<div class="wide"><div id="chart" role="img" aria-labelledby="caption"></div></div>
<section id="cell" aria-live="polite"></section>
<details><summary>numbers of the figure</summary>
<div class="wide"><table id="numbers"></table></div></details>
<section id="tables" aria-label="next tokens"></section>
<details><summary>how it was made</summary>
<p><code id="command"></code></p>
<table id="provenance"></table>
<p><button id="save" type="button">save the numbers (JSON)</button></p></details>
</main>
<noscript>This page draws its figures with JavaScript.</noscript>
<script type="application/json" id="data">{data}</script>
<script>{library}</script>
<script>{script}</script>
</body>
</html>
"""


def save_page(
    result: SweepResult, path: str | Path, *, command: str = "", title: str | None = None
) -> Path:
    """Write a sweep as an HTML page; return its path.

    Args:
        command: the command line that repeats the run.
        title: in place of the page's own.

    Raises:
        DrawingError: the package vl-convert-python is missing.
        FileError: the file cannot be written.
    """
    page = sweep_page(result, command)
    if title is not None:
        page["title"] = title
    path, text = Path(path), html_of(page)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def html_of(page: dict[str, Any]) -> str:
    """Return the page as HTML.

    Args:
        page: what views.sweep_page returned.

    Raises:
        DrawingError: the package vl-convert-python is missing.
    """
    library, script = vega_library(), _own("page.js")
    policy = (
        f"default-src 'none'; script-src {script_hash(library)} {script_hash(script)};"
        " style-src 'unsafe-inline'; img-src data:"
    )
    return TEMPLATE.format(
        policy=policy,
        title=as_text(page["title"]),
        style=_own("page.css"),
        data=as_json(page),
        library=library,
        script=script,
    )


@lru_cache(maxsize=1)
def vega_library() -> str:
    """Return the JavaScript of Vega, Vega-Lite and vega-embed, as one classic script.

    Raises:
        DrawingError: the package vl-convert-python is missing.
    """
    try:
        import vl_convert
    except ImportError:
        raise DrawingError(NEEDS) from None
    # Its types ask for a piece of code to bundle; without one, the library alone is returned.
    library: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return library.replace("</script", "<\\/script")


def _own(name: str) -> str:
    return files("patching.page").joinpath(name).read_text(encoding="utf-8")
