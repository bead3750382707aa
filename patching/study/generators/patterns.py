"""Families that the shipped model's grammar does not have: years, repeated tokens, docstrings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from patching.errors import PairsError
from patching.prompts import Tokenizer
from patching.study.generators.design import (
    Design,
    Draw,
    Row,
    check_enough,
    is_token,
    one_of,
    single,
)

EVENTS = (
    "war siege voyage journey project strike trial dispute reign mission campaign program "
    "experiment revolt crisis famine drought construction expedition conflict treaty marriage "
    "partnership tour"
).split()
LASTED = (
    "The {event} lasted from the year {century}{year} to the year {century}",
    "The {event} began in the year {century}{year} and ended in the year {century}",
    "That {event} went on from the year {century}{year} until the year {century}",
)
CENTURIES = range(11, 20)
EARLIEST = "01"  # the corrupt prompt's year, which every later one exceeds

# Names of a function and its arguments, and words that describe them.
CODE_WORDS = (
    "load size files last name value path index count key line text data mode width height start "
    "end color label file node type limit offset level table field token group user order state "
    "image model class page list map item range price date event"
).split()
PLAIN_WORDS = (
    "oil column piece crime population unit dark water river paper glass letter window station "
    "market summer winter garden music coffee doctor village island mountain forest"
).split()
ARGUMENTS = 4


def greater_than(tokenizer: Tokenizer, *, template: int | None = None) -> Design:
    """Return pairs in which every later year is right (Hanna et al. 2023, greater-than).

    The target is the set of the two-digit tokens above the year, the foil that of the others.
    """
    digits = [f"{number:02d}" for number in range(100)]
    if not all(is_token(tokenizer, pair) for pair in digits):
        raise PairsError("two digits are not one token each in this tokenizer, as 17|32 needs")
    years = [
        (century, year)
        for century in CENTURIES
        if _is_cut(tokenizer, century, EARLIEST)
        for year in digits[2:99]
        if _is_cut(tokenizer, century, year)
    ]
    check_enough("years", len(years), len(CENTURIES) * 97, 1)

    def row(drawn: Mapping[str, Any]) -> Row:
        number, frame = drawn["frame"]
        century, year = drawn["year"]
        event = f"{{event:{drawn['event']}}}"
        later = int(year) + 1
        return {
            "clean": frame.format(event=event, century=century, year=f"{{year:{year}}}"),
            "corrupt": frame.format(event=drawn["event"], century=century, year=EARLIEST),
            "target": digits[later:],
            "foil": digits[:later],
            "template": str(number),
        }

    return Design(
        (
            Draw(("year",), years),
            Draw(("event",), single(tokenizer, "events", EVENTS, least=1)),
            Draw(("frame",), one_of(LASTED, template)),
        ),
        row,
    )


def _is_cut(tokenizer: Tokenizer, century: int, year: str) -> bool:
    """Return True if a year is the tokens of its century and of its last two digits."""
    ids = tokenizer.encode(f" {century}{year}")
    return ids == tokenizer.encode(f" {century}") + tokenizer.encode(year) and len(ids) == 2


def induction(tokenizer: Tokenizer, *, length: int = 8) -> Design:
    """Return pairs of random words that begin again: what followed the last one before?

    Args:
        length: words before they begin again.
    """
    if not (type(length) is int and 2 <= length <= 500):
        raise PairsError(f"a length is 2 to 500 words, not {length!r}")
    words = _plain_words(tokenizer)
    names = (*(f"word {number}" for number in range(length)), "other")
    if len(words) < len(names):
        raise PairsError(f"this tokenizer has {len(words)} plain words; {len(names)} are needed")

    def row(drawn: Mapping[str, Any]) -> Row:
        *before, last, other = (drawn[name] for name in names)
        again = " ".join([*before[:-1], f"{{again:{before[-1]}}}"])
        first = " ".join([*before[:-1], f"{{before:{before[-1]}}}"])
        return {
            "clean": f" {first} {{answer:{last}}} {again}",
            "corrupt": f" {' '.join(before)} {other} {' '.join(before)}",
            "target": last,
            "foil": other,
            "template": f"{length} words",
        }

    return Design((Draw(names, words),), row)


def _plain_words(tokenizer: Tokenizer) -> list[str]:
    """Return the words of lower-case letters that are one token after a space."""
    size = getattr(tokenizer, "vocab_size", None)
    if size is None:
        raise PairsError("random words need a tokenizer with a vocab_size")
    found = []
    for number in range(size):
        token = "" if tokenizer.is_padding(number) else tokenizer.token(number)
        if re.fullmatch(r" [a-z]{3,}", token) and tokenizer.encode(token) == [number]:
            found.append(token[1:])
    return found


def docstring(tokenizer: Tokenizer) -> Design:
    """Return pairs in which a docstring names a function's arguments in their order.

    The form is that of Heimersheim & Janiak 2023, "A circuit for Python docstrings". The
    corrupt prompt has another third argument.
    """
    arguments = single(tokenizer, "arguments", CODE_WORDS, least=6)
    words = single(tokenizer, "words", PLAIN_WORDS, least=5)
    names = ("function", *(f"argument {n}" for n in range(ARGUMENTS)), "other")

    def row(drawn: Mapping[str, Any]) -> Row:
        a, b, target, d = (drawn[f"argument {n}"] for n in range(ARGUMENTS))
        plain = [drawn[f"word {n}"] for n in range(5)]
        form = (
            f"def {drawn['function']}(self, {a}, {b}, {{}}, {d}):\n"
            f'    """{plain[0]} {plain[1]}\n\n'
            f"    :param {a}: {plain[2]} {plain[3]}\n"
            f"    :param {b}: {plain[4]}\n"
            f"    :param"
        )
        return {
            "clean": form.format(f"{{argument:{target}}}"),
            "corrupt": form.format(drawn["other"]),
            "target": target,
            "foil": drawn["other"],
            "template": f"{ARGUMENTS} arguments",
        }

    draws = (Draw(names, arguments), Draw(tuple(f"word {n}" for n in range(5)), words))
    return Design(draws, row)
