"""Read texts and pairs, cut them into three parts, and make batches that depend only on the step.

A batch is drawn from the seed and the number of the step, so that a run that goes on after
an interruption sees what an undisturbed one sees.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

import torch
from torch import Tensor

from mingpt.bpe import END_OF_TEXT, BPETokenizer
from mingpt.errors import TrainingError
from mingpt.files import read_text
from mingpt.training.vocabulary import SEPARATOR

MOST_BYTES = 1024 * 2**20  # of one file
NOT_READ = -1  # the target of a token whose loss does not count
MOST_EVALUATED = 2**15  # tokens of a validation
MOST_TESTED = 2**18  # tokens of the test
CHUNK = 2**18  # characters that are tokenized at a time, between two reports of progress
_CUT = re.compile(r"(?<=\S)\n(?=\S)")

Batch = tuple[Tensor, Tensor]  # ids and the tokens after them, (B, T) each


@dataclass(frozen=True)
class Parts:
    """A text, or the lines of pairs, in three parts."""

    train: tuple[str, ...]  # texts, or lines
    val: tuple[str, ...]
    test: tuple[str, ...]
    checksum: str  # SHA-256 of all files

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter((self.train, self.val, self.test))


class Sequences(Protocol):
    """Token ids to train on or to measure."""

    n_tokens: int  # all
    n_scored: int  # those whose loss counts
    n_bytes: int  # of the text that these spell

    def batch(self, step: int, rows: int, seed: int) -> Batch:
        """Return the batch of a step: the same one whenever it is asked for."""

    def all(self, rows: int, most: int) -> Iterator[Batch]:
        """Yield batches that cover the sequences once, or about `most` tokens of them."""


# --------------------------------------------------------------------- texts


def read_texts(paths: Sequence[str], val_fraction: float, test_fraction: float) -> Parts:
    """Return each file's beginning, middle and end as the parts to train, validate and test on.

    A cut is made at the end of a line, if one is near.

    Raises:
        TrainingError: a file cannot be read, is empty, is not UTF-8, or contains a special token.
    """
    train, val, test, digest = [], [], [], hashlib.sha256()
    for path in paths:
        text = _read(path, digest)
        end = _line_end(text, round(len(text) * (1 - test_fraction)))
        middle = _line_end(text, round(len(text) * (1 - test_fraction - val_fraction)), end)
        train.append(text[:middle])
        val.append(text[middle:end])
        test.append(text[end:])
    return Parts(tuple(train), tuple(val), tuple(test), digest.hexdigest())


def _line_end(text: str, at: int, end: int | None = None) -> int:
    """Return the place after the next end of a line; `at` itself if none is near."""
    near = text.find("\n", at, min(at + len(text) // 50 + 1, len(text) if end is None else end))
    return at if near < 0 else near + 1


def _read(path: str, digest: hashlib._Hash) -> str:
    text = read_text(Path(path), MOST_BYTES, TrainingError).removeprefix("\ufeff")
    digest.update(text.encode())
    if not text.strip():
        raise TrainingError(f"{path} is empty")
    for special in (END_OF_TEXT, SEPARATOR):
        if special in text:
            line = text.count("\n", 0, text.index(special)) + 1
            raise TrainingError(f"{path}: line {line} contains {special}, a token of its own")
    return text.replace("\r\n", "\n")


def chunks(text: str, characters: int = CHUNK) -> Iterator[str]:
    """Yield a text in parts that are tokenized as the whole text is.

    A cut is after a line break between two characters that are no white space. There, no piece
    of a byte-level BPE reaches across. Of several line breaks, the pieces depend on what follows.

    Args:
        characters: of a part, at least.
    """
    first = 0
    while first < len(text):
        found = _CUT.search(text, first + characters)
        end = len(text) if found is None else found.end()
        yield text[first:end]
        first = end


class TextSequences:
    """Windows of a text's tokens.

    Args:
        texts: joined with an end-of-text token between them.
        tokenizer: the model's.
        T: tokens of a window.
        what: names the part in messages.
        step: called with the number of characters that were tokenized.

    Raises:
        TrainingError: the text is shorter than one window.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: BPETokenizer,
        T: int,
        what: str,
        step: Callable[[int], None] = lambda characters: None,
    ) -> None:
        ids: list[int] = []
        for text in texts:
            ids += [tokenizer.vocab[END_OF_TEXT]] if ids else []
            for chunk in chunks(text):
                ids += tokenizer.encode(chunk)
                step(len(chunk))
        if len(ids) <= T:
            raise TrainingError(
                f"the {what} part has {len(ids)} tokens, and one context needs {T + 1}: give more"
                " text, or a smaller --block-size"
            )
        self.ids, self.T = torch.tensor(ids), T
        self.n_tokens = self.n_scored = len(ids)
        self.n_bytes = sum(len(text.encode()) for text in texts)

    def batch(self, step: int, rows: int, seed: int) -> Batch:
        """Return windows (rows, T) that begin anywhere."""
        random = Random(f"{seed} {step}")
        starts = [random.randrange(len(self.ids) - self.T) for _ in range(rows)]
        both = torch.stack([self.ids[start : start + self.T + 1] for start in starts])
        return both[:, :-1], both[:, 1:]

    def all(self, rows: int, most: int) -> Iterator[Batch]:
        """Yield windows one after another; of a long text, windows evenly spread over it."""
        starts = range(0, len(self.ids) - self.T, self.T)
        starts = starts[:: max(1, len(starts) * self.T // most)]
        for first in range(0, len(starts), rows):
            chosen = starts[first : first + rows]
            both = torch.stack([self.ids[start : start + self.T + 1] for start in chosen])
            yield both[:, :-1], both[:, 1:]


# --------------------------------------------------------------------- pairs


def read_pairs(path: str, val_fraction: float, test_fraction: float, seed: int) -> Parts:
    """Return the lines of a file of pairs, shuffled, as three parts; equal lines once.

    A line is a source, a tab and a target; what follows a second tab is ignored, as in
    Tatoeba's files.

    Raises:
        TrainingError: a line without its tab or with an empty side (its number is named), a
            file that cannot be read, or too few pairs.
    """
    digest = hashlib.sha256()
    lines = _read(path, digest).split("\n")
    pairs: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        source, tab, rest = line.partition("\t")
        target = rest.split("\t")[0]
        if not (tab and source.strip() and target.strip()):
            raise TrainingError(
                f"{path}: line {number} is not a source, a tab and a target: {line[:60]!r}"
            )
        pairs[f"{source.strip()}\t{target.strip()}"] = None
    found = list(pairs)
    Random(f"pairs {seed}").shuffle(found)
    n_test, n_val = (round(len(found) * part) for part in (test_fraction, val_fraction))
    if not (n_test and n_val and len(found) - n_test - n_val):
        raise TrainingError(f"{path} has {len(found)} pairs: too few for three parts")
    test, val = found[:n_test], found[n_test : n_test + n_val]
    return Parts(tuple(found[n_test + n_val :]), tuple(val), tuple(test), digest.hexdigest())


class PairSequences:
    """Pairs as sequences "source <|sep|> target <|endoftext|>"; only the target's loss counts.

    Args:
        lines: source, tab, target.
        step: called with the number of characters that were tokenized.

    Raises:
        TrainingError: a pair is longer than the model's context.
    """

    def __init__(
        self,
        lines: Sequence[str],
        tokenizer: BPETokenizer,
        T: int,
        step: Callable[[int], None] = lambda characters: None,
    ) -> None:
        self.rows: list[tuple[list[int], int]] = []  # ids, and how many are before the target
        for line in lines:
            source, target = line.split("\t")
            before = [*tokenizer.encode(source), tokenizer.vocab[SEPARATOR]]
            ids = [*before, *tokenizer.encode(" " + target), tokenizer.vocab[END_OF_TEXT]]
            if len(ids) > T + 1:
                raise TrainingError(
                    f"the pair {line[:60]!r} has {len(ids)} tokens, and the context {T}: leave it"
                    " out, or give a larger --block-size"
                )
            self.rows.append((ids, len(before)))
            step(len(line))
        self.pad = tokenizer.vocab[END_OF_TEXT]
        self.n_tokens = sum(len(ids) for ids, _ in self.rows)
        self.n_scored = sum(len(ids) - before for ids, before in self.rows)
        self.n_bytes = sum(len(line.split("\t")[1].encode()) + 1 for line in lines)
        self._order_of: tuple[int, int] | None = None  # (epoch, seed) of the known order
        self._order: list[int] = []

    def batch(self, step: int, rows: int, seed: int) -> Batch:
        """Return the pairs of a step: every pair once in an epoch, in a new order each time."""
        first, chosen = step * rows, []
        for number in range(first, first + rows):
            epoch, at = divmod(number, len(self.rows))
            if self._order_of != (epoch, seed):
                self._order_of, self._order = (epoch, seed), list(range(len(self.rows)))
                Random(f"{seed} epoch {epoch}").shuffle(self._order)
            chosen.append(self._order[at])
        return self._padded([self.rows[number] for number in chosen])

    def all(self, rows: int, most: int) -> Iterator[Batch]:
        """Yield the pairs in order, until about `most` tokens are done."""
        done = 0
        for first in range(0, len(self.rows), rows):
            chosen = self.rows[first : first + rows]
            yield self._padded(chosen)
            done += sum(len(ids) for ids, _ in chosen)
            if done >= most:
                return

    def _padded(self, chosen: Sequence[tuple[list[int], int]]) -> Batch:
        """Return ids and targets (B, T), padded to the longest row.

        Example: the ids 5 6 S 8 9 E, three of them before the target 8 9 E, become

            ids     5  6  S  8  9
            target -1 -1  8  9  E
        """
        longest = max(len(ids) for ids, _ in chosen) - 1
        inputs = torch.full((len(chosen), longest), self.pad)
        targets = torch.full((len(chosen), longest), NOT_READ)
        for row, (ids, before) in enumerate(chosen):
            inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
            targets[row, before - 1 : len(ids) - 1] = torch.tensor(ids[before:])
        return inputs, targets
