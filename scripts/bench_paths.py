"""Time path patching on GPT-2 124M's shape against its definition, and against a lower bound.

Run: python scripts/bench_paths.py (some four minutes on 2 cores). The weights are random: times do
not depend on them. The definition's time is that of a few senders, multiplied: a sender takes as
long as another. The lower bound is the time of the engine's own multiply-adds at the rate of a
large matrix product in the same process.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch.utils.flop_counter import FlopCounterMode

from mingpt.config import GPTConfig
from mingpt.model import GPT
from patching.paths import loop
from patching.paths.request import EdgeRequest, PathRequest
from patching.paths.run import patch_edges, patch_paths
from patching.prompts import PromptPair

T, DIFFERS = 15, 10  # tokens, and the first that differs: as in the IOI task
SENDERS, ROUNDS = 2, 5
LARGE = 2**32  # multiply-adds of the large product
MAPS = {
    "heads and MLPs -> logits": {},
    "-> q of 9.9, 9.6, 10.0, last token": {
        "receiver": "q:9.9,9.6,10.0",
        "receiver_positions": "end",
    },
}
EDGES = {
    "all -> q of all heads, last token": {"receivers": "q", "positions": "end"},
    "all -> q of all heads": {"receivers": "q"},
    "all edges": {},
}


def main() -> int:
    """Print a table of times, ratios and bounds."""
    torch.manual_seed(0)
    model = GPT(GPTConfig()).eval()
    ids = torch.randint(50257, (T,)).tolist()
    pair = PromptPair.from_ids(ids, [*ids[:DIFFERS], 3797, *ids[DIFFERS + 1 :]], 262, 1107)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, {T} tokens")
    print("| what | paths | s | loop / fast | multiply-adds, loop / fast | fast / floor |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, how in MAPS.items():
        paths = PathRequest(**how).paths(model.config, T)
        row(name, model, pair, len(paths.sending), paths, patch_paths, how, ROUNDS)
    for name, how in EDGES.items():
        paths = EdgeRequest(**how).paths(model.config, T)
        last = replace(paths, receivers=paths.receivers[-1:])
        row(name, model, pair, paths.count, last, patch_edges, how, 1)
    return 0


def row(name, model, pair, count, paths, function, how, rounds) -> None:
    """Time the engine and a part of the loop in turn, and print a line of the table."""
    few = replace(paths, senders=tuple(paths.senders[one] for one in paths.sending[:SENDERS]))
    metrics = PathRequest().metrics
    x, y = torch.randn(1024, 2048), torch.randn(2048, 2048)

    def fast() -> object:
        return function(model, pair, progress=False, **how)

    def some() -> object:
        return loop.measure(model, pair, few, "denoise", metrics, lambda: None)

    times = (2 + 2 * count) / (2 + 2 * SENDERS)  # two recorded runs, and two for each path
    taken = medians([fast, some, lambda: x @ y], rounds)
    own, theirs = macs(fast), macs(some) * times
    floor = own * taken[2] / LARGE
    print(f"| {name} | {count:,} | {taken[0]:.2f} | {taken[1] * times / taken[0]:.0f} |"
          f" {theirs / own:.0f} | {taken[0] / floor:.1f} |", flush=True)  # fmt: skip


def medians(functions: list[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median seconds of each function; they run in turn, after a first round."""
    times: list[list[float]] = [[] for _ in functions]
    for number in range(rounds + 1):
        for function, seconds in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            if number or rounds == 1:
                seconds.append(time.perf_counter() - started)
        if rounds == 1:
            break
    return [statistics.median(one) for one in times]


def macs(function: Callable[[], object]) -> float:
    """Return the multiply-adds of the products in a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 2


if __name__ == "__main__":
    sys.exit(main())
