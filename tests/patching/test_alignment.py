"""Two prompts, token by token: which positions correspond, and which words make them fit."""

import time
from difflib import SequenceMatcher
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingpt import BPETokenizer
from mingpt.bpe import _CHAR_OF_BYTE
from patching import PromptError, PromptPair, alignment
from patching.alignment import Row, align, replaced_words, suggest

JONES = "Michelle Jones was a top-notch student. Michelle"
PAPADOPOULOS = JONES.replace("Jones", "Papadopoulos")


def test_prompts_of_equal_length_go_together_as_patching_takes_them(builtin):
    _, tokenizer = builtin
    clean, corrupt = JONES, JONES.replace("Jones", "Smith")
    pair = PromptPair.from_text(tokenizer, clean, corrupt, "Jones", "Smith")
    rows = align(*map(tokenizer.encode, (clean, corrupt)))
    assert [(row.a, row.b) for row in rows] == [(n, n) for n in range(len(pair))]
    assert tuple(row.a for row in rows if row.differs) == pair.differing
    assert align([1, 2, 3], [2, 3, 1]) == [Row(n, n, True) for n in range(3)]


def test_prompts_of_unequal_length_share_what_they_share():
    rows = align([5, 7, 9, 4], [5, 1, 2, 3, 9])
    expected = [(0, 0, False), (1, 1, True), (None, 2, True), (None, 3, True)]
    expected += [(2, 4, False), (3, None, True)]
    assert rows == [Row(*row) for row in expected]
    long = [7, 7, 7, 8] * 100  # frequent tokens match too
    assert not any(row.differs for row in align(long, [1, *long])[1:])


def longest_common(a: str, b: str) -> int:
    """Return the length of a longest common subsequence, by the plain table."""
    before = [0] * (len(b) + 1)
    for one in a:
        row = [0]
        for j, other in enumerate(b):
            row.append(before[j] + 1 if one == other else max(before[j + 1], row[j]))
        before = row
    return before[-1]


def check_alignment(a: str, b: str) -> int:
    """Check what holds for every alignment; return the number of matches."""
    rows = align(a, b)
    assert [row.a for row in rows if row.a is not None] == [*range(len(a))]
    assert [row.b for row in rows if row.b is not None] == [*range(len(b))]
    for row in rows:
        assert row.differs or a[row.a] == b[row.b]
    for before, row in pairwise(rows):  # a position stands alone only at a stretch's end
        if before.differs and row.differs:
            assert not (before.a is None and row.a is not None)
            assert not (before.b is None and row.b is not None)
    return sum(not row.differs for row in rows)


FEW_LETTERS = st.text("abc", max_size=30)


@given(a=FEW_LETTERS, b=FEW_LETTERS)
def test_as_many_tokens_as_possible_are_matched(a, b):
    matched = check_alignment(a, b)
    if len(a) != len(b):
        assert matched == longest_common(a, b)
        blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        assert matched >= sum(block.size for block in blocks)


@given(a=FEW_LETTERS, b=FEW_LETTERS)
def test_very_long_prompts_are_matched_at_their_ends_only(a, b):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "MOST_COMPARED", 0)
        check_alignment(a, b)
        rows = align(a, b)
    if len(a) != len(b):
        differing = [n for n, row in enumerate(rows) if row.differs]
        assert differing == [*range(differing[0], differing[-1] + 1)]
        assert rows[0].differs == (a[:1] != b[:1])
        assert len(rows) - len(differing) <= longest_common(a, b)


@pytest.mark.parametrize("shared", [[], [1, 2, 3, 4] * 1500])
def test_6000_tokens_are_aligned_in_less_than_two_seconds(shared):
    a, b = [*range(10, 6010 - len(shared)), *shared], [0, *shared, *range(-6000 + len(shared), 0)]
    started = time.perf_counter()
    rows = align(a, b)
    assert time.perf_counter() - started < 2  # some 0.02 s; difflib took more than 60 s
    assert sum(not row.differs for row in rows) == len(shared)


