"""Frames of English-Spanish pairs: agreement, order of adjectives, negation, questions, tenses.

A frame is a function of a `Draw`, which draws words and notes which noun meets which
adjective: these combinations are what can be held out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from translation import words

ENDINGS = {  # of verbs in -ar and -er: present, past and future of the six persons
    "ar": (
        ("o", "as", "a", "a", "amos", "an"),
        ("é", "aste", "ó", "ó", "amos", "aron"),
        ("aré", "arás", "ará", "ará", "aremos", "arán"),
    ),
    "er": (
        ("o", "es", "e", "e", "emos", "en"),
        ("í", "iste", "ió", "ió", "imos", "ieron"),
        ("eré", "erás", "erá", "erá", "eremos", "erán"),
    ),
}
PRESENT, PAST, FUTURE = range(3)


@dataclass(frozen=True)
class Phrase:
    """A noun phrase in both languages."""

    en: str
    es: str
    form: int  # 0 masculine, 1 feminine; 2 and 3 the same of several

    @property
    def is_plural(self) -> bool:
        """True if it means several."""
        return self.form >= 2


class Draw:
    """Draws words of one pair.

    Attributes:
        met: (noun, adjective) in English, for every adjective that agrees with a noun.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.met: set[tuple[str, str]] = set()

    def one(self, choices: list) -> tuple:
        """Return one of the choices."""
        return self.random.choice(choices)

    def phrase(
        self, adjectives: int = 0, determiner: int | None = None, *, before: bool = False,
        plural: bool | None = None,
    ) -> Phrase:  # fmt: skip
        """Return a noun with a determiner and adjectives.

        Args:
            adjectives: how many stand after the Spanish noun; in English their order is reversed.
            determiner: number of one in words.DETERMINERS; None draws one.
            before: add an adjective that stands before the noun in both languages.
            plural: None draws it.
        """
        several = self.random.random() < 0.5 if plural is None else plural
        noun = self.one(words.NOUNS)
        form = 2 * several + (noun[4] == "f")
        chosen = self.random.sample(words.ADJECTIVES, adjectives)
        front = [self.one(words.BEFORE)] if before else []
        self.met |= {(noun[0], one[0]) for one in chosen}
        article = words.DETERMINERS[determiner] if determiner is not None else self.one(
            words.DETERMINERS)  # fmt: skip
        en = [article[several], *(one[0] for one in front), *(one[0] for one in chosen),
              noun[several]]  # fmt: skip
        es = [article[2 + form], *(one[1 + form] for one in front), noun[2 + several],
              *(one[1 + form] for one in reversed(chosen))]  # fmt: skip
        if article[0] == "a" and not several and en[1][0] in "aeiou":
            en[0] = "an"
        return Phrase(" ".join(en), " ".join(es), form)

    def adjective(self, phrase: Phrase, table: list | None = None) -> tuple[str, str]:
        """Return an adjective that agrees with a phrase, in both languages."""
        chosen = self.one(words.ADJECTIVES if table is None else table)
        noun = next(n for n in words.NOUNS if phrase.en.split()[-1] in n[:2])
        self.met.add((noun[0], chosen[0]))
        return chosen[0], chosen[1 + phrase.form]

    def verb(self, tense: int) -> tuple[str, str, str, str, str]:
        """Return English subject and verb, Spanish subject and verb, and the English stem."""
        stem, third, past, spanish = self.one(words.VERBS)
        kind = "er" if spanish == "vend" else "ar"
        person = self.random.randrange(len(words.PERSONS) + 1)
        if person == len(words.PERSONS):
            name = self.one([(name,) for name in words.NAMES])[0]
            subject, person = (name, name), 2
        else:
            subject = words.PERSONS[person]
        en = (third if person in (2, 3) else stem, past, f"will {stem}")[tense]
        ending = ENDINGS[kind][tense][person]
        if spanish == "busc" and ending == "é":
            spanish = "busqu"
        en, stem = en.replace("_", " "), stem.replace("_", " ")
        return subject[0], en, subject[1], spanish + ending, stem


def _be(phrase: Phrase) -> tuple[str, str, str]:
    """Return "is" or "are", and the forms of ser and of estar."""
    return ("are", "son", "están") if phrase.is_plural else ("is", "es", "está")


def _said(en: str, es: str, end: str = ".") -> tuple[str, str]:
    """Return two sentences with capitals and signs."""
    en = en[0].upper() + en[1:] + end
    es = es[0].upper() + es[1:] + end
    return en, f"¿{es}" if end == "?" else es


Frame = Callable[[Draw], tuple[str, str]]
FRAMES: list[Frame] = []


