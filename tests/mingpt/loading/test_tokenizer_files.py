"""The tokenizer's files in all their forms, and the rows that no token has."""

import json

import pytest
import tokenizers
from helpers import make_model
from transformers import GPT2Tokenizer

import mingpt
from mingpt import BPETokenizer, TokenizerError
from mingpt.loading import tokenizer_files
from mingpt.loading.sources import BUILTIN_DIRECTORY
from mingpt.loading.tokenizer_files import read_tokenizer, save_tokenizer, tokenizer_in
from patching import PromptError, PromptPair

BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": True,
    "use_regex": True,
}
TEXTS = ["Michelle Jones was a top-notch student.", "naïve 東京 🙂\n\t x  y", "<|endoftext|>", ""]


@pytest.fixture(scope="module")
def ours() -> BPETokenizer:
    return tokenizer_in(BUILTIN_DIRECTORY)


def added(number, text) -> dict:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": number, "content": text, **dict.fromkeys(flags, False)}


def fields_of(ours, **changes) -> dict:
    """Return a tokenizer.json's fields, with part__field set to another value."""
    fields = {
        "added_tokens": [added(ours.vocab["<|endoftext|>"], "<|endoftext|>")],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": False},
        "post_processor": {**BYTE_LEVEL, "trim_offsets": False},
        "model": {"type": "BPE", "vocab": ours.vocab, "merges": [" ".join(p) for p in ours.merges]},
    }
    for key, value in changes.items():
        place, _, name = key.rpartition("__")
        (fields[place] if place else fields)[name] = value
    return fields


def write(directory, fields) -> None:
    (directory / "tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")


@pytest.mark.parametrize("as_lists", [False, True])
def test_a_tokenizer_json_is_the_same_tokenizer(tmp_path, ours, as_lists):
    pairs = [list(pair) if as_lists else " ".join(pair) for pair in ours.merges]
    write(tmp_path, fields_of(ours, model__merges=pairs))
    again = tokenizer_in(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        assert again.encode(text) == ours.encode(text)
        if "<|" not in text:  # theirs finds added tokens in any text, ours only when told to
            assert again.encode(text) == theirs.encode(text).ids
        assert again.decode(again.encode(text)) == text


def test_what_transformers_saves_is_read(tmp_path, ours):
    save_tokenizer(ours, tmp_path)
    theirs = GPT2Tokenizer.from_pretrained(tmp_path)
    theirs.add_special_tokens({"pad_token": "<my pad é>"})
    theirs.save_pretrained(tmp_path / "theirs")
    names = {path.name for path in (tmp_path / "theirs").iterdir()}
    assert "tokenizer.json" in names
    again = tokenizer_in(tmp_path / "theirs")
    for text in TEXTS[:2]:
        assert again.encode(text) == theirs(text)["input_ids"]
    assert again.token(theirs.pad_token_id) == "<my pad é>"
    assert again.vocab_size == ours.vocab_size + 1


def test_an_added_token_is_text_as_it_is(tmp_path, ours):
    number = ours.vocab_size
    write(tmp_path, fields_of(ours, added_tokens=[{"id": number, "content": "éé"}]))
    again = tokenizer_in(tmp_path)
    assert again.token(number) == "éé"  # in the files' alphabet it is two bytes E9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "NFC"}}, "normalizer = {'type': 'NFC'} is not supported, only No"),
        ({"pre_tokenizer": None}, r"pre_tokenizer\.type = None"),
        ({"pre_tokenizer": {"type": "Sequence"}}, r"pre_tokenizer\.type = 'Sequence'"),
        ({"pre_tokenizer__add_prefix_space": True}, r"add_prefix_space = True"),
        ({"pre_tokenizer__use_regex": False}, r"use_regex = False"),
        ({"post_processor__type": "RobertaProcessing"}, r"post_processor\.type = 'Roberta"),
        ({"post_processor__special_tokens": {"<s>": {}}}, r"post_processor\.special_tokens = {'<s"),
        ({"model__type": "WordPiece"}, r"model\.type = 'WordPiece' is not supported, only 'BPE'"),
        ({"model__byte_fallback": True}, r"model\.byte_fallback"),
        ({"model__ignore_merges": True}, r"model\.ignore_merges"),
        ({"model__dropout": 0.1}, r"model\.dropout"),
        ({"model__continuing_subword_prefix": "##"}, r"model\.continuing_subword_prefix"),
        ({"model__vocab": []}, "no tokenizer of the tokenizers package"),
        ({"model__merges": ["a b c"]}, "no pair of symbols"),
        ({"model__merges": [3]}, "no pair of symbols"),
        ({"model__merges": [["a", 2]]}, "merge that is not text"),
        ({"model__merges": [["a", None]]}, "not text"),
        ({"model__merges": [[["a"], ["b"]]]}, "not text"),
        ({"added_tokens": [{"id": 9999, "content": []}]}, "added_tokens holds"),
        ({"added_tokens": [{"id": 9999, "content": None}]}, "added_tokens holds"),
        ({"model__merges": 3}, "holds 3 where a list should be"),
        ({"added_tokens": {"a": 1}}, "where a list should be"),
        ({"added_tokens": [{"id": 1}]}, "added_tokens holds"),
        ({"added_tokens": [{"id": 1, "content": "<|endoftext|>"}]}, "two ids, 3453 and 1"),
        ({"added_tokens": [{"id": "x", "content": "<new>"}]}, "added_tokens holds"),
        ({"added_tokens": [{"id": -7, "content": "<new>"}]}, "no whole numbers"),
        ({"added_tokens": [{"id": 1, "content": "<new>"}]}, "same id twice"),
    ],
)
def test_what_is_not_built_here_is_refused_by_name(tmp_path, ours, changes, message):
    write(tmp_path, fields_of(ours, **changes))
    with pytest.raises(TokenizerError, match=message):
        tokenizer_in(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000, '{"model": 3}'])
