"""The folder to hand in: its tables in Markdown and LaTeX, its caption, its files."""

import json
import re

import numpy as np
import pytest

from patching import DrawingError, PromptPair, SweepResult, patch_sweep
from patching.cli.patch import main
from patching.sweep.figures import Look
from patching.sweep.hand_in import caption, latex, tables, write_folder


@pytest.fixture(scope="module")
def result(builtin) -> SweepResult:
    model, tokenizer = builtin
    pair = PromptPair.from_text(
        tokenizer, "The keys to the cabinet", "The key to the cabinet", "are", "is"
    )
    return patch_sweep(model, pair, metric=["logit_diff", "recovery"], rows=3)


def test_the_tables_are_the_results_numbers(result):
    found = {table.title: table for table in tables(result)}
    tokens = found["Tokens of both prompts (a star where they differ)"]
    assert tokens.rows[1] == ("*", "1", *_token(result, "clean"), *_token(result, "corrupt"))
    assert tokens.rows[0][0] == ""
    cells = found[f"{result.captions['recovery']}, by layer and position"]
    shown = [[float(cell) for cell in row[1:]] for row in cells.rows]
    assert np.allclose(shown, result.metrics["recovery"].values, atol=6e-4)
    likely = found["The likeliest next tokens of the clean prompt, the target and the foil"]
    assert [row[0] for row in likely.rows] == ["", "", "", "target", "foil"]
    assert likely.rows[0][3] == "␣are"


def _token(result, run: str) -> tuple[str, str]:
    pair = result.pair
    number, text = getattr(pair, f"{run}_ids")[1], getattr(pair, f"{run}_tokens")[1]
    return str(number), text.replace(" ", "␣")


def test_the_caption_says_what_is_drawn(result, builtin):
    said = caption(result, "recovery")
    assert (
        "resid_post of the clean run is put into the corrupt run, at one layer and one token"
        in said
    )
    assert "Without a patch it is 1 in the clean and 0 in the corrupt run" in said
    assert "The keys to the cabinet" in said
    assert "20 cells." in said
    model, _ = builtin
    noise = patch_sweep(model, result.pair, direction="noise", site="z", positions=None, layers=[1])
    said = caption(noise, "logit_diff")
    assert "z of the corrupt run is put into the clean run, at one head, at all positions" in said
    assert "(those that are hatched were not patched)" in said
    near = patch_sweep(model, result.pair, method="attribution")
    assert "estimated from gradients (approximate, to first order)" in caption(near, "logit_diff")

    own = SweepResult(**{**vars(result), "patches": "zeros"})
    assert "the caller's patches zeros() are put into the corrupt run" in caption(own, "recovery")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("50 % & more_", r"50 \% \& more\_"),
        ("␣Jones", r"\textvisiblespace{}Jones"),
        (r"\x{}$#^~<>|", r"\textbackslash{}x\{\}\$\#\textasciicircum{}\textasciitilde{}"
         r"\textless{}\textgreater{}\textbar{}"),
        ("jardín", "jardín"),
        ("東", r"\textbackslash{}u6771"),
    ],
)  # fmt: skip
def test_texts_in_latex(text, shown):
    assert latex(text) == shown


def test_a_token_breaks_no_table(builtin):
    """Bars, backslashes and dollars in a token stay within their cell."""
    model, tokenizer = builtin
    pair = PromptPair.from_text(tokenizer, "a | b $ \\ keys", "a | b $ \\ key", "are", "is")
    table = tables(patch_sweep(model, pair))[0]
    for line in table.markdown().splitlines()[2:]:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 7
    for line in table.latex().splitlines():
        if line.endswith(r" \\"):
            assert len(re.findall(r"(?<!\\)&", line)) == 5


def test_the_folder_holds_all_and_reloads(result, tmp_path):
    paths = write_folder(result, tmp_path / "in", command="mingpt-patch --model builtin")
    assert sorted(path.name for path in paths) == sorted(
        path.name for path in (tmp_path / "in").iterdir()
    )
    text = (tmp_path / "in" / "report.md").read_text("utf-8")
    for name in re.findall(r"!\[heatmap\]\((.*?)\)", text):
        assert (tmp_path / "in" / name).exists()
    assert "    mingpt-patch --model builtin\n" in text
    assert result.checksum in text
    assert result.versions["torch"] in text
    again = SweepResult.load(tmp_path / "in" / "sweep")
    assert np.array_equal(again.values, result.values)
    assert (tmp_path / "in" / "tables.tex").read_text("utf-8").count(r"\begin{tabular}") == 5


def test_a_figure_that_cannot_be_drawn_leaves_nothing(result, tmp_path):
    with pytest.raises(DrawingError, match="lies beyond all values"):
        write_folder(result, tmp_path / "in", look=Look(vmin=1e6))
    assert not (tmp_path / "in").exists()


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--model", "builtin", "--report", "in/", "--title", "Mine", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert "in/report.md" in fields["paths"]
    assert [*tmp_path.iterdir()] == [tmp_path / "in"]
    for asked in (["--out", "x.png"], ["--format", "svg"]):
        assert main(["--model", "builtin", "--report", "other", *asked]) == 2
        assert "--report goes with none of --out, --format" in capsys.readouterr().err
    assert main(["--model", "builtin", "--report", "/dev/null/x"]) == 2
    assert "--report /dev/null/x/report.md: /dev/null is not a folder" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [tmp_path / "in"]
