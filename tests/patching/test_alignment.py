"""Two prompts, token by token: which positions correspond, and which words make them fit."""

import pytest

from mingpt import BPETokenizer
from mingpt.bpe import _CHAR_OF_BYTE
from patching import PromptError, PromptPair
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
    long = [7, 7, 7, 8] * 100  # frequent tokens match too: difflib's autojunk is off
    assert not any(row.differs for row in align(long, [1, *long])[1:])


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


def test_a_suggestion_that_is_only_as_long_by_chance_does_not_fit():
    # "Xon" is two tokens: one more than the clean word at one place, one fewer at the other.
    vocab = {char: byte for byte, char in _CHAR_OF_BYTE.items()} | {"on": 256}
    tokenizer = BPETokenizer(vocab, [("o", "n")])
    clean, corrupt = "abc d, a g.", "xyzxyz d, xyzxyz g."
    (one,) = suggest(tokenizer, clean, corrupt, ["Xon"])
    assert len(one.ids) == len(tokenizer.encode(clean))
    assert not one.fits
