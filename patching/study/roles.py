"""Roles of tokens within a prompt: what makes positions of different prompts comparable.

Roles come from marks in a prompt, `When {IO:Mary} and {S1:John} went`, where `{{` and `}}`
are braces; or from a column that gives the positions, `IO:2 S1:4`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mingpt.checks import from_the_end
from patching.prompts import Tokenizer
from patching.study.row_errors import MalformedCellError
from patching.token_spans import TokenSpans

MARKS = "marks"  # the source of roles that is no column
Span = tuple[int, int]  # first character, and the one after the last
Roles = dict[str, tuple[int, ...]]  # role -> positions of its tokens, ascending

_PART = re.compile(r"\{\{|\}\}|\{([^{}:\s]+):([^{}]*)\}|([{}])")


def parse_marks(text: str) -> tuple[str, dict[str, list[Span]]]:
    """Return a prompt without its marks, and the characters that each role marks.

    Example:
        parse_marks("{S:John} gave")  # ("John gave", {"S": [(0, 4)]})

    Raises:
        MalformedCellError: a brace that opens or ends no mark, or a mark without a word.
    """
    plain, spans, last = "", dict[str, list[Span]](), 0
    for match in _PART.finditer(text):
        plain += text[last : match.start()]
        last = match.end()
        role, word, brace = match.groups()
        if brace is not None:
            raise MalformedCellError(
                f"the brace at character {match.start()} is no mark such as {{IO:Mary}};"
                f" a brace is written {brace * 2}"
            )
        if role is None:
            plain += match[0][0]
        elif not word.strip():
            raise MalformedCellError(f"the mark {match[0]} has no word")
        else:
            spans.setdefault(role, []).append((len(plain), len(plain) + len(word)))
            plain += word
    return plain + text[last:], spans


def roles_of_marks(tokenizer: Tokenizer, text: str, spans: Mapping[str, list[Span]]) -> Roles:
    """Return the positions of the tokens that share a character with each role's marks.

    The spaces at a mark's ends are not part of it.
    """
    of = TokenSpans(tokenizer, text)
    return {
        role: tuple(sorted({i for first, last in places for i in of.positions(first, last)}))
        for role, places in spans.items()
    }


def roles_of_cell(cell: Any, T: int) -> Roles:
    """Return the roles that a cell gives by position: `IO:2 S1:4-5 end:-1`, or a JSON object.

    Args:
        cell: text, or role -> a position or a list of positions; negative ones count from
            the end.
        T: tokens of the prompt.

    Raises:
        MalformedCellError: the cell holds something else, or a position that is not there.
    """
    found = {}
    for role, given in _pairs_of(cell):
        positions = list(given) if isinstance(given, list | range) else [given]
        if not positions or not all(type(position) is int for position in positions):
            raise MalformedCellError(f"the role {role} has no position: {given!r:.40}")
        found[role] = tuple(
            sorted(
                {
                    from_the_end("position", position, T, MalformedCellError)
                    for position in positions
                }
            )
        )
    return found


def _pairs_of(cell: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            raise MalformedCellError(f"{cell!r:.40} is no JSON object of roles") from None
    if isinstance(cell, Mapping):
        yield from ((str(role), given) for role, given in cell.items())
        return
    if not isinstance(cell, str):
        raise MalformedCellError(f"roles are written IO:2 S1:4, not {cell!r:.40}")
    for part in cell.split():
        match = re.fullmatch(r"([^:]+):(-?\d{1,9})(?:-(\d{1,9}))?", part, re.ASCII)
        if match is None:
            raise MalformedCellError(f"roles are written IO:2 S1:4, not {part!r:.40}")
        first = int(match[2])
        yield match[1], range(first, int(match[3]) + 1) if match[3] else first


def check_disjoint(roles: Roles) -> None:
    """Raise MalformedCellError if two roles have a token in common."""
    taken: dict[int, str] = {}
    for role, positions in roles.items():
        for position in positions:
            if position in taken:
                raise MalformedCellError(
                    f"the token at position {position} has two roles, {taken[position]} and {role}"
                )
            taken[position] = role
