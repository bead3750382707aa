"""The cost of a token on GPT-2 124M's shape: with cache, without, and in transformers."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import pytest
import torch
from helpers import median_seconds
from transformers import GPT2Config, GPT2LMHeadModel

from mingpt import GPT, GPTConfig, KVCache, beam_search, generate
from mingpt.generation.beams import bytes_needed

pytestmark = pytest.mark.cost

NEW = 200
ROUNDS = int(os.environ.get("ROUNDS", "1"))  # set ROUNDS for numbers to quote
READ = 1 << 27  # float32 numbers; summing them measures the memory bandwidth


@pytest.fixture(scope="module")
def both() -> tuple[GPT, GPT2LMHeadModel]:
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config()).eval()
    with torch.device("meta"):
        ours = GPT(GPTConfig())
    state = {}
    for name, parameter in theirs.named_parameters():
        matrix = name.endswith(("attn.c_attn.weight", "c_proj.weight", "c_fc.weight"))
        state[name] = (parameter.t() if matrix else parameter).detach()
    ours.load_state_dict(state, strict=False, assign=True)
    ours.tie_weights()
    return ours.eval(), theirs


def prompt() -> torch.Tensor:
    return torch.randint(50257, (1, 11), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_200_tokens_after_eleven(both):
    ours, theirs = both
    ids, found = prompt(), {}

    def run(name, function):
        def timed():
            found[name] = function()

        return timed

    many = torch.ones(READ)
    cached, reference, read = median_seconds(
        [
            run("ours", lambda: generate(ours, ids.tolist(), NEW, greedy=True)),
            run(
                "theirs",
                lambda: theirs.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=NEW,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                ),
            ),
            many.sum,
        ],
        rounds=ROUNDS,
    )
    del many
    (plain,) = median_seconds(
        [run("plain", lambda: generate(ours, ids.tolist(), NEW, greedy=True, use_cache=False))],
        rounds=ROUNDS,
    )
    ((sample,),) = found["ours"]
    assert list(sample.ids) == found["theirs"][0, ids.size(1) :].tolist()
    assert sample.ids == found["plain"][0][0].ids
    weights = sum(p.nbytes for name, p in ours.named_parameters() if "wpe" not in name)
    bandwidth = 4 * READ / read
    floor = NEW * weights / bandwidth
    print(
        f"\n{NEW} tokens: {1000 * cached / NEW:.1f} ms each;"
        f" without the cache {plain / cached:.2f} x, transformers {reference / cached:.2f} x;"
        f" {cached / floor:.2f} x the floor, {1000 * floor / NEW:.1f} ms"
        f" ({weights / 1e6:.0f} MB at {bandwidth / 1e9:.1f} GB/s)"
    )
    # How much the cache and we can gain depends on the machine: a step reads all weights, so
    # where memory is slow beside the cores, every way is near that floor.
    assert cached <= 3 * floor
    assert plain >= 2.5 * cached
    assert cached <= 1.2 * reference


def test_the_cache_of_a_sequence():
    """73,728 bytes a token in float32; with one head of keys and values, a twelfth."""
    like = torch.empty(0)
    sizes = {
        heads: KVCache(GPTConfig(n_kv_head=heads), 1, 1024, like).nbytes / 1024
        for heads in (12, 4, 1)
    }
    print(f"\nbytes a token: {sizes}")
    assert sizes == {12: 73728, 4: 73728 / 3, 1: 73728 / 12}


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is read from /proc")
def test_beams_take_about_the_memory_that_is_estimated():
    def kilobytes(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=2)).eval()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # returns freed memory, so that reusing it counts
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = kilobytes("VmRSS")
    beam_search(model, prompt()[0].tolist(), 4, num_beams=500)
    need, peak = bytes_needed(model, 11, 4, 500), 1024 * (kilobytes("VmHWM") - before)
    print(f"\n500 beams: {peak / 1e6:.0f} MB, estimated {need / 1e6:.0f} MB")
    assert 0.5 * need < peak < 1.3 * need
