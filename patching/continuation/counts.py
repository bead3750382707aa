"""Count patterns in samples, with an interval for the probability behind each count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import regex

from patching.errors import CountError
from patching.text import shortened

LONGEST_SHOWN = 60  # characters of a pattern in a message
SECONDS = 5.0  # longest search for a pattern in one text
LONGEST_PATTERN = 10_000  # characters
MOST_WRITTEN_OUT = 200_000  # characters of a pattern times its repeats: some 60 MB of memory

# A pattern of these characters alone is a word, or several words.
_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}_' -]+")

# (?R), (?1), (?&name), (?P>name): a pattern inside itself, whose memory regex cannot limit.
_RECURSION = regex.compile(r"(?<!\\)(?:\\\\)*(\(\?(?:R|[-+]?[0-9]|&|P>))")
_REPEATS = regex.compile(r"\{0*(\d{1,9})")  # how often at least: regex writes that out


@dataclass(frozen=True)
class Pattern:
    """A pattern to count: a word, or a regular expression.

    A pattern of letters, digits, underscores, spaces, hyphens and apostrophes is a word, or
    several. It matches whole words in upper or lower case: "he" is found in "He said", and
    not in "the". Any other pattern is a regular expression, used as it is.

    Raises:
        CountError: the pattern is empty, not a regular expression, or one that could take very
            much memory.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise CountError(f"the pattern {self.text!r} is empty")
        if any("\ud800" <= char <= "\udfff" for char in self.text):
            raise CountError(f"the pattern {self.text!r} is not valid Unicode")
        self._check_memory()
        try:
            regex.compile(self.expression)
        except regex.error as error:
            raise CountError(f"{self.text!r} is not a regular expression: {error}") from None
        except (RecursionError, MemoryError) as error:
            raise CountError(f"{self._name} is too deep or too large: {_words(error)}") from None

    def _check_memory(self) -> None:
        """Refuse what regex compiles or searches without a limit of memory.

        Raises:
            CountError: the pattern is too long, contains itself, or repeats too often.
        """
        if len(self.text) > LONGEST_PATTERN:
            raise CountError(
                f"{self._name} has {len(self.text)} characters; at most {LONGEST_PATTERN}"
            )
        if _WORDS.fullmatch(self.text):
            return
        if found := _RECURSION.search(self.text):
            raise CountError(
                f"{self._name} contains a recursion, {found[1]}...): it is not supported, because"
                " its memory has no limit"
            )
        written_out = len(self.text) * math.prod(
            max(int(n), 1) for n in _REPEATS.findall("".join(self.text.split()))
        )
        if written_out > MOST_WRITTEN_OUT:
            raise CountError(f"{self._name} repeats too much: its {{...}} multiplied are too large")

    @property
    def _name(self) -> str:
        return f"the pattern {shortened(self.text, LONGEST_SHOWN)!r}"

    @property
    def expression(self) -> str:
        """The pattern as a regular expression."""
        if _WORDS.fullmatch(self.text):
            return rf"(?i)(?<!\w){regex.escape(self.text.strip())}(?!\w)"
        return self.text

    def is_in(self, text: str) -> bool:
        """Return True if the pattern occurs in a text.

        Raises:
            CountError: the search takes more than 5 s, or too much memory.
        """
        try:
            return regex.search(self.expression, text, timeout=SECONDS) is not None
        except TimeoutError:
            raise CountError(f"{self._name} took more than {SECONDS:g} s on one text") from None
        except (RecursionError, MemoryError) as error:
            raise CountError(f"{self._name} failed on a text: {_words(error)}") from None


def _words(error: Exception) -> str:
    return str(error) or "too little memory"


@dataclass(frozen=True)
class Count:
    """The number of a prompt's samples in which a pattern occurs."""

    prompt: str
    pattern: str
    found: int  # samples with the pattern
    samples: int  # samples in all

    @property
    def share(self) -> float:
        """The share of samples with the pattern, from 0 to 1."""
        return self.found / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the probability that a sample has the pattern."""
        return wilson(self.found, self.samples)

    def to_dict(self) -> dict[str, Any]:
        """Return the count in types that JSON has, with share and interval."""
        return {**vars(self), "share": self.share, "interval": list(self.interval)}


def count(patterns: Sequence[Pattern], prompt: str, texts: Sequence[str]) -> list[Count]:
    """Count each pattern in the samples of one prompt.

    Args:
        patterns: one or more.
        prompt: named in the counts; it is not searched.
        texts: the prompt's samples.

    Raises:
        CountError: the search for a pattern in one text takes more than 5 s, or too much memory.
    """
    return [
        Count(prompt, pattern.text, sum(map(pattern.is_in, texts)), len(texts))
        for pattern in patterns
    ]


def wilson(found: int, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22, p. 209).

    Args:
        found, samples: the share is found / samples.
        confidence: how often such an interval holds the probability; 0.95 for 95 %.

    Raises:
        CountError: `found` is not from 0 to `samples`, or there are no samples.
    """
    from scipy.stats import binomtest  # late: importing it takes a second

    if not (samples >= 1 and 0 <= found <= samples):
        raise CountError(f"{found} of {samples} samples is no share")
    low, high = binomtest(found, samples).proportion_ci(confidence, method="wilson")
    return float(low), float(high)
