"""Identities: what must hold on any model, whatever its weights are.

Each function here computes one identity and returns its rows. Where arithmetic allows it, the
two sides are equal bit for bit. Elsewhere they are sums of the same numbers in another order,
and may differ by ROUNDINGS roundings of the largest logit: its size times the dtype's eps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch

from mingpt.kvcache import KVCache
from mingpt.model import GPT
from mingpt.sites import HEAD_SITES, SITES, Patch
from patching.explanation.run import explain
from patching.prompts import Question
from patching.sweep.run import patch_sweep
from patching.verification.result import Row
from patching.verification.sample import Sample
from patching.verification.transformers_copy import transformers_copy

ROUNDINGS = 100
IDENTITY = "identity"
EXACT = "bit for bit"


@dataclass(frozen=True)
class Limit:
    """The difference that rounding may cause, and the reason in words."""

    allowed: float
    because: str

    @classmethod
    def of(cls, model: GPT, sample: Sample) -> Limit:
        """Return the limit for logits of this model's size, measured on the sample's prompts."""
        with torch.no_grad():
            largest = max(
                model(sample.ids(model, run))[0][:, -1].abs().max().item()
                for run in ("clean", "corrupt")
            )
        eps = torch.finfo(model.dtype).eps
        allowed = ROUNDINGS * eps * max(1.0, largest)
        because = f"{ROUNDINGS} roundings of a logit of {largest:.3g} in {_name(model)}"
        return cls(allowed, because)


Identity = Callable[[GPT, Sample, Limit], Iterator[Row]]


@torch.no_grad()
def clean_into_clean(model: GPT, sample: Sample, limit: Limit) -> Iterator[Row]:
    """Patch every site of every layer with the run's own activation: nothing changes."""
    ids = sample.ids(model, "clean")
    before, _ = model(ids, record=SITES)
    away = np.zeros((len(SITES), model.config.n_layer))
    for number, site in enumerate(SITES):
        for layer in range(model.config.n_layer):
            after, _ = model(ids, patch=Patch(site, layer))
            away[number, layer] = (after - before).abs().max().item()
    yield Row.compare(
        "clean into clean changes no logit (site x layer)", IDENTITY, 0 * away, away, 0.0, EXACT
    )


def last_cell(model: GPT, sample: Sample, limit: Limit) -> Iterator[Row]:
    """Patch the last layer at the last position: the clean run's value comes out."""
    for method in ("loop", "fast"):
        found = patch_sweep(
            model, sample.pair, layers=[-1], positions=[-1], method=method, progress=False
        )
        yield Row.compare(
            f"last layer, last position is the clean run ({method})",
            IDENTITY, found.clean_value, found.values[-1, -1], 0.0, EXACT,
        )  # fmt: skip


def before_the_difference(model: GPT, sample: Sample, limit: Limit) -> Iterator[Row]:
    """Patch positions before the first differing token: the corrupt run's value comes out."""
    first = sample.pair.differing[0]
    for method in ("loop", "fast"):
        found = patch_sweep(
            model,
            sample.pair,
            layers=sample.layers(model.config.n_layer),
            positions=range(first),
            method=method,
            progress=False,
        )
        there = found.values[np.isfinite(found.values)]
        yield Row.compare(
            f"positions before the first difference change nothing ({method})",
            IDENTITY, np.full(there.shape, found.corrupt_value), there, 0.0, EXACT,
        )  # fmt: skip


def fast_is_the_loop(model: GPT, sample: Sample, limit: Limit) -> Iterator[Row]:
    """Compare the engine with the loop at a random sample of cells of every site."""
    for site in SITES:
        for by_position in (False, True) if site in HEAD_SITES else (False,):
            chosen = sample.cells(model.config, site, by_position)
            both = [
                patch_sweep(
                    model, sample.pair, site=site, by_position=by_position,
                    method=method, progress=False, **chosen,
                ).values
                for method in ("loop", "fast")
            ]  # fmt: skip
            loop, fast = (values[np.isfinite(values)] for values in both)
            what = f"{site} by position" if by_position else site
            yield Row.compare(
                f"fast sweep equals the loop: {loop.size} cells of {what}",
                IDENTITY, loop, fast, limit.allowed, limit.because,
            )  # fmt: skip


