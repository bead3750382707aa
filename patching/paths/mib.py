"""Write scores of nodes and edges as MIB's circuit track reads them, and read them back.

The format is that of `Graph.to_json` in hannamw/EAP-IG (src/eap/graph.py), which the circuit
track of the Mechanistic Interpretability Benchmark evaluates (arXiv 2504.13151):

    {"cfg": {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"},
     "nodes": {"input" | "a0.h1" | "m0" | "logits": {"in_graph", "score"}},
     "edges": {"a0.h1->a2.h0<q>": {"score", "in_graph"}}}

A score is the change of the metric, patched minus unpatched. With direction noise and
logit_diff = logit(foil) - logit(target), a positive score marks what the answer needs, as in
EAP-IG's exact scores. MIB's own evaluation was not run on these files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mingpt.files import replacing
from patching.errors import PathError, ResultError
from patching.paths.result import EdgeResult, PathResult
from patching.result_checks import FieldError, check_fields, dictionary, finite, record, whole

NODE, EDGE = "nodes", "edges"


def write_mib(result: EdgeResult | PathResult, path: str | Path, metric: str | None = None) -> Path:
    """Write the effects of a result as MIB's JSON; return the path.

    A map of edges gives each edge's score. A map of senders to the logits gives each node's.
    Every node and edge is in the graph: MIB chooses by score.

    Args:
        metric: which of the result's metrics; None for the first.

    Raises:
        PathError: heads share keys and values, not every kind of edge was measured, or the map
            is not one to the logits.
    """
    fields = _of_edges(result, metric) if isinstance(result, EdgeResult) else _of_nodes(
        result, metric
    )  # fmt: skip
    path = Path(path)
    with replacing(path) as part:
        part.write_text(json.dumps(fields, allow_nan=False) + "\n", encoding="utf-8")
    return path


def read_mib(path: str | Path) -> dict[str, dict[str, float]]:
    """Read scores in MIB's JSON: {"nodes": name -> score, "edges": name -> score}.

    A node or edge without a score, such as "logits", is left out.

    Raises:
        ResultError: there is no such file, or it is not of this format.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        shape = record({"n_layers": whole(1), "n_heads": whole(1), "d_model": whole(1)})
        dictionary("the file", fields)
        check_fields(fields, {"cfg": shape, NODE: dictionary, EDGE: dictionary})
        found: dict[str, dict[str, float]] = {}
        for kind in (NODE, EDGE):
            scores = {}
            for name, one in fields[kind].items():
                dictionary(f"{kind}.{name:.40}", one)
                if "score" in one:
                    finite(f"{kind}.{name:.40}", one["score"])
                    scores[name] = float(one["score"])
            found[kind] = scores
    except (OSError, ValueError, RecursionError, FieldError) as error:
        raise ResultError(f"{path} holds no scores in MIB's format: {error}") from None
    return found


def _of_edges(result: EdgeResult, metric: str | None) -> dict[str, Any]:
    if result.kv_heads != result.n_head:
        raise PathError("MIB's graph has keys and values for each head; this model's heads share")
    expected = result.n_layer * (3 * result.n_head + 1) + 1
    if len(result.receivers) != expected:
        raise PathError(
            f"MIB's graph has {expected} receivers, and {len(result.receivers)} were measured:"
            " measure all kinds"
        )
    effects = result.effects(metric)
    edges = {
        f"{result.senders[s]}->{result.receivers[r]}": _entry(effects[s, r])
        for s, r in zip(*np.nonzero(np.isfinite(effects)), strict=True)
    }
    nodes = {name: {"in_graph": True} for name in (*result.senders, "logits")}
    shape = (result.n_layer, result.n_head, result.n_embd)
    return {"cfg": _shape(*shape), NODE: nodes, EDGE: edges}


def _of_nodes(result: PathResult, metric: str | None) -> dict[str, Any]:
    if result.receiver != "logits":
        raise PathError("node scores are those of a map to the logits; this one is to"
                        f" {result.receiver}")  # fmt: skip
    frame = result.by_sender(metric)
    base = result.base_value(metric)
    nodes: dict[str, Any] = {name: _entry(value - base) for name, value in frame}
    nodes["logits"] = {"in_graph": True}
    n_layer, n_head = result.values.shape
    return {"cfg": _shape(n_layer, n_head, result.n_embd), NODE: nodes, EDGE: {}}


def _entry(score: float) -> dict[str, Any]:
    return {"score": float(score), "in_graph": True}


def _shape(n_layer: int, n_head: int, n_embd: int) -> dict[str, Any]:
    return {"n_layers": n_layer, "n_heads": n_head, "parallel_attn_mlp": False, "d_model": n_embd}
