"""Tokenizers of other kinds (WordPiece, Unigram, ...), to be looked at beside a model's own.

They are read from a tokenizer.json by the package tokenizers, in a process of its own
(other_tokenizers_process.py). No model here can read their ids: this is for comparing how texts
are cut.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingpt.errors import TokenizerError
from mingpt.files import expanded, read_text

MOST_BYTES = 2**26  # of a tokenizer.json: those of 250,000 tokens have 20 MB
SECONDS = 30.0  # longest time for one text
_PROCESS = Path(__file__).with_name("other_tokenizers_process.py")
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

    def __init__(
        self, content: str, name: str, kind: str, vocabulary: dict[str, int], unknown: int | None
    ) -> None:
        self.name, self.kind, self._content = name, kind, content
        self.size = len(vocabulary)
        self._token_of = {number: token for token, number in vocabulary.items()}
        self._unknown = unknown

    @classmethod
    def load(cls, path: str | Path) -> OtherTokenizer:
        """Read a tokenizer.json.

        Raises:
            TokenizerError: the package tokenizers is missing, the file cannot be read, or it is
                no tokenizer.
        """
        if importlib.util.find_spec("tokenizers") is None:
            raise TokenizerError(NEEDS)
        path = expanded(path)
        content = read_text(path, MOST_BYTES, TokenizerError)
        try:
            model = json.loads(content)["model"]
            kind = str(model.get("type", "unknown kind"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise TokenizerError(f"{path} is no tokenizer.json: it describes no model") from None
        vocabulary = _ask(content, None, f"{path} is no tokenizer.json")["vocabulary"]
        # Unigram names the unknown token by its id, the other kinds by its spelling.
        unknown = model.get("unk_id")
        if isinstance(name := model.get("unk_token"), str):
            unknown = vocabulary.get(name)
        return cls(content, str(path), kind, vocabulary, unknown)

    def encode(self, text: str) -> list[OtherToken]:
        """Return the tokens of a text, with those that the tokenizer adds, such as [CLS].

        A token that is added stands for no character: start and end are 0.

        Raises:
            TokenizerError: the tokenizer cannot cut this text.
        """
        rows = _ask(self._content, text, f"{self.name} cannot cut this text")["tokens"]
        return [
            OtherToken(number, token, start, end, is_unknown=number == self._unknown)
            for number, token, start, end in rows
        ]

    def token(self, number: int) -> str | None:
        """Return a token as the vocabulary spells it; None for a number that it does not have."""
        return self._token_of.get(number)


def _ask(content: str, text: str | None, what: str) -> dict[str, Any]:
    """Return what the process answers to one request.

    Raises:
        TokenizerError: the package fails, takes too long, or ends the process; `what` says in
            the message what failed.
    """
    request = json.dumps({"file": content, "text": text}).encode()
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(_PROCESS)], input=request, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TokenizerError(f"{what}: it took more than {SECONDS:g} s") from None
    if done.returncode:
        raise TokenizerError(f"{what}: the package tokenizers broke down, or needed more than 4 GB")
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise TokenizerError(f"{what}: {answer['error']}")
    return answer
