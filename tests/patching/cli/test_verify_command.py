"""mingpt-verify: exit codes, the table, the file, and which model it is."""

import dataclasses
import json

import pytest

from mingpt.loading import repositories
from mingpt.loading.download import file_hash
from mingpt.loading.sources import BUILTIN_DIRECTORY, resolve
from patching.cli.verify import main
from patching.verification import published
from patching.verification.identity import identify
from patching.verification.result import Verification


def test_the_shipped_model_holds(tmp_path, capsys):
    out = tmp_path / "table.json"
    assert main(["--model=builtin", "--samples=2", f"--out={out}", "--json"]) == 0
    printed, said = capsys.readouterr()
    result = json.loads(printed)
    assert result["ok"]
    assert all(row["ok"] for row in result["rows"])
    assert "identities only" in said
    assert f"all {len(result['rows'])} rows hold" in said
    assert Verification.load(out).to_dict() == result


def test_a_figure_that_is_off(monkeypatch, capsys):
    """The shipped model passed off as GPT-2: its table of next tokens is another."""
    weights = file_hash(BUILTIN_DIRECTORY / "model.safetensors", 64)
    gpt2 = repositories.KNOWN["gpt2"]
    as_gpt2 = dataclasses.replace(gpt2, sha256={"model.safetensors": weights})
    monkeypatch.setitem(repositories.KNOWN, "gpt2", as_gpt2)
    assert identify(resolve("builtin")).words == "gpt2, by the SHA-256 of model.safetensors"
    figure = {"kind": "next_tokens", "what": "three tokens", "prompt": [1, 2], "ids": [3, 4, 5],
              "logits": [9.0, 8.0, 7.0], "printed": 1e-3, "float32": 1e-3}  # fmt: skip
    made = published.figure_of({"source": "a test", "pairs": {}}, figure)
    monkeypatch.setattr(published, "read_figures", lambda model, long: [made])
    assert main(["--model=builtin", "--samples=1", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("OFF: three tokens (a test): published 9, ours ")
    assert err == ""


def test_without_gpt2_the_shipped_model_does_not_take_its_place(offline, capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "has no model.safetensors" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=builtin", "--out=x.txt"], "the table is written as .json"),
        (["--model=builtin", "--samples=0"], "--samples"),
        (["--model=nosuch/"], "no model"),
    ],
)
def test_bad_input(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
