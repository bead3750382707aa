"""Which positions of different pairs are the same cell of a map.

A position's key is a whole number (its place from the start, from the end, or from the first or
last differing token), or a text (its role, or its place after a role). A map has the keys that
every pair has: nothing is padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from patching.errors import StudyError
from patching.prompts import PromptPair

ALIGNMENTS = ("start", "end", "first-diff", "last-diff", "roles")
Key = int | str


def choose_align(
    pairs: Sequence[PromptPair],
    roles: Sequence[Mapping[str, Sequence[int]]] | None,
    subjects: Sequence[tuple[int, ...]] | None = None,
) -> tuple[str, str]:
    """Return the alignment that a study takes where none is asked for, and why.

    Args:
        roles: each pair's roles, if it has some.
        subjects: the positions of the noise on each pair, if there is noise.
    """
    differing = {pair.differing for pair in pairs} if subjects is None else {*subjects}
    if len({len(pair) for pair in pairs}) == 1 and len(differing) == 1:
        if not any(differing):
            return "start", "all pairs have the same length"
        where = "differ" if subjects is None else "have their subject"
        return "start", f"all pairs have the same length and {where} at the same positions"
    if roles is None and not any(differing):
        return "end", "lengths vary, and the pairs have neither corrupt prompts nor roles"
    vary = "lengths or differing positions vary" if subjects is None else "lengths or subjects vary"
    if roles is not None:
        return "roles", f"{vary}, and the pairs have roles"
    if subjects is not None:  # a subject's last token is where causal tracing finds most
        return "last-diff", f"{vary}: 0 is a subject's last token"
    return "first-diff", f"{vary}, and the pairs have no roles"


def position_keys(
    align: str, T: int, differing: Sequence[int], roles: Mapping[str, Sequence[int]] | None
) -> list[Key]:
    """Return the key of each of a prompt's T positions.

    Example:
        position_keys("end", 3, [1], None)  # [-3, -2, -1]
        position_keys("first-diff", 3, [1], None)  # [-1, 0, 1]
        position_keys("roles", 5, [1], {"IO": [1], "S": [2, 3]})
        # ["start", "IO", "S", "S", "S+1"]

    Raises:
        StudyError: the alignment is by roles, and the pair has none.
    """
    if align != "roles":
        if align.endswith("diff") and not differing:
            raise StudyError(
                f"without corrupt prompts no token differs, as {align} needs: align by start, end"
                " or roles"
            )
        differing = differing or (0,)
        zero = {"start": 0, "end": T, "first-diff": differing[0], "last-diff": differing[-1]}
        return [position - zero[align] for position in range(T)]
    if not roles:
        raise StudyError(
            "the pairs have no roles; read them with roles='marks' or a column, or align by"
            f" {', '.join(ALIGNMENTS[:-1])}"
        )
    role_of = {position: role for role, positions in roles.items() for position in positions}
    keys, before, last = list[Key](), "start", 0
    for position in range(T):
        if position in role_of:
            before, last = role_of[position], position
            keys.append(before)
        else:
            apart = position - last
            keys.append(f"{before}+{apart}" if apart else before)
    return keys


def common_keys(keys: Sequence[Sequence[Key]]) -> list[Key]:
    """Return the keys that all pairs have: numbers ascending, roles as in the first pair.

    Args:
        keys: of each pair's positions.

    Raises:
        StudyError: they have none in common.
    """
    distinct = list(dict.fromkeys(map(tuple, keys)))
    common = set(distinct[0]).intersection(*distinct[1:])
    found = [key for key in dict.fromkeys(distinct[0]) if key in common]
    if not found:
        raise StudyError("the pairs have no position in common by this alignment")
    return found


def averaging(keys: Sequence[Key], common: Sequence[Key]) -> np.ndarray:
    """Return weights (T, K) that turn values by position into means by key.

    Args:
        keys: of each of a pair's T positions; those that are not common are left out.
        common: the K keys of the map.
    """
    place = {key: number for number, key in enumerate(common)}
    weights = np.zeros((len(keys), len(common)))
    for position, key in enumerate(keys):
        if key in place:
            weights[position, place[key]] = 1
    return weights / weights.sum(axis=0)
