"""The benchmark: it runs, its floor is a lower bound, and it fails if methods disagree."""

import sys

import numpy as np
import pytest
import torch
from helpers import ROOT
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(ROOT / "scripts"))

from benchmark import command, timing
from benchmark.floor import floor
from benchmark.methods import Method, made_pair

from mingpt import GPT, GPTConfig
from mingpt.sites import HEAD_SITES, SITES
from patching import patch_sweep
from patching.sweep.request import Request

TINY = GPTConfig(n_layer=3, n_head=2, n_embd=64, block_size=16, vocab_size=50257)
REQUESTS = [
    *(Request(site) for site in SITES),
    *(Request(site, by_position=True) for site in HEAD_SITES),
]


@pytest.fixture(scope="module")
def tiny() -> GPT:
    torch.manual_seed(0)
    return GPT(TINY).eval()


@pytest.mark.parametrize("metric", ["logit_diff", "kl"])
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: f"{r.site}-{r.by_position}")
def test_the_floor_is_below_what_the_engine_multiplies_and_close_to_it(tiny, request_, metric):
    """Compare with PyTorch's own count, which may omit attention (a few per cent here)."""
    pair = made_pair(6, TINY.vocab_size)
    with FlopCounterMode(display=False) as counter:
        patch_sweep(tiny, pair, site=request_.site, by_position=request_.by_position, metric=metric)
    tables = 2 * TINY.vocab_size * TINY.n_embd  # of next tokens; the floor leaves them out
    done = counter.get_total_flops() / 2 - tables
    least = floor(TINY, pair, request_, metric)
    assert 0.75 * done < least < 1.01 * done


def test_the_floor_by_hand():
    """One token, one layer: two runs through a block, and two logits of each."""
    config = GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=50257)
    pair = made_pair(1, config.vocab_size)
    block = 12 * 8 * 8 + 2 * 8 * 1  # projections and MLP; scores and mixing of one key
    assert floor(config, pair, Request()) == 2 * block + 2 * 2 * 8


def test_the_floor_of_two_layers_by_hand():
    """Prompts of three tokens differ at position 1, resid_post: three cells can change.

    The cells of layer 0 at positions 1 and 2 pass the last block. The cell of layer 1 at
    position 2 equals the source run. All other cells equal the base run.
    """
    config = GPTConfig(n_layer=2, n_head=1, n_embd=8, block_size=4, vocab_size=50257)
    square, mlp = 8 * 8, 2 * 8 * 32
    keys = 2 * 8  # scores and mixing of one key
    base = 3 * (4 * square + mlp) + (1 + 2 + 3) * keys  # block 0
    base += 3 * 2 * square + 2 * square + 3 * keys + mlp  # the last: k and v, then one position
    source = 2 * (4 * square + mlp) + (2 + 3) * keys
    source += 2 * 2 * square + 2 * square + 3 * keys + mlp
    at_1 = 2 * square + square + 3 * keys + mlp  # one row's k, v; c_proj; the query is the base's
    at_2 = 2 * square + 2 * square + 3 * keys + mlp
    read = 4 * 2 * 8
    pair = made_pair(3, config.vocab_size)
    assert floor(config, pair, Request()) == base + source + at_1 + at_2 + read


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Return the command's arguments for a tiny shape and an empty folder."""
    monkeypatch.setitem(command.SHAPES, "small", TINY)
    monkeypatch.setattr(timing, "PRODUCT", 64)
    monkeypatch.chdir(tmp_path)
    return ["--shape=small", "--lengths=4,8", "--rounds=2", "--out=out/"]


@pytest.mark.slow
def test_it_writes_a_table_and_a_plot(quick, tmp_path, capsys):
    assert command.main(quick) == 0, capsys.readouterr().err
    table = (tmp_path / "out" / "bench-small-cpu.md").read_text("utf-8")
    assert (tmp_path / "out" / "bench-small-cpu.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == table
    assert "`python scripts/bench.py --shape=small --lengths=4,8" in table
    for word in (
        "| 4 | 12 |",
        "| 8 | 24 |",
        "pattern by position",
        "resid_post, kl",
        f"{torch.get_num_threads()} threads",
        "| bfloat16 |",
    ):
        assert word in table
    assert "tokens | fast | 4 | 8 |" in table
    assert len([*(tmp_path / "out").iterdir()]) == 2


@pytest.mark.slow
def test_it_fails_when_two_methods_disagree(quick, monkeypatch, capsys):
    real = command.all_methods

    def wrong(*args):
        fast, loop, *others = real(*args)
        off = Method(loop.name, lambda pair: loop.sweep(pair) + np.float32(0.001))
        return [fast, off, *others]

    monkeypatch.setattr(command, "all_methods", wrong)
    assert command.main(quick) == 2
    assert "two methods are 1.0e-03 logits apart" in capsys.readouterr().err


def test_what_it_would_write_is_checked_before_it_measures(quick, tmp_path, capsys):
    (tmp_path / "out" / "bench-small-cpu.png").mkdir(parents=True)
    assert command.main(quick) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "a folder has this name" in err


@pytest.mark.slow
def test_a_loop_that_would_take_too_long_is_left_out(quick, capsys):
    assert command.main([*quick, "--patience=0.001"]) == 0
    assert "| 4 | 12 |" in (out := capsys.readouterr().out)
    assert "not run" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds=0"], "'--rounds': 0 is not in the range x>=1"),
        (["--lengths=1"], "prompts of at least 2 tokens"),
        (["--lengths=17"], "length 17 is out of range"),
        ([f"--out={ROOT}/README.md/x/"], "is not a folder"),
        (["--shape=huge"], "--shape"),
        (["--patience=nan"], "--patience must be above 0"),
        (["--patience=inf"], "--patience must be above 0"),
    ],
)
def test_bad_input(quick, tmp_path, capsys, arguments, message):
    assert command.main([*quick, *arguments]) == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert message in line
    assert not [*tmp_path.iterdir()]
