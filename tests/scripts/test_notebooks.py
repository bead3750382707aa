"""The notebooks: built from their cells, the same code in both languages, and they run."""

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "notebooks"))

import build

FOLDER = ROOT / "scripts" / "notebooks"

RUN = """
import sys, nbformat
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], 4)
NotebookClient(book, timeout=280, kernel_name="python3").execute()
shown = [o for cell in book.cells for o in cell.get("outputs", [])]
print(sum("image/png" in o.get("data", {}) for o in shown), "figures")
"""


def cells_of(name: str, language: str) -> list[dict]:
    return json.loads(build.path_of(name, language).read_text("utf-8"))["cells"]


def test_they_are_current(capsys):
    assert build.main(["--check"]) == 0, capsys.readouterr().out
    names = {path.name for path in FOLDER.glob("*.ipynb")}
    assert names == {build.path_of(n, lang).name for n in build.NAMES for lang in build.LANGUAGES}


@pytest.mark.parametrize("name", build.NAMES)
def test_code_is_the_same_in_both_languages_and_texts_are_not(name):
    english, spanish = (cells_of(name, language) for language in build.LANGUAGES)
    assert [one["cell_type"] for one in english] == [one["cell_type"] for one in spanish]
    for one, other in zip(english, spanish, strict=True):
        assert (one["source"] == other["source"]) is (one["cell_type"] == "code")
    assert all(one["outputs"] == [] for one in english if one["cell_type"] == "code")


def test_an_old_notebook_is_noticed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "path_of", lambda name, language: tmp_path / f"{name}.{language}")
    (tmp_path / "sampling.en").write_text("{}")
    assert build.main(["--check"]) == 1
    assert "sampling.en is not current" in capsys.readouterr().out
    assert len([*tmp_path.iterdir()]) == 1
    assert build.main([]) == 0
    assert build.main(["--check"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "figures"),
    [("assignment", 5), ("why_this_word", 7), ("sampling", 1), ("own_model", 3), ("study", 3)],
)
def test_it_runs_and_shows_its_figures(tmp_path, name, figures):
    pytest.importorskip("nbclient", reason="the extra ci runs the notebooks")
    path = build.path_of(name, "en")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path)], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"{figures} figures\n"
