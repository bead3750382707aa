"""scripts/explain.py as a user meets it. What it shares with patch.py is tested there."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from patching import Explanation, Question, explain
from patching.cli.explain import EXAMPLE, main
from patching.explanation.request import DEFAULT, figures_of
from patching.text import probability


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_example(command, tmp_path, builtin):
    run = command("explain", "--model", "builtin")
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert lines[0].startswith("model: builtin (")
    model, tokenizer = builtin
    ids = tokenizer.encode(EXAMPLE["text"])
    for position, number in enumerate(ids):
        assert [str(position), str(number)] in [line.split()[:2] for line in lines]
    hot, cold = (tokenizer.encode(f" {word}")[0] for word in ("hot", "cold"))
    logits = model(torch.tensor([ids]))[0][0, -1]
    said = re.search(
        r"logit\(␣hot\) - logit\(␣cold\) = (\S+) \((\S+) and (\S+)\), of which", run.stdout
    )
    difference = (logits[hot] - logits[cold]).item()
    expected = [difference, logits[hot].item(), logits[cold].item()]
    assert [*map(float, said.groups())] == pytest.approx(expected, abs=2e-4)
    (row,) = (line.split() for line in lines if line.split()[1:2] == ["␣summer"])
    again = explain(model, Question.from_text(tokenizer, **EXAMPLE))
    summer = again.bars()[1]
    assert float(row[2]) == pytest.approx(summer, abs=2e-4)
    assert "completeness: the terms differ from the logits by" in run.stdout

    written = [line.removeprefix("wrote ") for line in lines if line.startswith("wrote ")]
    assert sorted(written) == [f"figures/{name}" for name in names_in(tmp_path / "figures")]
    ends = [f"-{name}.png" for name in figures_of(DEFAULT)] + [".npz", ".json"]
    stem = written[-1].removesuffix(".json")
    assert stem.startswith("figures/this-summer-unlike-the-previous-winter")
    assert written == [stem + end for end in ends]
    for path in written[:-2]:
        assert imread(tmp_path / path).shape[1] >= 800
    found = Explanation.load(tmp_path / written[-2])
    assert found.logits[0] - found.logits[1] == pytest.approx(difference, abs=1e-4)
    assert found.text == EXAMPLE["text"]
    assert found.methods == DEFAULT
    assert found.checksum == model.checksum()
    assert found.command["seed"] == 0
    np.testing.assert_allclose(found.alti_logit, again.alti_logit, rtol=1e-4, atol=1e-5)


def test_json_holds_what_was_printed(here, capsys):
    more = ["--show=direct", "--json", "--top-k=4", "--out=x.svg"]
    assert main(["--model=builtin", *more]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result.pop("paths") == ["x.svg", "x.npz", "x.json"]
    assert names_in(here) == ["x.json", "x.npz", "x.svg"]
    saved = json.loads((here / "x.json").read_text("utf-8"))
    del saved["npz_sha256"]
    assert f"text_sha256 {saved.pop('text_sha256')}</" in (here / "x.svg").read_text("utf-8")
    assert result == saved
    assert [row["rank"] for row in result["next"]["top"]] == [1, 2, 3, 4]
    for row in (*result["next"]["top"], *result["next"]["target"], *result["next"]["foil"]):
        for shown in (f"{row['logit']:.4f}", probability(row["probability"]), str(row["id"])):
            assert shown in err
    both = zip(result["error"], result["tolerance"], strict=True)
    error, limit = max(both, key=lambda one: one[0] / one[1])
    said = f"differ from the logits by {error:.2g} (allowed: {limit:.2g})"
    assert said in err
    assert result["alti"] is result["lens_ids"] is None


def test_a_subset_and_the_method_that_is_not_the_default(here, capsys):
    assert main(["--model=builtin", "--show=logit,lens", "--quiet", "--out=run/"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[0] for line in out.splitlines()] == ["model:"] + ["wrote"] * 5
    stem = next(name for name in names_in(here / "run") if name.endswith(".npz"))[:-4]
    ends = ["-lens.png", "-logit-layers.png", "-logit.png", ".json", ".npz"]
    assert names_in(here / "run") == [stem + end for end in ends]
    assert Explanation.load(f"run/{stem}").methods == ("logit", "lens")


def test_show_and_its_old_name_are_not_given_together(capsys):
    assert main(["--model=builtin", "--show", "alti", "--method", "lens"]) == 2
    error = capsys.readouterr().err
    assert (
        error == "mingpt-explain: error: --method is the old name of --show: give one of the two\n"
    )


@pytest.mark.slow
def test_show_and_its_old_name_give_the_same_files(here, capsys):
    for name in ("show", "method"):
        asked = ["--model=builtin", "--quiet", f"--{name}", "lens,logit", "--out", f"{name}/"]
        assert main(asked) == 0
    assert capsys.readouterr().err == ""
    files = names_in(here / "show")
    assert files == names_in(here / "method")
    assert len(files) == 5
    for file in files:
        one, other = (here / name / file for name in ("show", "method"))
        if file.endswith(".png"):
            assert (imread(one) == imread(other)).all()  # the files name their results
        if file.endswith(".json"):
            one, other = (json.loads(path.read_text("utf-8")) for path in (one, other))
            assert one["methods"] == ["logit", "lens"]
            for changing in ("seconds", "created", "npz_sha256", "text_sha256"):
                del one[changing], other[changing]
            assert one == other


def test_a_bar_of_its_own_or_none(here, monkeypatch):
    asked = []
    right = explain

    def watched(*arguments, **settings):
        asked.append(settings["progress"])
        return right(*arguments, **settings)

    monkeypatch.setattr("patching.explanation.run.explain", watched)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for more in (["--quiet"], []):
        assert main(["--model=builtin", "--show=direct", "--out=x.png", *more]) == 0
    assert asked == [False, None]  # None: the library draws its bar


def test_two_different_runs_never_share_a_file(here, monkeypatch, capsys):
    (here / "figures").mkdir()
    asked = ["--text=This summer is"]
    monkeypatch.setattr("patching.explanation.figures.draw_explanation", lambda found, **how: None)
    monkeypatch.setattr(
        "patching.drawing.style.save_figure", lambda figure, path, results: path.touch()
    )
    runs = [
        [], ["--show=lens"], ["--show=direct"], ["--top-k=3"], ["--dtype=float64"],
        ["--cmap=magma"], ["--seed=1"],
        [*asked, "--target=hot", "--foil=cold"], [*asked, "--target=cold", "--foil=hot"],
        [*asked, "--target=hot", "--foil=calm"],
    ]  # fmt: skip
    for more in runs:
        assert main(["--model=builtin", "--quiet", *more]) == 0
    own = ["--text=This winter is", "--target=hot", "--foil=cold", "--model=builtin", "--quiet"]
    assert main(own) == 0
    assert len([*(here / "figures").glob("*.npz")]) == len(runs) + 1
    assert "overwrote" not in capsys.readouterr().out
    assert main(own) == 0
    assert capsys.readouterr().out.count("overwrote") == len(figures_of(DEFAULT)) + 2


def test_half_precision_is_not_judged(here, capsys):
    assert main(["--model=builtin", "--dtype=bfloat16", "--show=direct"]) == 0
    assert "(not checked in half precision)" in capsys.readouterr().out


def test_without_a_network_the_shipped_model_steps_in_and_says_so(here, capsys, offline):
    assert main(["--quiet", "--show=direct", "--out=x.png"]) == 0
    assert "in place of gpt2" in capsys.readouterr().out
    assert "builtin in place of gpt2" in Explanation.load("x").notes[0]


BAD_INPUT = {
    "empty": (["--text=", "--target=hot", "--foil=cold"], "--text is empty"),
    "too long": (
        ["--text=" + "is " * 140, "--target=hot", "--foil=cold"],
        "tokens, the model reads at most 128",
    ),
    "several tokens": (["--text=a", "--target=Zaphod", "--foil=cold"], "tokens, not one: ␣Z + "),
    "the same": (["--text=a", "--target=hot", "--foil= hot"], "are the same token ␣hot"),
    "incomplete": (["--text=a"], "--target, --foil missing: give them too, or none of --text"),
    "method": (["--method=lense"], "no method 'lense'; there are alti, alti-logit, logit, lens"),
    "show": (["--show=lense"], "no method 'lense'; there are alti, alti-logit, logit, lens"),
    "no method": (["--method="], "no method ''"),
    "show nothing": (["--show="], "no method ''"),
    "model": (["--model=gpt9"], "no model 'gpt9'"),
    "no out": (["--out="], "--out is empty"),
    "top-k": (["--top-k=0"], "'--top-k': 0 is not in the range 1<=x<=1000000"),
    "cmap": (["--cmap=nope"], "no colour map 'nope'"),
    "format": (["--out=x.jpg"], "no figure format 'jpg'"),
    "figure in the way": (["--out=y/x.png"], "a folder has this name"),
    "unknown option": (["--clean=x"], "No such option"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input(here, capsys, name):
    arguments, message = BAD_INPUT[name]
    (here / "y" / "x-lens.png").mkdir(parents=True)
    before = sorted(here.rglob("*"))
    if not any(argument.startswith("--model") for argument in arguments):
        arguments = ["--model=builtin", *arguments]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("mingpt-explain: error: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert sorted(here.rglob("*")) == before


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_agrees_with_the_cpu(here):
    for device in ("cpu", "cuda"):
        assert main(["--model=builtin", f"--device={device}", f"--out={device}.png"]) == 0
    cpu, cuda = (Explanation.load(name) for name in ("cpu", "cuda"))
    for name in ("alti_logit", "rollout", "heads", "mlp", "lens_probabilities", "trajectory"):
        np.testing.assert_allclose(
            getattr(cuda, name), getattr(cpu, name), rtol=1e-4, atol=1e-4, err_msg=name
        )


def test_a_head_is_switched_off(tmp_path, capsys):
    out = f"{tmp_path}/x.png"
    assert main(["--model", "builtin", "--ablate", "3.0", "--json", "--out", out]) == 0
    streams = capsys.readouterr()
    assert "head 3.0 switched off at every position (z = 0):" in streams.err
    assert "\nMLP 3 " in streams.err
    found = json.loads(streams.out)
    assert found["ablated"] is None
    assert found["ablated_run"]["ablated"] == [3, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "x-ablated.json", "x-ablated.npz", "x-ablation.png", "x-direct.png", "x.json", "x.npz",
    ]  # fmt: skip
    assert main(["--model", "builtin", "--ablate", "4.0", "--out", out]) == 2
    assert "--ablate 4.0: the model has 4 layers of 4 heads" in capsys.readouterr().err
