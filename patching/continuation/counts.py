"""How often something is said: patterns counted in samples, with how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import regex

from patching.errors import ProbeError

Z95 = 1.959963984540054  # of the normal distribution: 95 % lie within so many deviations
SECONDS = 5.0  # that a pattern may take on one text

# A pattern of these is a word, or several: found as they are, in any case.
_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}_' -]+")


@dataclass(frozen=True)
class Pattern:
    """What is counted: a word, or a regular expression.

    A pattern of letters, digits, spaces, hyphens and apostrophes is a word, or
    several: found whole and in any case, so that "he" is in "He said" but not
    in "the". Any other is a regular expression, found as it stands.

    Raises:
        ProbeError: it is empty, or no regular expression.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ProbeError(f"the pattern {self.text!r} is empty")
        if any("\ud800" <= char <= "\udfff" for char in self.text):
            raise ProbeError(f"the pattern {self.text!r} is not valid Unicode")
        try:
            regex.compile(self.expression)
        except regex.error as error:
            raise ProbeError(f"{self.text!r} is no regular expression: {error}") from None

    @property
    def expression(self) -> str:
        """As a regular expression."""
        if _WORDS.fullmatch(self.text):
            return rf"(?i)(?<!\w){regex.escape(self.text.strip())}(?!\w)"
        return self.text

    def is_in(self, text: str) -> bool:
        """Whether a text has it.

        Raises:
            ProbeError: it takes too long to tell.
        """
        try:
            return regex.search(self.expression, text, timeout=SECONDS) is not None
        except TimeoutError:
            raise ProbeError(
                f"the pattern {self.text!r} took more than {SECONDS:g} s on one text"
            ) from None


@dataclass(frozen=True)
class Count:
    """In how many of a prompt's samples a pattern was found."""

    prompt: str
    pattern: str
    found: int
    samples: int

    @property
    def share(self) -> float:
        """Of the samples."""
        return self.found / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the probability that a sample has the pattern."""
        return wilson(self.found, self.samples)

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has."""
        return {**vars(self), "share": self.share, "interval": list(self.interval)}


def count(patterns: Sequence[Pattern], prompt: str, texts: Sequence[str]) -> list[Count]:
    """Each pattern in the samples of one prompt."""
    return [
        Count(prompt, pattern.text, sum(map(pattern.is_in, texts)), len(texts))
        for pattern in patterns
    ]


def wilson(found: int, samples: int, z: float = Z95) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22, p. 209).

    Raises:
        ProbeError: not 0 <= found <= samples, or no samples.

    Args:
        found, samples: how many of how many.
        z: how many standard deviations; 1.96 for 95 %.
    """
    if not (samples >= 1 and 0 <= found <= samples):
        raise ProbeError(f"{found} of {samples} samples is no share")
    share = found / samples
    centre = share + z * z / (2 * samples)
    reach = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples**2))
    low, high = ((centre + sign * reach) / (1 + z * z / samples) for sign in (-1, 1))
    # At the ends the interval ends there too; rounding would leave it short of them.
    return (0.0 if found == 0 else low), (1.0 if found == samples else high)