def _frame(function: Frame) -> Frame:
    FRAMES.append(function)
    return function


def _bare(**how) -> None:
    """Add a frame of a noun phrase alone, without a full stop."""

    def frame(d: Draw) -> tuple[str, str]:
        phrase = d.phrase(**how)
        return _said(phrase.en, phrase.es, "")

    FRAMES.append(frame)


for _number in range(len(words.DETERMINERS)):  # 7 frames
    _bare(adjectives=1, determiner=_number)
_front = {"before": True, "determiner": 0}
for _how in ({}, {"adjectives": 2}, _front, {**_front, "adjectives": 1}):
    _bare(**_how)  # 4 frames


@_frame
def _counted(d: Draw) -> tuple[str, str]:
    phrase, (en, es) = d.phrase(1, 0, plural=True), d.one(words.NUMBERS)
    return _said(phrase.en.replace("the", en, 1), f"{es} {phrase.es.split(' ', 1)[1]}", "")


@_frame
def _many(d: Draw) -> tuple[str, str]:
    phrase, many = d.phrase(1, 0, plural=True), d.one(words.MANY)
    es = f"{many[1 + phrase.form % 2]} {phrase.es.split(' ', 1)[1]}"
    return _said(phrase.en.replace("the", many[0], 1), es, "")


def _predicate(adjectives: int, *, negated: bool, asked: bool, state: bool) -> Frame:
    """Return the frame "X is A", negated or asked or neither, of a quality or of a state."""

    def frame(d: Draw) -> tuple[str, str]:
        phrase = d.phrase(adjectives)
        is_, ser, estar = _be(phrase)
        verb = estar if state else ser
        en, es = d.adjective(phrase, words.STATES if state else None)
        if asked:
            return _said(f"{is_} {phrase.en} {en}", f"{verb} {es} {phrase.es}", "?")
        if negated:
            return _said(f"{phrase.en} {is_} not {en}", f"{phrase.es} no {verb} {es}")
        return _said(f"{phrase.en} {is_} {en}", f"{phrase.es} {verb} {es}")

    return frame


for _state in (False, True):  # 6 frames
    for _negated, _asked in ((False, False), (True, False), (False, True)):
        FRAMES.append(_predicate(0, negated=_negated, asked=_asked, state=_state))
FRAMES.append(_predicate(1, negated=False, asked=False, state=True))


def _transitive(tense: int, *, negated: bool = False, asked: bool = False) -> Frame:
    """Return the frame "S verb O" in a tense."""

    def frame(d: Draw) -> tuple[str, str]:
        en_subject, en, es_subject, es, stem = d.verb(tense)
        phrase = d.phrase(1)
        third = en_subject in ("he", "she") or en_subject in words.NAMES
        helping = "did" if tense == PAST else "does" if third else "do"
        if asked:
            return _said(f"{helping} {en_subject} {stem} {phrase.en}",
                         f"{es} {es_subject} {phrase.es}", "?")  # fmt: skip
        if negated:
            return _said(f"{en_subject} {helping} not {stem} {phrase.en}",
                         f"{es_subject} no {es} {phrase.es}")  # fmt: skip
        return _said(f"{en_subject} {en} {phrase.en}", f"{es_subject} {es} {phrase.es}")

    return frame


for _tense in (PRESENT, PAST):  # 6 frames
    FRAMES.extend((
        _transitive(_tense),
        _transitive(_tense, negated=True),
        _transitive(_tense, asked=True),
    ))  # fmt: skip
FRAMES.append(_transitive(FUTURE))


@_frame
def _where(d: Draw) -> tuple[str, str]:
    phrase = d.phrase(1)
    is_, _, estar = _be(phrase)
    return _said(f"where {is_} {phrase.en}", f"dónde {estar} {phrase.es}", "?")


@_frame
def _in_a_place(d: Draw) -> tuple[str, str]:
    phrase, (en, es) = d.phrase(1), d.one(words.PLACES)
    is_, _, estar = _be(phrase)
    return _said(f"{phrase.en} {is_} {en}", f"{phrase.es} {estar} {es}")


@_frame
def _not_in_a_place(d: Draw) -> tuple[str, str]:
    phrase, (en, es) = d.phrase(0), d.one(words.PLACES)
    is_, _, estar = _be(phrase)
    return _said(f"{phrase.en} {is_} not {en}", f"{phrase.es} no {estar} {es}")


@_frame
def _there_is(d: Draw) -> tuple[str, str]:
    phrase, (en, es) = d.phrase(1, 1), d.one(words.PLACES)
    return _said(f"there {_be(phrase)[0]} {phrase.en} {en}", f"hay {phrase.es} {es}")


