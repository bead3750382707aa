"""Name the thing put into the base run, and the prompts it is taken from. No tensor is touched.

"recorded" is the source run's activation: activation patching. The others are ablations of the
base run: zeros, a mean over prompts (Wang et al. 2022, arXiv 2211.00593, section 2.1), and the
activation of another prompt's run ("resample ablation": Chan et al. 2022, causal scrubbing).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mingpt.checks import check_whole
from mingpt.errors import ConfigError
from patching.errors import SweepError
from patching.prompts import PromptPair

Key = int | str  # what positions of different prompts have in common
PUTS = ("recorded", "zero", "mean", "resample")
# Those that are taken from prompts -> the function that makes them, the command's option.
FROM_PROMPTS = {
    "mean": ("mean_over", "--mean-over"),
    "resample": ("resample_from", "--resample-from"),
}
# A mean at each position; of each role of a study's tokens; or over all positions together.
MEANS_PER = ("position", "role", "all")
# What is put in -> its name in titles.
ABLATIONS = {"zero": "Zero ablation", "mean": "Mean ablation", "resample": "Resample ablation"}


@dataclass(frozen=True)
class Put:
    """The thing put in, by name; `mean_over` and `resample_from` make those that need prompts.

    Raises:
        SweepError: an unknown name, or a seed that is no whole number.
    """

    what: str = "recorded"  # a name in PUTS
    pairs: tuple[PromptPair, ...] = ()  # their clean prompts are read; of a study its own
    per: str = "position"  # of a mean: a name in MEANS_PER
    seed: int = 0  # of the choice of another prompt
    file: str | None = None  # that the pairs were read from, for titles
    # Of a mean per role: of each pair, the role or the place after a role of each position.
    keys: tuple[tuple[Key, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.what not in PUTS:
            raise SweepError(
                f"nothing called {self.what!r} can be put in: choose {', '.join(PUTS)}"
            )
        if self.per not in MEANS_PER:
            raise SweepError(f"a mean is per {' or '.join(MEANS_PER)}, not {self.per!r}")
        try:
            check_whole("seed", self.seed, 0)
        except ConfigError as error:
            raise SweepError(str(error)) from None

    def check_pairs(self) -> None:
        """Raise SweepError if the pairs that something is taken from are missing."""
        if self.what in FROM_PROMPTS and not self.pairs:
            maker, option = FROM_PROMPTS[self.what]
            raise SweepError(
                f"to put in {self.what}, name the pairs that it is taken from: in Python"
                f" put={maker}(pairs), in the shell {option} FILE"
            )
        if self.what == "mean" and self.per == "role" and len(self.keys) != len(self.pairs):
            raise SweepError(
                "a mean per role is for studies whose own pairs have roles, aligned by roles:"
                " mingpt-study run --put mean --mean-per role, in Python run_study"
            )

    @property
    def is_recorded(self) -> bool:
        """True if the source run's own activation is put in."""
        return self.what == "recorded"


def as_put(asked: str | Put) -> Put:
    """Return what is asked for by name, or as it is.

    Raises:
        SweepError: an unknown name, or neither.
    """
    if isinstance(asked, Put):
        return asked
    if not isinstance(asked, str):
        raise SweepError(
            f"put is a name ({', '.join(PUTS)}) or mean_over(pairs), not {asked!r:.80}"
        )
    return Put(asked)


def mean_over(pairs: Iterable[PromptPair], *, per: str = "position") -> Put:
    """Return the mean over the pairs' clean prompts, for a sweep to put in.

    Args:
        per: "position": the mean at each position, over prompts of the swept pair's length;
            "all": one mean over all positions of all prompts, of any lengths.

    Example:
        patch_sweep(model, pair, site="z", direction="noise", put=mean_over(pairs))
    """
    return Put("mean", _pairs(pairs), per)


def resample_from(pairs: Iterable[PromptPair], *, seed: int = 0) -> Put:
    """Return the activation of another clean prompt of equal length, for a sweep to put in.

    One is chosen for each swept pair, by `seed` and the pair's own clean prompt.

    Example:
        patch_sweep(model, pair, site="z", direction="noise", put=resample_from(pairs, seed=1))
    """
    return Put("resample", _pairs(pairs), seed=seed)


def _pairs(pairs: Iterable[PromptPair]) -> tuple[PromptPair, ...]:
    several: Sequence[Any] = (pairs,) if isinstance(pairs, PromptPair) else ()
    if isinstance(pairs, Iterable):
        several = tuple(pairs)
    if not (several and all(isinstance(one, PromptPair) for one in several)):
        raise SweepError("what is put in is taken from pairs: pass a list of PromptPair, not empty")
    return tuple(several)
