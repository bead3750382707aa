"""Write a result as one HTML file that needs no network: data, our script, Vega's library.

The page's policy lets run these two scripts, by their hashes, and nothing else: no script
that a prompt might hold, no request to anywhere.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from mingpt.files import replacing
from patching.continuation.result import Continuations
from patching.errors import DrawingError
from patching.explanation.result import Explanation
from patching.page.charts import JSON
from patching.page.continuation_page import continuation_page
from patching.page.escape import as_json, as_text, script_hash
from patching.page.explanation_page import explanation_page
from patching.page.paths_page import edges_page, paths_page
from patching.page.study_page import study_page
from patching.page.sweep_page import sweep_page
from patching.paths.result import EdgeResult, PathResult
from patching.study.result import Study
from patching.sweep.result import SweepResult

NEEDS = "a page needs the package vl-convert-python: pip install 'patched-mingpt[page]'"
MODULES = (
    "dom",
    "chart",
    "attention",
    "samples",
    "page",
    "form",
    "live",
    "main",
)  # in script/, in order

SECONDS = 120.0  # longest time to put Vega's library together
_PRINT_LIBRARY = (
    "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"
)

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
<noscript>This page draws its figures with JavaScript.</noscript>
<script type="application/json" id="data">{data}</script>
<script>{library}</script>
<script>{script}</script>
</body>
</html>
"""

Result = SweepResult | Explanation | Continuations | Study | PathResult | EdgeResult


def save_page(
    result: Result, path: str | Path, *, command: str = "", title: str | None = None
) -> Path:
    """Write a result as an HTML page; return its path.

    Args:
        command: the command line that repeats the run.
        title: in place of the page's own.

    Raises:
        DrawingError: the package vl-convert-python is missing, or no such page.
        FileError: the file cannot be written.
        StudyError, ResultError: a study whose summary cannot be made.
    """
    return write_page(page_of(result, command), path, title=title)


def page_of(result: Result, command: str = "") -> JSON:
    """Return the page of a result, in types that JSON has.

    Raises:
        DrawingError: there is no page of such a thing.
        StudyError, ResultError: as Study.summary.
    """
    match result:
        case SweepResult():
            return sweep_page(result, command)
        case Explanation():
            return explanation_page(result, command)
        case Continuations():
            return continuation_page([result], command)
        case PathResult():
            return paths_page(result, command)
        case EdgeResult():
            return edges_page(result, command)
        case Study():
            return study_page(result, result.summary(), command)
    raise DrawingError(f"there is no page of {result!r:.60}: give a result")


def write_page(page: JSON, path: str | Path, *, title: str | None = None) -> Path:
    """Write a page that a function of this folder returned; return its path.

    Raises:
        DrawingError, FileError: as save_page.
    """
    path = Path(path)
    text = html_of(page if title is None else {**page, "title": title})
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def html_of(page: JSON, *, connects: str = "'none'") -> str:
    """Return a page as HTML.

    Args:
        connects: to where its script may send requests, as a policy writes it; 'none' in a
            file, 'self' in the page of a server.

    Raises:
        DrawingError: the package vl-convert-python is missing.
    """
    library, script = vega_library(), own_script()
    policy = (
        f"default-src 'none'; script-src {script_hash(library)} {script_hash(script)};"
        f" style-src 'unsafe-inline'; img-src data:; connect-src {connects}; base-uri 'none';"
        " form-action 'none'"
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

    The package puts it together with an engine of its own, V8, which aborts its process where
    memory is limited. So that is another process than this one; it takes a second.

    Raises:
        DrawingError: the package vl-convert-python is missing, or breaks down.
    """
    if importlib.util.find_spec("vl_convert") is None:
        raise DrawingError(NEEDS)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PRINT_LIBRARY], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DrawingError(f"the package vl-convert-python took more than {SECONDS:g} s") from None
    if done.returncode:
        raise DrawingError(
            "the package vl-convert-python broke down: does ulimit -v limit the address space?"
        )
    return done.stdout.decode("utf-8").replace("</script", "<\\/script")


@lru_cache(maxsize=1)
def own_script() -> str:
    """Return our modules as one classic script.

    They are joined in their order within one function, without their imports and exports. So
    no two of them may define the same name: a browser refuses a second `const`.
    """
    joined = "\n".join(_own(f"script/{name}.js") for name in MODULES)
    joined = re.sub(r"^import [^;]*;\n", "", joined, flags=re.MULTILINE)
    joined = re.sub(r"^export (?=(async )?function|const|class)", "", joined, flags=re.MULTILINE)
    return f'(() => {{\n"use strict";\n{joined}\n}})();'


def _own(name: str) -> str:
    return files("patching.page").joinpath(name).read_text(encoding="utf-8")
