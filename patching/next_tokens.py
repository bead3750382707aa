"""The candidates for the next token after a run: the likeliest, target and foil."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mingpt.errors import TokenizerError
from patching.errors import PromptError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenScore:
    """One candidate for the next token."""

    rank: int  # 1 is the likeliest
    id: int
    token: str
    logit: float
    probability: float


@dataclass(frozen=True)
class NextTokens:
    """What a run predicts after its last position."""

    top: tuple[TokenScore, ...]  # the likeliest, in order
    target: TokenScore
    foil: TokenScore

    @classmethod
    def of(
        cls, logits: Tensor, k: int, target: int, foil: int, text_of: Callable[[int], str]
    ) -> NextTokens:
        """From the last position's logits (V,), with the `k` likeliest tokens.

        Args:
            text_of: a token's text; an id that has none is written "id:50300".
        """
        top = likeliest(logits, k, text_of)
        return cls(top, *token_scores(logits, (target, foil), text_of))


def likeliest(logits: Tensor, k: int, text_of: Callable[[int], str]) -> tuple[TokenScore, ...]:
    """The `k` likeliest tokens by logits (V,), in order; `text_of` as of NextTokens.of."""
    return token_scores(logits, logits.topk(min(k, len(logits))).indices.tolist(), text_of)


def token_scores(
    logits: Tensor, numbers: Iterable[int], text_of: Callable[[int], str]
) -> tuple[TokenScore, ...]:
    """These tokens by logits (V,)."""
    logits = logits.detach().cpu().double()  # in this order: MPS has no float64
    probabilities = logits.softmax(-1)
    return tuple(
        TokenScore(
            rank=1 + int((logits > logits[number]).sum()),
            id=number,
            token=text_or_id(text_of, number),
            logit=logits[number].item(),
            probability=probabilities[number].item(),
        )
        for number in numbers
    )


def text_or_id(text_of: Callable[[int], str], number: int) -> str:
    """A token's text; "id:50300" for an embedding row that stands for no token."""
    try:
        return text_of(number)
    except (TokenizerError, PromptError):
        return f"id:{number}"
