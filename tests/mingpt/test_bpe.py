"""The tokenizer: GPT-2's ids, round trips, and equality with the tokenizers package."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mingpt import BPETokenizer, TokenizerError
from mingpt.bpe import END_OF_TEXT
from mingpt.loading.gpt2_tokenizer import gpt2_tokenizer_files
from mingpt.loading.sources import BUILTIN_DIRECTORY
from mingpt.loading.tokenizer_files import save_tokenizer, tokenizer_in

# Ids from OpenAI's vocabulary: "Michelle Jones ..." and the course's three others.
MICHELLE_JONES = [48736, 5437, 373, 257, 1353, 12, 1662, 354, 3710, 13, 16738]
COURSE = [
    ("Michelle Jones was a top-notch student. Michelle", {}),
    ("Michelle Smith was a top-notch student. Michelle", {1: 4176}),
    ("Jessica Jones was a top-notch student. Michelle", {0: 45572}),
    ("Michelle Smith was a top-notch student. Jessica", {1: 4176, 10: 17352}),
]
# Python and Rust disagree on a few letters and white-space characters. We follow OpenAI's
# original, in Python, so the comparison leaves these characters out.
SAME_CLASSES = st.characters(
    exclude_categories=["Cs", "Cn", "Co"],
    exclude_characters="\x1c\x1d\x1e\x1f",
    max_codepoint=0xFFFF,
)
TEXTS = [
    "Hello, world!  Two spaces,\n\n\ta tab and 12345 digits.",
    "I'll say it's they've we're I'd can't 'S'LL",
    "naïve café 東京 привет مرحبا 🙂👩\u200d👩\u200d👧",
    "   leading and trailing   ",
    "",
    " ",
    "\u00a0non-breaking\u3000ideographic",
]


@pytest.fixture(scope="module")
def shipped() -> BPETokenizer:
    return tokenizer_in(BUILTIN_DIRECTORY)


def reference(vocab_path, merges_path) -> Tokenizer:
    """Return the same vocabulary in the tokenizers package."""
    core = Tokenizer(models.BPE.from_file(str(vocab_path), str(merges_path)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


@pytest.fixture(scope="module")
def shipped_reference() -> Tokenizer:
    return reference(BUILTIN_DIRECTORY / "vocab.json", BUILTIN_DIRECTORY / "merges.txt")


@pytest.mark.parametrize(("text", "changes"), COURSE)
def test_gpt2_ids_of_the_course_sentences(gpt2_tokenizer, text, changes):
    expected = [changes.get(place, number) for place, number in enumerate(MICHELLE_JONES)]
    assert gpt2_tokenizer.encode(text) == expected
    assert gpt2_tokenizer(text).tolist() == [expected]
    assert gpt2_tokenizer(text).dtype == torch.int64


def test_gpt2_vocabulary(gpt2_tokenizer):
    assert gpt2_tokenizer.vocab_size == 50257
    assert gpt2_tokenizer.token(5437) == " Jones"
    assert gpt2_tokenizer.encode("Jones") == [25784]


@given(text=st.text(SAME_CLASSES))
def test_gpt2_equals_the_tokenizers_package(gpt2_tokenizer, text):
    core = test_gpt2_equals_the_tokenizers_package.core
    if core is None:
        core = test_gpt2_equals_the_tokenizers_package.core = reference(*gpt2_tokenizer_files())
    assert gpt2_tokenizer.encode(text) == core.encode(text).ids


test_gpt2_equals_the_tokenizers_package.core = None


@given(text=st.text())
def test_any_text_round_trips(shipped, text):
    assert shipped.decode(shipped.encode(text)) == text
    assert shipped.decode(shipped(text)[0]) == text


@given(text=st.text(SAME_CLASSES))
def test_shipped_vocabulary_equals_the_tokenizers_package(shipped, shipped_reference, text):
    assert shipped.encode(text) == shipped_reference.encode(text).ids


@pytest.mark.parametrize("text", TEXTS)
def test_awkward_texts(shipped, shipped_reference, text):
    ids = shipped.encode(text)
    assert ids == shipped_reference.encode(text).ids
    assert shipped.decode(ids) == text


def test_tokens_are_the_decoded_pieces(shipped):
    text = "Michelle Jones was a top-notch student."
    assert shipped.tokens(text)[:3] == ["Michelle", " Jones", " was"]
    assert "".join(shipped.tokens(text)) == text


def test_bytes_that_are_no_text_are_shown_as_escapes(shipped):
    assert shipped.tokens("東") == ["\\xe6", "\\x9d", "\\xb1"]
    assert shipped.decode(shipped.encode("東")[:1]) == "\ufffd"


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_the_tokens_are_those_of_the_text(shipped, text):
    assert b"".join(map(shipped.data, shipped.encode(text))) == text.encode()


def test_end_of_text_is_ordinary_unless_asked_for(shipped):
    text = f"one{END_OF_TEXT}two"
    special = shipped.vocab[END_OF_TEXT]
    assert special not in shipped.encode(text)
    assert shipped.decode(shipped.encode(text)) == text
    asked = shipped.encode(text, allow_special=True)
    assert asked == [*shipped.encode("one"), special, *shipped.encode("two")]
    assert shipped.decode(asked) == text


def test_show_work_is_the_plain_path_with_its_steps(shipped):
    text = "Michelle's 東 top-notch"
    works = shipped.show_work(text)
    assert [number for work in works for number in work.ids] == shipped.encode(text)
    assert [token for work in works for token in work.tokens] == shipped.tokens(text)
    assert "".join(work.piece for work in works) == text
    for work in works:  # replaying the merges on the bytes gives the symbols
        assert work.data == work.piece.encode()
        assert len(work.merges) <= len(work.data) - len(work.symbols)
        assert all(pair in shipped._rank for pair in work.merges)
    ranks = [shipped._rank[pair] for pair in works[0].merges]
    assert ranks == sorted(ranks)


def test_a_long_word_is_not_cached_and_still_right(shipped, shipped_reference):
    text = "Michelle" * 50
    assert shipped.encode(text) == shipped_reference.encode(text).ids


def test_save_and_from_directory(shipped, tmp_path):
    save_tokenizer(shipped, tmp_path)
    again = tokenizer_in(tmp_path)
    assert (again.vocab, again.merges) == (shipped.vocab, shipped.merges)
    for old, new in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        (tmp_path / old).rename(tmp_path / new)
    assert tokenizer_in(tmp_path).encode("Michelle") == shipped.encode("Michelle")


def test_lone_surrogates_are_refused(shipped):
    with pytest.raises(TokenizerError, match="not valid Unicode"):
        shipped.encode("a \ud800")


@pytest.mark.parametrize("number", [-1, 10**9])
def test_unknown_ids_are_refused(shipped, number):
    with pytest.raises(TokenizerError, match=f"no token has the id {number}"):
        shipped.decode([number])


def test_decode_refuses_a_batch(shipped):
    with pytest.raises(TokenizerError, match="1-D"):
        shipped.decode(torch.zeros(1, 3, dtype=torch.long))


def broken(vocab=None, merges=None):
    """Return the shipped tokenizer's files with one thing replaced."""
    good = (BUILTIN_DIRECTORY / "vocab.json").read_text(encoding="utf-8")
    good_merges = (BUILTIN_DIRECTORY / "merges.txt").read_text(encoding="utf-8")
    return (vocab or good), (merges or good_merges)


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        ("{", None, "cannot be read"),
        ("[]", None, "not a JSON object"),
        ('{"a": 0}', None, "lacks"),
        (None, "#version: 0.2\na b c\n", "no pair of symbols"),
        (None, "#version: 0.2\nqq zz\n", "lacks 1 of the symbols"),
    ],
)
def test_broken_files_are_refused(tmp_path, vocab, merges, message):
    for name, text in zip(("vocab.json", "merges.txt"), broken(vocab, merges), strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(TokenizerError, match=message):
        tokenizer_in(tmp_path)


@pytest.mark.parametrize(("number", "message"), [(1, "same id twice"), (-1, "whole numbers")])
def test_bad_ids_in_a_vocabulary_are_refused(tmp_path, number, message):
    vocab, _ = broken()
    fields = json.loads(vocab)
    fields[next(iter(fields))] = number
    with pytest.raises(TokenizerError, match=message):
        BPETokenizer(fields, [])


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(
        TokenizerError, match=r"vocab\.json \+ merges\.txt or tokenizer\.json or enc"
    ):
        tokenizer_in(tmp_path)
