"""Tables of the next token after a run: the likeliest ones, target and foil."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mingpt.errors import TokenizerError
from patching.errors import PromptError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)  # slots, because a result holds many
class TokenScore:
    """One candidate for the next token."""

    rank: int  # 1 is the likeliest
    id: int
    token: str
    logit: float
    probability: float


@dataclass(frozen=True)
class NextTokens:
    """A run's prediction of the next token, after its last position."""

    top: tuple[TokenScore, ...]  # the likeliest tokens, in order
    target: tuple[TokenScore, ...]
    foil: tuple[TokenScore, ...]  # empty where there is no foil

    @classmethod
    def of(
        cls,
        logits: Tensor,
        k: int,
        target: Iterable[int],
        foil: Iterable[int],
        text_of: Callable[[int], str],
    ) -> NextTokens:
        """Return the `k` likeliest tokens, target and foil by the last position's logits (V,).

        Args:
            target, foil: the ids of each.
            text_of: returns a token's text; an id without one is shown as "id:50300".
        """
        top = likeliest(logits, k, text_of)
        return cls(top, *(token_scores(logits, ids, text_of) for ids in (target, foil)))

    @classmethod
    def from_dict(cls, saved: dict[str, Any] | None) -> NextTokens | None:
        """Return the prediction from the dictionary that dataclasses.asdict made of it."""
        if saved is None:
            return None
        names = [one.name for one in dataclasses.fields(TokenScore)]
        lists = (saved[one.name] for one in dataclasses.fields(cls))
        return cls(*(tuple(TokenScore(*(one[n] for n in names)) for one in found)
                     for found in lists))  # fmt: skip


def likeliest(logits: Tensor, k: int, text_of: Callable[[int], str]) -> tuple[TokenScore, ...]:
    """Return the `k` likeliest tokens by logits (V,), in order.

    Args:
        text_of: returns a token's text; an id without one is shown as "id:50300".
    """
    top = logits.topk(min(k, len(logits)))
    values = top.values.tolist()
    rank_of: dict[float, int] = {}  # tokens with equal logits have the same rank
    for rank, value in enumerate(values, 1):
        rank_of.setdefault(value, rank)
    ranks = [rank_of[value] for value in values]
    return _scores(logits, top.indices.tolist(), ranks, text_of)


def token_scores(
    logits: Tensor, numbers: Iterable[int], text_of: Callable[[int], str]
) -> tuple[TokenScore, ...]:
    """Return the scores of the tokens with the ids `numbers`, by logits (V,).

    Args:
        text_of: returns a token's text; an id without one is shown as "id:50300".
    """
    ids = list(numbers)
    ranks = [1 + int((logits > logits[number]).sum()) for number in ids]
    return _scores(logits, ids, ranks, text_of)


def _scores(
    logits: Tensor, ids: list[int], ranks: list[int], text_of: Callable[[int], str]
) -> tuple[TokenScore, ...]:
    logits = logits.detach().cpu().double()  # in this order: MPS has no float64
    probabilities = logits.softmax(-1)[ids].tolist()
    return tuple(
        TokenScore(rank, number, text_or_id(text_of, number), logit, probability)
        for rank, number, logit, probability in zip(
            ranks, ids, logits[ids].tolist(), probabilities, strict=True
        )
    )


def text_or_id(text_of: Callable[[int], str], number: int) -> str:
    """Return a token's text, or "id:50300" for an embedding row that stands for no token."""
    try:
        return text_of(number)
    except (TokenizerError, PromptError):
        return f"id:{number}"
