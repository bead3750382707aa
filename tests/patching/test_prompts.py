"""Prompt pairs: the answer-token rules, and everything that can be wrong without a model."""

import pickle

import pytest

from mingpt import BPETokenizer
from mingpt.loading.sources import BUILTIN_DIRECTORY
from mingpt.loading.tokenizer_files import tokenizer_in
from patching import PromptError, PromptPair, answer_id
from patching.prompts import Question

CLEAN = "Michelle Jones was a top-notch student. Michelle"
CORRUPT = "Michelle Smith was a top-notch student. Michelle"


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return tokenizer_in(BUILTIN_DIRECTORY)


def test_from_text(tokenizer):
    pair = PromptPair.from_text(tokenizer, CLEAN, CORRUPT, "Jones", "Smith")
    assert pair.differing == (1,)
    assert pair.clean_tokens[:3] == ("Michelle", " Jones", " was")
    assert pair.corrupt_tokens[1] == " Smith"
    assert "".join(pair.clean_tokens) == CLEAN
    assert list(pair.corrupt_ids) == tokenizer.encode(CORRUPT)
    assert (pair.target_tokens, pair.foil_tokens) == ((" Jones",), (" Smith",))
    assert [*pair.target_ids, *pair.foil_ids] == tokenizer.encode(" Jones Smith")
    assert len(pair) == len(tokenizer.encode(CLEAN))


def test_gpt2_answer_ids(gpt2_tokenizer):
    expected = {"Jones": 5437, " Jones": 5437, "Smith": 4176, "id:5437": 5437, "'s": 338, ",": 11}
    for text, number in expected.items():
        assert answer_id(gpt2_tokenizer, text) == number


