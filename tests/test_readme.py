"""What the README shows is run; what it names is there."""

import re
import shlex
import subprocess

import pytest
from conftest import ROOT

from patching.cli.patch import main

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.strip().removeprefix("mingpt-patch ")
    for line in README.replace("\\\n", "").splitlines()
    if line.startswith("    mingpt-patch ")
]


def test_the_python_examples_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(PYTHON) == 3
    names: dict[str, object] = {}
    for block in PYTHON:
        exec(block, names)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "michelle.json", "michelle.npz", "michelle.png"
    ]  # fmt: skip
    assert names["results"][1].metrics["kl"].values.shape == (4, 4)
    assert [*names["results"][0].metrics] == ["recovery", "kl", "margin"]
    assert names["model"].last_logits.shape == (1, names["tokenizer"].vocab_size)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_the_commands_run(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(arguments), "--quiet"]) == 0, capsys.readouterr().err
    figures = 1 + arguments.count(",kl")
    assert len([*(tmp_path / "figures").iterdir()]) == figures + 2


def test_there_are_commands_to_run():
    assert len(COMMANDS) == 5


def test_everything_it_links_and_lists_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    listed = re.search(r"\| file \| its one job \|(.*?)\n\n", README, re.DOTALL).group(1)
    for cell in re.findall(r"^\| (.*?) \|", listed, re.MULTILINE)[1:]:
        folder = ""
        for name in re.findall(r"`([^`]+)`", cell):
            folder = name.rsplit("/", 1)[0] if "/" in name else folder
            assert (ROOT / folder / name.rsplit("/", 1)[-1]).exists(), name


def test_ci_finds_the_test_command():
    found = subprocess.run(
        ["grep", "-m", "1", "-E", "^pip install .* pytest", ROOT / "README.md"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found.strip() == "pip install -c constraints.txt '.[test]' && python -m pytest"
    assert "grep -m 1 -E '^pip install .* pytest' README.md" in (ROOT / ".ci/run").read_text()
