"""The input of an experiment: a pair of prompts, or one prompt, with target and foil token.

All checks that need no model are made here, when a pair or a question is made.
"""

from __future__ import annotations

import operator
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from mingpt.errors import TokenizerError
from patching.errors import PromptError
from patching.text import shortened, visible
from patching.unequal_prompts import unequal

MOST_SHOWN = 64  # tokens of a prompt in a message


class Tokenizer(Protocol):
    """The methods of a tokenizer that patching calls; mingpt.BPETokenizer has them."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, one after another."""

    def token(self, number: int) -> str:
        """Return the text of one token."""

    def is_padding(self, number: int) -> bool:
        """Return True for an id that is a row of the embedding but stands for no token."""

    def fewest_tokens(self, text: str) -> int:
        """Return a lower bound of a text's number of tokens; called only with most_tokens."""


@dataclass(frozen=True)
class _TextOf:
    """Gives a token's text without a tokenizer. A class, so that pairs can be pickled."""

    tokens: Mapping[int, str] | Sequence[str] | None

    def __call__(self, number: int) -> str:
        if self.tokens is None:
            return f"id:{number}"
        try:
            return self.tokens[number]
        except (KeyError, IndexError):
            raise PromptError(
                f"tokens has no text for id {number}; it is indexed by token id"
            ) from None


@dataclass(frozen=True)
class PromptPair:
    """Clean and corrupt prompt, with equally many tokens, and the answers that they ask for.

    The clean prompt asks for the target, the corrupt prompt for the foil. Each is one
    token, or a set of tokens. A pair without a foil serves metrics that read none. A pair
    without a corrupt prompt has the clean one in its place, and serves ablations of its run.
    """

    clean_text: str
    corrupt_text: str
    clean_ids: tuple[int, ...]  # (T,)
    corrupt_ids: tuple[int, ...]  # (T,)
    clean_tokens: tuple[str, ...]  # (T,) the text of each token
    corrupt_tokens: tuple[str, ...]  # (T,)
    target_ids: tuple[int, ...]  # one, or a set
    foil_ids: tuple[int, ...]  # one, a set, or none
    target_tokens: tuple[str, ...]
    foil_tokens: tuple[str, ...]
    # Returns any token's text, for tables of other tokens; "id:5437" in a loaded pair.
    text_of: Callable[[int], str] = field(default=_TextOf(None), compare=False, repr=False)

    @classmethod
    def from_text(
        cls,
        tokenizer: Tokenizer,
        clean: str,
        corrupt: str | None,
        target: str | Sequence[str],
        foil: str | Sequence[str] = (),
        *,
        most_tokens: int | None = None,
    ) -> PromptPair:
        """Make a pair from four texts.

        Args:
            corrupt: None for ablations of the clean run, which need no other prompt.
            target, foil: a word that is one token (see `answer_id`), or several such
                words; the foil can be left out.
            most_tokens: the model's block_size. A prompt that is certainly longer
                is refused before it is tokenized.

        Raises:
            PromptError: an empty prompt, a prompt far too long, prompts that are the
                same or differ in their number of tokens, an answer that is not one
                token, or the same answer twice.
        """
        answers = _as_words("target", target), _as_words("foil", foil)
        clean_ids = _encoded(tokenizer, "clean prompt", clean, most_tokens)
        corrupt_ids = None
        if corrupt is not None:
            corrupt_ids = _encoded(tokenizer, "corrupt prompt", corrupt, most_tokens)
        _check_prompts(clean_ids, corrupt_ids, tokenizer.token)
        ids = [
            tuple(answer_id(tokenizer, word, name) for word in words)
            for name, words in zip(("target", "foil"), answers, strict=True)
        ]
        texts = clean, clean if corrupt is None else corrupt
        return cls._build(clean_ids, corrupt_ids, ids[0], ids[1], tokenizer.token, texts)

    @classmethod
    def from_ids(
        cls,
        clean_ids: Sequence[int],
        corrupt_ids: Sequence[int] | None,
        target_id: int | Sequence[int],
        foil_id: int | Sequence[int] = (),
        tokens: Mapping[int, str] | Sequence[str] | None = None,
    ) -> PromptPair:
        """Make a pair from token ids, for a model that has no tokenizer.

        Args:
            clean_ids, corrupt_ids: the prompts (T,); no corrupt one as from_text.
            target_id, foil_id: one id or several each; the foil can be left out.
            tokens: the text of every id that occurs, indexed by the id: a dict,
                or the whole vocabulary as a list. Without it, tokens are shown
                as "id:5437".

        Raises:
            PromptError: an empty prompt, prompts that are the same or differ in
                their number of tokens, the same answer twice, an id that is no
                whole number from 0 on, or one that `tokens` does not have.
        """
        text_of = _TextOf(tokens)
        clean = _whole_numbers("clean_ids", clean_ids)
        corrupt = None if corrupt_ids is None else _whole_numbers("corrupt_ids", corrupt_ids)
        target, foil = _as_ids("target_id", target_id), _as_ids("foil_id", foil_id)
        _check_prompts(clean, corrupt, text_of)
        return cls._build(clean, corrupt, target, foil, text_of)

    @classmethod
    def _build(
        cls,
        clean: Sequence[int],
        corrupt: Sequence[int] | None,
        target: tuple[int, ...],
        foil: tuple[int, ...],
        text_of: Callable[[int], str],
        texts: tuple[str, str] | None = None,
    ) -> PromptPair:
        _check_answers(target, foil, text_of)
        corrupt = clean if corrupt is None else corrupt
        clean_tokens, corrupt_tokens = tuple(map(text_of, clean)), tuple(map(text_of, corrupt))
        if texts is None:  # a token can be half a character, which joining them loses
            texts = "".join(clean_tokens), "".join(corrupt_tokens)
        return cls(
            clean_text=texts[0],
            corrupt_text=texts[1],
            clean_ids=tuple(clean),
            corrupt_ids=tuple(corrupt),
            clean_tokens=clean_tokens,
            corrupt_tokens=corrupt_tokens,
            target_ids=target,
            foil_ids=foil,
            target_tokens=tuple(map(text_of, target)),
            foil_tokens=tuple(map(text_of, foil)),
            text_of=text_of,
        )

    def ids(self, run: str) -> tuple[int, ...]:
        """Return the token ids (T,) of a run: "clean" or "corrupt"."""
        return {"clean": self.clean_ids, "corrupt": self.corrupt_ids}[run]

    def without_tokenizer(self) -> PromptPair:
        """Return the pair without `text_of`, which may hold a whole vocabulary."""
        return replace(self, text_of=_TextOf(None))

    @property
    def has_corrupt(self) -> bool:
        """True unless the pair was made without a corrupt prompt."""
        return self.clean_ids != self.corrupt_ids

    @property
    def runs(self) -> tuple[str, ...]:
        """The names of the unpatched runs: "clean", and "corrupt" if there is that prompt."""
        return ("clean", "corrupt") if self.has_corrupt else ("clean",)

    @property
    def differing(self) -> tuple[int, ...]:
        """The positions at which the two prompts have different tokens."""
        both = zip(self.clean_ids, self.corrupt_ids, strict=True)
        return tuple(position for position, (a, b) in enumerate(both) if a != b)

    def __len__(self) -> int:
        """Return the number of tokens of each prompt, T."""
        return len(self.clean_ids)


