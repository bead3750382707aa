"""Gaussian noise on a subject's token embeddings, in place of a corrupt prompt. No tensors here.

This is the corruption of causal tracing (Meng et al. 2022, arXiv 2202.05262, section 2.1).
Noise can mislead: it puts the model off its distribution, and its maps differ from those of
another prompt's activations (Zhang & Nanda 2023, arXiv 2309.16042). Another prompt is the default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mingpt.checks import check_whole, is_real
from mingpt.errors import ConfigError, TokenizerError
from patching.errors import SweepError
from patching.prompts import Tokenizer
from patching.text import shortened
from patching.token_spans import TokenSpans

DRAWS = 10  # as ROME's
STD = "3s"  # 3 times the standard deviation of the subject's embeddings, as ROME's
MOST_DRAWS = 10_000


@dataclass(frozen=True)
class Gaussian:
    """Noise that the corrupt run gets on token embeddings, before positions are added.

    Raises:
        SweepError: no position, or a number out of its range.
    """

    positions: tuple[int, ...]  # the subject's tokens, from 0
    # A multiple of the standard deviation of all entries of the embeddings of the subjects'
    # tokens in this request, as "3s"; or the standard deviation itself, as 0.4 or "0.4".
    std: str | float = STD
    draws: int = DRAWS  # every cell of a pair meets the same ones; values are means over them
    seed: int = 0
    subject: str = ""  # its text, for titles

    def __post_init__(self) -> None:
        positions: Iterable[int] = self.positions
        try:
            check_whole("draws", self.draws, 1)
            check_whole("seed", self.seed, 0)
            for position in positions:
                check_whole("a position of the subject", position, 0)
        except ConfigError as error:
            raise SweepError(str(error)) from None
        if self.draws > MOST_DRAWS:
            raise SweepError(f"draws of noise: at most {MOST_DRAWS:,}, not {self.draws:,}")
        object.__setattr__(self, "positions", tuple(sorted({*map(int, positions)})))
        if not self.positions:
            raise SweepError("the subject has no tokens to put noise on")
        _ = self.multiple, self.absolute  # to refuse another std now

    @property
    def multiple(self) -> float | None:
        """The multiple of the embeddings' standard deviation; None for an absolute one."""
        text = str(self.std)
        return _above_0(self.std, text[:-1]) if text.endswith("s") else None

    @property
    def absolute(self) -> float | None:
        """The standard deviation, if it was given as a number."""
        return None if self.multiple is not None else _above_0(self.std, str(self.std))


def _above_0(asked: object, text: str) -> float:
    is_number = re.fullmatch(r"\d*\.?\d+(e[+-]?\d+)?", text, re.ASCII) and (
        isinstance(asked, str) or is_real(asked)
    )
    value = float(text) if is_number else math.nan
    if not 0 < value < math.inf:
        raise SweepError(
            f"the standard deviation of noise is a number above 0 or a multiple such as 3s, not"
            f" {asked!r:.40}"
        )
    return value


def gaussian(
    tokenizer: Tokenizer,
    prompt: str,
    subject: str,
    *,
    std: str | float = STD,
    draws: int = DRAWS,
    seed: int = 0,
) -> Gaussian:
    """Return noise on the tokens of a subject, where the prompt names it first.

    Args:
        prompt: the clean prompt.
        subject: a part of it, of whole words, such as "Michelle Jones".
        std, draws, seed: as Gaussian.

    Raises:
        SweepError: the prompt does not name the subject, or only within a word.
    """
    shown = shortened(repr(subject), 60)
    word = subject.strip()
    at = prompt.find(word) if word else -1
    if at < 0:
        raise SweepError(f"the subject {shown} is not in the clean prompt: write it as there")
    whole = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt)
    if whole is None:
        raise SweepError(f"the subject {shown} is only a part of a word of the clean prompt")
    try:
        positions = TokenSpans(tokenizer, prompt).positions(*whole.span())
    except (TokenizerError, UnicodeEncodeError) as error:
        raise SweepError(f"the tokens of the subject {shown} cannot be found: {error}") from None
    return Gaussian(positions, std, draws, seed, word)
