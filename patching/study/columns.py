"""Which column of a file holds what: the names that public sets of pairs use.

The names are those of EAP-IG, feature-circuits, AutoCircuit, ACDC, MIB's IOI rows, ROME's facts and
our own files. A name that ends in `_idx` holds token ids of one vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from patching.errors import PairsError
from patching.study.rows import Table, named_columns

# What is needed -> names of its column, the preferred one first.
ALIASES = {
    "clean": ("clean", "clean_prefix", "prompt", "clean_text", "clean_prompt"),
    "corrupt": (
        "corrupt", "corrupted", "patch_prefix", "corrupt_text", "corrupt_prompt",
        "s2_io_flip_counterfactual.prompt", "corrupted_hard",
    ),
    "target": (
        "target", "answer", "answers", "clean_answer", "correct", "correct_answers",
        "metadata.indirect_object", "correct_idx", "clean_answer_idx", "answers_idx",
        "country_idx", "token_a", "attribute",
    ),
    "foil": (
        "foil", "wrong_answers", "patch_answer", "incorrect", "corrupted_answers",
        "metadata.subject", "incorrect_idx", "corrupted_answer_idx", "corrupted_answers_idx",
        "corrupted_country_idx", "token_b",
    ),
}  # fmt: skip
NEEDED = ("clean", "corrupt", "target")  # a pair without a foil serves metrics that read none
YEARS = ("correct_idx", "label")  # EAP-IG's greater-than writes the last two digits of a year


@dataclass(frozen=True)
class Columns:
    """The columns of a file that make pairs."""

    clean: str
    corrupt: str | None  # None: not read
    target: str
    foil: str | None
    # The target's column holds the last two digits of a year: later years are the target,
    # the others the foil.
    years: bool = False

    def to_dict(self) -> dict[str, str]:
        """Return what is needed -> the column's name in the file."""
        return {name: found for name in ALIASES if (found := getattr(self, name)) is not None}


def choose_columns(
    table: Table, chosen: Mapping[str, str] | None = None, *, with_corrupt: bool = True
) -> Columns:
    """Return the columns that make pairs.

    Args:
        chosen: columns by what they hold ("clean", "corrupt", "target", "foil"), where a
            file's names are others, or it holds several corrupt prompts.
        with_corrupt: False to read no corrupt prompts, whether the file has them or not.

    Raises:
        PairsError: a needed column is missing, or a chosen one.
    """
    by_name = {name.lower(): name for name in reversed(table.columns)}
    found: dict[str, str | None] = {}
    for what, aliases in ALIASES.items():
        found[what] = next((by_name[name] for name in aliases if name in by_name), None)
    for what, name in (chosen or {}).items():
        if what not in ALIASES:
            raise PairsError(f"no part of a pair is called {what!r}: {', '.join(ALIASES)}")
        if name not in table.columns:
            raise PairsError(
                f"{table.path} has no column {name!r}; found {named_columns(table.columns)}"
            )
        found[what] = name
    needed_here = [what for what in NEEDED if with_corrupt or what != "corrupt"]
    if not with_corrupt:
        if "corrupt" in (chosen or {}):
            raise PairsError("no corrupt prompts are read here: leave their column out")
        found["corrupt"] = None
    years = False
    if all(found[what] is not None for what in needed_here if what != "target"):
        year = _year_column(table, found, by_name)
        if years := year is not None:
            found["target"] = year
    missing = [what for what in needed_here if found[what] is None]
    if missing:
        needed = "; ".join(f"{what} (or {', '.join(ALIASES[what][1:])})" for what in missing)
        raise PairsError(
            f"{table.path}: missing columns: found {named_columns(table.columns)}; needed {needed}"
        )
    return Columns(**found, years=years)  # type: ignore[arg-type]


def has_corrupt(table: Table, chosen: Mapping[str, str] | None = None) -> bool:
    """Return True if a file has a column of corrupt prompts, or one is chosen."""
    names = {name.lower() for name in table.columns}
    return "corrupt" in (chosen or {}) or not names.isdisjoint(ALIASES["corrupt"])


def _year_column(
    table: Table, found: Mapping[str, str | None], by_name: Mapping[str, str]
) -> str | None:
    """Return the column of years' last two digits, if that is what the file asks for.

    Every clean prompt then ends in a century and names that century's year, and no column
    holds the foil.
    """
    year = next((by_name[name] for name in YEARS if name in by_name), None)
    clean = found["clean"]
    if year is None or found["foil"] is not None:
        return None
    if found["target"] not in (None, year):
        return None
    for row in table.rows:
        prompt, digits = str(row.cells.get(str(clean))), str(row.cells.get(year))
        end = re.search(r"\d\d$", prompt)
        if end is None or re.fullmatch(r"\d{1,2}", digits, re.ASCII) is None:
            return None
        if f"{end[0]}{int(digits):02d}" not in prompt:
            return None
    return year
