"""The places in a forward pass that can be recorded and patched, and how to name one.

A block computes, in this order (x enters it, row by row of the table below):

    x -> ln_1 -> q, k, v -> pattern -> z -> attn_out; x + attn_out
      -> ln_2 -> mlp_out; x + attn_out + mlp_out

The names are the field's (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"; Nanda's TransformerLens). At every site the next to last
axis is the position and, where there are heads, the one before it the head. Of k
and v there are nkv = n_kv_head heads, each read by n_head / n_kv_head of the others.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mingpt.checks import from_the_end
from mingpt.errors import PatchError

if TYPE_CHECKING:
    from torch import Tensor

    from mingpt.config import GPTConfig

# Site -> what it is; the shapes are of one layer.
RESIDUAL_SITES = {
    "resid_pre": "the residual stream entering the block (B, T, C)",
    "resid_mid": "the residual stream between attention and MLP (B, T, C)",
    "resid_post": "the residual stream leaving the block (B, T, C)",
    "attn_out": "what attention adds to the stream (B, T, C)",
    "mlp_out": "what the MLP adds to the stream (B, T, C)",
}
HEAD_SITES = {
    "z": "each head's output, before c_proj mixes the heads (B, nh, T, hs)",
    "q": "each head's queries (B, nh, T, hs)",
    "k": "each head's keys (B, nkv, T, hs)",
    "v": "each head's values (B, nkv, T, hs)",
    "pattern": "each head's attention weights: query position x key position (B, nh, T, T)",
}
SITES = {**RESIDUAL_SITES, **HEAD_SITES}
SHARED_SITES = ("k", "v")  # of which there can be fewer heads than of the others
DEFAULT_SITE = "resid_post"


@dataclass(frozen=True)
class Patch:
    """Which recorded activation replaces the one that a forward pass computes.

    Negative numbers count from the end.
    """

    site: str  # a name in SITES
    layer: int
    position: int | None = None  # None: every position; of `pattern`, the query's
    head: int | None = None  # None: every head, and the only choice where there are none


@dataclass(frozen=True)
class ResolvedPatch:
    """A patch that has been checked: where it writes, and what."""

    site: str
    layer: int
    where: tuple[int | slice, ...]  # index into the activation of one layer
    value: Tensor


def sites_to_record(record: bool | str | Iterable[str]) -> tuple[str, ...]:
    """The sites that `record` asks for, in SITES' order: True is resid_post, False none.

    Raises:
        PatchError: no such site.
    """
    if isinstance(record, bool):
        return (DEFAULT_SITE,) if record else ()
    names = [record] if isinstance(record, str) else [*record]
    for name in names:
        check_site(name)
    return tuple(site for site in SITES if site in names)


def check_site(name: str) -> None:
    """Raises PatchError unless there is a site of that name."""
    if name not in SITES:
        raise PatchError(f"no site {name!r}; there are {', '.join(SITES)}")


def recorded_shape(site: str, config: GPTConfig, B: int, T: int) -> dict[str, int]:
    """The recording's axes of a site, each with its name and length, in order."""
    axes = {"n_layer": config.n_layer, "B": B}
    if site in RESIDUAL_SITES:
        return axes | {"T": T, "C": config.n_embd}
    heads = heads_at(site, config)
    axes |= {"nh" if heads == config.n_head else "nkv": heads, "T": T}
    return axes | ({"keys": T} if site == "pattern" else {"hs": config.n_embd // config.n_head})


def heads_at(site: str, config: GPTConfig) -> int:
    """How many heads a site of HEAD_SITES has."""
    return config.kv_heads if site in SHARED_SITES else config.n_head


def as_patches(patch: tuple[int, int] | Patch | Iterable[Patch]) -> list[Patch]:
    """A pair (layer, position) is one of resid_post; several patches are a list.

    Raises:
        PatchError: it is none of these.
    """
    if isinstance(patch, Patch):
        return [patch]
    try:
        parts = list(patch)
        if parts and all(isinstance(part, Patch) for part in parts):
            return parts
        layer, position = map(operator.index, parts)
    except (TypeError, ValueError):
        raise PatchError(
            f"a patch is (layer, position), a Patch, or a list of them, not {patch!r}"
        ) from None
    return [Patch(DEFAULT_SITE, layer, position)]


def resolve_patch(patch: Patch, recorded: Tensor) -> ResolvedPatch:
    """Check a patch against the recording of its site and take its value from there.

    Args:
        recorded: (n_layer, B, T, C) or (n_layer, B, nh, T, ...).

    Raises:
        PatchError: a layer, head or position out of range.
    """
    layer = _index("layer", patch.layer, recorded.size(0))
    where: tuple[int | slice, ...] = (slice(None),)
    if patch.site in HEAD_SITES:
        where += (_one_or_all("head", patch.head, recorded.size(2)),)
    elif patch.head is not None:
        raise PatchError(f"{patch.site} has no heads, so none can be patched alone")
    where += (_one_or_all("position", patch.position, recorded.size(-2)),)
    where += (slice(recorded.size(-1)),)  # a longer run has longer rows of `pattern`
    return ResolvedPatch(patch.site, layer, where, recorded[(layer, *where)].clone())


def _one_or_all(what: str, number: int | None, size: int) -> int | slice:
    return slice(size) if number is None else _index(what, number, size)


def _index(what: str, number: int, size: int) -> int:
    try:
        return from_the_end(what, operator.index(number), size, PatchError)
    except TypeError:
        raise PatchError(f"a patch's {what} is a whole number, not {number!r}") from None


class Taps:
    """What one forward pass records and replaces.

    The pass hands every site's activation to `tap`, and goes on with what it
    gets back. One mechanism for all sites: a site is a name, not a flag.
    """

    def __init__(self, record: Iterable[str] = (), patches: Iterable[ResolvedPatch] = ()) -> None:
        self._patches: dict[tuple[str, int], list[ResolvedPatch]] = {}
        for patch in patches:
            self._patches.setdefault((patch.site, patch.layer), []).append(patch)
        self.recorded: dict[str, list[Tensor]] = {site: [] for site in record}

    def tap(self, layer: int, site: str, x: Tensor) -> Tensor:
        """`x`, or a patched copy of it; a copy is kept if the site is recorded."""
        for patch in self._patches.get((site, layer), ()):
            x = x.clone()  # never in place: a hook may hold it, and autograd needs it
            x[patch.where] = patch.value
        if site in self.recorded:
            self.recorded[site].append(x.detach().clone())
        return x
