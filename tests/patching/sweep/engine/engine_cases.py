"""The cases that the engine's tests share: random shapes and pairs, every site and setting."""

import numpy as np
from hypothesis import strategies as st

from mingpt import GPT
from mingpt.config import FLAGS
from mingpt.sites import HEAD_SITES, SITES
from patching import PromptPair, SweepResult, patch_sweep
from patching.sweep.put import Put
from patching.sweep.request import WINDOW_SITES

METRICS = ["logit_diff", "target_logit", "log_prob", "prob_diff", "kl"]


@st.composite
def shapes(draw) -> dict:
    n_head = draw(st.sampled_from([1, 2, 3, 4]))
    return {
        "seed": draw(st.integers(0, 99)),
        "n_layer": draw(st.integers(1, 4)),
        "n_head": n_head,
        "n_kv_head": draw(st.sampled_from([n for n in (1, 2, 3, 4) if n_head % n == 0])),
        "n_embd": n_head * draw(st.sampled_from([4, 6])),
        "activation": draw(st.sampled_from(["gelu_new", "gelu", "relu"])),
        **{flag: draw(st.booleans()) for flag in FLAGS},
    }


@st.composite
def pairs(draw) -> PromptPair:
    """Draw pairs of 1 to 12 tokens that differ at one or more positions, often at the first."""
    T = draw(st.sampled_from([1, 2, 3, 5, 8, 12]))
    clean = draw(st.lists(st.integers(0, 39), min_size=T, max_size=T))
    changed = draw(st.sets(st.integers(0, T - 1), min_size=1, max_size=min(T, 3)))
    corrupt = [
        (token + 1 + draw(st.integers(0, 37))) % 40 if p in changed else token
        for p, token in enumerate(clean)
    ]
    return PromptPair.from_ids(clean, corrupt, *draw(st.permutations(range(40)))[:2])


def put_of(what: str, pair: PromptPair) -> Put:
    """Return what is put in, taken from three prompts of the pair's length and the pair's own."""
    others = [
        PromptPair.from_ids([(token + n) % 40 for token in pair.clean_ids], pair.clean_ids, 1, 2)
        for n in (1, 5, 17)
    ]
    return Put(what, (*others, pair), seed=len(pair))


def _variants(site: str) -> list[dict]:
    if site in HEAD_SITES:
        return [{"site": site}, {"site": site, "by_position": True}]
    windows = [2, 3] if site in WINDOW_SITES else []
    return [{"site": site}, *({"site": site, "window": n} for n in windows)]


VARIANTS = [variant for site in SITES for variant in _variants(site)]


def variant_id(variant: dict) -> str:
    return "-".join(map(str, variant.values()))


def both(model: GPT, pair: PromptPair, **request) -> list[SweepResult]:
    """Sweep by the engine and by the plain loop."""
    return [patch_sweep(model, pair, method=method, **request) for method in ("fast", "loop")]


def base_of(result: SweepResult, name: str) -> float:
    """Return the metric of the base run, in the grid's dtype."""
    found = result.metrics[name]
    return found.values.dtype.type(found.corrupt if result.direction == "denoise" else found.clean)


def several_pairs() -> list[PromptPair]:
    """Return pairs of lengths 7, 1, 12, 7 and 3, each of which differs at one position."""
    generator = np.random.default_rng(0)
    made = []
    for T in (7, 1, 12, 7, 3):
        clean = generator.integers(0, 40, T)
        corrupt = clean.copy()
        corrupt[generator.integers(0, T)] += 1
        made.append(PromptPair.from_ids(clean, corrupt % 40, 11, 22))
    return made
