"""scripts/patch.py as a user meets it: a process with arguments, streams and an exit code."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers import ROOT, make_model
from hub_server import set_hub
from huggingface_hub import close_session
from matplotlib.image import imread
from safetensors.torch import load_file, save_file

import mingpt
from mingpt.loading import hub
from mingpt.loading.sources import BUILTIN_DIRECTORY
from mingpt.loading.tokenizer_files import save_tokenizer, tokenizer_in
from patching import PromptPair, SweepError, SweepResult, compare_sweeps, patch_sweep
from patching.cli.patch import EXAMPLE, main
from patching.sweep.engine.memory import allowance, parse_size
from patching.text import probability

MICHELLE = [f"--{name}={text}" for name, text in EXAMPLE.items()]


def files_in(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --------------------------------------------------------------------- the main job


@pytest.mark.slow
def test_the_example(command, tmp_path, monkeypatch, capsys):
    run = command("patch", "--model", "builtin")
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert lines[0].startswith("model: builtin (")
    assert "gpt2" not in run.stdout
    starred = [line.split() for line in lines if line.startswith("*")]
    assert [(row[1], row[3], row[5]) for row in starred] == [("1", "␣Jones", "␣Smith")]
    written = [line.removeprefix("wrote ") for line in lines if line.startswith("wrote ")]
    assert sorted(written) == files_in(tmp_path)
    png, npz, readable = written
    assert png.startswith("figures/michelle-jones-was")
    assert imread(tmp_path / png).shape[1] >= 800
    result = SweepResult.load(tmp_path / npz)
    assert result.values.shape == (len(result.layers), 10)
    assert result.model_name == "builtin"
    assert json.loads((tmp_path / readable).read_text("utf-8"))["checksum"] == result.checksum

    monkeypatch.chdir(tmp_path)
    assert main(["--model", "builtin"]) == 0  # the same run: the same files, and it says so
    printed = capsys.readouterr().out.splitlines()
    overwritten = [line for line in printed if line.startswith("overwrote ")]
    assert [line.removeprefix("overwrote ") for line in overwritten] == written
    assert sorted(written) == files_in(tmp_path)


def test_json_holds_what_was_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*MICHELLE, "--model=builtin", "--json", "--top-k=5", "--out=x.svg"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["paths"] == ["x.svg", "x.npz", "x.json"]
    assert files_in(tmp_path) == ["x.json", "x.npz", "x.svg"]
    assert [row["rank"] for row in result["clean_next"]["top"]] == [1, 2, 3, 4, 5]
    for side in ("clean_next", "corrupt_next"):
        for row in (*result[side]["top"], *result[side]["target"], *result[side]["foil"]):
            assert f"{row['logit']:.4f}" in err
            assert probability(row["probability"]) in err
            assert str(row["id"]) in err
    assert f"clean {result['clean_value']:.4f}, corrupt {result['corrupt_value']:.4f}" in err
    on_disk = json.loads((tmp_path / "x.json").read_text("utf-8"))
    del result["paths"], on_disk["npz_sha256"]
    checksum = on_disk.pop("text_sha256")
    assert result == on_disk
    assert f"text_sha256 {checksum}</" in (tmp_path / "x.svg").read_text("utf-8")


def test_the_numbers_are_the_models(builtin):
    """The command's sweep equals plain forward passes of the shipped model (logits up to 20)."""
    model, tokenizer = builtin
    clean, corrupt = (tokenizer(EXAMPLE[name]) for name in ("clean", "corrupt"))
    jones, smith = (tokenizer.encode(f" {EXAMPLE[name]}")[0] for name in ("target", "foil"))
    pair = PromptPair.from_text(tokenizer, **EXAMPLE)
    values = patch_sweep(model, pair).values
    looped = patch_sweep(model, pair, method="loop").values
    model(clean, record=True)
    for layer in range(model.config.n_layer):
        for position in range(clean.size(1)):
            model(corrupt, patch=(layer, position))
            logits = model.last_logits[0]
            expected = (logits[smith] - logits[jones]).item()
            assert looped[layer, position] == expected
            assert values[layer, position] == pytest.approx(expected, abs=1e-5 * 20)


