"""What a sweep patches, cell by cell. Checked against the model's shape; no tensor is touched."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from mingpt.checks import from_the_end
from mingpt.config import GPTConfig
from mingpt.sites import DEFAULT_SITE, HEAD_SITES, SITES, Patch, heads_at
from patching.errors import SweepError

# Causal tracing (Meng et al. 2022, arXiv 2202.05262, section 2.2) restores what a
# block writes over several blocks at once. The stream itself needs no window: what
# is put back once stays, unless a later block overwrites it.
WINDOW_SITES = ("attn_out", "mlp_out")
# Direction -> (the run that is patched, the run whose activations are put in), as
# Heimersheim & Nanda 2024, arXiv 2404.15255, name them.
DIRECTIONS = {"denoise": ("corrupt", "clean"), "noise": ("clean", "corrupt")}
# The engine, or the definition: the same numbers. Or an approximation to first order.
METHODS = ("fast", "loop", "attribution")


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the result: which activation is replaced to get it."""

    index: tuple[int, ...]  # into the grid of values
    layer: int
    head: int | None  # None at a site without heads
    position: int | None  # None: every position at once


@dataclass(frozen=True)
class Request:
    """What a sweep is asked for, apart from model and prompts. Indices may be negative."""

    site: str = DEFAULT_SITE
    direction: str = "denoise"
    by_position: bool = False  # heads: each position alone, instead of all at once
    window: int = 1  # layers patched together
    layers: Sequence[int] | None = None  # None: all
    heads: Sequence[int] | None = None
    positions: Sequence[int] | None = None
    method: str = "fast"

    def check(self) -> None:
        """Everything that can be checked without a model.

        Raises:
            SweepError: an unknown site, or settings that do not fit the site.
        """
        if self.site not in SITES:
            raise SweepError(f"no site {self.site!r}; there are {', '.join(SITES)}")
        if self.direction not in DIRECTIONS:
            raise SweepError(f"no direction {self.direction!r}; there are {', '.join(DIRECTIONS)}")
        if self.method not in METHODS:
            raise SweepError(f"no method {self.method!r}; there are {', '.join(METHODS)}")
        if self.site not in HEAD_SITES:
            if self.by_position:
                raise SweepError(f"{self.site} is always swept by position; by_position is"
                                 f" for {', '.join(HEAD_SITES)}")  # fmt: skip
            if self.heads is not None:
                raise SweepError(f"{self.site} has no heads to choose")
        elif self.positions is not None and not self.by_position:
            raise SweepError(
                f"positions of {self.site} can be chosen only where it is swept by position"
            )
        if not isinstance(self.window, numbers.Integral) or self.window < 1:
            raise SweepError(f"a window is at least 1 layer, not {self.window!r}")
        if self.window > 1 and self.site not in WINDOW_SITES:
            raise SweepError(f"a window is for {' and '.join(WINDOW_SITES)}, not for {self.site}")

    def grid(self, config: GPTConfig, T: int) -> Grid:
        """The cells for prompts of T tokens.

        Raises:
            SweepError: as `check`; or layers, heads or positions that are not there.
        """
        self.check()
        has_heads = self.site in HEAD_SITES
        axes = {"layer": indices("layer", self.layers, config.n_layer)}
        sizes = {"layer": config.n_layer}
        if has_heads:
            sizes["head"] = heads_at(self.site, config)
            axes["head"] = indices("head", self.heads, sizes["head"])
        if not has_heads or self.by_position:
            axes["position"] = indices("position", self.positions, T)
            sizes["position"] = T
        return Grid(self.site, self.window, T, axes, sizes)


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep over one pair of prompts."""

    site: str
    window: int
    T: int
    axes: dict[str, list[int]]  # what is patched, by axis of the values, in their order
    sizes: dict[str, int]  # the same axes -> their lengths in the model

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values: (n_layer, T), (n_layer, heads) or (n_layer, heads, T)."""
        return tuple(self.sizes.values())

    def cells(self) -> Iterator[Cell]:
        """Every cell that is asked for, in the order of the values."""
        for index in product(*self.axes.values()):
            at = dict(zip(self.axes, index, strict=True))
            yield Cell(index, at["layer"], at.get("head"), at.get("position"))

    def layers_of(self, cell: Cell) -> range:
        """The layers that are patched together for a cell."""
        return self.window_of(cell.layer)

    def window_of(self, layer: int) -> range:
        """A layer, or a window around it, cut at the ends."""
        first = layer - self.window // 2
        return range(max(first, 0), min(first + self.window, self.sizes["layer"]))

    def patches(self, cell: Cell) -> list[Patch]:
        """The cell's patches, for GPT.forward."""
        return [Patch(self.site, layer, cell.position, cell.head) for layer in self.layers_of(cell)]


def indices(what: str, chosen: Sequence[int] | None, size: int) -> list[int]:
    """`chosen`, sorted, once each, counted from 0; every index where it is None.

    Raises:
        SweepError: not whole numbers, out of range, or none at all.
    """
    if chosen is None:
        return list(range(size))
    try:
        given = [operator.index(number) for number in chosen]
    except TypeError:
        raise SweepError(f"{what}s must be whole numbers, not {chosen!r}") from None
    if not given:
        raise SweepError(f"no {what}s to patch")
    return sorted({from_the_end(what, number, size, SweepError) for number in given})
