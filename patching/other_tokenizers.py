"""Tokenizers of other kinds (WordPiece, Unigram, ...), to be looked at beside a model's own.

They are read from a tokenizer.json by the package tokenizers. No model here can read their ids:
this is for comparing how texts are cut.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingpt.errors import TokenizerError
from mingpt.files import expanded, read_text

MOST_BYTES = 2**26  # of a tokenizer.json: those of 250,000 tokens have 20 MB
NEEDS = "a tokenizer.json is read by the package tokenizers: pip install tokenizers"


@dataclass(frozen=True)
class OtherToken:
    """A token of a text."""

    id: int
    token: str  # as the vocabulary spells it, such as "##s"
    start: int  # the characters of the text that it stands for
    end: int
    is_unknown: bool  # it stands for anything that the vocabulary cannot spell


class OtherTokenizer:
    """A tokenizer of any kind, from a tokenizer.json.

    Attributes:
        name: the file's path.
        kind: of its model, such as "WordPiece".
        size: number of tokens.
    """

    def __init__(self, core: Any, name: str, kind: str, unknown: str | None) -> None:
        self.name, self.kind, self._core = name, kind, core
        self.size: int = core.get_vocab_size()
        self._unknown = unknown

    @classmethod
    def load(cls, path: str | Path) -> OtherTokenizer:
        """Read a tokenizer.json.

        Raises:
            TokenizerError: the package tokenizers is missing, the file cannot be read, or it is
                no tokenizer.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise TokenizerError(NEEDS) from None
        path = expanded(path)
        text = read_text(path, MOST_BYTES, TokenizerError)
        try:
            model = json.loads(text)["model"]
            kind, unknown = str(model.get("type", "unknown kind")), model.get("unk_token")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise TokenizerError(f"{path} is no tokenizer.json: it describes no model") from None
        core = _guarded(lambda: Tokenizer.from_str(text), f"{path} is no tokenizer.json")
        core.no_padding()
        core.no_truncation()
        return cls(core, str(path), kind, unknown if isinstance(unknown, str) else None)

    def encode(self, text: str) -> list[OtherToken]:
        """Return the tokens of a text, with those that the tokenizer adds, such as [CLS].

        A token that is added stands for no character: start and end are 0.

        Raises:
            TokenizerError: the tokenizer cannot cut this text.
        """
        found = _guarded(
            lambda: self._core.encode(text),
            f"{self.name} cannot cut this text",
        )
        rows = zip(found.ids, found.tokens, found.offsets, strict=True)
        return [
            OtherToken(number, token, start, end, token == self._unknown)
            for number, token, (start, end) in rows
        ]

    def token(self, number: int) -> str | None:
        """Return a token as the vocabulary spells it; None for a number that it does not have."""
        if not 0 <= number < 2**32:
            return None
        found: str | None = self._core.id_to_token(number)
        return found


def _guarded(call: Any, what: str) -> Any:
    """Return call(), with every error of the package as one of ours.

    Raises:
        TokenizerError: the call fails. A panic of the package is no Exception.
    """
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:200]
        raise TokenizerError(f"{what}: {reason}") from None