def test_a_word_is_looked_up_with_a_space_and_other_text_as_it_is(tokenizer):
    assert answer_id(tokenizer, "Jones") == tokenizer.encode(" Jones")[0]
    assert answer_id(tokenizer, " Jones") == tokenizer.encode(" Jones")[0]
    assert answer_id(tokenizer, ".") == tokenizer.encode(".")[0]
    assert answer_id(tokenizer, "id:7") == 7
    assert tokenizer.encode(".") != tokenizer.encode(" .")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "target is empty"),
        ("Zaphod", r"'Zaphod' is \d+ tokens, not one: ␣Z \+ "),
        ("Jones Smith", r"2 tokens, not one: ␣Jones \+ ␣Smith"),
        ("id:999999", "no token has the id 999999"),
        ("id:", "id:5437"),
        ("id:-3", "id:5437"),
        ("id:²", "id:5437"),
        ("id:" + "9" * 5000, "id:5437"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_bad_answers_are_refused(tokenizer, text, message):
    with pytest.raises(PromptError, match=message):
        PromptPair.from_text(tokenizer, CLEAN, CORRUPT, text, "Smith")


@pytest.mark.parametrize(
    ("clean", "corrupt", "message"),
    [
        ("", CORRUPT, "the clean prompt is empty"),
        (CLEAN, "", "the corrupt prompt is empty"),
        (CLEAN, CLEAN, "are the same"),
        ("\udcff", CORRUPT, "clean prompt: .*not valid Unicode"),
        (
            "Michelle Jones was",
            "Michelle Smith Smith was",
            r"clean has 3 and corrupt 4: corrupt has ␣Smith\|␣Smith at positions 1 to 2, clean"
            r" has ␣Jones. Smith Smith is 2 tokens, Jones 1: choose words of equal length",
        ),
        ("Michelle", "Michelle Jones", "corrupt has ␣Jones at position 1, clean has nothing"),
        (
            "Jones was ",
            "Smith was",
            r"clean has ␣ at position \d, .* A space at the end of a prompt",
        ),
        (
            "Jones was",
            "Smith  was",
            r"corrupt has \w*\|␣ at .* A second space is a token of its own",
        ),
    ],
)
def test_bad_prompts_are_refused(tokenizer, clean, corrupt, message):
    with pytest.raises(PromptError, match=message) as caught:
        PromptPair.from_text(tokenizer, clean, corrupt, "Jones", "Smith")
    assert "\n" not in str(caught.value)


def test_a_prompt_far_too_long_is_not_tokenized(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "encode", None)
    text = "a" * (7 * tokenizer.longest_token + 1)
    message = "it has at least 8 tokens, the model reads at most 7"
    with pytest.raises(PromptError, match=f"^clean prompt: {message}$"):
        PromptPair.from_text(tokenizer, text, CORRUPT, "Jones", "Smith", most_tokens=7)
    with pytest.raises(PromptError, match=f"^text: {message}$"):
        Question.from_text(tokenizer, text, "Jones", "Smith", most_tokens=7)


def test_a_message_shows_no_whole_prompt(tokenizer):
    many = " a" * 500
    with pytest.raises(PromptError, match=r"positions 501 to 1000, clean has ␣b\|␣b") as caught:
        PromptPair.from_text(tokenizer, f"{CLEAN[:8]}{many} b b", f"Michelle{many}{many}", "x", "y")
    assert len(str(caught.value)) < 1000
    with pytest.raises(PromptError, match="tokens, not one") as caught:
        PromptPair.from_text(tokenizer, CLEAN, CORRUPT, many, "Smith")
    assert len(str(caught.value)) < 1000


def test_target_and_foil_must_differ(tokenizer):
    with pytest.raises(PromptError, match="same token ␣Jones"):
        PromptPair.from_text(tokenizer, CLEAN, CORRUPT, "Jones", " Jones")


def test_the_texts_are_kept_though_tokens_be_half_characters(tokenizer):
    pair = PromptPair.from_text(tokenizer, "東 Jones", "京 Jones", "Jones", "Smith")
    assert (pair.clean_text, pair.corrupt_text) == ("東 Jones", "京 Jones")
    assert pair.clean_tokens[0] == "\\xe6"


def test_pairs_go_to_other_processes(tokenizer):
    for pair in (
        PromptPair.from_text(tokenizer, CLEAN, CORRUPT, "Jones", "Smith"),
        PromptPair.from_ids([1, 2], [0, 2], 3, 4, tokens=["a", "b", "c", "d", "e"]),
    ):
        again = pickle.loads(pickle.dumps(pair))
        assert again == pair
        assert again.text_of(pair.target_ids[0]) == pair.target_tokens[0]


def test_from_ids():
    pair = PromptPair.from_ids([1, 2, 3], [1, 5, 4], 7, 8)
    assert pair.differing == (1, 2)
    assert pair.clean_tokens == ("id:1", "id:2", "id:3")
    assert pair.foil_tokens == ("id:8",)
    assert pair.clean_text == "id:1id:2id:3"
    named = PromptPair.from_ids([1, 2], [0, 2], 3, 4, tokens=["a", "b", "c", "d", "e"])
    assert (named.clean_tokens, named.corrupt_tokens) == (("b", "c"), ("a", "c"))
    assert (named.target_tokens, named.foil_tokens) == (("d",), ("e",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], 1, 2), "clean prompt is empty"),
        (([1, 2], [1], 1, 2), "same number of tokens"),
        (([1], [1], 1, 2), "are the same"),
        (([1], [2], 3, 3), "target and foil are the same"),
        (([1], [-2], 3, 4), "corrupt_ids must be 0 or more"),
        (([1.5], [2], 3, 4), "clean_ids must be whole numbers"),
        (
            ([1], [2], "3", 4),
            "target_id must be whole numbers, not .*; for words there is from_text",
        ),
        (([1], [2], 3, 4, {1: "a"}), "no text for id 2"),
    ],
)
def test_bad_ids_are_refused(arguments, message):
    with pytest.raises(PromptError, match=message):
        PromptPair.from_ids(*arguments)


def test_a_question_has_a_text(builtin):
    with pytest.raises(PromptError, match="the text is empty"):
        Question.from_text(builtin[1], "", "hot", "cold")


def test_a_pair_without_its_tokenizer_is_small_and_equal(tokenizer):
    pair = PromptPair.from_text(tokenizer, CLEAN, CORRUPT, "Jones", "Smith")
    bare = pair.without_tokenizer()
    assert bare == pair
    assert bare.text_of(7) == "id:7"
    assert len(pickle.dumps(bare)) < 2000 < len(pickle.dumps(pair))


def test_a_question_from_ids():
    question = Question.from_ids([1, 2], 3, 4, tokens=["a", "b", "c", "d", "e"])
    assert (question.text, question.ids) == ("bc", (1, 2))
    assert (question.target_id, question.foil_id) == (3, 4)
    for arguments, message in (
        (([], 3, 4), "the prompt is empty"),
        (([1], 3, 3), "target and foil are the same token"),
        (([-1], 3, 4), "ids must be 0 or more"),
    ):
        with pytest.raises(PromptError, match=message):
            Question.from_ids(*arguments)