@_frame
def _is_there(d: Draw) -> tuple[str, str]:
    phrase, (en, es) = d.phrase(1, 1), d.one(words.PLACES)
    return _said(f"{_be(phrase)[0]} there {phrase.en} {en}", f"hay {phrase.es} {es}", "?")


@_frame
def _of_somebody(d: Draw) -> tuple[str, str]:
    phrase, name = d.phrase(1, 0), d.one([(name,) for name in words.NAMES])[0]
    return _said(f"{name}'s {phrase.en.split(' ', 1)[1]}", f"{phrase.es} de {name}", "")


@_frame
def _of_somebody_is(d: Draw) -> tuple[str, str]:
    phrase, name = d.phrase(0, 0), d.one([(name,) for name in words.NAMES])[0]
    is_, ser, _ = _be(phrase)
    en, es = d.adjective(phrase)
    return _said(f"{name}'s {phrase.en.split(' ', 1)[1]} {is_} {en}",
                 f"{phrase.es} de {name} {ser} {es}")  # fmt: skip


@_frame
def _both(d: Draw) -> tuple[str, str]:
    first, second = d.phrase(1), d.phrase(1)
    return _said(f"{first.en} and {second.en}", f"{first.es} y {second.es}", "")


@_frame
def _two_objects(d: Draw) -> tuple[str, str]:
    en_subject, en, es_subject, es, _ = d.verb(PRESENT)
    first, second = d.phrase(0), d.phrase(1)
    return _said(f"{en_subject} {en} {first.en} and {second.en}",
                 f"{es_subject} {es} {first.es} y {second.es}")  # fmt: skip


@_frame
def _two_qualities(d: Draw) -> tuple[str, str]:
    phrase = d.phrase(0)
    is_, ser, _ = _be(phrase)
    en, es = en2, es2 = d.adjective(phrase)
    while en2 == en:
        en2, es2 = d.adjective(phrase)
    return _said(f"{phrase.en} {is_} {en} and {en2}", f"{phrase.es} {ser} {es} y {es2}")


@_frame
def _compared(d: Draw) -> tuple[str, str]:
    phrase, other = d.phrase(0), d.phrase(0)
    is_, ser, _ = _be(phrase)
    en, es = d.adjective(phrase)
    return _said(f"{phrase.en} {is_} as {en} as {other.en}",
                 f"{phrase.es} {ser} tan {es} como {other.es}")  # fmt: skip


@_frame
def _which(d: Draw) -> tuple[str, str]:
    phrase = d.phrase(0, 0)
    is_, ser, _ = _be(phrase)
    en, es = d.adjective(phrase)
    return _said(f"which {phrase.en.split(' ', 1)[1]} {is_} {en}",
                 f"qué {phrase.es.split(' ', 1)[1]} {ser} {es}", "?")  # fmt: skip


@_frame
def _that_somebody_buys(d: Draw) -> tuple[str, str]:
    phrase = d.phrase(0, 0)
    _, third, _, spanish = d.one(words.VERBS)
    name = d.one([(name,) for name in words.NAMES])[0]
    is_, ser, _ = _be(phrase)
    en, es = d.adjective(phrase)
    ending = "e" if spanish == "vend" else "a"
    return _said(f"{phrase.en} that {name} {third.replace('_', ' ')} {is_} {en}",
                 f"{phrase.es} que {spanish}{ending} {name} {ser} {es}")  # fmt: skip


# --------------------------------------------------------------------- the pairs


def is_held_out(met: set[tuple[str, str]]) -> bool:
    """Return True if a pair holds a combination of noun and adjective that is not trained on.

    One in ten combinations is held out, the same in every run.
    """
    return any(_number(noun, adjective) % 10 == 0 for noun, adjective in met)


def _number(noun: str, adjective: str) -> int:
    """Return a number that spreads combinations evenly: their places in the tables."""
    nouns = [one[0] for one in words.NOUNS]
    adjectives = [one[0] for one in (*words.ADJECTIVES, *words.STATES)]
    return 7 * nouns.index(noun) + 3 * adjectives.index(adjective)


def pairs(count: int, seed: int, *, held_out: bool) -> list[tuple[str, str]]:
    """Return `count` different pairs with, or without, a combination that is held out."""
    random, found = Random(f"pairs {seed} {held_out}"), {}
    while len(found) < count:
        d = Draw(random)
        pair = random.choice(FRAMES)(d)
        if is_held_out(d.met) is held_out:
            found[pair] = None
    return list(found)
