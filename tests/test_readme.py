"""What the README shows is run; what it names is there."""

import re
import shlex
import subprocess

import pytest
from helpers import ROOT

from patching.cli import explain, generate, patch, tokens

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
MAIN = {
    "mingpt-patch": patch.main,
    "mingpt-explain": explain.main,
    "mingpt-tokens": tokens.main,
    "mingpt-generate": generate.main,
}
COMMANDS = [
    line.strip()
    for line in README.replace("\\\n", "").splitlines()
    if line.startswith(tuple(f"    {name} " for name in MAIN))
]


def test_the_python_examples_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(PYTHON) == 5
    names: dict[str, object] = {}
    for block in PYTHON:
        exec(block, names)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cabinet.json", "cabinet.npz", "lens.png", "michelle.json", "michelle.npz", "michelle.png"
    ]  # fmt: skip
    assert names["samples"][1][3].sample.seed == 3
    assert len(names["best"][0]) == 2
    assert names["found"].alti_logit.shape == (3, len(names["question"].ids))
    assert names["results"][1].metrics["kl"].values.shape == (4, 4)
    assert [*names["results"][0].metrics] == ["recovery", "kl", "margin"]
    assert names["model"].last_logits.shape == (1, names["tokenizer"].vocab_size)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_run(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    command, *arguments = shlex.split(line)
    assert MAIN[command]([*arguments, "--quiet"]) == 0, capsys.readouterr().err
    if command == "mingpt-tokens":  # writes nothing
        assert [*tmp_path.iterdir()] == []
        return
    if command == "mingpt-generate":
        assert sorted(path.suffix for path in (tmp_path / "figures").iterdir()) == [".json", ".png"]
        return
    compared = line.count("--compare-exact")
    figures = 5 if command == "mingpt-explain" else 1 + line.count(",kl") + compared
    assert len([*(tmp_path / "figures").iterdir()]) == figures + 2 * (1 + compared)


def test_there_are_commands_to_run():
    assert len(COMMANDS) == 11


def test_everything_it_links_and_lists_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_ci_finds_the_test_command():
    found = subprocess.run(
        ["grep", "-m", "1", "-E", "^pip install .* pytest", ROOT / "README.md"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found.strip() == "pip install -c constraints.txt '.[test]' && python -m pytest"
    assert "grep -m 1 -E '^pip install .* pytest' README.md" in (ROOT / ".ci/run").read_text()
