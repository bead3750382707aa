"""The places in a forward pass that can be recorded and patched, and the tap that does both.

A block computes, in this order:

    resid_pre -> ln_1 -> q, k, v -> pattern -> z -> attn_out
    resid_mid = resid_pre + attn_out -> ln_2 -> mlp_out
    resid_post = resid_mid + mlp_out

The names are the field's (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"; Nanda's TransformerLens). At every site the next to last
axis is the position. At the sites of attention heads the axis before it is the
head. k and v have nkv = n_kv_head heads, each read by n_head / n_kv_head query
heads; the other head sites have nh = n_head.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mingpt.checks import from_the_end
from mingpt.errors import PatchError

if TYPE_CHECKING:
    from torch import Tensor

    from mingpt.config import GPTConfig

Tap = Callable[[str, "Tensor"], "Tensor"]  # (site, activation) -> the activation that replaces it
LayerTap = Callable[[int, str, "Tensor"], "Tensor"]  # (layer, site, activation)

# Site -> description, with the shape in one layer.
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
SHARED_SITES = ("k", "v")  # their heads can be fewer than the query heads that read them
DEFAULT_SITE = "resid_post"


@dataclass(frozen=True)
class Patch:
    """One activation to replace in a forward pass, and the value that replaces it.

    Negative numbers count from the end.
    """

    site: str  # a name in SITES
    layer: int
    position: int | None = None  # None: every position; of `pattern`, the query's
    head: int | None = None  # None: every head, and the only choice where there are none
    # The value to put in, in the model's dtype, on its device, of a shape that broadcasts to
    # the part that is replaced: (B, C) for one position of a residual site, (B, hs) for one
    # position of one head, (B, T, C) for a whole layer. None: the recorded activation.
    value: Tensor | None = None

    def __eq__(self, other: object) -> bool:
        """Compare the fields; two values are equal only if they are the same tensor."""
        if not isinstance(other, Patch):
            return NotImplemented
        ours = (self.site, self.layer, self.position, self.head)
        theirs = (other.site, other.layer, other.position, other.head)
        return ours == theirs and self.value is other.value


PatchLike = tuple[int, int] | Patch | Iterable[Patch]  # the pair: (layer, position)


@dataclass(frozen=True)
class ResolvedPatch:
    """A patch that has been checked: the place it writes to, and the value."""

    site: str
    layer: int
    where: tuple[int | slice, ...]  # index into the activation of one layer
    value: Tensor


# --------------------------------------------------------------------- the request


def sites_to_record(record: bool | str | Iterable[str]) -> tuple[str, ...]:
    """Return the sites that `record` names, in the order of SITES.

    True stands for resid_post, False for no site.

    Raises:
        PatchError: no such site.
    """
    if isinstance(record, bool):
        return (DEFAULT_SITE,) if record else ()
    names = [record] if isinstance(record, str) else list(record)
    for name in names:
        check_site(name)
    return tuple(site for site in SITES if site in names)


def check_site(name: str) -> None:
    """Raise PatchError unless there is a site of that name."""
    if name not in SITES:
        raise PatchError(f"no site {name!r}; there are {', '.join(SITES)}")


def recorded_shape(site: str, config: GPTConfig, B: int, T: int) -> dict[str, int]:
    """Return the axes of a site's recording in order, each name with its length.

    Example:
        recorded_shape("z", GPTConfig(), 1, 11)
        # {"n_layer": 12, "B": 1, "nh": 12, "T": 11, "hs": 64}
    """
    axes = {"n_layer": config.n_layer, "B": B}
    if site in RESIDUAL_SITES:
        return axes | {"T": T, "C": config.n_embd}
    heads = heads_at(site, config)
    axes |= {"nh" if heads == config.n_head else "nkv": heads, "T": T}
    return axes | ({"keys": T} if site == "pattern" else {"hs": config.head_size})


def heads_at(site: str, config: GPTConfig) -> int:
    """Return how many heads a site of HEAD_SITES has."""
    return config.kv_heads if site in SHARED_SITES else config.n_head


def as_patches(patch: PatchLike) -> list[Patch]:
    """Return the patches as a list; a pair (layer, position) is a patch of resid_post.

    An empty list patches nothing.

    Raises:
        PatchError: `patch` is not a pair, a Patch or several Patches.
    """
    if isinstance(patch, Patch):
        return [patch]
    try:
        parts = list(patch)
        if all(isinstance(part, Patch) for part in parts):
            return [part for part in parts if isinstance(part, Patch)]
        layer, position = map(operator.index, parts)  # type: ignore[arg-type]  # or TypeError
    except (TypeError, ValueError):
        raise PatchError(
            f"a patch is (layer, position), a Patch, or a list of them, not {patch!r}"
        ) from None
    return [Patch(DEFAULT_SITE, layer, position)]


# --------------------------------------------------------------------- checked and resolved


def resolve_patches(
    patch: PatchLike,
    recording: Mapping[str, Tensor],
    config: GPTConfig,
    idx: Tensor,
    weight: Tensor,
) -> list[ResolvedPatch]:
    """Check patches against a run of `idx`, and copy their values from the recording.

    Args:
        recording: site -> (n_layer, B, ...), as GPT.recording.
        idx: token ids (B, T) of the run that is to be patched.
        weight: a parameter of the model, for its dtype and device.

    Raises:
        PatchError: an unknown site; a layer, head or position out of range; no
            recording of the site, or one of another shape, dtype or device; a
            value that does not broadcast, or of another dtype or device.
    """
    resolved = []
    for one in as_patches(patch):
        check_site(one.site)
        axes = recorded_shape(one.site, config, *idx.shape)
        if one.value is None:
            recorded = _recorded(one.site, recording, axes, weight)
            layer, where = _place(one, tuple(axes.values()))
            value = recorded[(layer, *where)].clone()
        else:
            layer, where = _place(one, tuple(axes.values()))
            value = _own_value(one.value, where, axes, weight)
        resolved.append(ResolvedPatch(one.site, layer, where, value))
    return resolved


def _recorded(
    site: str, recording: Mapping[str, Tensor], axes: Mapping[str, int], weight: Tensor
) -> Tensor:
    """Return the recording of a site, after checking that it fits the run and the model."""
    if not recording:
        raise PatchError("nothing is recorded: run a forward with record=True first")
    if site not in recording:
        raise PatchError(
            f"{site} is not recorded, only {', '.join(recording)}:"
            f" run a forward with record={site!r} first"
        )
    recorded = recording[site]
    if tuple(recorded.shape) != tuple(axes.values()):
        raise PatchError(
            f"the recording has another shape ({', '.join(axes)}):"
            f" recorded {tuple(recorded.shape)}, this run {tuple(axes.values())}"
        )
    _check_kind("the recording", recorded, weight, "record again")
    return recorded


def _own_value(
    value: Tensor, where: tuple[int | slice, ...], axes: Mapping[str, int], weight: Tensor
) -> Tensor:
    """Return a copy of a patch's own value, after checking that it fits the part it replaces."""
    if not hasattr(value, "detach"):
        raise PatchError(f"a patch's value is a tensor, not {value!r:.80}")
    _check_kind("the patch's value", value, weight, "convert it with .to()")
    one_layer = list(axes.items())[1:]
    # An index drops its axis: of (B, nh, T, hs), one head at one position is (B, hs).
    part = [axis for axis, at in zip(one_layer, where, strict=True) if isinstance(at, slice)]
    wanted = tuple(size for _, size in part)
    lengths = (1,) * (len(wanted) - value.dim()) + tuple(value.shape)
    if len(lengths) != len(wanted) or any(
        length not in (1, size) for length, size in zip(lengths, wanted, strict=True)
    ):
        raise PatchError(
            f"the patch's value is {tuple(value.shape)}, which does not broadcast to"
            f" ({', '.join(name for name, _ in part)}) = {wanted}"
        )
    return value.detach().clone()


