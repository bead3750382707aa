"""The request for a look at embeddings. No tensor is touched here."""

from __future__ import annotations

from dataclasses import dataclass

from mingpt.checks import check_whole
from patching.errors import EmbeddingsError

NEIGHBOURS, COMPONENTS = 10, 3
MOST_WORDS, MOST_NEIGHBOURS, MOST_COMPONENTS = 200, 1000, 8


@dataclass(frozen=True)
class EmbeddingsRequest:
    """The words to look at, and how much of what surrounds them.

    Raises:
        EmbeddingsError: too many words, one twice, or a number out of its range.
        ConfigError: a number that is no whole number.
    """

    words: tuple[str, ...] = ()  # each must be one token
    neighbours: int = NEIGHBOURS  # tokens nearest to each word
    components: int = COMPONENTS  # principal components of the positions

    def __post_init__(self) -> None:
        check_whole("neighbours", self.neighbours, 1)
        check_whole("components", self.components, 1)
        for name, most in (("neighbours", MOST_NEIGHBOURS), ("components", MOST_COMPONENTS)):
            if getattr(self, name) > most:
                raise EmbeddingsError(f"{name} must be at most {most}, not {getattr(self, name)}")
        if len(self.words) > MOST_WORDS:
            raise EmbeddingsError(f"{len(self.words)} words; at most {MOST_WORDS} are looked at")
        again = next((one for one in self.words if self.words.count(one) > 1), None)
        if again is not None:
            raise EmbeddingsError(f"the word {again!r} is given twice")