@pytest.mark.parametrize("quiet", [True, False])
def test_a_bar_is_drawn_unless_quiet(tmp_path, monkeypatch, capsys, quiet):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("patching.progress.SECONDS_BEFORE_A_BAR", 0)
    asked = [*MICHELLE, "--model=builtin", "--method=loop", f"--out={tmp_path}/x.png"]
    assert main([*asked, "--quiet"] if quiet else asked) == 0
    assert ("patching: " in capsys.readouterr().err) is not quiet


@pytest.mark.slow
def test_two_different_runs_never_share_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = [
        [], ["--metric=recovery"], ["--layers=0"], ["--positions=-1"], ["--cmap=magma"],
        ["--dtype=float64"], ["--target=Brown"], ["--top-k=3"], ["--seed=1"],
        ["--site=z"], ["--site=z", "--by-position"], ["--site=z", "--heads=0"], ["--method=loop"],
        ["--site=mlp_out"], ["--site=mlp_out", "--window=3"], ["--direction=noise"],
        ["--method=attribution"], ["--method=attribution", "--compare-exact"],
    ]  # fmt: skip
    (tmp_path / "figures").mkdir()
    for name in ("heatmap", "agreement"):
        monkeypatch.setattr(f"patching.sweep.figures.draw_{name}", lambda *results, **how: None)
    monkeypatch.setattr(
        "patching.drawing.style.save_figure", lambda figure, path, results: path.touch()
    )
    for more in runs:
        assert main([*MICHELLE, "--model=builtin", "--quiet", *more]) == 0
    compared = 3  # the exact sweep's two files, and the figure of both
    assert len(files_in(tmp_path)) == 3 * len(runs) + compared
    assert "overwrote" not in capsys.readouterr().out


def test_the_configuration_is_part_of_a_run(tmp_path, monkeypatch, builtin):
    """The same weights in the same file, read with another number of heads."""
    monkeypatch.chdir(tmp_path)
    model, tokenizer = builtin
    mingpt.save(model, "model", tokenizer)
    assert main(["--model=model", "--quiet"]) == 0
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "n_head": 2}))
    assert main(["--model=model", "--quiet"]) == 0
    assert len(files_in(tmp_path / "figures")) == 6


def test_a_figure_for_each_metric_and_one_result_for_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = ["--metric=recovery,kl", "--direction=noise", "--site=v", "--by-position", "--heads=1"]
    assert main(["--model=builtin", *more, "--out=x.svg"]) == 0
    assert files_in(tmp_path) == ["x-kl.svg", "x-recovery.svg", "x.json", "x.npz"]
    result = SweepResult.load("x.npz")
    assert [*result.metrics] == ["recovery", "kl"]
    assert (result.site, result.direction, result.values.ndim) == ("v", "noise", 3)
    assert result.cells == 4 * 10
    printed = capsys.readouterr().out
    assert "recovery (0 corrupt, 1 clean) of" in printed
    assert f"nats: clean 0.0000, corrupt {result.metrics['kl'].corrupt:.4f}" in printed
    assert "40 cells in " in printed
    assert main(["--model=builtin", *more, "--quiet"]) == 0
    assert all("-v-noise-" in name for name in files_in(tmp_path / "figures"))
    assert len(files_in(tmp_path / "figures")) == 4


@pytest.mark.slow
def test_the_loop_and_little_memory_give_the_same_numbers(tmp_path, capsys):
    grids = []
    for name, more in {"a": [], "b": ["--method=loop"], "c": ["--max-memory=500K"]}.items():
        assert main(["--model=builtin", "--quiet", f"--out={tmp_path / name}.png", *more]) == 0
        grids.append(SweepResult.load(tmp_path / name).values)
    for grid in grids[1:]:
        np.testing.assert_allclose(grid, grids[0], rtol=0, atol=1e-5 * 20)


