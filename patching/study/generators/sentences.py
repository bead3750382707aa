"""Families of the shipped model's grammar; other models of English know them too.

The frames and words are those that the shipped model was trained on, its held-out
combinations included: its accuracy on them is no test of it.
"""

from __future__ import annotations

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
from patching.study.generators.words import (
    CAPITALS,
    COUNTRY_TO_CAPITAL,
    DEGREES,
    FEMALE,
    FIRST_NAMES,
    GAVE,
    MALE,
    NOUNS,
    OBJECTS,
    OPPOSITES,
    PLACES,
    PREPOSITIONS,
    PREVIOUS,
    QUALITIES,
    ROLES,
    SAID,
    SEEMS,
    SURNAMES,
)

# In these a name or country follows a space, as its token needs.
GAVE_INSIDE = tuple(frame for frame in GAVE if not frame.startswith("{"))
CAPITAL_INSIDE = tuple(frame for frame in COUNTRY_TO_CAPITAL if not frame.startswith("{"))
ORDERS = {"ABBA": ("io", "s"), "BABA": ("s", "io")}  # who of the two is named first
CORRUPTIONS = ("swap", "new")


def indirect_object(
    tokenizer: Tokenizer, *, order: str = "both", corrupt: str = "swap", template: int | None = None
) -> Design:
    """Return pairs in which the model names who was given something (Wang et al. 2022, IOI).

    Args:
        order: "ABBA" (the indirect object is named first), "BABA", or "both".
        corrupt: "swap" gives the second sentence the other name, so that the corrupt prompt
            asks for the foil; "new" puts three other names, so that it asks for neither.
        template: the number of one frame, from 0; None for all.
    """
    if order not in (*ORDERS, "both"):
        raise PairsError(f"an order is ABBA, BABA or both, not {order!r}")
    if corrupt not in CORRUPTIONS:
        raise PairsError(f"a corruption is {' or '.join(CORRUPTIONS)}, not {corrupt!r}")
    names = ("io", "s") if corrupt == "swap" else ("io", "s", "a", "b", "c")
    orders = list(ORDERS) if order == "both" else [order]

    def row(drawn: Mapping[str, Any]) -> Row:
        number, frame = drawn["frame"]
        first, second = ORDERS[drawn["order"]]
        roles = {"io": "IO", "s": "S1"}
        words = {name: drawn[name] for name in ("place", "thing")}
        marks = {name: f"{{{roles[name]}:{drawn[name]}}}" for name in ("io", "s")}
        clean = frame.format(a=marks[first], b=marks[second], s=f"{{S2:{drawn['s']}}}", **words)
        if corrupt == "swap":
            other = {"a": drawn[first], "b": drawn[second], "s": drawn["io"]}
        else:
            other = {"a": drawn["a"], "b": drawn["b"], "s": drawn["c"]}
        return {
            "clean": clean,
            "corrupt": frame.format(**other, **words),
            "target": drawn["io"],
            "foil": drawn["s"],
            "template": f"{drawn['order']} {number}",
        }

    return Design(
        (
            Draw(names, single(tokenizer, "names", FIRST_NAMES, least=len(names))),
            Draw(("order",), orders),
            Draw(("frame",), one_of(GAVE_INSIDE, template)),
            Draw(("place",), single(tokenizer, "places", PLACES, least=1)),
            Draw(("thing",), single(tokenizer, "objects", OBJECTS, least=1)),
        ),
        row,
    )


def agreement(tokenizer: Tokenizer) -> Design:
    """Return pairs in which the verb agrees with the first noun, not with the one beside it."""
    nouns = [pair for pair in NOUNS if all(is_token(tokenizer, f" {word}") for word in pair)]
    check_enough("nouns (with their plurals)", len(nouns), len(NOUNS), 2)
    verbs = single(tokenizer, "verbs", ("is", "are"))

    def row(drawn: Mapping[str, Any]) -> Row:
        number, other = drawn["number"], drawn["distractor"]
        rest = f"{drawn['preposition']} the {{distractor:{drawn['other'][other]}}}"
        head = drawn["head"]
        return {
            "clean": f"The {{head:{head[number]}}} {rest}",
            "corrupt": f"The {{head:{head[1 - number]}}} {rest}",
            "target": verbs[number],
            "foil": verbs[1 - number],
            "template": f"{'plural' if number else 'singular'} beside"
            f" {'plural' if other else 'singular'}",
        }

    return Design(
        (
            Draw(("head", "other"), nouns),
            Draw(("number",), (0, 1)),
            Draw(("distractor",), (0, 1)),
            Draw(("preposition",), single(tokenizer, "prepositions", PREPOSITIONS, least=1)),
        ),
        row,
    )