@dataclass(frozen=True)
class Question:
    """One prompt, and the two tokens between which the model decides."""

    text: str
    ids: tuple[int, ...]  # (T,)
    target_id: int
    foil_id: int
    # Returns any token's text, for the tables and figures of an explanation.
    text_of: Callable[[int], str] = field(default=_TextOf(None), compare=False, repr=False)

    @classmethod
    def from_text(
        cls,
        tokenizer: Tokenizer,
        text: str,
        target: str,
        foil: str,
        *,
        most_tokens: int | None = None,
    ) -> Question:
        """Make a question from three texts.

        Args:
            text: the prompt.
            target, foil: one token each; see `answer_id`.
            most_tokens: as for PromptPair.from_text.

        Raises:
            PromptError: an empty prompt, a prompt far too long, an answer that is not one token, or
                the same answer twice.
        """
        ids = _encoded(tokenizer, "text", text, most_tokens)
        if not ids:
            raise PromptError("the text is empty")
        target_id = answer_id(tokenizer, target, "target")
        foil_id = answer_id(tokenizer, foil, "foil")
        _check_answers((target_id,), (foil_id,), tokenizer.token)
        return cls(text, tuple(ids), target_id, foil_id, tokenizer.token)

    @classmethod
    def from_ids(
        cls,
        ids: Sequence[int],
        target_id: int,
        foil_id: int,
        tokens: Mapping[int, str] | Sequence[str] | None = None,
    ) -> Question:
        """Make a question from token ids, for a model that has no tokenizer.

        Args:
            ids: the prompt (T,).
            tokens: as for PromptPair.from_ids.

        Raises:
            PromptError: an empty prompt, an id that is no whole number from 0
                on, or the same answer twice.
        """
        text_of = _TextOf(tokens)
        prompt = _whole_numbers("ids", ids)
        if not prompt:
            raise PromptError("the prompt is empty")
        (target,), (foil,) = (
            _whole_numbers(name, (number,))
            for name, number in (("target_id", target_id), ("foil_id", foil_id))
        )
        _check_answers((target,), (foil,), text_of)
        text = (" " if tokens is None else "").join(map(text_of, prompt))
        return cls(text, prompt, target, foil, text_of)


