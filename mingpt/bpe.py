"""Byte-level byte-pair encoding: GPT-2's, and any other with the same kind of files.

A text is cut into pieces by a regular expression, each piece is spelt as its
UTF-8 bytes, and neighbouring symbols are merged in the order of the merges
(Sennrich et al. 2016, arXiv 1508.07909, algorithm 1; over bytes: Radford et al.
2019, section 2.2). Vocabulary files write each byte as one printable character,
the byte alphabet. Files are read by loading/tokenizer_files.py; the shipped
vocabulary is trained by scripts/train_builtin.py.

`_merge_plainly` is the definition, and `show_work` uses it. It takes n**2 steps for a
piece of n bytes. `encode` uses `_merge_by_heap`: the same symbols in n log n steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise

import regex
import torch
from torch import Tensor

from mingpt.errors import TokenizerError

END_OF_TEXT = "<|endoftext|>"

# GPT-2's rule: the English contractions, then runs of letters, digits or other
# signs, each with the one space before it, then white space. Of several spaces
# before a word, the last one goes with the word.
PIECES = regex.compile(r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
_LONGEST_CACHED_PIECE = 64  # characters; a longer piece rarely occurs twice
_MOST_PLAIN_BYTES = 1000  # of a piece that `show_work` merges plainly, in some 20 ms
_MOST_CACHED_PIECES = 50_000


def _byte_alphabet() -> dict[int, str]:
    """Return byte -> the printable character that stands for it in vocabulary files.

    Bytes that Latin-1 prints stand for themselves; the other 68 are numbered on
    from U+0100, so that no vocabulary entry holds white space or a control.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{byte: chr(byte) for byte in printable},
        **{byte: chr(0x100 + n) for n, byte in enumerate(others)},
    }


_CHAR_OF_BYTE = _byte_alphabet()
_BYTE_OF_CHAR = {char: byte for byte, char in _CHAR_OF_BYTE.items()}


def byte_symbols() -> list[str]:
    """Return the character of the byte alphabet for each byte, from 0 to 255."""
    return [_CHAR_OF_BYTE[byte] for byte in range(256)]


@dataclass(frozen=True)
class PieceWork:
    """The steps from one piece of a text to its tokens; see `BPETokenizer.show_work`."""

    piece: str  # as the regular expression cut it
    data: bytes  # its UTF-8 bytes
    merges: tuple[tuple[str, str], ...]  # in the order applied, in the byte alphabet
    symbols: tuple[str, ...]  # after the last merge, in the byte alphabet
    ids: tuple[int, ...]
    tokens: tuple[str, ...] = field(default=())  # decoded, as `BPETokenizer.tokens`