def pronoun(tokenizer: Tokenizer, *, template: int | None = None) -> Design:
    """Return pairs in which a first name decides between she and he."""
    pronouns = single(tokenizer, "pronouns", ("she", "he"))

    def row(drawn: Mapping[str, Any]) -> Row:
        number, said = drawn["said"]
        names = (drawn["woman"], drawn["man"])
        ours = drawn["clean"]
        return {
            "clean": f"{{name:{names[ours]}}} {said}",
            "corrupt": f"{names[1 - ours]} {said}",
            "target": pronouns[ours],
            "foil": pronouns[1 - ours],
            "template": f"{pronouns[ours]} {number}",
        }

    return Design(
        (
            Draw(("woman",), single(tokenizer, "women's names", FEMALE, least=1, first=True)),
            Draw(("man",), single(tokenizer, "men's names", MALE, least=1, first=True)),
            Draw(("clean",), (0, 1)),
            Draw(("said",), one_of(SAID, template)),
        ),
        row,
    )


def capitals(tokenizer: Tokenizer, *, template: int | None = None) -> Design:
    """Return pairs in which a country decides its capital."""
    known = [
        pair
        for pair in CAPITALS.items()
        if pair[0] != pair[1] and all(is_token(tokenizer, f" {word}") for word in pair)
    ]
    check_enough("countries (with their capitals)", len(known), len(CAPITALS), 2)

    def row(drawn: Mapping[str, Any]) -> Row:
        number, frame = drawn["frame"]
        (country, capital), (other, other_capital) = drawn["a"], drawn["b"]
        return {
            "clean": frame.format(x=f"{{country:{country}}}"),
            "corrupt": frame.format(x=other),
            "target": capital,
            "foil": other_capital,
            "template": str(number),
        }

    frames = one_of(CAPITAL_INSIDE, template)
    return Design((Draw(("a", "b"), known), Draw(("frame",), frames)), row)


def surname(tokenizer: Tokenizer) -> Design:
    """Return pairs of the README's form: a full name, and the first name again."""

    def row(drawn: Mapping[str, Any]) -> Row:
        first, rest = drawn["first"], f"was a {drawn['quality']} {drawn['role']}."
        return {
            "clean": f"{{first:{first}}} {{surname:{drawn['target']}}} {rest} {{again:{first}}}",
            "corrupt": f"{first} {drawn['foil']} {rest} {first}",
            "target": drawn["target"],
            "foil": drawn["foil"],
            "template": drawn["quality"],
        }

    return Design(
        (
            Draw(("first",), single(tokenizer, "names", FIRST_NAMES, least=1, first=True)),
            Draw(("target", "foil"), single(tokenizer, "surnames", SURNAMES)),
            Draw(("quality",), QUALITIES),
            Draw(("role",), ROLES),
        ),
        row,
    )


def opposites(tokenizer: Tokenizer) -> Design:
    """Return pairs in which a thing, and not its opposite beside it, decides an adjective."""
    known = [one for one in OPPOSITES if all(is_token(tokenizer, f" {word}") for word in one)]
    check_enough("opposites", len(known), len(OPPOSITES), 1)

    def row(drawn: Mapping[str, Any]) -> Row:
        thing, other, quality, other_quality = drawn["opposite"]
        if drawn["other first"]:
            thing, other, quality, other_quality = other, thing, other_quality, quality
        form = f"This {{}}, unlike the {drawn['previous']} {{}}, {drawn['seems']} {drawn['degree']}"
        return {
            "clean": form.format(f"{{thing:{thing}}}", f"{{other:{other}}}"),
            "corrupt": form.format(other, thing),
            "target": quality,
            "foil": other_quality,
            "template": drawn["seems"],
        }

    return Design(
        (
            Draw(("opposite",), known),
            Draw(("other first",), (False, True)),
            Draw(("previous",), PREVIOUS),
            Draw(("seems",), SEEMS),
            Draw(("degree",), DEGREES),
        ),
        row,
    )
