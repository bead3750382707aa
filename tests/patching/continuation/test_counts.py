"""Patterns counted in samples: what they match, and Wilson's interval."""

import math

import pytest

from patching.continuation.counts import Pattern, count, wilson
from patching.errors import CountError


@pytest.mark.parametrize(
    ("found", "samples", "interval"),
    [
        # statsmodels.stats.proportion.proportion_confint(method="wilson"), to four digits.
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (1, 10, (0.0179, 0.4042)),
        (7, 30, (0.1179, 0.4093)),
        (50, 100, (0.4038, 0.5962)),
        (1, 1, (0.2065, 1.0)),
    ],
)
def test_wilsons_interval(found, samples, interval):
    assert wilson(found, samples) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize("found", range(9))
def test_wilsons_interval_solves_its_own_equation(found):
    """The share is 1.96 standard deviations away from each end of the interval."""
    for end in wilson(found, 8):
        deviation = math.sqrt(end * (1 - end) / 8)
        assert abs(found / 8 - end) == pytest.approx(1.959963984540054 * deviation, abs=1e-12)


@pytest.mark.parametrize(
    ("pattern", "text", "is_in"),
    [
        ("he", "He said", True),
        ("he", "the other", False),
        ("he", "so did he.", True),
        ("he", "heat", False),
        ("don't", "I Don't know", True),
        ("New York", "in new york,", True),
        ("é", "É", True),
        (r"\bhe\b", "He", False),  # used as it is, case included
        (r"s?he\b", "the", True),
        ("a.c", "abc", True),
        ("$", "", True),
        ("naïve-ish", "a naïve-ish plan", True),
    ],
)
def test_words_and_regular_expressions(pattern, text, is_in):
    assert Pattern(pattern).is_in(text) == is_in


@pytest.mark.parametrize("found_of", [(0, 0), (-1, 3), (4, 3)])
def test_what_is_no_share(found_of):
    with pytest.raises(CountError, match="samples is no share"):
        wilson(*found_of)


def test_counting():
    found = count([Pattern("a"), Pattern("b|c")], "p", ["a b", "b", "d", "a a"])
    assert [(one.prompt, one.pattern, one.found, one.samples) for one in found] == [
        ("p", "a", 2, 4),
        ("p", "b|c", 2, 4),
    ]
    assert found[0].to_dict() == {
        "prompt": "p", "pattern": "a", "found": 2, "samples": 4, "share": 0.5,
        "interval": [*wilson(2, 4)],
    }  # fmt: skip


def test_patterns_that_cannot_be_counted(monkeypatch):
    for pattern, message in (
        ("", "is empty"),
        ("  ", "is empty"),
        ("(", "not a regular expression"),
    ):
        with pytest.raises(CountError, match=message):
            Pattern(pattern)
    monkeypatch.setattr("patching.continuation.counts.SECONDS", 0.05)
    with pytest.raises(CountError, match=r"took more than 0\.05 s on one text"):
        Pattern(r"(a|aa)+$").is_in("a" * 60 + "b")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?R)", r"contains a recursion, \(\?R\.\.\.\): it is not supported"),
        ("(?:(?R)|.)*", "contains a recursion"),
        ("(?>(?R)|a)", "contains a recursion"),
        ("(?R)?(?R)?x", "contains a recursion"),
        (r"\\(?0)", "contains a recursion"),
        ("(a(?1)?b)", "contains a recursion"),
        ("(?P<n>a(?&n)?)", "contains a recursion"),
        ("(?P<n>a(?P>n)?)", "contains a recursion"),
        ("(a)(?-1)", "contains a recursion"),
        ("(?x)(?R )", "contains a recursion"),
        ("(" * 400 + ")" * 400, "is too deep or too large: maximum recursion depth"),
        ("(?:(?:a{1000}){1000}){1000}", "repeats too much"),
        ("a{0001000000}", "repeats too much"),
        ("(?x)a{ 1000 000 }", "repeats too much"),
        ("[" + "a" * 10000 + "]", "has 10002 characters; at most 10000"),
        ("a" * 10001, "has 10001 characters; at most 10000"),
    ],
)
def test_patterns_that_could_take_all_memory_are_refused(pattern, message):
    with pytest.raises(CountError, match=message) as refused:
        Pattern(pattern)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"\(\?R\)", "why(?R)"),
        (r"(?i)he(?-i:LLO)", "HELLO"),
        (r"\d{4}-\d{2}-\d{2}", "2025-01-02"),
        ("(?:ab){3,1000}", "ababab"),
        ("(?:hello){e<=1}", "hallo"),
        ("(?P<n>a)(?P=n)", "aa"),
    ],
)
def test_patterns_that_look_a_little_like_these_are_searched(pattern, text):
    assert Pattern(pattern).is_in(text)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep")])
def test_a_search_that_fails_is_an_error_of_counting(monkeypatch, error):
    pattern = Pattern("a+$")

    def search(*arguments, **more):
        raise error

    monkeypatch.setattr("regex.search", search)
    with pytest.raises(CountError, match=r"failed on a text: too (little memory|deep)"):
        pattern.is_in("aaa")
