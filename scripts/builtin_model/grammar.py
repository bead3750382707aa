"""Write the synthetic English that the shipped model is trained on.

There are six families of sentences. In each, one word (the answer) is decided
by the words before it. Each family splits its combinations (first name with
surname, country with frame, ...) by a hash into a training part and a held-out
part: training documents use only the first, test prompts only the second.
train.py trains on the documents, evaluate.py measures with the test prompts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from patching.study.generators.words import (
    ABOUT,
    CAPITAL_TO_COUNTRY,
    CAPITALS,
    COUNTRY_TO_CAPITAL,
    DEGREES,
    FEELINGS,
    FIRST_NAMES,
    GAVE,
    HOBBIES,
    NOUNS,
    OBJECTS,
    OPPOSITES,
    PLACES,
    PREPOSITIONS,
    PREVIOUS,
    PRONOUN,
    QUALITIES,
    ROLES,
    SAID,
    SEEMS,
    SEVERAL,
    STATES,
    SURNAMES,
)


@dataclass(frozen=True)
class Example:
    """One test prompt, and the word that must follow it (with its leading space)."""

    prompt: str
    answer: str


class Document:
    """A text of several sentences, and the places of the answers in it."""

    def __init__(self) -> None:
        self.text = ""
        self.answers: list[tuple[int, int]] = []  # [start, end) in characters, space included

    def add(self, before: str, answer: str = "", after: str = "") -> None:
        """Append a sentence; `answer` begins with its space, or is empty."""
        self.text += (" " if self.text else "") + before
        if answer:
            self.answers.append((len(self.text), len(self.text) + len(answer)))
        self.text += answer + after


def held_out(*combination: str, share: float = 0.1) -> bool:
    """Return True if a combination is kept for testing; its hash decides, so it never changes."""
    return zlib.crc32("|".join(combination).encode()) / 2**32 < share


def pick(random: Random, accept: Callable[..., bool], *choices: Sequence[Any]) -> tuple:
    """Draw one of each of `choices`; repeat until `accept` returns True for the combination."""
    while True:
        drawn = tuple(random.choice(options) for options in choices)
        if accept(*drawn):
            return drawn


def pair_is_held_out(first: str, surname: str) -> bool:
    """Return True if the name `first` `surname` is kept for testing."""
    return held_out("pair", first, surname)


def people(random: Random, count: int, test: bool) -> list[tuple[str, str]]:
    """Draw `count` full names without a common part, all held out (test) or none (training)."""
    chosen: list[tuple[str, str]] = []
    while len(chosen) < count:
        first, surname = pick(
            random, lambda f, s: pair_is_held_out(f, s) == test, FIRST_NAMES, SURNAMES
        )
        if all(first != f and surname != s for f, s in chosen):
            chosen.append((first, surname))
    return chosen


def about(random: Random, first: str) -> tuple[str, str]:
    """Return the parts of a sentence about a person before and after the full name."""
    hobby, hobby2 = random.sample(HOBBIES, 2)
    before, after = random.choice(ABOUT).split("{n}")
    words = {
        "p": PRONOUN[first],
        "quality": random.choice(QUALITIES),
        "role": random.choice(ROLES),
        "place": random.choice(PLACES),
        "thing": random.choice(OBJECTS),
        "hobby": hobby,
        "hobby2": hobby2,
        "feeling": random.choice(FEELINGS),
    }
    return before.format(**words), after.format(**words)


def introduce(document: Document, random: Random, first: str, surname: str) -> None:
    """Add a sentence with a person's full name; its surname is not an answer."""
    before, after = about(random, first)
    document.add(f"{before}{first} {surname}{after}")


def names(document: Document, random: Random, test: bool) -> None:
    """Add one to four people by full name, then some again, whose surnames are the answers."""
    cast = people(random, random.randint(1, 4), test)
    for first, surname in cast:
        if not test and random.random() < 0.15:
            filler(document, random)
        introduce(document, random, first, surname)
    again = random.sample(cast, len(cast)) + random.choices(cast, k=2)
    for first, surname in again[: 1 if test else random.randint(1, len(again))]:
        before, after = about(random, first)
        document.add(f"{before}{first}", f" {surname}", after)


def indirect_object(document: Document, random: Random, test: bool) -> None:
    """Add "When a and b went ..., a gave ... to b" (Wang et al. 2022, IOI)."""
    a, b = pick(
        random,
        lambda a, b: a != b and held_out("gave", *sorted((a, b))) == test,
        FIRST_NAMES,
        FIRST_NAMES,
    )
    subject, answer = random.choice([(a, b), (b, a)])
    words = {"place": random.choice(PLACES), "thing": random.choice(OBJECTS)}
    frame = random.choice(GAVE)
    document.add(frame.format(a=a, b=b, s=subject, **words), f" {answer}", ".")


