"""The cost of studies: against single sweeps, and what reading, statistics and writing take."""

import time

import pytest
import torch
from helpers import median_seconds

import mingpt
from mingpt import GPT, GPTConfig
from patching import PromptPair, patch_sweep, read_pairs, run_study
from patching.study.generators.make import make_pairs, write_rows

pytestmark = pytest.mark.cost


@pytest.fixture(scope="module")
def shipped():
    return mingpt.load("builtin")


@pytest.mark.parametrize("site", ["resid_post", "z"])
def test_a_study_of_the_shipped_model_takes_a_fourth_of_single_calls(shipped, tmp_path, site):
    model, tokenizer = shipped
    write_rows(tmp_path / "ioi.csv", make_pairs("ioi", tokenizer, 320).rows)
    pairs, _ = read_pairs(tokenizer, tmp_path / "ioi.csv", roles="roles")
    study, single = median_seconds(
        [
            lambda: run_study(model, pairs, site=site, progress=False),
            lambda: [patch_sweep(model, pair, site=site) for pair in pairs],
        ]
    )
    threads = torch.get_num_threads()
    print(
        f"\n{site}, {threads} threads: {1000 * study / 320:.2f} ms a pair, single calls"
        f" {single / study:.1f} x"
    )
    assert single >= (4 if threads > 1 else 2.5) * study


def test_reading_statistics_and_writing_take_seconds_for_a_thousand_pairs(shipped, tmp_path):
    model, tokenizer = shipped
    write_rows(tmp_path / "ioi.csv", make_pairs("ioi", tokenizer, 1000).rows)
    started = time.perf_counter()
    pairs, _ = read_pairs(tokenizer, tmp_path / "ioi.csv", roles="roles")
    read = time.perf_counter() - started
    study = run_study(model, pairs, metric="logit_diff,recovery", progress=False)
    started = time.perf_counter()
    study.write_summary()
    summarized = time.perf_counter() - started
    print(f"\n1,000 pairs: read in {read:.2f} s, summarized and written in {summarized:.2f} s")
    assert read + summarized < 3


def test_a_pair_of_a_study_takes_no_longer_than_alone():
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=4)).eval()  # of GPT-2 124M's width
    pairs = []
    for _ in range(32):
        ids = torch.randint(50257, (15,)).tolist()
        pairs.append(PromptPair.from_ids(ids, [*ids[:9], 3797, *ids[10:]], 262, 1107))
    study, single = median_seconds(
        [
            lambda: run_study(model, pairs, progress=False),
            lambda: [patch_sweep(model, pair) for pair in pairs],
        ],
        rounds=3,
    )
    print(
        f"\n4 layers of GPT-2's width, 15 tokens: {1000 * study / 32:.1f} ms a pair, single"
        f" sweeps {single / study:.2f} x"
    )
    assert study <= 1.05 * single
