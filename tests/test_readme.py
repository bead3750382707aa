"""The READMEs: their examples run, and the files that they name exist."""

import re
import shlex
import shutil
import subprocess

import pytest
from helpers import ROOT

from patching.cli import embeddings, explain, generate, patch, paths, study, tokens, train

READMES = [
    path
    for path in sorted(ROOT.rglob("README.md"))
    if not {".git", ".venv", "build"} & {*path.relative_to(ROOT).parts}
]
TEXTS = {str(path.parent.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in READMES}
PYTHON = {
    folder: blocks
    for folder, text in TEXTS.items()
    if (blocks := re.findall(r"```python\n(.*?)```", text, re.DOTALL))
}
MAIN = {
    "mingpt-patch": patch.main,
    "mingpt-paths": paths.main,
    "mingpt-explain": explain.main,
    "mingpt-tokens": tokens.main,
    "mingpt-generate": generate.main,
    "mingpt-train": train.main,
    "mingpt-embeddings": embeddings.main,
    "mingpt-study": study.main,
}
IN_A_ROW = "patching/study"  # the folder of a README whose commands go on from one another


def commands_of(folder: str) -> list[str]:
    """Return the command lines that a README shows."""
    starts = tuple(f"    {name} " for name in MAIN)
    lines = TEXTS[folder].replace("\\\n", "").splitlines()
    return [line.strip() for line in lines if line.startswith(starts)]


COMMANDS = sorted({line for folder in TEXTS if folder != IN_A_ROW for line in commands_of(folder)})
# Folder of a README -> the files that its examples write.
WRITTEN = {
    ".": ["michelle.json", "michelle.npz", "michelle.png"],
    "patching/explanation": ["cabinet.json", "cabinet.npz", "lens.png"],
    "patching/paths": ["circuit.png", "edges.json", "edges.npz", "paths.png"],
    "mingpt/training": ["README.md", "runs"],
    "patching/study": ["ioi.csv", "map.png", "runs"],
}


@pytest.mark.parametrize("folder", PYTHON)
def test_the_python_examples_run_one_after_the_other(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    if folder == "mingpt/training":
        shutil.copy(ROOT / "README.md", tmp_path)
    names: dict[str, object] = {}
    for block in PYTHON[folder]:
        exec(block, names)
    assert sorted(path.name for path in tmp_path.iterdir()) == WRITTEN.get(folder, [])
    if folder == "patching/sweep":
        assert names["results"][1].metrics["kl"].values.shape == (4, 4)
        assert [*names["results"][0].metrics] == ["recovery", "kl", "margin"]
        assert names["ablated"].values.shape == (4, len(names["pair"]))
    if folder == "patching/paths":
        assert names["edges"].count == 479 and len(names["edges"].strongest(5)) == 5
    if folder == "patching/continuation":
        assert names["samples"][1][3].sample.seed == 3
        assert len(names["best"][0]) == 2
    if folder == "mingpt":
        assert names["model"].recording["z"].shape[2] == 4
        assert len(names["samples"][0]) == 3


def test_there_are_examples_to_run():
    assert {*PYTHON} == {
        ".", "mingpt", "mingpt/training", "patching/embeddings",
        "patching/sweep", "patching/explanation", "patching/continuation", "patching/study",
        "patching/paths",
    }  # fmt: skip
    assert len(COMMANDS) == 29
    assert len(commands_of(IN_A_ROW)) == 4


# Those that train or study take seconds.
LONG = ("mingpt-train", "mingpt-study")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=pytest.mark.slow if line.startswith(LONG) else ())
        for line in COMMANDS
    ],
)
def test_the_commands_run(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    command, *arguments = shlex.split(line)
    if command == "mingpt-train":
        shutil.copy(ROOT / "README.md", tmp_path)
    assert MAIN[command]([*arguments, "--quiet"]) == 0, capsys.readouterr().err
    if command == "mingpt-tokens":  # writes nothing
        assert [*tmp_path.iterdir()] == []
        return
    if command == "mingpt-train":
        assert (tmp_path / "runs" / "readme" / "curves.png").exists()
        return
    if command == "mingpt-embeddings":
        assert len([*(tmp_path / "figures").iterdir()]) == 3
        return
    if command == "mingpt-study":
        assert (tmp_path / "runs" / "ioi" / "summary.csv").exists()
        return
    if command == "mingpt-generate":
        other = ".html" if "--html" in line else ".png"
        files = (tmp_path / "figures").iterdir()
        assert {path.suffix for path in files} == {".json", other}
        return
    compared = line.count("--compare-exact")
    figures = 1 + line.count(",kl") + compared + line.count("--edges")
    if command == "mingpt-explain":
        # lens and direct; attention and head-scores; direct and ablation
        figures = 2 if "--show" in line or "--ablate" in line else 5
    results = 1 + compared + line.count("--ablate")
    pages = line.count("--html")
    assert len([*(tmp_path / "figures").iterdir()]) == figures + 2 * results + pages


@pytest.mark.slow
def test_the_commands_of_a_study_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line in commands_of(IN_A_ROW):
        command, *arguments = shlex.split(line)
        assert MAIN[command](arguments) == 0, capsys.readouterr().err
    assert "40 of 40 pairs" in capsys.readouterr().out


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_every_link_leads_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target


def test_the_readme_is_short_and_its_tree_is_the_clones():
    text = TEXTS["."]
    assert len(text.splitlines()) <= 130
    tree = re.search(r"```\n(mingpt/ .*?)```", text, re.DOTALL).group(1)
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        del folders[depth:]
        # Names come first; the description follows after two or more spaces.
        names = re.split(r"\s{2,}", line.strip())[0].split()
        for name in names:
            is_room = name in ("request", "run", "result", "saved", "figures")
            place = ROOT.joinpath(*folders, f"{name}.py" if is_room else name)
            assert place.exists(), place
        if names[0].endswith("/"):
            folders.append(names[0])


def test_every_folder_of_code_is_in_the_tree():
    tree = re.search(r"```\n(mingpt/ .*?)```", TEXTS["."], re.DOTALL).group(1)
    for package in ("mingpt", "patching"):
        for path in (ROOT / package).rglob("__init__.py"):
            name = f"{path.parent.name}/"
            assert name in tree, name


def test_ci_finds_the_test_command():
    found = subprocess.run(
        ["grep", "-m", "1", "-E", "^pip install .* pytest", ROOT / "README.md"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found.strip() == "pip install -c constraints.txt '.[test]' && python -m pytest"
    assert "grep -m 1 -E '^pip install .* pytest' README.md" in (ROOT / ".ci/run").read_text()
