"""Tables of what the fields of saved paths and edges must be. No file is read here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from patching.errors import PathError
from patching.paths.graph import parse_receivers, receivers_of, senders_of
from patching.paths.request import EDGE_METHODS, METHODS, MLPS
from patching.result_checks import (
    FieldError,
    agree,
    check_shapes,
    list_of,
    numbers,
    one_of,
    text,
    whole,
)
from patching.sweep.saved import OF_A_PAIR, check_pair_fields

MOST_HEADS = 100_000  # of a model whose edges are read
_TEXTS = list_of(text)
_INDICES = list_of(whole(0), least=1)
PATHS = OF_A_PAIR | {
    "method": one_of(METHODS),
    "receiver": text,
    "mlps": one_of(MLPS),
    "sender_positions": _INDICES,
    "receiver_positions": _INDICES,
    "n_embd": whole(1),
    "shared_by": whole(1),
}
EDGES = OF_A_PAIR | {
    "method": one_of(EDGE_METHODS),
    "senders": list_of(text, least=1),
    "receivers": list_of(text, least=1),
    "positions": _INDICES,
    "n_layer": whole(1),
    "n_head": whole(1),
    "kv_heads": whole(1),
    "n_embd": whole(1),
    "steps": whole(1),
}


def check_paths(saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Check that the fields of a map of senders agree with one another.

    Args:
        saved: the fields, each of which PATHS has checked.
        arrays: the arrays of the file.

    Raises:
        FieldError: they do not.
    """
    found = _metric_arrays(saved, arrays, ("heads", "mlps", "embedding"))
    sizes = {}
    for name in saved["metrics"]:
        shapes = {f"mlps_{name}": "L", f"heads_{name}": "L nh", f"embedding_{name}": "1"}
        sizes[name] = check_shapes(found, shapes)
    agree(len({(one["L"], one["nh"]) for one in sizes.values()}) == 1, "of metrics")
    _check_same_places(saved, found, ("heads", "mlps", "embedding"))
    for name in ("sender_positions", "receiver_positions"):
        _check_positions(saved, name)
    try:
        receivers = parse_receivers(saved["receiver"])
    except PathError as error:
        raise FieldError(str(error)) from None
    L = next(iter(sizes.values()))["L"]
    agree(all((one.layer or 0) < L for one in receivers), "receiver and values")


def check_edges(saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Check that the fields of a map of edges agree with one another.

    Args:
        saved: the fields, each of which EDGES has checked.
        arrays: the arrays of the file.

    Raises:
        FieldError: they do not.
    """
    for name in ("n_head", "kv_heads"):  # so that the lists of names below are not huge
        agree(saved["n_layer"] * saved[name] <= MOST_HEADS, f"n_layer and {name}")
    found = _metric_arrays(saved, arrays, ("edges",))
    for name in saved["metrics"]:
        agree(
            found[f"edges_{name}"].shape == (len(saved["senders"]), len(saved["receivers"])),
            f"edges_{name}, senders and receivers",
        )
    _check_same_places(saved, found, ("edges",))
    _check_positions(saved, "positions")
    known = {
        "senders": {one.name for one in senders_of(saved["n_layer"], saved["n_head"])},
        "receivers": {
            one.name for one in receivers_of(saved["n_layer"], saved["n_head"], saved["kv_heads"])
        },
    }
    for name, names in known.items():
        agree(len({*saved[name]}) == len(saved[name]), name)
        agree({*saved[name]} <= names, f"{name}, n_layer and n_head")


def _metric_arrays(
    saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray], keys: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Return each metric's arrays after checking that they hold numbers."""
    check_pair_fields(saved["pair"])
    metrics = saved["metrics"]
    agree(bool(metrics), "metrics and metric")
    agree(metrics.keys() == saved["captions"].keys(), "metrics and captions")
    agree(metrics.keys() >= {*saved["diverging"]}, "metrics and diverging")
    found = {
        f"{key}_{name}": arrays.get(f"{key}_{name}", np.array(None))
        for name in metrics
        for key in keys
    }
    for name, array in found.items():
        numbers(name, array)
        agree(not np.isinf(array).any(), f"of {name}")
    return found


def _check_positions(saved: Mapping[str, Any], name: str) -> None:
    chosen, T = saved[name], len(saved["pair"]["clean_ids"])
    agree(chosen == sorted({*chosen}) and chosen[-1] < T, f"pair and {name}")


def _check_same_places(
    saved: Mapping[str, Any], found: Mapping[str, np.ndarray], keys: tuple[str, ...]
) -> None:
    """Check that all metrics have numbers for the same paths."""
    first, *others = saved["metrics"]
    for name in others:
        for key in keys:
            same = np.isnan(found[f"{key}_{first}"]) == np.isnan(found[f"{key}_{name}"])
            agree(bool(same.all()), f"{key}_{first} and {key}_{name}")


# Kind of result -> the checks of its fields, and that of their agreement.
TABLES = {"paths": (PATHS, check_paths), "edges": (EDGES, check_edges)}
