"""Two prompts, token by token: which goes with which, and words that make them equally long.

Patching needs prompts of equal length, and the tokenizer alone decides. This is
how to find them before anything is run; nothing here needs a model.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate, groupby, pairwise, zip_longest
from typing import TYPE_CHECKING

import regex

from mingpt.errors import TokenizerError
from patching.errors import PromptError

if TYPE_CHECKING:
    from mingpt.bpe import BPETokenizer

# What two prompts are compared by: words, and every other sign that is no white space.
WORDS = regex.compile(r"[\p{L}\p{M}\p{N}_]+|(?!\s)\X")

Span = tuple[int, int]  # from, to (not included)


@dataclass(frozen=True)
class Row:
    """A position of one prompt beside one of another; None where one has no token for it."""

    a: int | None
    b: int | None
    differs: bool


@dataclass(frozen=True)
class Stretch:
    """What the corrupt prompt says in place of something in the clean one."""

    text: str  # in the corrupt prompt, the same at every place
    clean_spans: tuple[Span, ...]  # characters of the clean prompt, place by place
    corrupt_spans: tuple[Span, ...]  # likewise


@dataclass(frozen=True)
class Suggestion:
    """A corrupt prompt with another word in it."""

    word: str
    prompt: str
    ids: tuple[int, ...]
    fits: bool  # as many tokens as the clean prompt, others only where the word is, and not it


def alignment(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Row]:
    """Which position of one prompt goes with which of another.

    Of equally many tokens each goes with the one at its own position, as
    patching takes them. Otherwise what they share is matched (difflib), and
    between two matches position goes with position until one has no more.

    Args:
        a, b: the ids of the tokens, or whatever else the prompts consist of.
    """
    if len(a) == len(b):
        both = enumerate(zip(a, b, strict=True))
        return [Row(position, position, one != other) for position, (one, other) in both]
    rows = []
    for kind, *ends in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        pairs = zip_longest(range(*ends[:2]), range(*ends[2:]))
        rows += [Row(*pair, kind != "equal") for pair in pairs]
    return rows


def stretch(clean: str, corrupt: str) -> Stretch:
    """Where the corrupt prompt has other words than the clean one, and which.

    Raises:
        PromptError: they do not differ, or in white space; one has words where
            the other has none; or the corrupt one has different words at
            different places.
    """
    if clean == corrupt:
        raise PromptError("the clean and corrupt prompts are the same: there is no word to replace")
    words = {text: [match.span() for match in WORDS.finditer(text)] for text in (clean, corrupt)}
    rows = alignment(*([text[at:to] for at, to in spans] for text, spans in words.items()))
    places = []
    for differs, group in groupby(rows, key=lambda row: row.differs):
        if differs:
            run = [*group]
            places.append(
                (
                    _across(words[clean], [row.a for row in run if row.a is not None]),
                    _across(words[corrupt], [row.b for row in run if row.b is not None]),
                )
            )
    for ours, theirs in places:
        if ours is None or theirs is None:
            longer, text, span = (
                ("corrupt", corrupt, theirs) if ours is None else ("clean", clean, ours)
            )
            raise PromptError(
                f"the {longer} prompt has {text[slice(*span)]!r} where the other has nothing:"
                " there is no word to replace by another"
            )
    clean_spans, corrupt_spans = zip(*places, strict=True) if places else ((), ())
    originals = [clean[at:to] for at, to in clean_spans]
    if _replaced(corrupt, corrupt_spans, originals) != clean:
        raise PromptError("the prompts differ in white space, which no other word makes up for")
    texts = [*dict.fromkeys(corrupt[at:to] for at, to in corrupt_spans)]
    if len(texts) > 1:
        raise PromptError(
            "the corrupt prompt has different words at different places, which no one word can"
            f" replace: {', '.join(map(repr, texts))}"
        )
    return Stretch(texts[0], clean_spans, corrupt_spans)


def suggest(
    tokenizer: BPETokenizer, clean: str, corrupt: str, words: Iterable[str]
) -> list[Suggestion]:
    """The corrupt prompt with each of `words` in place of what it says now.

    Whatever it says in place of the clean prompt's words, at one place or the
    same at several, becomes the word. That fits if there are as many tokens
    then as in the clean prompt, and the same ones but where the word is.

    Returns:
        One for each of `words`, in their order.

    Raises:
        PromptError: as `stretch`, or a text that is no Unicode.
    """
    found = stretch(clean, corrupt)
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
    """From the beginning of the first of the chosen words to the end of the last."""
    return (spans[chosen[0]][0], spans[chosen[-1]][1]) if chosen else None


def _replaced(text: str, spans: Sequence[Span], words: Sequence[str]) -> str:
    ends = [0, *(end for span in spans for end in span), len(text)]
    kept = [text[at:to] for at, to in zip(ends[::2], ends[1::2], strict=True)]
    return "".join(part for pair in zip(kept, [*words, ""], strict=True) for part in pair)


def _encoded(tokenizer: BPETokenizer, text: str) -> tuple[int, ...]:
    try:
        return tuple(tokenizer.encode(text))
    except TokenizerError as error:
        raise PromptError(f"{text!r}: {error}") from None


def _positions(
    tokenizer: BPETokenizer, text: str, ids: Sequence[int], spans: Sequence[Span]
) -> set[int]:
    """The tokens that any of `spans` has a character in."""
    ends = accumulate((len(tokenizer.data(number)) for number in ids), initial=0)
    in_bytes = [tuple(len(text[:end].encode()) for end in span) for span in spans]
    return {
        position
        for position, (at, to) in enumerate(pairwise(ends))
        if any(at < span_to and to > span_from for span_from, span_to in in_bytes)
    }
