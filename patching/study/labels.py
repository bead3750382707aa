"""Names of cells and labels of columns: tokens where all pairs agree, else positions and roles."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from patching.errors import StudyError
from patching.study.align import Key
from patching.study.result import Study
from patching.text import escaped, shortened, visible

LONGEST = 16  # characters of a token
AXES_SHORT = {"layer": "layer ", "head": "head ", "position": "position ", "role": ""}


def column_labels(study: Study, keys: Sequence[Key]) -> tuple[str, ...]:
    """Return a label for each position or role of a map.

    Where all pairs have the same token there, the label says it. Where they differ, a
    position is its number alone.

    Example:
        [0, 1] -> ("When (0)", "1")
        ["IO", "IO+1"] -> ("IO", "IO+1: \\u2423and")
    """
    common = common_tokens(study)
    labels = []
    for key in keys:
        token = common.get(str(key))
        shown = "" if token is None else shortened(visible(token), LONGEST)
        if study.align == "roles":
            labels.append(escaped(str(key)) + (f": {shown}" if shown else ""))
        else:
            labels.append(f"{shown} ({key})" if shown else str(key))
    return tuple(labels)


def common_tokens(study: Study) -> dict[str, str]:
    """Return key -> the token that every pair's clean and corrupt prompt has at that key."""
    found: dict[str, str | None] = {}
    columns = (study.column(name) for name in ("keys", "clean_tokens", "corrupt_tokens"))
    for keys, clean, corrupt in zip(*columns, strict=True):
        for key, one, other in zip(keys, clean, corrupt, strict=True):
            token = one if one == other else None
            if found.setdefault(key, token) != token:
                found[key] = None
    return {key: token for key, token in found.items() if token is not None}


def cell_name(axes: Mapping[str, np.ndarray], cell: int) -> str:
    """Return a cell's name: "layer 3, S2"; of a head "4.2", of an MLP "m4"."""
    at = {name: str(values[cell]) for name, values in axes.items()}
    if "sender" in at:
        is_mlp = at["sender"] == "MLP"
        return f"m{at['layer']}" if is_mlp else f"{at['layer']}.{at['sender']}"
    if "head" in at:
        rest = [at[name] for name in ("position", "role") if name in at]
        return ", ".join([f"{at['layer']}.{at['head']}", *rest])
    return ", ".join(f"{AXES_SHORT[name]}{value}" for name, value in at.items())


def is_of(axes: Mapping[str, np.ndarray], text: str) -> bool:
    """Return True if a text names a cell as those of a map are named: with a head, or without."""
    if "sender" in axes:
        return re.fullmatch(r"m\d+|\d+\.\d+", text) is not None
    return ("." in text.partition(":")[0]) == ("head" in axes)


def find_cell(axes: Mapping[str, np.ndarray], text: str) -> int:
    """Return the number of the cell that a text names: "3:S2", "3:-1", "4.2" or "4.2:S2".

    In a map of paths, "3.2" is head 2 of layer 3, and "m3" its MLP.

    Raises:
        StudyError: the map has no such cell.
    """
    if "sender" in axes:
        names = [cell_name(axes, cell) for cell in range(len(axes["layer"]))]
        if text in names:
            return names.index(text)
        raise StudyError(f"no cell {text!r:.60} in the map; cells are 0.0 to {names[-1]}")
    place, _, key = text.partition(":")
    layer, _, head = place.partition(".")
    asked = {"layer": layer, "head": head, "position": key, "role": key}
    matches = np.ones(len(axes["layer"]), dtype=bool)
    for name, values in axes.items():
        matches &= np.array([str(value) == asked[name].strip() for value in values.tolist()])
    found = np.flatnonzero(matches)
    if len(found) != 1 or not is_of(axes, text):
        last = len(axes["layer"]) - 1
        shown = str(axes["layer"][last]) + (f".{axes['head'][last]}" if "head" in axes else "")
        column = next((axes[name] for name in ("role", "position") if name in axes), None)
        shown += "" if column is None else f":{column[last]}"
        raise StudyError(f"no cell {text!r:.60} in the map; a cell is written as {shown}")
    return int(found[0])
