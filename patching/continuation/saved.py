"""What the fields of saved continuations must be, and how they must agree. No file is read here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from patching.result_checks import (
    Check,
    agree,
    check_fields,
    dictionary,
    finite,
    flag,
    list_of,
    mapping_of,
    one_of,
    optional,
    record,
    text,
    whole,
)

ENDINGS = ("length", "end", "stop")  # as mingpt.generation.sampling.Sample has them
_SETTINGS = {
    "temperature": finite,
    "top_k": optional(whole(1)),
    "top_p": optional(finite),
    "repetition_penalty": finite,
    "max_new_tokens": whole(1),
    "greedy": flag,
    "num_beams": optional(whole(1)),
    "length_penalty": finite,
    "stop": list_of(text),
}
_IDS, _TEXTS = list_of(whole(0), least=1), list_of(text)
_VALUE: dict[str, Check] = {
    "model": text,
    "prompt": text,
    "text": text,
    "prompt_ids": _IDS,
    "ids": _IDS,
    "tokens": _TEXTS,
    "log_probs": list_of(optional(finite)),  # None: float32 overflowed, minus infinity
    "log_prob": optional(finite),
    "score": optional(finite),
    "ended": one_of(ENDINGS),
    "seed": optional(whole(0)),
    "settings": record(_SETTINGS),
}
_MODEL = {
    "name": text,
    "checksum": optional(text),
    "notes": _TEXTS,
    "versions": mapping_of(text),
}
_PART = {"model": whole(0), "created": text, "samples": list_of(whole(1))}
_FILE = {
    "command": optional(dictionary),
    "models": list_of(record(_MODEL)),
    "results": list_of(record(_PART)),
}
# Version 0.1: its command wrote all of these, its library any of them.
_FILE_01: dict[str, Check] = {"arguments": optional(dictionary), "models": list_of(record(_MODEL))}


def check_file(fields: Mapping[str, Any]) -> None:
    """Check the fields of a file, of this version or of version 0.1.

    Raises:
        FieldError: a field is missing, is not what it must be, or does not agree with others.
    """
    table = _FILE if "results" in fields else {n: c for n, c in _FILE_01.items() if n in fields}
    check_fields(fields, table | {"values": list_of(record(_VALUE))})
    for value in fields["values"]:
        _check_value(value)
    if "results" in fields:
        _check_parts(fields["results"], fields["models"], fields["values"])


def _check_value(value: Mapping[str, Any]) -> None:
    count = len(value["ids"])
    for name in ("tokens", "log_probs"):
        agree(len(value[name]) == count, f"ids and {name} of values")
    agree(count <= value["settings"]["max_new_tokens"], "ids and max_new_tokens of values")
    total = _sum(value["log_probs"])
    stated = -math.inf if value["log_prob"] is None else value["log_prob"]
    # Nearly, because other versions of Python sum in another way.
    agree(
        math.isclose(total, stated, rel_tol=1e-9, abs_tol=1e-9), "log_prob and log_probs of values"
    )


def _sum(log_probs: Sequence[float | None]) -> float:
    return sum(-math.inf if one is None else one for one in log_probs)


def _check_parts(
    parts: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]],
    values: Sequence[Mapping[str, Any]],
) -> None:
    """Check that the results' counts and models fit the samples."""
    counts = [count for part in parts for count in part["samples"]]
    agree(
        sum(counts) == len(values) and all(part["samples"] for part in parts), "results and values"
    )
    first = 0
    for part in parts:
        agree(part["model"] < len(models), "results and models")
        settings = values[first]["settings"]
        for count in part["samples"]:
            of_prompt = values[first : first + count]
            prompt = of_prompt[0]["prompt"], of_prompt[0]["prompt_ids"]
            for value in of_prompt:
                agree(value["settings"] == settings, "results and settings of values")
                agree(
                    (value["prompt"], value["prompt_ids"]) == prompt, "results and prompt of values"
                )
            first += count
