"""What the fields of a saved sweep must be, and how they must agree. No file is read here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mingpt.sites import HEAD_SITES, SITES
from patching.result_checks import (
    agree,
    check_shapes,
    dictionary,
    finite,
    flag,
    list_of,
    mapping_of,
    number,
    numbers,
    one_of,
    optional,
    record,
    text,
    whole,
    whole_numbers,
)
from patching.result_files import scalar
from patching.sweep.approximate import RELP_RULES
from patching.sweep.put import MEANS_PER, PUTS
from patching.sweep.request import DIRECTIONS, METHODS

_SCORE = {
    "rank": whole(1), "id": whole(0), "token": text, "logit": finite, "probability": finite,
}  # fmt: skip
_NEXT = optional(record({name: list_of(record(_SCORE)) for name in ("top", "target", "foil")}))
_IDS = list_of(whole(0))
_INDICES = list_of(whole(0), least=1)
_TEXTS = list_of(text)
_PAIR = record(
    {
        "clean_text": text, "corrupt_text": text,
        "clean_ids": _INDICES, "corrupt_ids": _INDICES,
        "clean_tokens": _TEXTS, "corrupt_tokens": _TEXTS,
        "target_ids": _INDICES, "foil_ids": _IDS,
        "target_tokens": _TEXTS, "foil_tokens": _TEXTS,
        "differing": _IDS,
    }
)  # fmt: skip
# What is put in -> the fields of put_from.
PUT_FROM = {
    "mean": {"prompts": whole(1), "per": one_of(MEANS_PER), "checksum": text},
    "resample": {"prompt": text, "seed": whole(0)},
}
# The fields of every result on a pair: sweeps, paths, edges.
OF_A_PAIR = {
    "direction": one_of(DIRECTIONS),
    "metrics": mapping_of(record({"clean": number, "corrupt": number})),
    "captions": mapping_of(text),
    "diverging": _TEXTS,
    "pair": _PAIR,
    "model_name": text,
    "max_memory": optional(whole(1)),
    "checksum": optional(text),
    "clean_next": _NEXT,
    "corrupt_next": _NEXT,
    "rows": whole(1),
    "versions": mapping_of(text),
    "seconds": finite,
    "created": text,
    "notes": _TEXTS,
    "command": optional(dictionary),
}
TABLE = OF_A_PAIR | {
    "site": one_of(SITES),
    "layers": _INDICES,
    "heads": optional(_INDICES),
    "positions": optional(_INDICES),
    "by_position": flag,
    "window": whole(1),
    "put": one_of(PUTS),
    "put_from": dictionary,
    "noise": optional(
        record(
            {
                "subject": text, "positions": _INDICES, "std": finite, "asked": text,
                "draws": whole(1), "seed": whole(0),
            }
        )
    ),
    "method": one_of(METHODS),
    "relp_rules": optional(list_of(one_of(RELP_RULES), least=1)),
    "steps": optional(whole(1)),
    "patches": optional(text),
    "shared_by": whole(1),
    "tf32": flag,
    "neutral": mapping_of(finite),
    "next_texts": mapping_of(text),
}  # fmt: skip


def check_agreement(saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Check that fields agree with one another, and that just the chosen cells have values.

    Args:
        saved: the fields, each of which TABLE has checked.
        arrays: the arrays of the file; `values_<name>` is each metric's.

    Raises:
        FieldError: they do not.
    """
    check_pair_fields(saved["pair"])
    agree((saved["method"] == "relp") == (saved["relp_rules"] is not None), "method and relp_rules")
    agree((saved["method"] == "attribution-ig") == (saved["steps"] is not None), "method and steps")
    of_put = PUT_FROM.get(saved["put"], {})
    is_alone = not saved["pair"]["differing"]
    is_alone = is_alone and saved["noise"] is None
    is_ablation = saved["put"] != "recorded" or saved["patches"] is not None
    agree(not is_alone or (is_ablation and saved["direction"] == "noise"), "put and pair")
    agree(saved["put_from"].keys() == of_put.keys(), "put and put_from")
    record(of_put)("put_from", saved["put_from"])
    metrics = saved["metrics"]
    values = {name: arrays.get(name, np.array(None)) for name in map("values_{}".format, metrics)}
    agree(bool(metrics), "metrics and metric")
    agree(metrics.keys() == saved["captions"].keys(), "metrics and captions")
    agree(metrics.keys() >= {*saved["diverging"]}, "metrics and diverging")
    agree(metrics.keys() >= saved["neutral"].keys(), "metrics and neutral")
    for name, array in values.items():
        numbers(name, array)
    _check_cells(saved, values)
    _check_next(saved, arrays, next(iter(values.values())))
    first = next(iter(metrics))
    again = {"metric": first, "clean_value": metrics[first]["clean"]}
    again |= {"corrupt_value": metrics[first]["corrupt"]}
    for name, expected in again.items():
        agree(repr(scalar(arrays, name)) == repr(expected), f"metrics and {name}")  # NaN too
    copy = arrays.get("values", np.array(None))
    numbers("values", copy)
    agree(np.array_equal(copy, values[f"values_{first}"], equal_nan=True), "metrics and values")


