"""Align two prompts token by token, and try words that make them equally long.

Patching needs prompts with equally many tokens. How many a prompt has depends on the
tokenizer, so these functions need a tokenizer, but no model.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise, zip_longest
from typing import TYPE_CHECKING

import regex

from mingpt.errors import TokenizerError
from patching.errors import PromptError
from patching.text import shortened

if TYPE_CHECKING:
    from mingpt.bpe import BPETokenizer

# Prompts are compared word by word. A punctuation mark or other sign is a word by itself.
WORDS = regex.compile(r"[\p{L}\p{M}\p{N}_]+|(?!\s)\X")

# Of two prompts' lengths, their equal beginnings and ends left out. The table of their
# subsequences has so many bits: 50 MB, as for 20,000 tokens each.
MOST_COMPARED = 20_000**2

LONGEST_SHOWN = 300  # characters of a prompt in a message
Span = tuple[int, int]  # first character, and the one after the last


@dataclass(frozen=True)
class Row:
    """A position of prompt `a` and the corresponding one of prompt `b`; None if there is none."""

    a: int | None
    b: int | None
    differs: bool


@dataclass(frozen=True)
class ReplacedWords:
    """The words of the corrupt prompt that replace words of the clean one."""

    text: str  # the words in the corrupt prompt, the same at every place
    clean_spans: tuple[Span, ...]  # characters of the clean prompt, one span a place
    corrupt_spans: tuple[Span, ...]  # characters of the corrupt prompt, one span a place


@dataclass(frozen=True)
class Suggestion:
    """The corrupt prompt with another word in place of the replaced words."""

    word: str
    prompt: str
    ids: tuple[int, ...]
    fits: bool  # as many tokens as the clean prompt, and they differ only where the word is


def align(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Row]:
    """Return the corresponding positions of two prompts, in order.

    In prompts with equally many tokens, a position corresponds to the same position, as
    in patching. Otherwise the tokens of a longest common subsequence correspond: as many
    equal tokens as can be matched in order. Between two matches, positions correspond one
    by one until one of the prompts has no more.

    Where the product of the lengths, without the prompts' equal beginnings and ends, is
    above MOST_COMPARED, no matches are looked for in between.

    Args:
        a, b: token ids, or any other items that the prompts consist of.
    """
    if len(a) == len(b):
        both = enumerate(zip(a, b, strict=True))
        return [Row(position, position, one != other) for position, (one, other) in both]
    start = _common_start(a, b)
    tail = _common_start(a[start:][::-1], b[start:][::-1])
    a_end, b_end = len(a) - tail, len(b) - tail
    middle = _matches(a[start:a_end], b[start:b_end])
    # Every match, and past the last one the ends of both prompts.
    matches = [(n, n) for n in range(start)]
    matches += [(start + i, start + j) for i, j in middle]
    matches += [(a_end + n, b_end + n) for n in range(tail + 1)]
    rows, a_next, b_next = list[Row](), 0, 0
    for a_at, b_at in matches:
        between = zip_longest(range(a_next, a_at), range(b_next, b_at))
        rows += [Row(one, other, True) for one, other in between]
        rows.append(Row(a_at, b_at, False))
        a_next, b_next = a_at + 1, b_at + 1
    return rows[:-1]


def _common_start(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Return how many items at the start of both are equal."""
    both = enumerate(zip(a, b, strict=False))
    return next((n for n, (one, other) in both if one != other), min(len(a), len(b)))


