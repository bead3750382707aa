"""Compute the values that are put in, in place of the source run's: zeros, means, another run's.

A value is a tensor of a site's activation in every layer: (n_layer, T, C), at the sites of
heads (n_layer, nh or nkv, T, hs), of the pattern (n_layer, nh, T, T).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mingpt.model import GPT
from mingpt.sites import HEAD_SITES, Patch, recorded_shape
from patching.errors import SweepError, named
from patching.prompts import PromptPair
from patching.sweep.put import Key, Put

TOKENS_AT_ONCE = 1024  # of the prompts that run together


@dataclass(frozen=True)
class Noise:
    """One draw of the noise that a corrupt run gets on its embeddings."""

    positions: tuple[int, ...]  # (n,) sorted
    rows: Tensor  # (n, C) what is added


@dataclass(frozen=True)
class Values:
    """The activations put into one pair's base run, and the noise that its corrupt run gets."""

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
        self._choices: dict[int, list[PromptPair]] = {}  # tokens -> pairs, each clean prompt once
        self._place: dict[tuple[int, ...], int] = {}  # clean ids -> their place among the choices
        self._keys = {pair.clean_ids: keys for pair, keys in zip(put.pairs, put.keys, strict=False)}
        for pair in put.pairs:
            if pair.clean_ids not in self._place:
                choices = self._choices.setdefault(len(pair), [])
                self._place[pair.clean_ids] = len(choices)
                choices.append(pair)

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
                elif self.put.what == "mean" and self.put.per == "role":
                    self._keys_of(pair)
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

    def _keys_of(self, pair: PromptPair) -> tuple[Key, ...]:
        """Return the key of each position of a pair, for a mean per role.

        Raises:
            SweepError: the pair is not among those of the mean.
        """
        if pair.clean_ids not in self._keys:
            raise SweepError("a mean per role is over the study's own pairs, and this is another")
        return self._keys[pair.clean_ids]

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
        choices = self._choices.get(len(pair), [])
        # The corrupt prompt, too: it is the base run's in denoise, and mirrored pairs hold it.
        both = {pair.clean_ids, pair.corrupt_ids}
        own = sorted(self._place[ids] for ids in both if ids in self._place)
        if len(own) == len(choices):
            prompts = "prompts" if pair.has_corrupt else "prompt"
            raise SweepError(
                f"there is no other clean prompt of {len(pair)} tokens to put in than the pair's"
                f" own {prompts}: resample from pairs with more prompts of that length"
            )
        # By the pair itself, so that the choice is the same in whatever batch it runs.
        generator = np.random.default_rng([self.put.seed, *pair.clean_ids])
        n = int(generator.integers(len(choices) - len(own)))
        for place in own:  # the pair's own prompts are passed over
            n += n >= place
        return choices[n]

    def bytes_at_least(self, pairs: Sequence[PromptPair], site: str) -> tuple[int, int]:
        """Return the bytes of the values of pairs, and those that computing them takes at least.

        Nothing is computed. The engine keeps values of heads in its own order beside these.
        """
        if self.put.what in ("recorded", "zero"):
            return 0, 0
        model, is_mean = self.model, self.put.what == "mean"
        over_tokens = is_mean and self.put.per == "all"
        is_shared = is_mean and self.put.per != "role"
        of = pairs[:1] if is_shared else pairs if is_mean else self._drawn(pairs)
        lengths = [len(one) for one in of]
        numbers = sum(_numbers(model, site, T, over_tokens=over_tokens) for T in lengths)
        copies = 2 if site in HEAD_SITES and site != "pattern" and not over_tokens else 1
        held = numbers * model.dtype.itemsize
        computing = numbers * _wide(model).itemsize if is_mean else held
        longest = max(map(len, self.put.pairs)) if is_mean else max(lengths)
        return copies * held, computing + _bytes_of_run(model, longest)

    @torch.no_grad()
    def of(
        self, pairs: Sequence[PromptPair], site: str, allowed: int | None = None
    ) -> list[Values]:
        """Return what is put into each pair's base run; `check` has checked the pairs.

        Args:
            allowed: bytes that the runs of prompts may take together; a single one may take more.
        """
        put = self.put
        if put.is_recorded:
            return [Values(None)] * len(pairs)
        if put.what == "resample":
            return self._of_others(pairs, site, allowed)
        if put.what == "zero":
            return [Values(self._once(site, len(pair), _zeros)) for pair in pairs]
        said = {"prompts": len(put.pairs), "per": put.per, "checksum": self._checksum}
        if put.per == "role":
            return [Values(self._of_roles(pair, site, allowed), said=said) for pair in pairs]
        make = partial(self._mean, allowed=allowed)
        return [Values(self._once(site, len(pair), make), said=said) for pair in pairs]

    def _once(self, site: str, T: int, make: Callable[[GPT, str, int], Tensor]) -> Tensor:
        if (site, T) not in self._shared:
            self._shared[site, T] = make(self.model, site, T)
        return self._shared[site, T]

    def _drawn(self, pairs: Sequence[PromptPair]) -> list[PromptPair]:
        """Return the pairs whose clean runs are put in, each once."""
        return list({one.clean_ids: one for one in map(self.another, pairs)}.values())

    def _of_others(
        self, pairs: Sequence[PromptPair], site: str, allowed: int | None
    ) -> list[Values]:
        """Return another prompt's activation for each pair; equal draws share the tensor."""
        others = [one.clean_ids for one in self._drawn(pairs)]
        drawn: dict[tuple[int, ...], Tensor] = {}
        for prompts in _batches(self.model, others, allowed):
            drawn.update(zip(prompts, _recorded(self.model, prompts, site), strict=True))
        found = []
        for other in map(self.another, pairs):
            said = {"prompt": other.clean_text, "seed": self.put.seed}
            found.append(Values(drawn[other.clean_ids], said=said))
        return found

    def _of_roles(self, pair: PromptPair, site: str, allowed: int | None) -> Tensor:
        """Return the mean of each position's role (n_layer, ..., T, size)."""
        place = {key: number for number, key in enumerate(self._every_key)}
        means = self._once(
            site, 0, lambda model, site, _: _mean_of_keys(model, site, self.put, place, allowed)
        )
        at = [place[key] for key in self._keys_of(pair)]
        return means.index_select(-2, torch.tensor(at, device=means.device))

    @cached_property
    def _every_key(self) -> list[Key]:
        """The keys that occur, each once."""
        return list(dict.fromkeys(key for keys in self.put.keys for key in keys))

    def _mean(self, model: GPT, site: str, T: int, allowed: int | None = None) -> Tensor:
        """Return the mean over the clean prompts, for a pair of T tokens."""
        prompts = [one.clean_ids for one in self.put.pairs]
        if self.put.per == "position":
            return _mean_of(model, site, prompts, allowed, over_tokens=False)
        mean = self._once(
            site,
            0,
            lambda model, site, _: _mean_of(model, site, prompts, allowed, over_tokens=True),
        )
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


