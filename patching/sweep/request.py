"""The request for a sweep, and the grid of its cells. No tensor is touched here."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from mingpt.checks import from_the_end
from mingpt.config import GPTConfig
from mingpt.sites import DEFAULT_SITE, HEAD_SITES, SITES, Patch, heads_at
from patching.errors import SweepError
from patching.prompts import PromptPair
from patching.sweep.approximate import APPROXIMATE, only_point, parse_rules, settings_of
from patching.sweep.gaussian import Gaussian
from patching.sweep.metrics import Asked, Metric, check_alone, check_slopes, parse_metrics
from patching.sweep.put import ABLATIONS, Put, as_put

# Causal tracing (Meng et al. 2022, arXiv 2202.05262, section 2.2) restores what a
# block writes over several blocks at once. The residual stream needs no window: a
# vector that is put into it stays there, because later blocks only add to it.
WINDOW_SITES = ("attn_out", "mlp_out")
# Direction -> (the run that is patched, the run whose activations are put in), as
# Heimersheim & Nanda 2024, arXiv 2404.15255, name them.
DIRECTIONS = {"denoise": ("corrupt", "clean"), "noise": ("clean", "corrupt")}
# "fast" and "loop" give the same numbers; the others approximate them by gradients.
METHODS = ("fast", "loop", *APPROXIMATE)
ROWS = 20  # tokens in each next-token table


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the result, given by the activation that is replaced."""

    index: tuple[int, ...]  # into the grid of values
    layer: int
    head: int | None  # None at a site without heads
    position: int | None  # None: every position at once