def _matches(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return the positions (in a, in b) of a longest common subsequence, in order.

    Returns no matches where len(a) * len(b) is above MOST_COMPARED.

    The method is dynamic programming with a column of the table in the bits of one number
    (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"). With L(i, j) for the
    longest of the first i items of a and the first j of b, bit i of columns[j] is 0 where
    L(i + 1, j) is L(i, j) + 1, and 1 where the two are equal.
    """
    if len(a) * len(b) > MOST_COMPARED:
        return []
    places: dict[Hashable, int] = {}  # item -> bits of its positions in a
    for i, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << i
    every = (1 << len(a)) - 1
    columns = [every]
    for item in b:
        column = columns[-1]
        found = column & places.get(item, 0)
        columns.append((column + found | column - found) & every)
    matches, i, j = [], len(a), len(b)
    while i and j:  # from the table's last corner to its first
        if columns[j] >> i - 1 & 1:  # L(i, j) = L(i - 1, j): a's last item is not needed
            i -= 1
        elif not columns[j - 1] >> i - 1 & 1:  # L(i, j) = L(i, j - 1): nor is b's
            j -= 1
        else:
            i, j = i - 1, j - 1
            matches.append((i, j))
    return matches[::-1]


def replaced_words(clean: str, corrupt: str) -> ReplacedWords:
    """Return the words of the corrupt prompt that replace words of the clean one.

    Raises:
        PromptError: the prompts are equal, or differ in white space; one has words where
            the other has none; or the corrupt one has different words at different places.
    """
    if clean == corrupt:
        raise PromptError("the clean and corrupt prompts are the same: there is no word to replace")
    places = _differing_places(clean, corrupt)
    clean_spans, corrupt_spans = zip(*places, strict=True) if places else ((), ())
    originals = [clean[at:to] for at, to in clean_spans]
    if _replaced(corrupt, corrupt_spans, originals) != clean:
        raise PromptError("the prompts differ in white space, and no word can change that")
    texts = list(dict.fromkeys(corrupt[at:to] for at, to in corrupt_spans))
    if len(texts) > 1:
        raise PromptError(
            "the corrupt prompt has different words at different places, which no one word can"
            f" replace: {shortened(', '.join(map(repr, texts)), LONGEST_SHOWN)}"
        )
    return ReplacedWords(texts[0], clean_spans, corrupt_spans)


def _differing_places(clean: str, corrupt: str) -> list[tuple[Span, Span]]:
    """Return the places where the words differ, as spans of the clean and corrupt prompt.

    Raises:
        PromptError: one of the prompts has no word at such a place.
    """
    words = [[match.span() for match in WORDS.finditer(text)] for text in (clean, corrupt)]
    clean_words, corrupt_words = words
    rows = align(
        [clean[at:to] for at, to in clean_words], [corrupt[at:to] for at, to in corrupt_words]
    )
    places = []
    for differs, group in groupby(rows, key=lambda row: row.differs):
        if not differs:
            continue
        run = list(group)
        ours = _across(clean_words, [row.a for row in run if row.a is not None])
        theirs = _across(corrupt_words, [row.b for row in run if row.b is not None])
        if ours is None or theirs is None:
            longer, text, span = (
                ("corrupt", corrupt, theirs) if ours is None else ("clean", clean, ours)
            )
            extra = "" if span is None else shortened(text[slice(*span)], LONGEST_SHOWN)
            raise PromptError(
                f"the {longer} prompt has {extra!r} where the other has nothing:"
                " there is no word to replace by another"
            )
        places.append((ours, theirs))
    return places


def suggest(
    tokenizer: BPETokenizer, clean: str, corrupt: str, words: Iterable[str]
) -> list[Suggestion]:
    """Try each of `words` in the corrupt prompt, in place of those that `replaced_words` finds.

    A word fits if the new prompt has as many tokens as the clean one, and its tokens
    differ only where the word is.

    Returns:
        One suggestion for each of `words`, in their order.

    Raises:
        PromptError: the prompts do not differ by replaced words (see `replaced_words`), or
            a text is not valid Unicode.
    """
    found = replaced_words(clean, corrupt)
    clean_ids = _encoded(tokenizer, clean)
    free = _positions(tokenizer, clean, clean_ids, found.clean_spans)
    suggestions = []
    for word in words:
        prompt = _replaced(corrupt, found.corrupt_spans, [word] * len(found.corrupt_spans))
        ids = _encoded(tokenizer, prompt)
        both = enumerate(zip(clean_ids, ids, strict=False))
        differing = {position for position, (one, other) in both if one != other}
        fits = len(ids) == len(clean_ids) and bool(differing) and differing <= free
        suggestions.append(Suggestion(word, prompt, ids, fits))
    return suggestions


def _across(spans: Sequence[Span], chosen: Sequence[int]) -> Span | None:
    """Return the span from the first chosen word to the last; None if none is chosen."""
    return (spans[chosen[0]][0], spans[chosen[-1]][1]) if chosen else None


def _replaced(text: str, spans: Sequence[Span], words: Sequence[str]) -> str:
    ends = [0, *(end for span in spans for end in span), len(text)]
    kept = [text[at:to] for at, to in zip(ends[::2], ends[1::2], strict=True)]
    return "".join(part for pair in zip(kept, [*words, ""], strict=True) for part in pair)


def _encoded(tokenizer: BPETokenizer, text: str) -> tuple[int, ...]:
    try:
        return tuple(tokenizer.encode(text))
    except TokenizerError as error:
        raise PromptError(f"{shortened(repr(text), LONGEST_SHOWN)}: {error}") from None


def _positions(
    tokenizer: BPETokenizer, text: str, ids: Sequence[int], spans: Sequence[Span]
) -> set[int]:
    """Return the positions of the tokens that share a character with any of `spans`."""
    # Counted in bytes, because a token may end in the middle of a character.
    ends = accumulate((len(tokenizer.data(number)) for number in ids), initial=0)
    byte_of = list(accumulate((len(char.encode()) for char in text), initial=0))
    left = [(byte_of[at], byte_of[to]) for at, to in reversed(spans)]  # the next one is last
    found = set()
    for position, (at, to) in enumerate(pairwise(ends)):
        while left and left[-1][1] <= at:
            left.pop()
        if left and left[-1][0] < to:
            found.add(position)
    return found