def test_a_message_shows_no_whole_prompt():
    many = " ".join(f"w{n}" for n in range(5000))
    with pytest.raises(PromptError, match="nothing") as caught:
        replaced_words("a b", f"a {many} b")
    assert len(str(caught.value)) < 500
    with pytest.raises(PromptError, match="at different places") as caught:
        replaced_words("x , " * 3000, "".join(f"y{n} , " for n in range(3000)))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("clean", "corrupt", "replaced", "by"),
    [
        (JONES, PAPADOPOULOS, ["Jones"], "Papadopoulos"),
        ("Jones met Jones.", "Ng met Ng.", ["Jones", "Jones"], "Ng"),
        ("to Mary Ann Lee, here", "to John, here", ["Mary Ann Lee"], "John"),
        ("Mary said: yes", "O'Neil said: yes", ["Mary"], "O'Neil"),
        ("John gave Mary", "Mary gave Mary", ["John"], "Mary"),  # the other Mary stays
        ("a cafe\u0301 there", "a pub there", ["cafe\u0301"], "pub"),
        ("a cafe\u0301 there", "a cafe there", ["cafe\u0301"], "cafe"),
        ("a 👩‍👧 there", "a 👩‍👦 there", ["👩‍👧"], "👩‍👦"),
        ("is Smith.", "is Jones.", ["Smith"], "Jones"),
    ],
)
def test_the_words_that_were_replaced(clean, corrupt, replaced, by):
    found = replaced_words(clean, corrupt)
    assert found.text == by
    assert [clean[at:to] for at, to in found.clean_spans] == replaced
    assert [corrupt[at:to] for at, to in found.corrupt_spans] == [by] * len(replaced)


@pytest.mark.parametrize(
    ("clean", "corrupt", "message"),
    [
        (JONES, JONES, "are the same"),
        ("a b", "a b c", "the corrupt prompt has 'c' where the other has nothing"),
        ("a b, c d", "c d", "the clean prompt has 'a b,' where the other has nothing"),
        ("a  b", "a b", "differ in white space"),
        ("a  x b", "a y b", "differ in white space"),
        ("the key is here", "the door is there", "different places, .*: 'door', 'there'"),
    ],
)
def test_prompts_that_no_one_word_makes_fit(clean, corrupt, message):
    with pytest.raises(PromptError, match=message):
        replaced_words(clean, corrupt)


def test_a_suggestion_is_as_long_as_the_clean_prompt(builtin):
    _, tokenizer = builtin
    clean, corrupt = f"{JONES} Jones.", f"{PAPADOPOULOS} Papadopoulos."
    words = ["Zimmermann", "Smith", "Jones", "Papadopoulos", "Brown"]
    found = suggest(tokenizer, clean, corrupt, words)
    assert [one.word for one in found] == words
    assert [one.word for one in found if one.fits] == ["Smith", "Brown"]
    ids = tokenizer.encode(clean)
    for one in found:
        assert one.prompt == clean.replace("Jones", one.word)
        assert [*one.ids] == tokenizer.encode(one.prompt)
        assert not one.fits or len(one.ids) == len(ids)
    (one,) = suggest(tokenizer, "to Jones", "to Smith", ["Zimmermann"])  # the word is the last one
    assert not one.fits


def test_a_word_at_many_places_is_replaced_in_little_time(builtin):
    _, tokenizer = builtin
    clean, corrupt = "Jones met " * 3000, "Papadopoulos met " * 3000
    started = time.perf_counter()
    (smith, zimmermann) = suggest(tokenizer, clean, corrupt, ["Smith", "Zimmermann"])
    assert time.perf_counter() - started < 2  # in proportion to the length
    assert (smith.fits, zimmermann.fits) == (True, False)


def test_the_tokens_of_a_word_are_those_that_share_a_character_with_it(builtin):
    _, tokenizer = builtin
    text = "to Jones was caf\u00e9 Jones"  # the é is two tokens
    ids = tokenizer.encode(text)
    tokens = [tokenizer.token(number) for number in ids]
    expected = {n for n, token in enumerate(tokens) if token == " Jones"}
    assert expected == alignment._positions(tokenizer, text, ids, [(3, 8), (18, 23)])
    accent = {n for n, token in enumerate(tokens) if "\\x" in token}
    assert accent <= alignment._positions(tokenizer, text, ids, [(16, 17)])


def test_a_suggestion_that_is_only_as_long_by_chance_does_not_fit():
    # "Xon" is two tokens: one more than the clean word at one place, one fewer at the other.
    vocab = {char: byte for byte, char in _CHAR_OF_BYTE.items()} | {"on": 256}
    tokenizer = BPETokenizer(vocab, [("o", "n")])
    clean, corrupt = "abc d, a g.", "xyzxyz d, xyzxyz g."
    (one,) = suggest(tokenizer, clean, corrupt, ["Xon"])
    assert len(one.ids) == len(tokenizer.encode(clean))
    assert not one.fits
