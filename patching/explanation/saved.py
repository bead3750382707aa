"""What the fields of a saved explanation must be, and how they must agree. No file is read here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from patching.explanation.request import METHODS
from patching.result_checks import (
    Check,
    agree,
    check_shapes,
    dictionary,
    finite,
    finite_numbers,
    list_of,
    mapping_of,
    numbers,
    one_of,
    optional,
    positive_numbers,
    shares,
    shares_or_nan,
    summable_numbers,
    text,
    whole,
    whole_numbers,
)

# Array -> (check of its numbers, its axes). T tokens, L layers, h heads, k likeliest tokens.
ARRAYS: dict[str, tuple[Check, str]] = {
    "ids": (whole_numbers(0), "T"),
    "logits": (summable_numbers, "2"),
    "probabilities": (shares, "2"),
    "ranks": (whole_numbers(1), "2"),
    "top_ids": (whole_numbers(0), "k"),
    "top_logits": (finite_numbers, "k"),
    "top_probabilities": (shares, "k"),
    "heads": (summable_numbers, "2 L h"),
    "initial": (summable_numbers, "2"),
    "mlp": (summable_numbers, "L 2"),
    "bias": (summable_numbers, "L 2"),
    "final_bias": (summable_numbers, "2"),
    "error": (finite_numbers, "2"),
    "tolerance": (positive_numbers, "2"),  # infinite in half precision
    "logit": (summable_numbers, "3 T"),
    "logit_layers": (summable_numbers, "3 L T"),
    "alti_logit": (summable_numbers, "3 T"),
    "alti_logit_layers": (summable_numbers, "3 L T"),
    "contributions": (shares, "L T T"),
    "rollout": (shares, "L T T"),
    "lens_ids": (whole_numbers(0), "L T"),
    "lens_probabilities": (shares_or_nan, "L T"),
    "trajectory": (numbers, "L+1 2"),
    "pattern": (shares, "L h T T"),
    "head_scores": (shares, "3 L h"),
}
_MIXING = ("contributions", "rollout", "alti_logit", "alti_logit_layers")
_LENS = ("lens_ids", "lens_probabilities", "trajectory")
_ATTENTION = ("pattern", "head_scores")
NEEDED_BY = {  # other arrays are always there
    "alti": _MIXING,
    "alti-logit": _MIXING,
    "lens": _LENS,
    "attention": _ATTENTION,
}

TABLE = {
    "target": whole(0),
    "foil": whole(0),
    "methods": list_of(one_of(METHODS), least=1),
    "text": text,
    "tokens": mapping_of(text),
    "model_name": text,
    "versions": mapping_of(text),
    "seconds": finite,
    "created": text,
    "notes": list_of(text),
    "command": optional(dictionary),
    "checksum": optional(text),
    "ablated": optional(list_of(whole(0), least=2)),
}


def check_agreement(saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Check the arrays, and that fields agree with one another.

    Args:
        saved: the fields that are no arrays, each of which TABLE has checked.
        arrays: the arrays that the file has.

    Raises:
        FieldError: an array is missing or not what ARRAYS says, or fields disagree.
    """
    optional_ones = {*_MIXING, *_LENS, *_ATTENTION}
    needed = {name for method in saved["methods"] for name in NEEDED_BY.get(method, ())}
    there = {name: ARRAYS[name] for name in ARRAYS if name in arrays or name not in optional_ones}
    for name, (check, _) in there.items():
        check(name, arrays.get(name))
    check_shapes(arrays, {name: axes for name, (_, axes) in there.items()})
    agree(needed <= there.keys(), "methods and arrays")
    agree(len(set(saved["methods"])) == len(saved["methods"]), "of methods")
    agree(bool((arrays["error"] >= 0).all()), "error and tolerance")
    if (off := saved["ablated"]) is not None:
        agree(len(off) == 2, "of ablated")
        _, L, heads = arrays["heads"].shape
        agree(off[0] < L and off[1] < heads, "ablated and heads")
    occurring = {saved["target"], saved["foil"]}
    for name in ("ids", "top_ids", "lens_ids"):
        occurring |= {*arrays[name].ravel().tolist()} if name in there else set()
    agree({*map(str, occurring)} <= saved["tokens"].keys(), "tokens and ids")
    # Another spelling of a number, such as "01", would be a second text of the same token.
    agree(all(key.isdecimal() and str(int(key)) == key for key in saved["tokens"]), "of tokens")
