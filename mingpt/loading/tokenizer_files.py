"""Read a tokenizer from its files, and save one.

Only byte-level BPE with GPT-2's rule for cutting a text is read, as bpe.py does
it. A tokenizer.json that asks for anything else is refused; the error names the
field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mingpt.bpe import END_OF_TEXT, BPETokenizer
from mingpt.errors import TokenizerError
from mingpt.files import read_text, replacing

# Vocabulary and merges under transformers' names, both in one file, or under OpenAI's names.
FILES = (("vocab.json", "merges.txt"), ("tokenizer.json",), ("encoder.json", "vocab.bpe"))
MOST_BYTES = 256 * 10**6  # of one of these files; GPT-2's largest has 1 MB
# A file that may lie beside such a pair: text -> id of tokens that were added later.
ADDED = "added_tokens.json"

# Field of a tokenizer.json -> the values that are supported, the usual one last.
# None: the field is null or left out.
_ONLY_VALUES: Mapping[str, tuple[object, ...]] = {
    "normalizer": (None,),
    "model.type": (None, "BPE"),
    "model.dropout": (0.0, None),
    "model.continuing_subword_prefix": (None, ""),
    "model.end_of_word_suffix": (None, ""),
    "model.byte_fallback": (None, False),
    "model.ignore_merges": (None, False),
    "pre_tokenizer.type": ("ByteLevel",),
    "pre_tokenizer.add_prefix_space": (False,),
    "pre_tokenizer.use_regex": (None, True),
    "post_processor.type": (None, "ByteLevel", "TemplateProcessing"),
    "post_processor.special_tokens": (None, {}),  # a template that adds no token
}

# Files of other kinds of tokenizers, which are not read here.
_OTHERS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "meta.pkl")

# Symbol -> id; the merges, most important first; the symbols that are plain text, not
# spelt in the byte alphabet (bpe.py).
_Vocabulary = tuple[dict[str, int], list[tuple[str, str]], frozenset[str]]


def read_tokenizer(*paths: str | Path, rows: int | None = None) -> BPETokenizer:
    """Return the tokenizer that is in these files.

    Args:
        paths: one tokenizer.json; or a JSON vocabulary and its merges; or those
            two and an added_tokens.json.
        rows: number of rows of the model's embedding: see BPETokenizer.

    Raises:
        TokenizerError: a file cannot be read, is of another kind, or asks for
            something that bpe.py cannot do (the message names it); or
            BPETokenizer refuses the vocabulary.
    """
    vocab, merges, added = _read([Path(path) for path in paths])
    return BPETokenizer(vocab, merges, added=added, rows=rows)


def tokenizer_in(directory: str | Path, rows: int | None = None) -> BPETokenizer:
    """Return the tokenizer whose files are in `directory`, under one of FILES' names.

    Args:
        rows: number of rows of the model's embedding: see BPETokenizer.

    Raises:
        TokenizerError: there are no such files, or as read_tokenizer.
    """
    return read_tokenizer(*files_in(Path(directory)), rows=rows)


def save_tokenizer(tokenizer: BPETokenizer, directory: str | Path) -> None:
    """Write vocab.json and merges.txt into `directory`, which is created.

    Where tokens were added, write added_tokens.json too.
    """
    directory = Path(directory)
    with replacing(directory / "vocab.json") as temporary:
        temporary.write_text(json.dumps(tokenizer.vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in tokenizer.merges)]
    with replacing(directory / "merges.txt") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if tokenizer.added - {END_OF_TEXT}:
        added = {text: tokenizer.vocab[text] for text in sorted(tokenizer.added)}
        with replacing(directory / ADDED) as temporary:
            temporary.write_text(json.dumps(added, ensure_ascii=False), encoding="utf-8")


def files_in(directory: Path) -> tuple[Path, ...]:
    """Return the tokenizer's files in `directory`, under the first of FILES' names found.

    Raises:
        TokenizerError: there are none.
    """
    for names in FILES:
        paths = tuple(directory / name for name in names)
        if all(path.is_file() for path in paths):
            added = directory / ADDED
            return (*paths, added) if len(paths) == 2 and added.is_file() else paths
    choices = " or ".join(" + ".join(names) for names in FILES)
    raise TokenizerError(f"{directory} holds no tokenizer: {choices}")


def has_any(directory: Path) -> bool:
    """Return True if `directory` holds a file of any kind of tokenizer, even without the others."""
    names = (*(name for names in FILES for name in names), *_OTHERS)
    return any((directory / name).is_file() for name in names)


def _read(paths: Sequence[Path]) -> _Vocabulary:
    if len(paths) == 1:
        return _read_tokenizer_json(paths[0])
    vocab_path, merges_path, *added_path = paths
    vocab, lines = _symbols(vocab_path), _text(merges_path).split("\n")
    lines = [line for line in lines if line and not line.startswith("#version")]
    added = _symbols(added_path[0]) if added_path else {}
    for text, number in added.items():
        if vocab.setdefault(text, number) != number:
            raise TokenizerError(
                f"{added_path[0]}: {text!r} has two ids, {vocab[text]} and {number}"
            )
    return vocab, _pairs(merges_path, lines), frozenset(added)


def _read_tokenizer_json(path: Path) -> _Vocabulary:
    fields = _json(path)
    model = fields.get("model") if isinstance(fields, dict) else None
    if not (isinstance(model, dict) and isinstance(model.get("vocab"), dict)):
        raise TokenizerError(f"{path} is no tokenizer of the tokenizers package")
    for key, values in _ONLY_VALUES.items():
        value = _field(fields, key)
        if value not in values:
            raise TokenizerError(f"{path}: {key} = {value!r} is not supported, only {values[-1]!r}")
    vocab, added = dict(model["vocab"]), set()
    for token in _list(path, fields.get("added_tokens") or []):
        try:
            text, number = token["content"], token["id"]
        except (TypeError, KeyError):
            raise TokenizerError(f"{path}: added_tokens holds {token!r}") from None
        if not (isinstance(text, str) and type(number) is int):
            raise TokenizerError(f"{path}: added_tokens holds {token!r}")
        if vocab.setdefault(text, number) != number:
            raise TokenizerError(f"{path}: {text!r} has two ids, {vocab[text]} and {number}")
        added.add(text)
    return vocab, _pairs(path, model.get("merges") or []), frozenset(added)


def _field(fields: object, key: str) -> object:
    """Return the value at a key such as "model.type"; None where a part is left out."""
    value = fields
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _pairs(path: Path, merges: object) -> list[tuple[str, str]]:
    """Return the merges as pairs; a file writes one as "a b" or as ["a", "b"]."""
    rows = [row.split(" ") if isinstance(row, str) else row for row in _list(path, merges)]
    if not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise TokenizerError(f"{path} holds a line that is no pair of symbols")
    if not all(isinstance(symbol, str) for row in rows for symbol in row):
        raise TokenizerError(f"{path} holds a merge that is not text")
    return [(first, second) for first, second in rows]


def _list(path: Path, value: object) -> list:
    if not isinstance(value, list):
        raise TokenizerError(f"{path} holds {value!r} where a list should be")
    return value


def _symbols(path: Path) -> dict[str, int]:
    symbols = _json(path)
    if not isinstance(symbols, dict):
        raise TokenizerError(f"{path} is not a JSON object of symbols and ids")
    return symbols


def _json(path: Path) -> Any:
    text = _text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from None


def _text(path: Path) -> str:
    text = read_text(path, MOST_BYTES, TokenizerError)
    return text.replace("\r\n", "\n").replace("\r", "\n")