@pytest.mark.slow
def test_attribution_says_that_it_is_approximate_and_how_good(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = ["--method=attribution", "--site=z", "--metric=recovery,kl"]
    assert main(["--model=builtin", *more, "--out=a.svg"]) == 0
    assert "16 cells in " in (out := capsys.readouterr().out)
    assert "s (approximate)" in out
    assert "Attribution" not in out
    alone = SweepResult.load("a")
    assert alone.is_approximate
    assert main(["--model=builtin", *more, "--compare-exact", "--json", "--out=b.svg"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["paths"] == [
        "b-recovery.svg", "b-kl.svg", "b-recovery-compared.svg", "b-kl-compared.svg",
        "b.npz", "b.json", "b-exact.npz", "b-exact.json",
    ]  # fmt: skip
    approximate, exact = SweepResult.load("b"), SweepResult.load("b-exact")
    np.testing.assert_array_equal(approximate.values, alone.values)
    assert not exact.is_approximate
    assert exact.clean_next == approximate.clean_next
    agreement = compare_sweeps(approximate, exact)
    assert [*result["agreement"]] == ["recovery", "kl"]
    for name, found in agreement.items():
        said = result["agreement"][name]
        assert said["rank_correlation"] == found.rank_correlation
        assert f"s) {found.rank_correlation:.4f}; furthest apart:" in err
        for miss in found.misses:
            row = [*map(str, miss.index), f"{miss.approximate:.4f}", f"{miss.exact:.4f}"]
            assert row in [line.split()[:-1] for line in err.splitlines()]
    assert main(["--model=builtin", "--method=attribution", "--compare-exact", "--out=c.png"]) == 0
    assert {"c.png", "c-compared.png"} < {*files_in(tmp_path)}
    assert "␣Jones / ␣Smith" in capsys.readouterr().out.split("furthest apart:")[1]


@pytest.mark.parametrize(
    ("text", "size"),
    [("800M", 800 * 2**20), ("4GB", 4 * 2**30), ("1.5 GiB", 3 * 2**29), (" 7k ", 7168), ("9", 9)],
)
def test_amounts_of_memory(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1e9", "4 GBs", "G", "²", "0.4", "1.2.3", "inf"])
def test_bad_amounts_of_memory(text):
    with pytest.raises(SweepError, match="no amount of memory"):
        parse_size(text)


def test_half_of_what_is_free_is_an_amount():
    assert 2**20 < allowance(torch.device("cpu")) < 2**50


def test_quiet_prints_the_model_and_the_paths_only(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--model=builtin", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[0] for line in out.splitlines()] == ["model:", "wrote", "wrote", "wrote"]


def test_lists_and_dtype(tmp_path, capsys):
    out = tmp_path / "x.png"
    arguments = ["--model=builtin", "--layers", "-1", "--positions", "-2--1", "--dtype=float64"]
    assert main([*arguments, "--out", str(out)]) == 0
    result = SweepResult.load(tmp_path / "x.npz")
    assert np.isfinite(result.values).sum() == 2
    assert np.isfinite(result.values[-1, -2:]).all()
    assert result.values.dtype == np.float64
    assert "float64 on cpu" in capsys.readouterr().out


def test_the_file_name_is_safe_whatever_the_prompt(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prompts = ["--clean=../../etc/ $(rm) é Jones", "--corrupt=../../etc/ $(rm) é Smith"]
    assert main([*prompts, "--target=Jones", "--foil=Smith", "--model=builtin", "--out=o/"]) == 0
    assert all(name.startswith("o/etc-rm-jones-") for name in files_in(tmp_path))


# --------------------------------------------------------------------- without --model


def test_without_a_network_the_shipped_model_steps_in_and_says_so(
    tmp_path, monkeypatch, capsys, offline
):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    out, err = capsys.readouterr()
    first = out.splitlines()[0]
    assert first.startswith("model: builtin")
    assert "openai-community--gpt2 has no model.safetensors, or not all" in first
    assert err == ""  # nothing is fetched, so nothing is announced
    result = SweepResult.load(next(tmp_path.glob("figures/*.npz")))
    assert "fetching failed" in result.notes[0]
    assert not (tmp_path / "hub").exists()


@pytest.fixture
def proxied(monkeypatch, tmp_path):
    """Environment with a proxy for every connection, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    set_hub(monkeypatch, cache=tmp_path / "hub", endpoint="https://hub.invalid", offline=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    close_session()  # it has read the environment
    yield monkeypatch
    close_session()


def test_a_network_that_refuses(proxied, capsys):
    assert main(["--quiet"]) == 0
    printed = capsys.readouterr()
    assert "https://hub.invalid cannot be reached: no connection" in printed.out
    assert "548 MB, once; --model builtin skips it" in printed.err


def test_a_network_that_is_silent_costs_a_few_seconds(proxied, capsys):
    assert hub.SECONDS_TO_REACH <= 4
    proxied.setattr(hub, "SECONDS_TO_REACH", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxied.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert main(["--quiet"]) == 0
        assert time.monotonic() - started < 0.5 + 4  # the work itself takes about 1 s
    assert "does not answer within 0.5 s" in capsys.readouterr().out


def test_offline_is_offline(tmp_path, monkeypatch, capsys, online):
    monkeypatch.chdir(tmp_path)
    assert main(["--offline", "--quiet"]) == 0
    assert "model: builtin" in capsys.readouterr().out
    assert main(["--offline", "--model=me/mine"]) == 2
    assert "--offline or HF_HUB_OFFLINE forbids" in capsys.readouterr().err
    assert online.requests == []


def test_a_pt_file_and_its_heads(tmp_path, monkeypatch, capsys, builtin):
    monkeypatch.chdir(tmp_path)
    model, tokenizer = builtin
    torch.save(model.state_dict(), "mini.pt")
    save_tokenizer(tokenizer, tmp_path)
    assert main(["--model=mini.pt", "--out=x.png"]) == 2
    assert "give --n-head" in capsys.readouterr().err
    assert files_in(tmp_path) == ["merges.txt", "mini.pt", "vocab.json"]
    assert main(["--model=mini.pt", "--n-head=4", "--out=x.png", "--quiet"]) == 0
    result = SweepResult.load("x.npz")
    assert result.model_name == "mini.pt"
    assert result.command["n_head"] == 4
    assert main(["--model=builtin", "--out=y.png", "--quiet"]) == 0
    assert np.abs(result.values - SweepResult.load("y.npz").values).max() < 1e-5


def test_the_shipped_model_by_name_and_as_a_stopgap_are_different_runs(
    tmp_path, monkeypatch, offline
):
    monkeypatch.chdir(tmp_path)
    assert main(["--quiet"]) == main(["--quiet", "--model=builtin"]) == 0
    assert len(files_in(tmp_path)) == 6


def test_model_gpt2_never_falls_back(tmp_path, monkeypatch, capsys, offline):
    monkeypatch.chdir(tmp_path)
    assert main(["--model", "gpt2"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "'builtin'" in printed.err
    assert files_in(tmp_path) == []


# --------------------------------------------------------------------- bad input


@pytest.fixture(scope="module")
def broken_models(tmp_path_factory):
    """Directories that are not models, each for another reason."""
    home = tmp_path_factory.mktemp("models")
    tokenizer = tokenizer_in(BUILTIN_DIRECTORY)
    for name in ("no-config", "no-weights", "truncated", "foreign", "nan"):
        mingpt.save(make_model(vocab_size=tokenizer.vocab_size), home / name, tokenizer)
    (home / "no-config" / "config.json").unlink()
    (home / "no-weights" / "model.safetensors").unlink()
    weights = home / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    save_file({"x": torch.ones(2)}, home / "foreign" / "model.safetensors")
    state = load_file(home / "nan" / "model.safetensors")
    state["transformer.ln_f.bias"][0] = torch.nan
    save_file(state, home / "nan" / "model.safetensors")
    (home / "empty").mkdir()
    return home


def example(**changes: str) -> list[str]:
    return [f"--{name}={text}" for name, text in {**EXAMPLE, **changes}.items()]


BAD_INPUT = {
    "token counts": (example(corrupt="Michelle Smith was. Michelle"), "clean has 10 and corrupt 5"),
    "identical": (example(corrupt=EXAMPLE["clean"]), "are the same"),
    "empty": (example(clean=""), "--clean is empty"),
    "too long": (
        example(clean="Jones" + " is" * 130, corrupt="Smith" + " is" * 130),
        "131 tokens, the model reads at most 128",
    ),
    "only a suffix": (["--out=..png"], "the file has no name before its suffix"),
    "far too long": (example(clean="a" * 10**6), "the model reads at most 128"),
    "several tokens": (example(target="Zaphod"), "tokens, not one: ␣Z + "),
    "unknown id": (example(foil="id:123456"), "no token has the id 123456"),
    "not an id": (example(foil="id:x"), "after id: comes a token's number"),
    "target is foil": (example(foil="Jones"), "--target and --foil are the same: 'Jones'"),
    "incomplete": (["--clean=a"], "--corrupt, --target missing: give them too"),
    "no foil": ([*MICHELLE[:-1], "--metric=kl,recovery"], "--foil missing: recovery compares"),
    "unknown model": (["--model=gpt9"], "no model 'gpt9'"),
    "no cuda": (["--device=cuda"], "--device cuda: this machine"),
    "device": (["--device=tpu"], "'--device': 'tpu' is not one of 'auto', 'cpu'"),
    "dashes for a number": (["--seed=--"], "'--seed': '--' is not a whole number"),
    "dashes for a list": (["--layers", "--"], "'--layers': '--' is neither a number nor a range"),
    "dashes for a choice": (["--dtype=--"], "'--dtype': '--' is not one of 'float32'"),
    "layer": (["--layers=0,99"], "layer 99 is out of range"),
    "position": (["--positions=-11"], "position -11 is out of range"),
    "list": (["--layers=1;2"], "neither a number nor a range"),
    "backwards": (["--layers=2-0"], "runs backwards"),
    "metric": (["--metric=loss"], "no metric 'loss'; there are logit_diff, "),
    "metrics": (["--metric=kl,kl"], "the metric kl is asked for twice"),
    "site": (["--site=resid"], "--site"),
    "head": (["--site=z", "--heads=4"], "head 4 is out of range"),
    "no heads": (["--heads=1"], "resid_post has no heads to choose"),
    "by position": (["--by-position"], "resid_post is always swept by position"),
    "positions of heads": (["--site=z", "--positions=1"], "only where it is swept by position"),
    "window": (["--window=3"], "a window is for attn_out and mlp_out"),
    "no window": (["--window=0", "--site=mlp_out"], "'--window': 0 is not in the range x>=1"),
    "memory": (
        ["--max-memory=lots"],
        "no amount of memory: 'lots'; write it as 800M, 4GB or 1.5GB",
    ),
    "no memory": (["--max-memory="], "no amount of memory: ''"),
    "too little memory": (["--max-memory=10K"], "too little memory"),
    "tf32": (["--tf32", "--device=cpu"], "TF32 is for float32 on CUDA"),
    "nothing to compare": (["--compare-exact"], "--compare-exact needs --method attribution"),
    "exact result in the way": (
        ["--method=attribution", "--compare-exact", "--out=z.png"],
        "a folder has this name",
    ),
    "figure in the way": (["--out=y/x.png", "--metric=kl,recovery"], "a folder has this name"),
    "no out": (["--out="], "--out is empty"),
    "no format": (["--format="], "no figure format ''"),
    "no slope": (
        ["--method=attribution", "--direction=noise", "--metric=kl"],
        "kl is at its minimum in",
    ),
    "same spelt otherwise": (example(foil=" Jones"), "target and foil are the same token"),
    "huge top-k": ([f"--top-k={10**30}"], "'--top-k': 1"),
    "huge window": (
        [f"--window={10**30}", "--site=mlp_out"],
        "a window is at least 1 layer",
    ),
    "top-k": (["--top-k=0"], "'--top-k': 0 is not in the range 1<=x<=1000000"),
    "format": (["--out=x.jpg"], "no figure format 'jpg'"),
    "contradiction": (["--out=x.svg", "--format=pdf"], "contradict"),
    "cmap": (["--cmap=nope"], "no colour map 'nope'"),
    "unwritable": (["--out=/proc/x/"], "/proc"),
    "a link to itself": (["--out=loop/x.png"], "the link loop leads nowhere"),
    "a link to nothing": (["--out=dangling/x/"], "the link dangling leads nowhere"),
    "no folder can be made": (["--out=/proc/none/"], "no file can be made in /proc: No such file"),
    "file in the way": ([f"--out={ROOT}/README.md/x.png"], "not a folder"),
    "result in the way": (["--out=blocked/x.png"], "a folder has this name"),
    "long name": ([f"--out={'a' * 252}.png"], "the name is too long"),
    "no such home": (["--model=~nobody-at-all"], "no model '~nobody-at-all'"),
    "seed": ([f"--seed={2**64}"], "'--seed': 18446744073709551616 is not from 0 to"),
    "no name": (["--model="], "no model '': an empty name"),
    "heads of a name": (["--model=builtin", "--n-head=4"], "--n-head is for a .pt file"),
    "escape code": (["--model=\x1b[31mred"], "\\x1b[31mred"),
    "slash": (["--out=v1.2"], "(for a folder, write --out v1.2/)"),
    "digits": ([f"--layers={'9' * 5000}"], "neither a number nor a range"),
    "unknown option": (["--clena=x"], "Did you mean"),
    "value forgotten": (["--clean", "--corrupt", "x"], "--clean needs a value (see --help)"),
}


def bad_input(name: str, folder) -> tuple[list[str], str]:
    """Wrong arguments and what the error must say; and files that are in the way."""
    arguments, message = BAD_INPUT[name]
    if name == "no cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    (folder / "blocked" / "x.json").mkdir(parents=True)
    (folder / "y" / "x-recovery.png").mkdir(parents=True)
    (folder / "z-exact.npz").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")
    has_model = any(argument.startswith("--model") for argument in arguments)
    return ([] if has_model else ["--model=builtin"]) + arguments, message


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input(tmp_path, monkeypatch, capsys, name):
    arguments, message = bad_input(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1, line
    assert line.startswith("mingpt-patch: error: ")
    assert message in line
    assert files_in(tmp_path) == []


def test_a_prompt_that_is_too_long_is_not_printed(capsys):
    arguments, message = BAD_INPUT["too long"]
    assert main([*arguments, "--model=builtin"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert [line.split(":")[0] for line in printed.out.splitlines()] == ["model"]


def test_nothing_reaches_the_terminal_raw(tmp_path, monkeypatch, capsys, builtin):
    monkeypatch.chdir(tmp_path)
    name = "x\x1b[31m\ny"
    mingpt.save(builtin[0], name, builtin[1])
    assert main(["--model", name, f"--out={name}/"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "model: x\\x1b[31m\\ny (" in out
    assert "\nwrote x\\x1b[31m\\ny/michelle" in out


@pytest.mark.parametrize("end", ["2>/dev/full", "2>&1 | :"])
def test_errors_that_nobody_can_read_have_their_exit_code(end):
    line = f"{sys.executable} {ROOT / 'scripts' / 'patch.py'} --seed=x {end}"
    run = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], capture_output=True, check=False
    )
    assert (run.returncode, run.stderr) == (2, b"")


def test_help_without_a_reader_is_no_error():
    line = f"{{ sleep 0.2; {sys.executable} {ROOT / 'scripts' / 'patch.py'} --help; }} | :"
    run = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], capture_output=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, b"")


def test_a_full_disk_is_one_line():
    line = f"{sys.executable} {ROOT / 'scripts' / 'patch.py'} --version >/dev/full"
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr == "mingpt-patch: error: [Errno 28] No space left on device\n"


@pytest.mark.slow
def test_a_setting_that_matplotlib_refuses_is_one_line(command):
    run = command("patch", "--model=builtin", MPLBACKEND="nope")
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("mingpt-patch: error: matplotlib cannot be used: ")


@pytest.mark.parametrize(
    "name", ["no heads", "window", "metric", "no memory", "nothing to compare", "no slope", "cmap"]
)
def test_settings_are_checked_before_a_model_is_loaded(tmp_path, monkeypatch, capsys, name):
    arguments, message = bad_input(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("patching.cli.patch.load_model", lambda *_: pytest.fail("it is loaded"))
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_bad_input_to_the_command_itself(command, tmp_path):
    arguments, message = bad_input("unknown option", tmp_path)
    run = command("patch", *arguments)
    assert run.returncode == 2, run.stdout
    assert len(run.stderr.splitlines()) == 1, run.stderr
    assert message in run.stderr
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("directory", "message"),
    [
        ("empty", "holds no config.json"),
        ("no-config", "holds no config.json"),
        ("no-weights", "holds no model.safetensors"),
        ("truncated", "no whole safetensors file"),
        ("foreign", "missing: transformer.wte.weight"),
        ("nan", "not finite (in torch.float32): transformer.ln_f.bias"),
    ],
)
def test_bad_model_directories(tmp_path, monkeypatch, capsys, broken_models, directory, message):
    monkeypatch.chdir(tmp_path)
    assert main(["--model", str(broken_models / directory)]) == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert message in line
    assert files_in(tmp_path) == []


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_written_file(tmp_path):
    """Interrupted in the middle of a long sweep: 130, one line, nothing written."""
    words = " ".join(["Jones"] * 120)
    arguments = [f"--clean=Michelle {words}", f"--corrupt=Jane {words}", "--target=Jones"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "patch.py"), *arguments, "--foil=Smith",
         "--model=builtin", "--method=loop"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for line in process.stdout:  # the prompts' table comes right before the sweep
        if line.split()[:1] == ["pos"]:
            break
    time.sleep(0.4)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == "mingpt-patch: interrupted\n"
    assert files_in(tmp_path) == []


@pytest.mark.slow
def test_closed_streams_do_not_stop_the_work(tmp_path):
    line = f"{sys.executable} {ROOT / 'scripts' / 'patch.py'} --model builtin"
    running = {}
    for folder, end in (("head", "| head -n 1"), ("out", ">&-"), ("err", "2>&-")):
        (tmp_path / folder).mkdir()
        running[folder] = subprocess.Popen(
            ["bash", "-c", f"set -o pipefail; {line} {end}"],
            cwd=tmp_path / folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    for folder, process in running.items():
        _, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, b""), folder
        assert len(files_in(tmp_path / folder)) == 3


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_agrees_with_the_cpu(tmp_path):
    for device in ("cpu", "cuda"):
        arguments = ["--model=builtin", f"--device={device}", f"--out={tmp_path}/{device}.png"]
        assert main(arguments) == 0
    cpu, cuda = (SweepResult.load(tmp_path / name).values for name in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda, cpu, rtol=1e-4, atol=1e-4)


def test_a_set_of_targets_and_no_foil(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prompts = [*MICHELLE[:2], "--target=Jones", "--target=Davis", "--model=builtin", "--out=x.png"]
    assert main([*prompts, "--metric=log_prob,kl", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["pair"]["target_tokens"] == [" Jones", " Davis"]
    assert result["pair"]["foil_ids"] == []
    assert result["captions"]["log_prob"] == "ln p({␣Jones, ␣Davis})"
    both = sum(score["probability"] for score in result["clean_next"]["target"])
    assert math.exp(result["metrics"]["log_prob"]["clean"]) == pytest.approx(both, rel=1e-4)
    rows = [line.split()[0:2] for line in err.splitlines() if line.startswith("target")]
    assert [row[0] for row in rows] == ["target", "target"]
    assert rows[1][1] == "2"


def test_the_look_of_the_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["--model=builtin", "--quiet", "--title=Mine", "--vmin=-2", "--vmax=2", "--no-values"]
    assert main([*asked, "--out=x.svg"]) == 0
    text = (tmp_path / "x.svg").read_text("utf-8")
    assert "Mine" in text
    assert "Activation patching" not in text
    assert "the range that was asked for" in text
    saved = SweepResult.load(tmp_path / "x")
    names = ("title", "scale", "vmin", "vmax", "cell_values")
    assert [saved.command[name] for name in names] == ["Mine", "runs", -2.0, 2.0, False]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("--vmin=500", "vmin (500) lies beyond all values"),
        ("--vmin=3 --vmax=3", "vmin (3) must be below vmax (3)"),
        ("--vmin=nan", "vmin must be a finite number"),
        ("--vmax=0,5", "'0,5' is not a valid float: it reads as two numbers, 0 and 5"),
        ("--scale=wide", "'wide' is not one of 'runs', 'data'"),
        ("--top-k=5 --rows=3", "--top-k is the old name of --rows: give one of the two"),
        ("--threads=0", "0 is not in the range"),
    ],
)
def test_a_bad_look_leaves_no_file(tmp_path, monkeypatch, capsys, asked, message):
    monkeypatch.chdir(tmp_path)
    assert main(["--model=builtin", "--quiet", *asked.split()]) == 2
    assert message in capsys.readouterr().err
    assert not files_in(tmp_path)


def test_exchanged_answers_are_said_in_text_figure_and_result(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    texts = {**EXAMPLE, "target": EXAMPLE["foil"], "foil": EXAMPLE["target"]}
    options = [f"--{name}={text}" for name, text in texts.items()]
    assert main(["--model=builtin", *options, "--out=x.svg"]) == 0
    note = "the clean run prefers the foil ␣Jones to the target ␣Smith by 16.58"
    assert f"note: {note}; are target and foil exchanged?" in capsys.readouterr().out
    assert SweepResult.load(tmp_path / "x").notes[0].startswith(note)
    assert "the clean run prefers the foil" in (tmp_path / "x.svg").read_text("utf-8")


def test_rows_and_its_old_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for option in ("--rows=3", "--top-k=3"):
        assert main(["--model=builtin", option, "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["clean_next"]["top"]) == 3
    assert main(["--help"]) == 0
    assert "the old name of --rows" in " ".join(capsys.readouterr().out.split())
