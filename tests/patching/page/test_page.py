"""The page of a sweep as a file: what is in it, and that nothing of a prompt is code."""

import base64
import hashlib
import json
import re
import sys

import numpy as np
import pytest

from patching import PromptPair, patch_sweep
from patching.cli.patch import main
from patching.errors import DrawingError
from patching.page.escape import as_json, as_text
from patching.page.report import html_of, own_script, save_page, vega_library
from patching.page.sweep_page import sweep_page

HOSTILE = ("</script><script>alert(1)</script>", "<!--", "-->", "]]>", '"', "'", "&amp;", "\u2028",
           "\u2029", "\u202e", "\x00", "\x1b[31m", "<img src=x onerror=alert(1)>")  # fmt: skip


def hostile_pair() -> PromptPair:
    """Return a pair of make_model's tokens whose texts are all hostile."""
    tokens = [HOSTILE[n] if n < len(HOSTILE) else f"<b>{n}</b>" for n in range(40)]
    return PromptPair.from_ids([0, 1, 2, 3, 4, 5, 6], [0, 1, 7, 8, 9, 10, 11], 11, 12, tokens)


@pytest.fixture
def sweep(model):
    return patch_sweep(model, hostile_pair(), metric="logit_diff,recovery", next_tokens=3)


def data_of(page: str) -> dict:
    (found,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL
    )
    return json.loads(found)


def rows_of(chart: dict) -> list[dict]:
    return [dict(zip(chart["fields"], row, strict=True)) for row in chart["rows"]]


def test_the_page_holds_every_number_of_the_result(sweep, tmp_path):
    page = data_of(save_page(sweep, tmp_path / "x.html").read_text("utf-8"))
    view, tables = page["views"]
    assert [chart["name"] for chart in view["charts"]] == ["logit_diff", "recovery"]
    for chart, found in zip(view["charts"], sweep.metrics.values(), strict=True):
        values = np.full(found.values.shape, np.nan)
        for row in rows_of(chart):
            values[row["row"], row["column"]] = row["value"]
        assert (values.astype(np.float32) == found.values.astype(np.float32)).all()
        assert chart["constants"] == pytest.approx({"clean": found.clean, "corrupt": found.corrupt})
        first = rows_of(chart)[0]
        assert first["value"] - first["change"] == pytest.approx(found.corrupt, rel=1e-5)
    recovery = {(row["row"], row["column"]): row["recovery"] for row in rows_of(view["charts"][0])}
    assert recovery[2, 6] == pytest.approx(1)
    said = view["charts"][0]["cells"]["1,4"]
    assert [row[1] for row in said] == [f"{one.logit:.4f}" for one in sweep.next_of(1, 4)]
    assert [len(table["rows"]) for table in tables["tables"]] == [20, 20]


def test_a_title_says_that_numbers_are_estimates(model):
    pair = PromptPair.from_ids([1, 5, 9, 2], [1, 5, 8, 2], 11, 22)
    page = sweep_page(patch_sweep(model, pair, site="z", method="attribution"))
    assert page["title"].startswith("Attribution patching (approximate, to first order) of z")
    view = page["views"][0]
    assert view["title"] == "Estimates by gradients (approximate)"
    shown = view["charts"][0]["shows"]
    assert [one["name"] for one in shown] == ["estimated value", "change", "recovery"]
    assert all(", approximate" in one["caption"] for one in shown)
    assert '"patched' not in json.dumps(view)


def test_a_head_s_cells_are_found_by_layer_position_and_head(model):
    pair = PromptPair.from_ids([1, 5, 9, 2], [1, 5, 8, 2], 11, 22)
    result = patch_sweep(model, pair, site="v", by_position=True, heads=[1], next_tokens=2)
    (chart,) = sweep_page(result)["views"][0]["charts"]
    assert chart["groups"] == [1]
    for row in rows_of(chart):
        found = result.values[row["row"], row["group"], row["column"]]
        assert row["value"] == pytest.approx(found)
    logits = [row[1] for row in chart["cells"]["0,3,1"]]
    assert logits == [f"{one.logit:.4f}" for one in result.next_of(0, 1, 3)]


def test_nothing_of_a_prompt_can_be_markup_or_code(sweep):
    page = html_of(sweep_page(sweep, command="mingpt-patch --clean '</script><script>'"))
    ours = page.split('id="data">')[1].split("</script>")[0]
    assert not set("<>&\u2028\u2029") & set(ours)
    assert ours.isascii()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert "unsafe-eval" not in policy and policy.startswith(
        "default-src 'none'; script-src 'sha256-"
    )
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    assert len(scripts) == 2 and all(f"'sha256-{one}'" in policy for one in hashes)
    assert "alert(1)" not in page.replace(ours, "")


def test_texts_are_escaped():
    for text in HOSTILE:
        assert json.loads(as_json({"x": text})) == {"x": text}
        assert not set("<>&\u2028\u2029") & set(as_json(text))
        assert not set("<>\"'") & set(as_text(text))
    with pytest.raises(ValueError, match="Out of range"):
        as_json(float("nan"))


def test_a_library_that_breaks_down_is_one_line(monkeypatch):
    vega_library.cache_clear()
    monkeypatch.setattr("patching.page.report._PRINT_LIBRARY", "import os; os.abort()")
    with pytest.raises(DrawingError, match="broke down"):
        vega_library()


def test_our_modules_are_one_script_without_imports():
    script = own_script()
    assert not re.search(r"^(import|export) ", script, re.MULTILINE)
    assert "</script" not in script and "innerHTML" not in script and "eval" not in script


def test_the_library_runs_under_the_policy():
    assert "</script" not in vega_library().lower()


def test_the_command_writes_a_page(tmp_path, capsys):
    out = f"{tmp_path}/x.png"
    assert main(["--model", "builtin", "--html", "--out", out, "--title", "A <b>title"]) == 0
    assert f"wrote {tmp_path}/x.html" in capsys.readouterr().out
    page = (tmp_path / "x.html").read_text("utf-8")
    assert "<title>A &lt;b&gt;title</title>" in page
    assert len(data_of(page)["views"][0]["charts"][0]["cells"]["0,0"]) == 10
    assert (tmp_path / "x.html").stat().st_size < 1.5e6


def test_what_page_needs_is_said_before_the_work(tmp_path, monkeypatch, capsys):
    vega_library.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(DrawingError, match=r"pip install 'patched-mingpt\[page\]'"):
        vega_library()
    assert main(["--model", "builtin", "--html", "--out", f"{tmp_path}/x.png"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not [*tmp_path.iterdir()]
    monkeypatch.undo()
    assert main(["--model", "builtin", "--html", "--report", f"{tmp_path}/r"]) == 2