def _check_kind(what: str, given: Tensor, weight: Tensor, remedy: str) -> None:
    """Raise PatchError unless `given` has the model's dtype and lies on its device."""
    if (given.dtype, given.device) != (weight.dtype, weight.device):
        raise PatchError(
            f"{what} is {given.dtype} on {given.device},"
            f" the model is {weight.dtype} on {weight.device}: {remedy}"
        )


def _place(patch: Patch, shape: tuple[int, ...]) -> tuple[int, tuple[int | slice, ...]]:
    """Return the layer, and the index into one layer's activation of `shape`[1:].

    Example:
        _place(Patch("z", 3, position=-1, head=0), (12, 1, 12, 11, 64))
        # 3, (slice(None), 0, 10, slice(64)): all B, head 0, position 10, all of hs
    """
    layer = _index("layer", patch.layer, shape[0])
    where: tuple[int | slice, ...] = (slice(None),)
    if patch.site in HEAD_SITES:
        where += (_one_or_all("head", patch.head, shape[2]),)
    elif patch.head is not None:
        raise PatchError(f"{patch.site} has no heads, so none can be patched alone")
    where += (_one_or_all("position", patch.position, shape[-2]),)
    return layer, (*where, slice(shape[-1]))  # in GPT.generate later runs have more keys


def _one_or_all(what: str, number: int | None, size: int) -> int | slice:
    return slice(size) if number is None else _index(what, number, size)


def _index(what: str, number: int, size: int) -> int:
    try:
        return from_the_end(what, operator.index(number), size, PatchError)
    except TypeError:
        raise PatchError(f"a patch's {what} is a whole number, not {number!r}") from None


# --------------------------------------------------------------------- the tap


def untouched(site: str, x: Tensor) -> Tensor:
    """Return `x`: the tap of a run that neither records nor patches."""
    return x


class Taps:
    """Records and patches the activations of one forward pass.

    The pass calls `tap` with every site's activation, and continues with the
    tensor that `tap` returns.

    Attributes:
        recorded: site -> the activation of each layer so far.
    """

    def __init__(self, record: Iterable[str] = (), patches: Iterable[ResolvedPatch] = ()) -> None:
        self._patches: dict[tuple[str, int], list[ResolvedPatch]] = {}
        for patch in patches:
            self._patches.setdefault((patch.site, patch.layer), []).append(patch)
        self.recorded: dict[str, list[Tensor]] = {site: [] for site in record}

    def tap(self, layer: int, site: str, x: Tensor) -> Tensor:
        """Return `x`, or a patched copy of it; keep a copy if the site is recorded."""
        for patch in self._patches.get((site, layer), ()):
            x = x.clone()  # not in place: hooks may keep it, and autograd needs it
            x[patch.where] = patch.value
        if site in self.recorded:
            self.recorded[site].append(x.detach().clone())
        return x
