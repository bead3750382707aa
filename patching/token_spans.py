"""Find the tokens of a part of a prompt."""

from __future__ import annotations

from itertools import accumulate, pairwise

from patching.prompts import Tokenizer


class TokenSpans:
    """The place of every token of a prompt, in bytes of its text."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self._text = text
        sizes = [len(_bytes_of(tokenizer, number)) for number in tokenizer.encode(text)]
        self._ends = list(pairwise(accumulate(sizes, initial=0)))
        self._byte_of = list(accumulate((len(char.encode()) for char in text), initial=0))

    def positions(self, first: int, last: int) -> tuple[int, ...]:
        """Return the positions of the tokens that hold a part of text[first:last].

        White space at the ends of the part does not count.
        """
        word = self._text[first:last]
        first += len(word) - len(word.lstrip())
        last -= len(word) - len(word.rstrip())
        at, to = self._byte_of[first], self._byte_of[last]
        return tuple(i for i, (start, end) in enumerate(self._ends) if start < to and at < end)


def _bytes_of(tokenizer: Tokenizer, number: int) -> bytes:
    data = getattr(tokenizer, "data", None)
    return data(number) if data is not None else tokenizer.token(number).encode()
