"""Time a study of the shipped model against single sweeps and TransformerLens, pair by pair.

Run: python scripts/bench_studies.py [--pairs 320] [--rounds 5] [--threads 2]. TransformerLens is
timed where it is installed (the extra bench): its loop over cells, each a forward of up to 64
pairs of one length at once. All methods run in turn, in one process, on the same weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

import torch

import mingpt
from mingpt.model import GPT
from patching.prompts import PromptPair
from patching.study.generators.make import make_pairs, write_rows
from patching.study.pairs_file import read_pairs
from patching.study.run import run_study
from patching.sweep.run import patch_sweep

SITES = {"resid_post": "hook_resid_post", "z": "attn.hook_z"}  # ours -> TransformerLens's
BATCH = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each site."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    model, tokenizer = mingpt.load("builtin")
    with tempfile.TemporaryDirectory() as folder:
        rows = make_pairs("ioi", tokenizer, arguments.pairs).rows
        pairs, _ = read_pairs(tokenizer, write_rows(f"{folder}/ioi.csv", rows), roles="roles")
        theirs = None
        if importlib.util.find_spec("transformer_lens") is not None:
            theirs = _transformer_lens(model, tokenizer, Path(folder))
        for site in SITES:
            methods = {
                "study": lambda site=site: run_study(model, pairs, site=site, progress=False),
                "single sweeps": lambda site=site: [
                    patch_sweep(model, p, site=site) for p in pairs
                ],
            }
            if theirs is not None:
                methods["TransformerLens"] = lambda site=site: theirs(list(pairs), site)
            print(_line(site, arguments, _medians(methods, arguments.rounds)), flush=True)
    return 0


def _medians(methods: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return each method's median time; they run in turn, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds + 1):
        for name, method in methods.items():
            started = time.perf_counter()
            method()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def _line(site: str, arguments: argparse.Namespace, taken: dict[str, float]) -> str:
    study = taken.pop("study")
    others = ", ".join(f"{name} {seconds / study:.1f} x" for name, seconds in taken.items())
    each = f"{1000 * study / arguments.pairs:.2f} ms a pair"
    return f"{site}, {arguments.pairs} pairs, {arguments.threads} threads: {each}; {others}"


def _transformer_lens(
    model: GPT, tokenizer: object, folder: Path
) -> Callable[[list[PromptPair], str], list[torch.Tensor]]:
    """Return a function that sweeps pairs with TransformerLens: a list of values (cells, B)."""
    from transformer_lens.model_bridge import TransformerBridge

    mingpt.save(model, folder / "model", tokenizer)
    bridge = TransformerBridge.boot_transformers(str(folder / "model"), device="cpu")

    @torch.no_grad()
    def swept(pairs: list[PromptPair], site: str) -> list[torch.Tensor]:
        return [_values(bridge, batch, site) for batch in _batches(pairs)]

    return swept


def _batches(pairs: list[PromptPair]) -> Iterator[list[PromptPair]]:
    for _, alike in groupby(sorted(pairs, key=len), key=len):
        group = list(alike)
        yield from (group[first : first + BATCH] for first in range(0, len(group), BATCH))


def _values(bridge: object, batch: list[PromptPair], site: str) -> torch.Tensor:
    """Return logit(foil) - logit(target) of every cell and pair (cells, B)."""
    clean, corrupt = (
        torch.tensor([pair.ids(run) for pair in batch]) for run in ("clean", "corrupt")
    )
    target, foil = (
        torch.tensor([getattr(pair, f"{answer}_ids") for pair in batch])
        for answer in ("target", "foil")
    )
    names = [f"blocks.{layer}.{SITES[site]}" for layer in range(bridge.cfg.n_layers)]
    _, cache = bridge.run_with_cache(clean, names_filter=names)
    width = clean.size(1) if site == "resid_post" else bridge.cfg.n_heads
    found = []
    for name in names:
        for column in range(width):

            def patch(x: torch.Tensor, hook: object, name=name, column=column) -> torch.Tensor:
                at = (slice(None), column) if site == "resid_post" else (..., column, slice(None))
                x[at] = cache[name][at]
                return x

            logits = bridge.run_with_hooks(corrupt, fwd_hooks=[(name, patch)])[:, -1]
            found.append((logits.gather(1, foil) - logits.gather(1, target))[:, 0])
    return torch.stack(found)


if __name__ == "__main__":
    sys.exit(main())
