"""The tokenizer: GPT-2's ids, round trips, and equality with the tokenizers package."""

import json
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mingpt import BPETokenizer, TokenizerError
from mingpt.bpe import _CHAR_OF_BYTE, END_OF_TEXT
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
    "O'Donnell, O'Sullivan and 'LL 'S 'd",  # contractions are in small letters only
    "aaa yeaaah !!! aaaa aaaaa",  # merges that overlap: the leftmost comes first
    "x\u00b2+3\u00bd \u2167\u24605",  # numbers that are no decimal digits
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


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("O'Donnell's", "O ' Donnell 's"),
        ("+3\u00bd\u2167", "+ 3\u00bd\u2167"),  # every kind of number goes with the digits
        ("I'LL I'll", "I ' LL _I 'll"),
    ],
)
def test_the_pieces_of_a_text(shipped, text, pieces):
    expected = [piece.replace("_", " ") for piece in pieces.split()]
    assert [work.piece for work in shipped.show_work(text)] == expected


def few_letters(merges: list[tuple[str, str]]) -> BPETokenizer:
    """Return a tokenizer of the bytes and these merges, of which some may be repeated."""
    symbols = [*_CHAR_OF_BYTE.values(), *(a + b for a, b in merges)]
    return BPETokenizer({symbol: n for n, symbol in enumerate(dict.fromkeys(symbols))}, merges)


@given(
    merges=st.lists(st.tuples(*[st.text("ab", min_size=1, max_size=3)] * 2), max_size=8),
    text=st.text("aab", max_size=60),
)
def test_merging_by_a_heap_is_the_plain_merging(merges, text):
    # Any order of merges, also one that no training gives: a result before its parts.
    tokenizer, traces = few_letters(merges), ([], [])
    plain = tokenizer._merge_plainly([*text], traces[0])
    assert tokenizer._merge_by_heap([*text], traces[1]) == plain
    assert traces[0] == traces[1]


@pytest.mark.parametrize(
    ("merges", "text", "tokens"),
    [
        ("a+a", "aaa", "aa a"),  # the leftmost of two that overlap
        ("a+a aa+aa", "aaaaaaa", "aaaa aa a"),
        ("b+c a+b", "abc", "a bc"),  # the order is the merges', not the text's
        ("ab+a a+b", "abab", "ab ab"),  # every a+b is joined before ab+a is looked for
        ("a+b ab+ab b+a", "babab", "b abab"),
        ("a+b b+c a+b", "abc", "a bc"),  # of a merge that is repeated the last one counts
    ],
)
def test_merges_that_overlap_and_repeat(merges, text, tokens):
    tokenizer = few_letters([tuple(pair.split("+")) for pair in merges.split()])
    assert tokenizer.tokens(text) == tokens.split()
    (work,) = tokenizer.show_work(text)
    assert [*work.tokens] == tokens.split()


@given(text=st.text("aelo'!s ", max_size=40))
def test_few_letters_equal_the_tokenizers_package(shipped, shipped_reference, text):
    assert shipped.encode(text) == shipped_reference.encode(text).ids


def test_a_long_piece_takes_steps_in_proportion_to_its_length(shipped):
    class Counting(dict):
        looked_up = 0

        def get(self, pair, default=None):
            self.looked_up += 1
            return super().get(pair, default)

    for length in (1_000, 10_000):
        letters = Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=length)
        shipped._rank = Counting(shipped._rank)
        shipped.encode("".join(letters))
        # One for each pair of neighbours, and two for each pair that is joined.
        assert length <= shipped._rank.looked_up <= 3 * length
    shipped._rank = dict(shipped._rank)


def test_the_work_of_a_long_piece_is_shown_too(shipped):
    text = "Michelle" * 500
    (work,) = shipped.show_work(text)
    assert [*work.ids] == shipped.encode(text)
    symbols = shipped._merge_plainly([*text], plain := [])
    assert (work.symbols, work.merges) == (tuple(symbols), tuple(plain))


@given(text=st.text())
def test_the_fewest_tokens_are_a_lower_bound(shipped, text):
    assert shipped.fewest_tokens(text) <= len(shipped.encode(text))


def test_the_longest_token_gives_the_bound(shipped):
    number = max(shipped.vocab.values(), key=lambda number: len(shipped.data(number)))
    assert shipped.longest_token == len(shipped.data(number)) > 5
    assert shipped.fewest_tokens(shipped.token(number) * 9) == 9
    assert shipped.fewest_tokens("\ud800") == 1  # encode refuses it; the bound does not


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