def terms_add_up(model: GPT, sample: Sample, limit: Limit) -> Iterator[Row]:
    """Add up the terms of two logits: embeddings, heads, MLPs and biases."""
    answers = sample.pair.target_ids[0], sample.pair.foil_ids[0]
    question = Question.from_ids(sample.pair.clean_ids, *answers)
    found = explain(model, question, methods="direct", progress=False)
    terms = found.heads.sum((1, 2)) + found.initial + found.final_bias
    terms = terms + found.mlp.sum(0) + found.bias.sum(0)
    yield Row.compare(
        "terms add up to the logits of target and foil",
        IDENTITY, found.logits, terms, limit.allowed, limit.because,
    )  # fmt: skip


def batch_is_one_by_one(model: GPT, sample: Sample, limit: Limit) -> Iterator[Row]:
    """Sweep pairs of several lengths together, and each alone."""
    together = patch_sweep(model, sample.pairs, progress=False)
    alone = [patch_sweep(model, pair, progress=False) for pair in sample.pairs]
    singly, batched = (
        np.concatenate([one.values.ravel() for one in found]) for found in (alone, together)
    )
    lengths = ", ".join(str(len(pair)) for pair in sample.pairs)
    yield Row.compare(
        f"a batch of pairs of {lengths} tokens equals one by one",
        IDENTITY, singly, batched, limit.allowed, limit.because,
    )  # fmt: skip


@torch.no_grad()
def cache_is_no_cache(model: GPT, sample: Sample, limit: Limit) -> Iterator[Row]:
    """Read a prompt token by token with cached keys and values, and as a whole."""
    ids = sample.ids(model, "clean")  # (1, T)
    whole, _ = model(ids)  # (1, T, V)
    cache = KVCache(model.config, 1, ids.size(1), model.transformer.wte.weight)
    steps = [model.next_logits(ids[:, t : t + 1], cache) for t in range(ids.size(1))]
    cached = torch.stack(steps, dim=1)  # (1, T, V)
    yield Row.compare(
        "logits with cached keys and values equal those without",
        IDENTITY, _numbers(whole), _numbers(cached), limit.allowed, limit.because,
    )  # fmt: skip


@torch.no_grad()
def float32_is_float64(model: GPT, sample: Sample, limit: Limit) -> Iterator[Row]:
    """Run a copy of the model in float64, which takes twice a float32 model's memory."""
    if model.dtype == torch.float64:
        return
    wide = deepcopy(model).to(torch.float64)
    ids = sample.ids(model, "clean")
    yield Row.compare(
        f"logits in {_name(model)} equal those in float64",
        IDENTITY, _numbers(wide(ids)[0]), _numbers(model(ids)[0]), limit.allowed, limit.because,
    )  # fmt: skip


@torch.no_grad()
def transformers_agrees(model: GPT, sample: Sample, limit: Limit) -> Iterator[Row]:
    """Compare the logits with those of transformers' GPT2LMHeadModel.

    Raises:
        NotCheckedError: transformers is not installed, or its GPT-2 has no such architecture.
    """
    theirs = transformers_copy(model)
    ids = sample.ids(model, "clean")
    yield Row.compare(
        "logits equal those of transformers' GPT2LMHeadModel",
        IDENTITY, _numbers(theirs(ids).logits), _numbers(model(ids)[0]), limit.allowed,
        limit.because,
    )  # fmt: skip


IDENTITIES: tuple[Identity, ...] = (
    clean_into_clean,
    last_cell,
    before_the_difference,
    fast_is_the_loop,
    terms_add_up,
    batch_is_one_by_one,
    cache_is_no_cache,
    float32_is_float64,
    transformers_agrees,
)


def _numbers(logits: torch.Tensor) -> np.ndarray:
    return logits.double().cpu().numpy()


def _name(model: GPT) -> str:
    return str(model.dtype).removeprefix("torch.")