class BPETokenizer:
    """Text <-> token ids.

    mingpt.load_tokenizer reads one from a model's files.

    Args:
        vocab: symbol, in the byte alphabet -> id.
        merges: pairs of symbols, the most important first.
        added: symbols of the vocabulary that are plain text, not in the byte
            alphabet. In a text they are read as those tokens, but for "<|endoftext|>".
        rows: number of rows of the model's embedding. Ids below it that the
            vocabulary does not have are padding. None: there is no padding.

    Raises:
        TokenizerError: a vocabulary that cannot spell every text, or has more
            tokens than `rows`.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        added: Iterable[str] = (),
        rows: int | None = None,
    ) -> None:
        self.vocab = vocab
        self.merges = [tuple(pair) for pair in merges]
        self.rows = rows
        self.added = frozenset(added)
        names = sorted(self.added - {END_OF_TEXT, ""}, key=len, reverse=True)
        self._added_in_texts = regex.compile("|".join(map(regex.escape, names))) if names else None
        self._check()
        self._symbol_of_id = {number: symbol for symbol, number in vocab.items()}
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}
        self._cached_ids: dict[str, tuple[int, ...]] = {}

    # ------------------------------------------------------------- text -> ids

    def __call__(self, text: str) -> Tensor:
        """Return the token ids of `text` as a LongTensor (1, T), ready for the model."""
        return torch.tensor([self.encode(text)], dtype=torch.long)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Return the token ids of `text`.

        Args:
            allow_special: read "<|endoftext|>" in the text as that one token;
                otherwise it is spelt out like any other text.

        Raises:
            TokenizerError: the text holds lone surrogates, or the vocabulary
                has no "<|endoftext|>" where one is asked for.
        """
        if allow_special and END_OF_TEXT in text:
            if END_OF_TEXT not in self.vocab:
                raise TokenizerError(f"the vocabulary has no {END_OF_TEXT}")
            parts = [self.encode(part) for part in text.split(END_OF_TEXT)]
            special = [self.vocab[END_OF_TEXT]]
            return parts[0] + [number for part in parts[1:] for number in special + part]
        ids: list[int] = []
        for piece, is_added in self._pieces(text):
            ids.extend((self.vocab[piece],) if is_added else self._piece_ids(piece))
        return ids

    def _pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield the pieces of a text in order, each with True if it is an added token."""
        at = 0
        for found in self._added_in_texts.finditer(text) if self._added_in_texts else ():
            yield from ((piece, False) for piece in PIECES.findall(text[at : found.start()]))
            yield found[0], True
            at = found.end()
        yield from ((piece, False) for piece in PIECES.findall(text[at:]))

    def show_work(self, text: str) -> list[PieceWork]:
        """Return every piece of `text` with its bytes, the merges made, and its tokens."""
        works = []
        for piece, is_added in self._pieces(text):
            merges: list[tuple[str, str]] = []
            data = _utf8(piece)
            if is_added:
                works.append(PieceWork(piece, data, (), (piece,), (self.vocab[piece],), (piece,)))
                continue
            is_short = len(data) <= _MOST_PLAIN_BYTES
            merged = self._merge_plainly if is_short else self._merge_by_heap
            symbols = tuple(merged(_spelt(data), merges))
            ids = tuple(self.vocab[symbol] for symbol in symbols)
            tokens = tuple(self.token(number) for number in ids)
            works.append(PieceWork(piece, data, tuple(merges), symbols, ids, tokens))
        return works

    def _piece_ids(self, piece: str) -> tuple[int, ...]:
        ids = self._cached_ids.get(piece)
        if ids is None:
            symbols = self._merge_by_heap(_spelt(_utf8(piece)), [])
            ids = tuple(self.vocab[symbol] for symbol in symbols)
            room = len(self._cached_ids) < _MOST_CACHED_PIECES
            if room and len(piece) <= _LONGEST_CACHED_PIECE:
                self._cached_ids[piece] = ids
        return ids

    def _merge_plainly(self, symbols: list[str], trace: list[tuple[str, str]]) -> list[str]:
        """Return `symbols`, merged until no pair of `merges` is left, by the definition.

        It takes n**2 steps for n symbols.

        Args:
            symbols: in the byte alphabet.
            trace: gets the merged pairs, in the order applied.
        """
        last = len(self.merges)
        while len(symbols) > 1:
            best = min(pairwise(symbols), key=lambda pair: self._rank.get(pair, last))
            if best not in self._rank:
                break
            trace.append(best)
            symbols = _join_everywhere(symbols, best)
        return symbols

    def _merge_by_heap(self, symbols: list[str], trace: list[tuple[str, str]]) -> list[str]:
        """Return what `_merge_plainly` does, in n log n steps.

        The symbols are a linked list: a joined symbol stays at its left part's index, and
        the right part's index is left empty. Each round joins one pair everywhere, from
        left to right. A heap gives the best pair's rank, and `places` where the pair has
        been seen. Joining changes neighbours, so a pair may be no longer there.
        """
        symbols, n = symbols.copy(), len(symbols)
        after = list(range(1, n + 1))  # index of the next symbol; n: there is none
        before = list(range(-1, n - 1))
        places: dict[int, list[int]] = {}  # rank of a pair -> indices of its left symbols
        for at, rank in enumerate(map(self._rank.get, pairwise(symbols))):
            if rank is not None:
                places.setdefault(rank, []).append(at)
        ranks = list(places)
        heapify(ranks)
        while ranks:
            best = heappop(ranks)
            first, second = self.merges[best]
            joined, changed = first + second, list[int]()  # left indices of new pairs
            for at in sorted(places.pop(best)):
                right = after[at]
                if right == n or symbols[at] != first or symbols[right] != second:
                    continue
                symbols[at], symbols[right] = joined, ""
                after[at] = following = after[right]
                if following < n:
                    before[following] = at
                changed += (before[at], at) if at else (at,)
            if changed:
                trace.append((first, second))
            for at in changed:  # looked up last, because a new pair may rank before this one
                if symbols[at] and after[at] < n:
                    rank = self._rank.get((symbols[at], symbols[after[at]]))
                    if rank is not None and rank in places:
                        places[rank].append(at)
                    elif rank is not None:
                        places[rank] = [at]
                        heappush(ranks, rank)
        return [symbol for symbol in symbols if symbol]

    # ------------------------------------------------------------- ids -> text

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        """Return the text of a 1-D tensor or list of ids; broken UTF-8 becomes U+FFFD.

        Raises:
            TokenizerError: an id that the vocabulary does not have, or a
                tensor that is not 1-D.
        """
        if isinstance(ids, Tensor):
            if ids.dim() != 1:
                raise TokenizerError(f"decode takes a 1-D tensor, not {tuple(ids.shape)}")
            ids = ids.tolist()
        return b"".join(self.data(number) for number in ids).decode("utf-8", errors="replace")

    def data(self, number: int) -> bytes:
        """Return the bytes of one token; they may begin or end in the middle of a character.

        A row of the embedding that stands for no token has the bytes of "<pad:50300>".

        Raises:
            TokenizerError: an id that the vocabulary does not have.
        """
        symbol = self._symbol_of_id.get(int(number))
        if symbol is None and self.is_padding(int(number)):
            return f"<pad:{number}>".encode()
        if symbol is None:
            raise TokenizerError(f"no token has the id {number}; ids go to {self.vocab_size - 1}")
        if symbol in self.added or not all(char in _BYTE_OF_CHAR for char in symbol):
            return symbol.encode()  # a special token that is written out in the file
        return bytes(_BYTE_OF_CHAR[char] for char in symbol)

    def token(self, number: int) -> str:
        r"""Return the text of one token, with bytes that are not UTF-8 by themselves as \xNN.

        A row of the embedding that stands for no token is "<pad:50300>".

        Raises:
            TokenizerError: an id that the vocabulary does not have.
        """
        return self.data(number).decode("utf-8", errors="backslashreplace")

    def tokens(self, text: str) -> list[str]:
        """Return the text of every token of `text`, e.g. ["Michelle", " Jones"]."""
        return [self.token(number) for number in self.encode(text)]

    def is_padding(self, number: int) -> bool:
        """Return True if the id is a row of the model's embedding that stands for no token."""
        return number not in self._symbol_of_id and 0 <= number < (self.rows or 0)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._symbol_of_id) + 1

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token: n bytes of text are at least n / longest_token tokens."""
        return max(len(self.data(number)) for number in self._symbol_of_id)

    def fewest_tokens(self, text: str) -> int:
        """Return a lower bound of the number of tokens of `text`, without tokenizing it."""
        return math.ceil(len(text.encode("utf-8", "surrogatepass")) / self.longest_token)

    def _check(self) -> None:
        if not all(type(number) is int and number >= 0 for number in self.vocab.values()):
            raise TokenizerError("the vocabulary holds ids that are no whole numbers from 0 on")
        if len(set(self.vocab.values())) != len(self.vocab):
            raise TokenizerError("the vocabulary gives the same id twice")
        try:
            "".join(self.vocab).encode("utf-8")
        except UnicodeEncodeError:
            raise TokenizerError("the vocabulary holds a symbol that is no Unicode") from None
        results = {a + b for a, b in self.merges}
        missing = sorted({*_BYTE_OF_CHAR, *results} - self.vocab.keys())
        if missing:
            raise TokenizerError(
                f"the vocabulary lacks {len(missing)} of the symbols that bytes and merges make,"
                f" the first {missing[0]!r}"
            )
        if self.rows is not None and max(self.vocab.values()) >= self.rows:
            raise TokenizerError(
                f"the tokenizer has {max(self.vocab.values()) + 1} tokens,"
                f" the model's embedding only {self.rows} rows"
            )


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(f"the text is not valid Unicode: {error.reason}") from None


def _spelt(data: bytes) -> list[str]:
    """Return each byte as its character in the byte alphabet."""
    return [_CHAR_OF_BYTE[byte] for byte in data]


def _join_everywhere(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Return `symbols` with every occurrence of `pair` joined, from left to right."""
    joined, at = [], 0
    while at < len(symbols):
        if tuple(symbols[at : at + 2]) == pair:
            joined.append(pair[0] + pair[1])
            at += 2
        else:
            joined.append(symbols[at])
            at += 1
    return joined
