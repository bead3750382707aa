"""mingpt-train: a text becomes a model that the other commands read."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.image import imread

import mingpt
from mingpt.training.result import TrainingResult
from patching.cli.patch import main as patch
from patching.cli.train import main
from patching.training_curves import draw_curves

SENTENCES = ("the cat sat on the mat", "the dog ran to the cat", "a bird saw the dog")
TINY = ["--n-layer=2", "--n-head=2", "--n-embd=16", "--block-size=16", "--batch-size=4"]
QUICK = [*TINY, "--steps=20", "--eval-every=10"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = (f"{SENTENCES[n * n % 3]}, {n}.\n" for n in range(300))
    Path("text.txt").write_text("".join(lines), "utf-8")
    pairs = (f"{n + 100}\t{str(n + 100)[::-1]}\n" for n in range(60))
    Path("pairs.tsv").write_text("".join(pairs), "utf-8")
    return tmp_path


def test_a_text_becomes_a_model_that_the_other_commands_read(here, capsys):
    assert main(["--text", "text.txt", "--out", "run", "--vocab", "bpe:300", *QUICK]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("model: 2 layers, 2 heads, width 16, context 16, ")
    assert "vocabulary: 300 tokens" in out
    steps = [line for line in out if line.startswith("step ")]
    assert [line.split(":")[0] for line in steps] == ["step 10 of 20", "step 20 of 20"]
    assert "(best)" in steps[0]
    assert "tokens/s" in steps[0]
    assert any(line.startswith("    ") for line in out)  # a sample
    assert "ended at step 20: all steps are done; kept the weights of step" in out[-5]
    result = TrainingResult.load("run")
    assert f"perplexity {result.test_perplexity:.2f}" in out[-4]
    assert imread("run/curves.png").shape[1] >= 800
    texts = ["--clean", "the cat", "--corrupt", "the dog", "--target", "sat", "--foil", "ran"]
    tokenizer = mingpt.load_tokenizer("run")
    if all(len(tokenizer.encode(f" {word}")) == 1 for word in ("sat", "ran", "cat", "dog")):
        assert patch(["--model", "run", *texts, "--quiet"]) == 0


def test_a_vocabulary_with_fewer_merges_than_asked_for_says_so(here, capsys):
    assert main(["--text", "text.txt", "--out", "run", "--vocab", "bpe:5000", *QUICK]) == 0
    assert "(the text has no more merges)" in capsys.readouterr().out


def test_every_knob_of_the_model(here, capsys):
    knobs = ["--n-kv-head=1", "--dropout=0.2", "--attn-pdrop=0", "--bias=false",
             "--tie-word-embeddings=false", "--activation=relu", "--n-inner=24"]  # fmt: skip
    assert main(["--text", "text.txt", "--out", "run", *QUICK, *knobs, "--quiet"]) == 0
    config = mingpt.load("run")[0].config
    assert (config.n_kv_head, config.bias, config.activation) == (1, False, "relu")
    assert (config.tie_word_embeddings, config.n_inner) == (False, 24)
    assert (config.embd_pdrop, config.resid_pdrop, config.attn_pdrop) == (0.2, 0.2, 0.0)


def test_pairs_and_json(here, capsys):
    asked = ["--pairs", "pairs.tsv", "--out", "run", *QUICK, "--prompt", "123<|sep|>", "--json"]
    assert main(asked) == 0
    said = capsys.readouterr()
    fields = json.loads(said.out)
    assert fields["request"]["pairs"].endswith("pairs.tsv")
    assert fields["paths"] == ["run/curves.png", "run/training.json"]
    assert fields["test_perplexity"] > 1
    assert "    123<|sep|>" in said.err


@pytest.mark.slow
def test_resume_goes_on(here, capsys):
    """A run that is interrupted saves, and says how to go on."""
    asked = ["--text", "text.txt", *TINY, "--steps=160", "--eval-every=20", "--patience=0"]
    process = _started([*asked, "--out", "run", "--threads", "1"])
    while not process.stdout.readline().startswith("step 20 "):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    _, errors = process.communicate()
    assert errors.splitlines() == [
        "mingpt-train: saved; go on with: mingpt-train --resume --out run",
        "mingpt-train: interrupted",
    ]
    step = _step_of(here / "run")
    assert 20 <= step < 160
    assert main(["--resume", "--out", "run", "--threads", "1"]) == 0
    assert f"going on after step {step} of 160" in capsys.readouterr().out
    assert main([*asked, "--out", "whole", "--threads", "1", "--quiet"]) == 0
    both = [(here / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert both[0] == both[1]


def _started(arguments: list[str]) -> subprocess.Popen:
    code = "import sys; from patching.cli.start import train; sys.exit(train())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def _step_of(folder: Path) -> int:
    from mingpt.training.checkpoint import NAME, read_header

    return read_header(folder / NAME)["step"]


@pytest.mark.slow
def test_a_killed_run_loses_at_most_its_last_interval(here):
    """Kill it at 20 random moments; the checkpoint is whole, and the end bit for bit the same."""
    asked = ["--text", "text.txt", *TINY, "--steps=600", "--eval-every=20", "--patience=0"]
    assert main([*asked, "--out", "whole", "--threads", "1", "--quiet"]) == 0
    draw, at = random.Random(0), 0
    saved = here / "run" / "checkpoint.safetensors"
    arguments = [*asked, "--out", "run"]
    for _ in range(20):
        process = _started([*arguments, "--threads", "1", "--quiet"])
        time.sleep(draw.uniform(1.5, 2.6))  # importing PyTorch takes the first second
        limit = time.monotonic() + 30
        while at == 0 and not saved.exists() and time.monotonic() < limit:
            time.sleep(0.05)  # on a slow machine, until there is something to lose
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if saved.exists():
            step = _step_of(here / "run")
            assert step >= at
            assert step % 20 == 0
            at, arguments = step, ["--resume", "--out", "run"]
    assert at > 0
    for part in (here / "run").glob(".*"):
        assert ".part." in part.name
    assert main(["--resume", "--out", "run", "--threads", "1", "--quiet"]) == 0
    both = [(here / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--out run", "--text or --pairs missing: what to train on, as in mingpt-train --text"),
        ("--text text.txt", "--out missing: name a folder"),
        ("--text text.txt --pairs pairs.tsv --out run", "do not go together"),
        ("--text nope.txt --out run", "nope.txt is missing"),
        ("--text empty.txt --out run", "empty.txt is empty"),
        ("--text latin.txt --out run", "latin.txt is not UTF-8 text: line 2"),
        ("--text short.txt --out run", "one context needs 65: give more text, or a smaller"),
        ("--pairs text.txt --out run", "text.txt: line 1 is not a source, a tab and a target"),
        ("--text text.txt --out run --vocab words", "no vocabulary 'words'; write bytes, gpt2 or"),
        ("--text text.txt --out run --n-head 5", "not divisible by --n-head 5"),
        ("--text text.txt --out run --dropout 1", "must be a number in [0, 1), not 1.0"),
        ("--text text.txt --out run --from builtin --vocab bytes", "--vocab does not go with"),
        ("--text text.txt --out run --from builtin --n-layer 2", "--n-layer is the model's"),
        ("--text text.txt --out text.txt", "text.txt is not a folder"),
        ("--text text.txt --out run --compare n_kv_head", "write a knob and its values, as n-kv"),
        ("--text text.txt --out run --compare n_layer=2", "needs two different values of"),
        ("--text text.txt --out run --sentence x", "--sentence needs --compare"),
        ("--resume --out run --compare n_layer=1,2", "--compare does not go with --resume"),
        ("--resume --out run", "run holds no run to go on with"),
        ("--resume --out run --steps 5", "--steps does not go with --resume"),
        ("--text text.txt --out taken", "taken holds a model already"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(here, capsys, arguments, message):
    Path("empty.txt").write_text("\n")
    Path("latin.txt").write_bytes(b"one\ncaf\xe9\n")
    Path("short.txt").write_text("too short a text\n")
    Path("taken").mkdir()
    Path("taken/config.json").write_text("{}")
    before = sorted(map(str, here.rglob("*")))
    assert main(arguments.split()) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert sorted(map(str, here.rglob("*"))) == before


def test_the_curves_say_what_they_show(here):
    assert main(["--text", "text.txt", "--out", "run", *QUICK, "--quiet"]) == 0
    result = TrainingResult.load("run")
    upper, lower = draw_curves(result).axes
    train, val, star, test = upper.get_lines()[:4]
    assert list(val.get_ydata()) == [one.val_loss for one in result.history]
    assert list(train.get_ydata()) == [one.train_loss for one in result.history]
    assert star.get_xdata() == [result.best.step]
    assert test.get_ydata() == [result.test_loss] * 2
    assert "all steps are done" in lower.get_xlabel()
    assert "text.txt" in upper.get_title(loc="left")
    assert draw_curves(result, title="Mine").axes[0].get_title(loc="left") == "Mine"


def test_models_that_differ_in_a_knob(here, capsys):
    asked = ["--text", "text.txt", "--out", "run", *QUICK, "--compare", "n-kv-head=2,1"]
    assert main([*asked, "--sentence", "the cat", "--quiet"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:4] == ["n_kv_head", "parameters", "validation", "test"]
    assert [line.split()[0] for line in out[1:3]] == ["2", "1"]
    assert out[3] == "ln p 1: the cat"
    assert imread("run/comparison.png").shape[1] >= 800
    assert mingpt.load("run/n_kv_head-1")[0].config.n_kv_head == 1


def test_help_needs_no_pytorch():
    code = (
        "import sys; from patching.cli.train import main; main(['--help']);"
        "sys.exit('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ}, capture_output=True)
    assert run.returncode == 0