@dataclass(frozen=True)
class Request:
    """The settings of a sweep, apart from model and prompts; checked when they are made.

    Negative layers, heads and positions count from the end.

    Raises:
        SweepError: an unknown site, direction, method or metric, or settings
            that do not fit one another.
    """

    site: str = DEFAULT_SITE
    metric: Asked | Sequence[Asked] = "logit_diff"
    direction: str = "denoise"
    by_position: bool = False  # heads: patch each position alone, instead of all at once
    window: int = 1  # layers patched together
    layers: Sequence[int] | None = None  # None: all
    heads: Sequence[int] | None = None
    positions: Sequence[int] | None = None
    method: str = "fast"
    # The patches of each cell; None: the source run's activation at `site`.
    patches: Callable[[Cell], Sequence[Patch]] | None = None
    max_memory: int | None = None  # bytes beside the model; None: half of the free memory
    tf32: bool = False  # CUDA: round float32 factors to 10 bits
    rows: int = ROWS  # tokens in each next-token table
    next_tokens: int = 0  # of the likeliest next tokens, how many are kept of each cell's run
    put: str | Put = "recorded"  # what is put in: a name in PUTS, or a Put
    relp_rules: str | Sequence[str] | None = None  # of method relp; None: its default rules
    steps: int | None = None  # of method attribution-ig; None: its default number
    corrupt_by: Gaussian | None = None  # noise in place of a corrupt prompt

    def __post_init__(self) -> None:
        for name in ("metric", "layers", "heads", "positions"):
            value: Any = getattr(self, name)
            # Kept as a tuple, because a generator can be read only once.
            if isinstance(value, Iterable) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        self._check_site()
        self._check_method()
        if self.max_memory is not None and not _is_count(self.max_memory):
            raise SweepError(f"max_memory is a number of bytes, not {self.max_memory!r}")
        if not _is_count(self.rows):
            raise SweepError(f"rows is a number of tokens, at least 1, not {self.rows!r}")
        if self.next_tokens != 0 and not _is_count(self.next_tokens):
            raise SweepError(f"next_tokens is a number of tokens, not {self.next_tokens!r}")
        if self.next_tokens and self.is_approximate:
            raise SweepError(f"{self.method} runs no cell, so next_tokens cannot be read off one")
        for name in (
            "window",
            "max_memory",
            "rows",
            "next_tokens",
            "steps",
        ):  # JSON has no NumPy integers
            if (count := getattr(self, name)) is not None:
                object.__setattr__(self, name, int(count))

    @property
    def put_in(self) -> Put:
        """The thing put in, as a Put."""
        return as_put(self.put)

    @property
    def is_approximate(self) -> bool:
        """True if the method estimates by gradients, and patches no run."""
        return self.method in APPROXIMATE

    @property
    def rules(self) -> tuple[str, ...] | None:
        """RelP's rules in the order of RELP_RULES; None for another method."""
        return None if self.relp_rules is None else parse_rules(self.relp_rules)

    @property
    def metrics(self) -> list[Metric]:
        """The metrics, in the order of the request."""
        return parse_metrics(self.metric)

    def _check_site(self) -> None:
        if self.site not in SITES:
            raise SweepError(f"no site {self.site!r}; there are {', '.join(SITES)}")
        if self.direction not in DIRECTIONS:
            raise SweepError(f"no direction {self.direction!r}; there are {', '.join(DIRECTIONS)}")
        if self.site not in HEAD_SITES:
            if self.by_position:
                raise SweepError(
                    f"{self.site} is always swept by position; by_position is for"
                    f" {', '.join(HEAD_SITES)}"
                )
            if self.heads is not None:
                raise SweepError(f"{self.site} has no heads to choose")
        elif self.positions is not None and not self.by_position:
            raise SweepError(
                f"positions of {self.site} can be chosen only where it is swept by position"
            )
        if not _is_count(self.window):
            raise SweepError(f"a window is at least 1 layer, not {self.window!r}")
        if self.window > 1 and self.site not in WINDOW_SITES:
            raise SweepError(f"a window is for {' and '.join(WINDOW_SITES)}, not for {self.site}")

    def _check_method(self) -> None:
        if self.method not in METHODS:
            raise SweepError(f"no method {self.method!r}; there are {', '.join(METHODS)}")
        self._check_put()
        self._check_noise()
        if self.steps is not None and not _is_count(self.steps):
            raise SweepError(f"steps is a whole number of at least 1, not {self.steps!r:.80}")
        rules, steps = settings_of(self.method, self.site, self.relp_rules, self.steps)
        object.__setattr__(self, "relp_rules", rules)
        object.__setattr__(self, "steps", steps)
        if self.is_approximate:
            only = only_point(self.method, *DIRECTIONS[self.direction], steps)
            check_slopes(self.metrics, self.method, only)
        else:
            parse_metrics(self.metric)
        if self.patches is None:
            return
        if not callable(self.patches):
            raise SweepError(
                f"patches is a function from a cell to a list of patches, not {self.patches!r}"
            )
        if self.method != "loop":
            raise SweepError(
                f"patches of your own are for method='loop', not for {self.method!r}:"
                " pass method='loop'"
            )
        if self.window > 1:
            raise SweepError("patches of your own say which layers they patch: leave window at 1")

    def _check_noise(self) -> None:
        if self.corrupt_by is None:
            return
        if not isinstance(self.corrupt_by, Gaussian):
            raise SweepError(f"corrupt_by is gaussian(...), not {self.corrupt_by!r:.80}")
        if self.is_approximate:
            raise SweepError(f"noise is for the methods fast and loop, not {self.method}")
        if not self.put_in.is_recorded or self.patches is not None:
            raise SweepError("noise is for activations that were recorded: leave put at recorded")
        if self.next_tokens:
            raise SweepError(
                "with noise a cell is a mean over draws, so no one run says what comes next:"
                " leave next_tokens at 0"
            )

    def _check_put(self) -> None:
        put = self.put_in
        if not put.is_recorded and self.is_approximate:
            raise SweepError(
                f"{ABLATIONS[put.what].lower()} is for the methods fast and loop, not"
                f" {self.method}, which estimates the effect of recorded activations"
            )
        if not put.is_recorded and self.patches is not None:
            raise SweepError("patches of your own say what is put in: leave put at recorded")
        if put.what == "mean" and put.per != "position" and self.site == "pattern":
            raise SweepError(
                "a pattern has no mean over all positions or per role, because each position has"
                " other keys: take the mean per position"
            )

    def check_runs(self, pair: PromptPair) -> None:
        """Raise SweepError if the pair has no corrupt prompt, and its run is needed."""
        if self.corrupt_by is not None:
            if pair.has_corrupt:
                raise SweepError("noise takes the place of a corrupt prompt: give one of the two")
            if self.corrupt_by.positions[-1] >= len(pair):
                raise SweepError(
                    f"the subject has a token at position {self.corrupt_by.positions[-1]}, and the"
                    f" prompt has {len(pair)} tokens"
                )
            return
        if not pair.has_corrupt:
            self.check_alone()

    def check_alone(self) -> None:
        """Raise SweepError if the request needs the run of a corrupt prompt, and there is none."""
        if self.patches is None and self.put_in.is_recorded:
            raise SweepError(
                "the pair has no corrupt prompt, so nothing is recorded to be put in: put in zeros,"
                " a mean or another prompt's activation"
            )
        if self.direction != "noise":
            raise SweepError(
                "the pair has no corrupt prompt, so the clean run is the one that is patched:"
                " that is direction noise (--direction noise), or give a corrupt prompt"
            )
        check_alone(self.metrics)

    def grid(self, config: GPTConfig, T: int) -> Grid:
        """Return the cells for prompts of T tokens.

        Raises:
            SweepError: a layer, head or position that is not there.
        """
        has_heads = self.site in HEAD_SITES
        axes = {"layer": indices("layer", self.layers, config.n_layer)}
        sizes = {"layer": config.n_layer}
        if has_heads:
            sizes["head"] = heads_at(self.site, config)
            axes["head"] = indices("head", self.heads, sizes["head"])
        if not has_heads or self.by_position:
            axes["position"] = indices("position", self.positions, T)
            sizes["position"] = T
        return Grid(self.site, self.window, T, axes, sizes, self.put_in.what)


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep over one pair of prompts."""

    site: str
    window: int
    T: int
    axes: dict[str, list[int]]  # axis of the values -> the indices that are patched, in order
    sizes: dict[str, int]  # axis of the values -> its length in the model
    put: str = "recorded"  # what is put in: a name in PUTS

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values: (n_layer, T), (n_layer, heads) or (n_layer, heads, T)."""
        return tuple(self.sizes.values())

    @property
    def n_cells(self) -> int:
        """Number of cells that are patched."""
        return math.prod(len(chosen) for chosen in self.axes.values())

    def cells(self) -> Iterator[Cell]:
        """Yield every cell to patch, in the order of the values."""
        for index in product(*self.axes.values()):
            at = dict(zip(self.axes, index, strict=True))
            yield Cell(index, at["layer"], at.get("head"), at.get("position"))

    def layers_of(self, cell: Cell) -> range:
        """Return the layers that are patched together for a cell."""
        return self.window_of(cell.layer)

    def window_of(self, layer: int) -> range:
        """Return the window of layers around `layer`, cut at the ends of the model.

        Example: in 4 layers, a window of 3 around layer 0 is range(0, 2).
        """
        first = layer - self.window // 2
        return range(max(first, 0), min(first + self.window, self.sizes["layer"]))

    def patches(self, cell: Cell) -> list[Patch]:
        """Return the cell's patches, as GPT.forward takes them."""
        return [Patch(self.site, layer, cell.position, cell.head) for layer in self.layers_of(cell)]


def indices(what: str, chosen: Sequence[int] | None, size: int) -> list[int]:
    """Return the chosen indices in [0, size), sorted, each once; None chooses all.

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


def _is_count(number: object) -> bool:
    # Saved results hold whole numbers of 64 bits.
    return isinstance(number, numbers.Integral) and 0 < int(number) < 2**63
