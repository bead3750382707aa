"""Compute the values that are put in, in place of the source run's: zeros, means, another run's.

A value is a tensor of a site's activation in every layer: (n_layer, T, C), at the sites of
heads (n_layer, nh or nkv, T, hs), of the pattern (n_layer, nh, T, T).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mingpt.model import GPT
from mingpt.sites import Patch, recorded_shape
from patching.errors import SweepError, named
from patching.prompts import PromptPair
from patching.sweep.put import Put

TOKENS_AT_ONCE = 1024  # of the prompts of a mean that run together


@dataclass(frozen=True)
class Values:
    """What is put into one pair's base run."""

    tensor: Tensor | None  # (n_layer, ...); None: the source run's own activation
    said: dict[str, Any] = field(default_factory=dict)  # where it is from, for the result


@torch.no_grad()
def put_values(model: GPT, pairs: Sequence[PromptPair], site: str, put: Put) -> list[Values]:
    """Return what is put into each pair's base run. Pairs of one length share zeros and means.

    Args:
        model: in eval mode; its recording and last logits stay as they were.

    Raises:
        SweepError: prompts of other lengths than a mean at each position needs, that the model
            cannot read, or none to choose from.
    """
    if put.is_recorded:
        return [Values(None)] * len(pairs)
    check_prompts(model, pairs, put)
    shared: dict[int, Values] = {}
    found = []
    for pair in pairs:
        if put.what == "resample":
            other = another(pair, put)
            said = {"prompt": other.clean_text, "seed": put.seed}
            found.append(Values(_recorded(model, [other.clean_ids], site)[0], said))
            continue
        T = len(pair)
        if T not in shared:
            shared[T] = _zeros(model, site, T) if put.what == "zero" else _mean(model, site, put, T)
        found.append(shared[T])
    return found


def check_prompts(model: GPT, pairs: Sequence[PromptPair], put: Put) -> None:
    """Check, before any forward pass, that the prompts of `put` serve every pair.

    Raises:
        SweepError: as put_values.
    """
    put.check_pairs()
    for number, other in enumerate(put.pairs):
        if len(other) > model.config.block_size or max(other.clean_ids) >= model.config.vocab_size:
            raise SweepError(f"prompt {number} (from 0) of what is put in is not for this model")
    for number, pair in enumerate(pairs):
        with named(number, len(pairs)):
            if put.what == "mean" and put.per == "position":
                _check_lengths(pair, put)
            elif put.what == "resample":
                another(pair, put)


def _check_lengths(pair: PromptPair, put: Put) -> None:
    lengths = Counter(map(len, put.pairs))
    others = len(put.pairs) - lengths[len(pair)]
    if others:
        least, most = min(lengths), max(lengths)
        raise SweepError(
            f"a mean at each position needs prompts of equal length: the pair has {len(pair)}"
            f" tokens, and {others} of the {len(put.pairs)} prompts of the mean have other"
            f" numbers ({least} to {most} in all): choose prompts of one length, or one mean over"
            " all positions (--mean-per all, in Python per='all')"
        )


def another(pair: PromptPair, put: Put) -> PromptPair:
    """Return the pair whose clean run is put into this pair's base run.

    Raises:
        SweepError: no other clean prompt is of equal length.
    """
    others = {
        one.clean_ids: one
        for one in put.pairs
        if len(one) == len(pair) and one.clean_ids != pair.clean_ids
    }
    if not others:
        raise SweepError(
            f"there is no other clean prompt of {len(pair)} tokens to put in:"
            " resampling needs pairs of equal length"
        )
    # By the pair itself, so that the choice is the same in whatever batch it runs.
    generator = np.random.default_rng([put.seed, *pair.clean_ids])
    return list(others.values())[int(generator.integers(len(others)))]


def value_of(values: Tensor, patch: Patch) -> Tensor:
    """Return the part of `values` (n_layer, ...) that a patch puts in."""
    value = values[patch.layer]
    if patch.head is not None:
        value = value[patch.head]
    return value if patch.position is None else value[..., patch.position, :]


def rows_of_values(values: Sequence[Values], site: str) -> list[Tensor | None]:
    """Return each value with its heads side by side: (n_layer, T, C), of k and v (.., nkv hs).

    The pattern stays (n_layer, nh, T, T). Pairs that share a value share the tensor.
    """
    found: dict[int, Tensor | None] = {}
    for one in values:
        x = one.tensor
        if id(x) not in found:
            is_flat = x is None or x.dim() == 3 or site == "pattern"
            found[id(x)] = x if is_flat or x is None else x.transpose(1, 2).flatten(2)
    return [found[id(one.tensor)] for one in values]


def bytes_of(tensors: Sequence[Tensor | None]) -> int:
    """Return the bytes that tensors hold together; storage that several share counts once."""
    storages = (one.untyped_storage() for one in tensors if one is not None)
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


def _zeros(model: GPT, site: str, T: int) -> Values:
    n_layer, _, *shape = recorded_shape(site, model.config, 1, T).values()
    zero = torch.zeros((), dtype=model.dtype, device=model.device)
    return Values(zero.expand(n_layer, *shape))  # of no memory


def _mean(model: GPT, site: str, put: Put, T: int) -> Values:
    """Return the mean over the prompts of `put`, for prompts of T tokens."""
    # A sum of many rounded numbers: float64 where the device has it.
    wide = torch.float32 if model.device.type == "mps" else torch.float64
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for pair in put.pairs:
        by_length.setdefault(len(pair), []).append(pair.clean_ids)
    total, count = torch.zeros((), dtype=wide, device=model.device), 0
    for length, prompts in by_length.items():
        at_once = max(1, TOKENS_AT_ONCE // length)
        for first in range(0, len(prompts), at_once):
            recorded = _recorded(model, prompts[first : first + at_once], site).to(wide)
            if put.per == "all":  # over the tokens, the next to last axis
                total, count = total + recorded.sum((0, -2)), count + len(recorded) * length
            else:
                total, count = total + recorded.sum(0), count + len(recorded)
    mean = (total / count).to(model.dtype)
    if put.per == "all":
        mean = mean[..., None, :].expand(*mean.shape[:-1], T, mean.size(-1))
    said = {"prompts": len(put.pairs), "per": put.per, "checksum": _checksum(put)}
    return Values(mean, said)


def _checksum(put: Put) -> str:
    """Return the SHA-256 (hex) of the token ids of the prompts."""
    return hashlib.sha256(json.dumps([one.clean_ids for one in put.pairs]).encode()).hexdigest()


def _recorded(model: GPT, prompts: Sequence[Sequence[int]], site: str) -> Tensor:
    """Return a site's activation of prompts of one length: (B, n_layer, ...)."""
    kept: list[Tensor] = []

    def tap(layer: int, at: str, x: Tensor) -> Tensor:
        if at == site:
            kept.append(x)
        return x

    model.stream(torch.tensor(prompts, device=model.device), tap)
    return torch.stack(kept, dim=1)