def answer_id(tokenizer: Tokenizer, text: str, name: str = "answer") -> int:
    """Return the id of the single token that `text` is as the next word.

    Args:
        text: a word gets a leading space, as GPT-2 spells a word inside a
            sentence. Text that starts with white space or a punctuation mark
            is taken as it is. "id:5437" names a token by its id.
        name: the answer's name in messages, such as "target".

    Raises:
        PromptError: no text, several tokens (listed), or no such id.
    """
    if text.startswith("id:"):
        number = text.removeprefix("id:")
        if re.fullmatch(r"\d{1,9}", number, re.ASCII) is None:
            raise PromptError(f"{name} {text!r}: after id: comes a token's number, as in id:5437")
        try:
            tokenizer.token(int(number))
        except TokenizerError as error:
            raise PromptError(f"{name} {text!r}: {error}") from None
        if tokenizer.is_padding(int(number)):
            raise PromptError(f"{name} {text!r} is no token: that row of the embedding is padding")
        return int(number)
    if not text:
        raise PromptError(f"{name} is empty; it must be one token")
    spelt = text if text[0].isspace() or _is_punctuation(text[0]) else " " + text
    shown = f"{name} {shortened(repr(text), 80)}"
    ids = _encoded(tokenizer, shown, spelt)
    if len(ids) != 1:
        pieces = " + ".join(visible(tokenizer.token(number)) for number in ids[:MOST_SHOWN])
        more = " + \u2026" if len(ids) > MOST_SHOWN else ""
        raise PromptError(f"{shown} is {len(ids)} tokens, not one: {pieces}{more}")
    return ids[0]


def _encoded(
    tokenizer: Tokenizer, name: str, text: str, most_tokens: int | None = None
) -> list[int]:
    if most_tokens is not None and (fewest := tokenizer.fewest_tokens(text)) > most_tokens:
        raise PromptError(
            f"{name}: it has at least {fewest} tokens, the model reads at most {most_tokens}"
        )
    try:
        return tokenizer.encode(text)
    except TokenizerError as error:
        raise PromptError(f"{name}: {error}") from None


def _as_words(name: str, words: str | Sequence[str]) -> tuple[str, ...]:
    several = (words,) if isinstance(words, str) else words
    if isinstance(several, Sequence) and all(isinstance(word, str) for word in several):
        return tuple(several)
    raise PromptError(
        f"{name} is a word or a list of words, not {words!r:.80}; for ids there is from_ids"
    )


def _as_ids(name: str, ids: int | Sequence[int]) -> tuple[int, ...]:
    is_one = not isinstance(ids, Iterable) or getattr(ids, "ndim", 1) == 0  # a 0-d tensor too
    return _whole_numbers(name, (ids,) if is_one else ids)  # type: ignore[arg-type]


def _check_answers(
    target: Sequence[int], foil: Sequence[int], text_of: Callable[[int], str]
) -> None:
    if not target:
        raise PromptError("there is no target: name one token at least")
    answers = [*target, *foil]
    again = next((one for i, one in enumerate(answers) if one in answers[:i]), None)
    if again is None:
        return
    where = "target" if target.count(again) > 1 else "foil"
    if again in target and again in foil:
        raise PromptError(f"target and foil are the same token {visible(text_of(again))} ({again})")
    raise PromptError(f"the {where} holds the token {visible(text_of(again))} ({again}) twice")


def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")


def _whole_numbers(name: str, numbers: Sequence[int]) -> tuple[int, ...]:
    try:
        whole = tuple(map(_whole_number, numbers))
    except TypeError:
        hint = "; for words there is from_text" if _has_text(numbers) else ""
        raise PromptError(f"{name} must be whole numbers, not {numbers!r:.80}{hint}") from None
    if any(number < 0 for number in whole):
        raise PromptError(f"{name} must be 0 or more, not {numbers!r}")
    return whole


def _has_text(numbers: Any) -> bool:
    return isinstance(numbers, str) or (
        isinstance(numbers, Sequence) and any(isinstance(one, str) for one in numbers)
    )


def _whole_number(number: Any) -> int:
    # Python and PyTorch take True for 1, but a mask is no list of token ids.
    if isinstance(number, bool) or str(getattr(number, "dtype", "")) == "torch.bool":
        raise TypeError("a boolean")
    return operator.index(number)


def _check_prompts(
    clean: Sequence[int], corrupt: Sequence[int] | None, text_of: Callable[[int], str]
) -> None:
    for name, ids in (("clean", clean), ("corrupt", corrupt)):
        if ids is not None and not ids:
            raise PromptError(f"the {name} prompt is empty")
    if corrupt is None:
        return
    if tuple(clean) == tuple(corrupt):
        raise PromptError("the clean and corrupt prompts are the same: there is nothing to patch")
    if len(clean) != len(corrupt):
        raise PromptError(unequal(clean, corrupt, text_of))