def _mean_of(
    model: GPT,
    site: str,
    prompts: Sequence[tuple[int, ...]],
    allowed: int | None,
    *,
    over_tokens: bool,
) -> Tensor:
    """Return the mean over prompts: (n_layer, ...), without T if over tokens too.

    Each layer's sum is one tensor of the mean's shape: no recording is kept.
    """
    T = len(prompts[0])  # of all, unless over tokens
    n_layer, _, *shape = recorded_shape(site, model.config, 1, T).values()
    if over_tokens:
        shape.pop(-2)
    wide = _wide(model)
    sums = [torch.zeros(shape, dtype=wide, device=model.device) for _ in range(n_layer)]
    axes = (0, -2) if over_tokens else (0,)  # the tokens are the next to last axis

    def tap(layer: int, at: str, x: Tensor) -> Tensor:
        if at == site:
            sums[layer] += x.sum(axes, dtype=wide)
        return x

    if allowed is not None:
        allowed -= n_layer * sums[0].nbytes
    for some in _batches(model, prompts, allowed):
        model.stream(torch.tensor(some, device=model.device), tap)
    count = sum(map(len, prompts)) if over_tokens else len(prompts)
    # Each sum is freed as its mean is made.
    return torch.stack([(sums.pop(0) / count).to(model.dtype) for _ in range(n_layer)])


