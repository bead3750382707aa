"""Compute the values that are put in, in place of the source run's: zeros, means, another run's.

A value is a tensor of a site's activation in every layer: (n_layer, T, C), at the sites of
heads (n_layer, nh or nkv, T, hs), of the pattern (n_layer, nh, T, T).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
class Noise:
    """One draw of the noise that a corrupt run gets on its embeddings."""

    positions: tuple[int, ...]  # (n,) sorted
    rows: Tensor  # (n, C) what is added


@dataclass(frozen=True)
class Values:
    """What is put into one pair's base run, and the noise that its corrupt run gets."""

    tensor: Tensor | None  # (n_layer, ...); None: the source run's own activation
    noise: Noise | None = None  # on the embeddings of the corrupt run
    said: dict[str, Any] = field(default_factory=dict)  # where it is from, for the result


class PutValues:
    """Computes what is put into base runs. A mean is computed once for all pairs that share it.

    Args:
        model: in eval mode; its recording and last logits stay as they were.
        put: what is put in, with the pairs that it is taken from.
    """

    def __init__(self, model: GPT, put: Put) -> None:
        self.model, self.put = model, put
        self._lengths = Counter(map(len, put.pairs))
        self._shared: dict[tuple[str, int], Tensor] = {}  # site, tokens -> zeros, or a mean
        self._by_length: dict[int, dict[tuple[int, ...], PromptPair]] = {}  # clean ids -> a pair
        for pair in put.pairs:
            self._by_length.setdefault(len(pair), {}).setdefault(pair.clean_ids, pair)

    def check(self, pairs: Sequence[PromptPair]) -> None:
        """Check, before any forward pass, that the prompts serve every pair.

        Raises:
            SweepError: prompts of other lengths than a mean at each position needs, that the
                model cannot read, or none to choose from.
        """
        self.put.check_pairs()
        config = self.model.config
        for number, other in enumerate(self.put.pairs):
            largest, why = max(other.clean_ids), ""
            if len(other) > config.block_size:
                why = f"has {len(other)} tokens, the model reads at most {config.block_size}"
            elif largest >= config.vocab_size:
                why = f"holds token id {largest}, the model has {config.vocab_size} tokens"
            if why:
                raise SweepError(
                    f"prompt {number} (from 0) of what is put in {why}: leave it out, or make the"
                    " prompts with the model's own tokenizer"
                )
        for number, pair in enumerate(pairs):
            with named(number, len(pairs)):
                if self.put.what == "mean" and self.put.per == "position":
                    self._check_length(pair)
                elif self.put.what == "resample":
                    self.another(pair)

    def _check_length(self, pair: PromptPair) -> None:
        others = sorted(self._lengths.keys() - {len(pair)})
        if others:
            count = sum(self._lengths[length] for length in others)
            numbers = " to ".join(map(str, dict.fromkeys((others[0], others[-1]))))
            raise SweepError(
                f"a mean at each position needs prompts of equal length: the pair has {len(pair)}"
                f" tokens, and {count} of the {len(self.put.pairs)} prompts of the mean have"
                f" {numbers}: choose prompts of one length, or one mean over all positions"
                " (--mean-per all, in Python per='all')"
            )

    @cached_property
    def _checksum(self) -> str:
        """The SHA-256 (hex) of the prompts' token ids."""
        ids = json.dumps([one.clean_ids for one in self.put.pairs])
        return hashlib.sha256(ids.encode()).hexdigest()

    def another(self, pair: PromptPair) -> PromptPair:
        """Return the pair whose clean run is put into this pair's base run.

        Raises:
            SweepError: no clean prompt of equal length is neither of the pair's own prompts.
        """
        of_length = self._by_length.get(len(pair), {})
        # The corrupt prompt, too: it is the base run's in denoise, and mirrored pairs hold it.
        others = [ids for ids in of_length if ids not in (pair.clean_ids, pair.corrupt_ids)]
        if not others:
            prompts = "prompts" if pair.has_corrupt else "prompt"
            raise SweepError(
                f"there is no other clean prompt of {len(pair)} tokens to put in than the pair's"
                f" own {prompts}: resample from pairs with more prompts of that length"
            )
        # By the pair itself, so that the choice is the same in whatever batch it runs.
        generator = np.random.default_rng([self.put.seed, *pair.clean_ids])
        return of_length[others[int(generator.integers(len(others)))]]

    @torch.no_grad()
    def of(self, pairs: Sequence[PromptPair], site: str) -> list[Values]:
        """Return what is put into each pair's base run; `check` has checked the pairs."""
        put = self.put
        if put.is_recorded:
            return [Values(None)] * len(pairs)
        if put.what == "resample":
            return [self._of_another(pair, site) for pair in pairs]
        if put.what == "zero":
            return [Values(self._once(site, len(pair), _zeros)) for pair in pairs]
        said = {"prompts": len(put.pairs), "per": put.per, "checksum": self._checksum}
        return [Values(self._once(site, len(pair), self._mean), said=said) for pair in pairs]

    def _once(self, site: str, T: int, make: Callable[[GPT, str, int], Tensor]) -> Tensor:
        if (site, T) not in self._shared:
            self._shared[site, T] = make(self.model, site, T)
        return self._shared[site, T]

    def _of_another(self, pair: PromptPair, site: str) -> Values:
        other = self.another(pair)
        said = {"prompt": other.clean_text, "seed": self.put.seed}
        return Values(_recorded(self.model, [other.clean_ids], site)[0], said=said)

    def _mean(self, model: GPT, site: str, T: int) -> Tensor:
        """Return the mean over the clean prompts, for a pair of T tokens."""
        if self.put.per == "position":
            return _mean_of(model, site, self.put, over_tokens=False)
        mean = self._once(site, 0, lambda model, site, _: _mean_of(model, site, self.put,
                                                                   over_tokens=True))  # fmt: skip
        return mean[..., None, :].expand(*mean.shape[:-1], T, mean.size(-1))


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


def _zeros(model: GPT, site: str, T: int) -> Tensor:
    n_layer, _, *shape = recorded_shape(site, model.config, 1, T).values()
    zero = torch.zeros((), dtype=model.dtype, device=model.device)
    return zero.expand(n_layer, *shape)  # of no memory


def _mean_of(model: GPT, site: str, put: Put, *, over_tokens: bool) -> Tensor:
    """Return the mean over the clean prompts: (n_layer, ...), without T if over tokens too."""
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
            # The tokens are the next to last axis.
            total = total + (recorded.sum((0, -2)) if over_tokens else recorded.sum(0))
            count += len(recorded) * (length if over_tokens else 1)
    return (total / count).to(model.dtype)


def _recorded(model: GPT, prompts: Sequence[Sequence[int]], site: str) -> Tensor:
    """Return a site's activation of prompts of one length: (B, n_layer, ...)."""
    kept: list[Tensor] = []

    def tap(layer: int, at: str, x: Tensor) -> Tensor:
        if at == site:
            kept.append(x)
        return x

    model.stream(torch.tensor(prompts, device=model.device), tap)
    return torch.stack(kept, dim=1)