def capitals(document: Document, random: Random, test: bool) -> None:
    """Add a country and its capital, in either order; each country has held-out frames."""
    frame, country = pick(
        random,
        lambda frame, country: held_out("capital", frame, country, share=0.2) == test,
        COUNTRY_TO_CAPITAL + CAPITAL_TO_COUNTRY,
        tuple(CAPITALS),
    )
    capital = CAPITALS[country]
    answer = capital if "{x}" in frame else country
    document.add(frame.format(x=country, c=capital), f" {answer}", ".")


def agreement(document: Document, random: Random, test: bool) -> None:
    """Add a verb that agrees with the head noun, after a distractor of either number."""
    head, other = pick(
        random,
        lambda head, other: head != other and held_out("noun", head[0], other[0]) == test,
        NOUNS,
        NOUNS,
    )
    number = random.randrange(2)
    phrase = f"The {head[number]} {random.choice(PREPOSITIONS)} the {random.choice(other)}"
    document.add(phrase, (" is", " are")[number], f" {random.choice(STATES)}.")


def opposites(document: Document, random: Random, test: bool) -> None:
    """Add a thing and its opposite, which differ in one adjective."""
    pair, previous, seems, degree = pick(
        random,
        lambda pair, *words: held_out("opposite", pair[0], *words) == test,
        OPPOSITES,
        PREVIOUS,
        SEEMS,
        DEGREES,
    )
    thing, other, quality, other_quality = pair
    if random.random() < 0.5:
        thing, other, quality, other_quality = other, thing, other_quality, quality
    kind = random.randrange(5)
    if kind < 2:
        before = f"This {thing}, unlike the {previous} {other}, {seems} {degree}"
    elif kind == 2:
        before = f"Unlike the {previous} {other}, this {thing} {seems} {degree}"
    elif kind == 3:
        before = f"The {previous} {other} was {other_quality}, but this {thing} {seems} {degree}"
    else:
        several = random.choice(SEVERAL)
        before = (
            f"The {previous} {several} was {other_quality}."
            f" This {several}, unlike the {previous} one, {seems} {degree}"
        )
    document.add(before, f" {quality}", ".")


def pronouns(document: Document, random: Random, test: bool) -> None:
    """Add a sentence in which the first name decides between she and he."""
    first, said = pick(
        random, lambda first, said: held_out("said", first, said) == test, FIRST_NAMES, SAID
    )
    document.add(f"{first} {said}", f" {PRONOUN[first]}", f" was {random.choice(FEELINGS)}.")


# name -> (generator, share of the training documents)
FAMILIES: dict[str, tuple[Callable[[Document, Random, bool], None], float]] = {
    "names": (names, 0.34),
    "indirect object": (indirect_object, 0.17),
    "capitals": (capitals, 0.17),
    "agreement": (agreement, 0.07),
    "opposites": (opposites, 0.11),
    "pronouns": (pronouns, 0.14),
}


def filler(document: Document, random: Random) -> None:
    """Add a training sentence without a person in it."""
    random.choice((capitals, agreement, opposites))(document, random, False)


def training_document(random: Random) -> Document:
    """Return a document of one family, in a third of the cases followed by a second one."""
    document = Document()
    generators, shares = zip(*FAMILIES.values(), strict=True)
    for generate in random.choices(generators, shares, k=random.choice((1, 1, 2))):
        generate(document, random, False)
    return document


def test_examples(family: str, count: int, seed: int) -> list[Example]:
    """Return `count` held-out prompts of a family with their answers.

    Half of them begin at the document's first word, the others after a sentence
    of another kind.
    """
    random = Random(f"{family} {seed}")
    examples = []
    for number in range(count):
        document = Document()
        if number % 2:
            filler(document, random)
            document.answers.clear()
        FAMILIES[family][0](document, random, True)
        start, end = document.answers[0]
        examples.append(Example(document.text[:start], document.text[start:end]))
    return examples


def name_pair_prompts(
    count: int, seed: int, *, second_person: bool = False
) -> list[tuple[str, str, str, str]]:
    """Return tuples (clean, corrupt, target, foil) in the README's form, all names held out.

    Args:
        second_person: introduce another person before the name is repeated.
    """
    random = Random(f"pairs {second_person} {seed}")
    found: list[tuple[str, str, str, str]] = []
    while len(found) < count:
        (first, target), (other, other_surname) = people(random, 2, True)
        foil = random.choice(SURNAMES)
        if foil in (target, other_surname) or not pair_is_held_out(first, foil):
            continue
        middle = f" {other} {other_surname} was a gifted writer." if second_person else ""
        form = f"{first} {{}} was a top-notch student.{middle} {first}"
        found.append((form.format(target), form.format(foil), target, foil))
    return found
