"""The request for a verification. No tensor is touched here."""

from __future__ import annotations

from dataclasses import dataclass

from mingpt.checks import check_whole

SAMPLES = 8


@dataclass(frozen=True)
class Request:
    """The settings of a verification, apart from the model; checked when they are made.

    Raises:
        ConfigError: samples or seed is no such number.
    """

    long: bool = False  # with figures that take minutes, such as means over 1,000 prompts
    samples: int = SAMPLES  # cells of each site in which the loop is run
    seed: int = 0  # of the random prompts and cells

    def __post_init__(self) -> None:
        check_whole("samples", self.samples, 1)
        check_whole("seed", self.seed, 0)
