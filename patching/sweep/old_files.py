"""Read the fields of sweeps that older versions saved, under the names of the present version."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from patching.result_checks import dictionary
from patching.result_files import scalar, structured

_ELSEWHERE_IN_01 = (
    "layers", "heads", "positions", "by_position", "window", "method", "patches", "shared_by",
    "max_memory", "tf32", "rows", "command",
)  # fmt: skip
_NEUTRAL_BEFORE_04 = {"logit_diff": 0.0, "prob_diff": 0.0, "target_logit": 0.0}


def fields_of_01(
    arrays: Mapping[str, np.ndarray], fields: tuple[dataclasses.Field[Any], ...]
) -> dict[str, Any]:
    """Return the fields that version 0.1 kept in "arguments" and "top_k".

    Args:
        arrays: the entries of the .npz.
        fields: of the result's dataclass, for their defaults.
    """
    arguments = structured(arrays, "arguments")
    dictionary("arguments", arguments)
    defaults = {field.name: field.default for field in fields}
    there = {
        name: arguments.get(name, defaults[name])
        for name in _ELSEWHERE_IN_01
        if name in arguments or defaults[name] is not dataclasses.MISSING
    }
    return {**there, "rows": scalar(arrays, "top_k")}


def renamed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with the names and structure of the present version.

    Until version 0.3 a pair had one target and one foil: "target_id", "target_token". What is
    not a field of such a file is returned as it is, for the checks that follow.
    """
    new = dict(saved)
    pair = new["pair"]
    if isinstance(pair, dict) and "target_id" in pair:
        singular = {f"{answer}_{part}" for answer in ("target", "foil") for part in ("id", "token")}
        new["pair"] = {
            f"{name}s" if name in singular else name: [value] if name in singular else value
            for name, value in pair.items()
        }
    for name in ("clean_next", "corrupt_next"):
        table = new[name]
        if isinstance(table, dict) and isinstance(table.get("target"), dict):
            new[name] = table | {answer: [table.get(answer)] for answer in ("target", "foil")}
    return new


def neutral_of_03(saved: Mapping[str, Any], base: str) -> dict[str, float]:
    """Return the neutral value of each metric, which files until version 0.3 do not hold.

    Args:
        saved: the fields "metrics" and "diverging".
        base: "clean" or "corrupt": the run that was patched.
    """
    values = {}
    for name, ends in saved["metrics"].items():
        if name in _NEUTRAL_BEFORE_04:
            values[name] = _NEUTRAL_BEFORE_04[name]
        elif name in saved["diverging"]:
            values[name] = ends[base]
    return values
