"""Read answers as files write them: words, lists of words, ids of one vocabulary, years."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mingpt.errors import TokenizerError
from patching.errors import PairsError, PromptError
from patching.prompts import Tokenizer, answer_id
from patching.study.columns import Columns
from patching.study.row_errors import MalformedCellError, UnusableRowError
from patching.study.rows import Row, Table
from patching.text import visible

MOST_SHOWN = 3  # decoded ids in a report and in a message
# Of the decoded ids, one in so many may be less than a whole word. Ids of another
# vocabulary read as pieces of words: of GPT-2's tokens, one in three is such a piece.
ONE_PIECE_IN = 20


@dataclass
class Answers:
    """Reads the answers of a file's rows, and notes what it did to them."""

    tokenizer: Tokenizer
    spaced: dict[str, None] = field(default_factory=dict)  # words that got a space, in order
    joined: int = 0  # answers of digits that go on with a number of the prompt

    def ids(
        self, columns: Columns, row: Row, prompt: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids of target and foil.

        Args:
            prompt: the clean prompt, which the answers go on with.

        Raises:
            UnusableRowError: an answer is missing, or is several tokens.
            MalformedCellError: a cell holds something else than words or ids.
        """
        if columns.years:
            return self._years(int(row.cells[columns.target]))
        found: list[tuple[int, ...]] = []
        for what, name in (("target", columns.target), ("foil", columns.foil)):
            if name is None:
                found.append(())
                continue
            values = as_list(row.cells.get(name))
            if not values or "" in values:
                raise UnusableRowError(f"no {what}")
            one = self._from_ids if is_index(name) else self._from_words
            found.append(tuple(dict.fromkeys(one(values, prompt))))
        if {*found[0]} & {*found[1]}:
            raise UnusableRowError("a token that is target and foil at once")
        return found[0], found[1]

    def _from_ids(self, values: Sequence[Any], prompt: str) -> Iterable[int]:
        return map(as_id, values)

    def _from_words(self, values: Sequence[Any], prompt: str) -> Iterable[int]:
        for value in values:
            if not isinstance(value, str):
                raise MalformedCellError(f"an answer is a word, not {value!r:.40}")
            yield self._from_word(value, prompt)

    def _from_word(self, word: str, prompt: str) -> int:
        try:
            # After "17", the answer "32" goes on with the year: it is no word of its own.
            if word.isdecimal() and prompt[-1:].isdecimal():
                ids = self.tokenizer.encode(word)
                if len(ids) != 1:
                    raise UnusableRowError("an answer of several tokens")
                self.joined += 1
                return ids[0]
            found = answer_id(self.tokenizer, word)
        except (PromptError, TokenizerError):
            raise UnusableRowError(
                "an answer of several tokens" if word.strip() else "an empty answer"
            ) from None
        if word[0].isalnum() and not word.startswith("id:"):
            self.spaced[word] = None
        return found

    def _years(self, year: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        encoded = [self.tokenizer.encode(f"{number:02d}") for number in range(100)]
        if any(len(ids) != 1 for ids in encoded):
            raise PairsError(
                "this file asks for the last two digits of a year, which are not one token each"
                " in this tokenizer"
            )
        ids = [one[0] for one in encoded]
        if year >= 99:
            raise UnusableRowError("no later year")
        return tuple(ids[year + 1 :]), tuple(ids[: year + 1])


def is_index(column: str) -> bool:
    """Return True if a column of that name holds token ids."""
    return column.lower().endswith("_idx")


def as_list(value: Any) -> list[Any]:
    """Return the answers that a cell holds: one value, or a list as JSON or Python writes it.

    Raises:
        MalformedCellError: a list that cannot be read.
    """
    if value is None:
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _list_in(value.strip())
    return list(value) if isinstance(value, list) else [value]


def _list_in(text: str) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of odd escapes in a literal
        for parse in (json.loads, ast.literal_eval):
            try:
                found = parse(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                continue
            if isinstance(found, list):
                return found
    raise MalformedCellError(f"{text!r:.40} is no list of answers")


def as_id(value: Any) -> int:
    """Return a token id from 464, "464" or "464.0" (as pandas writes a column with gaps).

    Raises:
        MalformedCellError: it is none.
    """
    text = "" if isinstance(value, bool) else str(value)
    if re.fullmatch(r"\d{1,9}(\.0)?", text, re.ASCII) is None:
        raise MalformedCellError(f"{value!r:.40} is no token id")
    return int(text.removesuffix(".0"))


def check_indices(tokenizer: Tokenizer, table: Table, columns: Columns) -> dict[str, list[str]]:
    """Return what some ids of the `_idx` columns decode to, e.g. {"correct_idx": ["464 ␣The"]}.

    Raises:
        PairsError: an id that the tokenizer does not have, or ids that are plainly of
            another vocabulary: they decode to pieces of words, or to other words than
            the file names in the column beside them.
    """
    shown = {}
    for name in (columns.target, columns.foil):
        if name is None or not is_index(name) or columns.years:
            continue
        counted = Counter(_ids_in(table, name))
        words = {number: _decoded(tokenizer, table, name, number) for number in counted}
        first = [f"{number} {visible(words[number])}" for number in list(words)[:MOST_SHOWN]]
        pieces = [word for word in words.values() if not _is_whole_word(word)]
        other = _contradicted(table, name, words)
        if len(pieces) * ONE_PIECE_IN > len(words) or other:
            why = other or f"{len(pieces)} of {len(words)} are no whole words"
            raise PairsError(
                f"{table.path}: {name} holds ids of another model's vocabulary: with this"
                f" tokenizer they read {', '.join(first)} ({why}); write the words instead"
            )
        shown[name] = first
    return shown


def _ids_in(table: Table, name: str) -> Iterable[int]:
    for row in table.rows:
        try:
            yield from map(as_id, as_list(row.cells.get(name)))
        except MalformedCellError:
            continue  # reported with the row's place when it is read


def _decoded(tokenizer: Tokenizer, table: Table, name: str, number: int) -> str:
    try:
        return tokenizer.token(number)
    except TokenizerError as error:
        raise PairsError(
            f"{table.path}: {name} holds ids of another model's vocabulary: {error}"
        ) from None


def _is_whole_word(token: str) -> bool:
    return token[:1] == " " and token[1:2].isalnum()


def _contradicted(table: Table, name: str, words: dict[int, str]) -> str:
    """Return how the words in the column beside an `_idx` column contradict it, or ""."""
    beside = name[: -len("_idx")]
    for row in table.rows:
        word = row.cells.get(beside)
        if not isinstance(word, str) or word.lstrip().startswith("["):
            continue
        try:
            number = as_id(row.cells.get(name))
        except MalformedCellError:
            continue
        token = words[number].strip()  # of a longer word, some sets give the first token
        if not (token and word.strip().startswith(token)):
            return f"{table.unit} {row.place} has {word.strip()!r:.40} under {beside}"
    return ""