def _mean_of_keys(
    model: GPT, site: str, put: Put, place: dict[Key, int], allowed: int | None
) -> Tensor:
    """Return the mean of each key over the prompts that have it: (n_layer, ..., keys, size).

    Args:
        place: the number of each key.

    Example:
        of two prompts with the keys (start, IO) and (start, start+1, IO), the mean of IO is that
        of the first one's position 1 and the second one's position 2.
    """
    n_layer, _, *shape = recorded_shape(site, model.config, 1, len(place)).values()
    wide, device = _wide(model), model.device
    sums = [torch.zeros(shape, dtype=wide, device=device) for _ in range(n_layer)]
    counts = torch.zeros(len(place), dtype=wide, device=device)
    alike: dict[tuple[Key, ...], list[tuple[int, ...]]] = {}  # prompts whose keys are the same
    for pair, keys in zip(put.pairs, put.keys, strict=True):
        alike.setdefault(keys, []).append(pair.clean_ids)
    for keys, prompts in alike.items():
        at = torch.tensor([place[key] for key in keys], device=device)  # (T,)

        def tap(layer: int, name: str, x: Tensor, at: Tensor = at) -> Tensor:
            if name == site:
                sums[layer].index_add_(-2, at, x.sum(0, dtype=wide))
            return x

        counts.index_add_(0, at, torch.full((len(at),), len(prompts), dtype=wide, device=device))
        for some in _batches(model, prompts, allowed):
            model.stream(torch.tensor(some, device=device), tap)
    return torch.stack([(one / counts[:, None]).to(model.dtype) for one in sums])


def _batches(
    model: GPT, prompts: Sequence[tuple[int, ...]], allowed: int | None
) -> Iterator[list[tuple[int, ...]]]:
    """Yield prompts of one length that run together: TOKENS_AT_ONCE at most, within `allowed`."""
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for one in prompts:
        by_length.setdefault(len(one), []).append(one)
    for length, some in by_length.items():
        at_once = TOKENS_AT_ONCE // length
        if allowed is not None:
            at_once = min(at_once, allowed // _bytes_of_run(model, length))
        for first in range(0, len(some), max(1, at_once)):
            yield some[first : first + max(1, at_once)]


def _recorded(model: GPT, prompts: Sequence[Sequence[int]], site: str) -> Tensor:
    """Return a site's activation of prompts of one length: (B, n_layer, ...)."""
    shape = recorded_shape(site, model.config, len(prompts), len(prompts[0]))
    n_layer, B, *rest = shape.values()
    recorded = torch.empty((B, n_layer, *rest), dtype=model.dtype, device=model.device)

    def tap(layer: int, at: str, x: Tensor) -> Tensor:
        if at == site:
            recorded[:, layer] = x
        return x

    model.stream(torch.tensor(prompts, device=model.device), tap)
    return recorded


def _wide(model: GPT) -> torch.dtype:
    """Return the dtype of a sum of many rounded numbers: float64 where the device has it."""
    return torch.float32 if model.device.type == "mps" else torch.float64


def _numbers(model: GPT, site: str, T: int, *, over_tokens: bool) -> int:
    """Return how many numbers a value of T tokens has; over tokens, of one token."""
    axes = recorded_shape(site, model.config, 1, T)
    return math.prod(axes.values()) // (T if over_tokens else 1)


def _bytes_of_run(model: GPT, T: int) -> int:
    """Return the bytes that the run of one prompt of T tokens takes in a block, about."""
    config = model.config
    attention = 8 * config.n_embd + 3 * config.n_head * T
    mlp = 2 * config.inner_size + 3 * config.n_embd
    # The sum of a mean may take the site's activation to float64 first.
    widened = 2 * max(config.n_embd, config.n_head * T)
    return model.dtype.itemsize * T * (attention + mlp + widened)