def _check_next(
    saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray], values: np.ndarray
) -> None:
    """Check the likeliest next tokens of the cells, if the file has them."""
    names = ("next_ids", "next_logits", "next_probabilities")
    there = [name for name in names if name in arrays]
    agree(there in ([], [*names]), " and ".join(names))
    if not there:
        agree(not saved["next_texts"], "next_texts and next_ids")
        return
    ids, logits, probabilities = (arrays[name] for name in names)
    whole_numbers(-1)("next_ids", ids)
    for name, array in zip(names[1:], (logits, probabilities), strict=True):
        numbers(name, array)
        agree(array.shape == ids.shape, f"next_ids and {name}")
    agree(ids.ndim == values.ndim + 1 and ids.shape[:-1] == values.shape, "values and next_ids")
    patched = np.isfinite(values)[..., None]
    for array in (ids >= 0, np.isfinite(logits), np.isfinite(probabilities)):
        agree(bool((array == patched).all()), "values and next_ids")
    agree(bool((probabilities[ids >= 0] <= 1).all()), "of next_probabilities")
    occurring = {str(number) for number in ids[ids >= 0].tolist()}
    agree(saved["next_texts"].keys() == occurring, "next_ids and next_texts")


def check_pair_fields(pair: Mapping[str, Any]) -> None:
    """Raise FieldError unless a pair's texts, ids and answers agree."""
    parts = [pair[f"{run}_{what}"] for what in ("ids", "tokens") for run in ("clean", "corrupt")]
    agree(len(set(map(len, parts))) == 1, "of pair")
    differing = [i for i, (a, b) in enumerate(zip(parts[0], parts[1], strict=True)) if a != b]
    agree(differing == pair["differing"], "clean_ids, corrupt_ids and differing of pair")
    answers = [*pair["target_ids"], *pair["foil_ids"]]
    agree(len({*answers}) == len(answers), "target_ids and foil_ids of pair")
    for answer in ("target", "foil"):
        same = len(pair[f"{answer}_ids"]) == len(pair[f"{answer}_tokens"])
        agree(same, f"{answer}_ids and {answer}_tokens of pair")


def _check_cells(saved: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> None:
    """Check the arrays' shape, and that they have numbers where `layers` and so on say so."""
    has_heads, by_position = saved["site"] in HEAD_SITES, saved["by_position"]
    agree(has_heads or not by_position, "site and by_position")
    axes = {"layers": "L"} | ({"heads": "nh"} if has_heads else {})
    if by_position or not has_heads:
        axes["positions"] = str(len(saved["pair"]["clean_ids"]))
    for name in ("heads", "positions"):
        agree((saved[name] is not None) == (name in axes), f"site, by_position and {name}")
    check_shapes(values, dict.fromkeys(values, " ".join(axes.values())))
    chosen = np.zeros(next(iter(values.values())).shape, dtype=bool)
    for name, size in zip(axes, map(int, chosen.shape), strict=True):
        indices = saved[name]
        agree(indices == sorted({*indices}) and indices[-1] < size, f"values and {name}")
    chosen[np.ix_(*(saved[name] for name in axes))] = True
    for name, array in values.items():
        agree(bool((np.isfinite(array) == chosen).all()), f"{name} and {', '.join(axes)}")
