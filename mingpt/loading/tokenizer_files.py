"""A tokenizer's files: which there are, and what is in them.

Only byte-level BPE with GPT-2's rule for cutting a text: what bpe.py can do.
A tokenizer.json that asks for anything else is refused by the field's name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mingpt.errors import TokenizerError

# Vocabulary and merges under transformers' names, both in one file, or under OpenAI's names.
FILES = (("vocab.json", "merges.txt"), ("tokenizer.json",), ("encoder.json", "vocab.bpe"))
# What may lie beside a pair: text -> id of tokens that were added later.
ADDED = "added_tokens.json"

# What a tokenizer.json may say of each part, the usual last; None: the field is left out.
_ONLY_VALUES = {
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
    "post_processor.special_tokens": (None, {}),  # a template that puts nothing in
}

# Files of tokenizers that are not read here.
_OTHERS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "meta.pkl")

Vocabulary = tuple[dict[str, int], list[tuple[str, str]], frozenset[str]]


def files_in(directory: Path) -> tuple[Path, ...]:
    """The tokenizer's files in `directory`, under the first of FILES' names that are there.

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
    """Whether any file of any tokenizer lies in `directory`, be it half of one."""
    names = (*(name for names in FILES for name in names), *_OTHERS)
    return any((directory / name).is_file() for name in names)


def read(paths: Sequence[Path]) -> Vocabulary:
    """What the files of a tokenizer hold: one, or two, or those and ADDED.

    Returns:
        symbol -> id; the merges, most important first; and those symbols that
        are no bytes in GPT-2's alphabet but text as it is.

    Raises:
        TokenizerError: they cannot be read, are no such files, or ask for
            something that is not built here (named).
    """
    if len(paths) == 1:
        return _of_tokenizer_json(paths[0])
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


def _of_tokenizer_json(path: Path) -> Vocabulary:
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


def _field(fields: dict, key: str) -> object:
    """The value of "part.field", or None where either is left out."""
    value: object = fields
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _pairs(path: Path, merges: object) -> list[tuple[str, str]]:
    """Merges written as "a b", or as ["a", "b"]."""
    rows = [row.split(" ") if isinstance(row, str) else row for row in _list(path, merges)]
    if not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise TokenizerError(f"{path} holds a line that is no pair of symbols")
    if not all(isinstance(symbol, str) for row in rows for symbol in row):
        raise TokenizerError(f"{path} holds a merge of something that is no text")
    return [tuple(row) for row in rows]


def _list(path: Path, value: object) -> list:
    if not isinstance(value, list):
        raise TokenizerError(f"{path} holds {value!r} where a list should be")
    return value


def _symbols(path: Path) -> dict[str, int]:
    symbols = _json(path)
    if not isinstance(symbols, dict):
        raise TokenizerError(f"{path} is not a JSON object of symbols and ids")
    return symbols


def _json(path: Path) -> object:
    text = _text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from None