def test_what_is_no_tokenizer_json_is_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match=r"cannot be read|no tokenizer of"):
        tokenizer_in(tmp_path)


def test_tokens_added_beside_a_pair_are_read(tmp_path, ours):
    save_tokenizer(ours, tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<é>": ours.vocab_size}))
    again = tokenizer_in(tmp_path)
    assert again.token(ours.vocab_size) == "<é>"
    with pytest.raises(TokenizerError, match=f"only {ours.vocab_size} rows"):
        read_tokenizer(*tokenizer_files.files_in(tmp_path), rows=ours.vocab_size)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": 5}))
    with pytest.raises(TokenizerError, match=r"added_tokens\.json: '<\|endoftext\|>' has two ids"):
        tokenizer_in(tmp_path)


def test_the_pair_comes_before_the_one_file(tmp_path, ours):
    save_tokenizer(ours, tmp_path)
    (tmp_path / "tokenizer.json").write_text("not read")
    assert tokenizer_in(tmp_path).vocab == ours.vocab


# --------------------------------------------------------------------- padding


@pytest.fixture(scope="module")
def padded(tmp_path_factory, ours):
    """Load a model that has ten rows more than its tokenizer has tokens."""
    directory = tmp_path_factory.mktemp("padded")
    mingpt.save(make_model(vocab_size=ours.vocab_size + 10, n_layer=1), directory, ours)
    return mingpt.load(directory)


def test_rows_beyond_the_vocabulary_are_padding(padded, ours):
    _, tokenizer = padded
    first, last = ours.vocab_size, ours.vocab_size + 9
    assert [tokenizer.token(n) for n in (first, last)] == [f"<pad:{first}>", f"<pad:{last}>"]
    assert tokenizer.decode([first]) == f"<pad:{first}>"
    assert tokenizer.is_padding(first)
    assert not tokenizer.is_padding(first - 1)
    assert not tokenizer.is_padding(last + 1)
    assert not tokenizer.is_padding(-1)
    assert tokenizer.vocab_size == ours.vocab_size
    with pytest.raises(TokenizerError, match=f"no token has the id {last + 1}"):
        tokenizer.token(last + 1)
    with pytest.raises(TokenizerError, match=f"no token has the id {first}"):
        ours.token(first)  # without a model there are no rows


def test_a_hole_in_the_vocabulary_is_padding_too(ours):
    vocab = {symbol: number + (number > 300) for symbol, number in ours.vocab.items()}
    tokenizer = BPETokenizer(vocab, ours.merges, rows=ours.vocab_size + 1)
    assert tokenizer.token(301) == "<pad:301>"


def test_padding_is_refused_as_an_answer(padded, ours):
    _, tokenizer = padded
    texts = ("Michelle Jones", "Michelle Smith", f"id:{ours.vocab_size}", "Smith")
    with pytest.raises(PromptError, match=r"target 'id:\d+' is no token: .* is padding"):
        PromptPair.from_text(tokenizer, *texts)


def test_a_symbol_that_is_no_text_is_refused(ours):
    with pytest.raises(TokenizerError, match="no Unicode"):
        BPETokenizer({**ours.vocab, "\ud83d": ours.vocab_size}, ours.merges)


def test_more_tokens_than_rows_are_refused(ours):
    BPETokenizer(ours.vocab, ours.merges, rows=ours.vocab_size)
    with pytest.raises(TokenizerError, match=rf"{ours.vocab_size} tokens, .* only 40 rows"):
        BPETokenizer(ours.vocab, ours.merges, rows=40)
