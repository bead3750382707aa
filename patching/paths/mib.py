"""Write scores of nodes and edges as MIB's circuit track reads them, and read them back.

The format is that of `Graph.to_json` in hannamw/EAP-IG (src/eap/graph.py), which the circuit
track of the Mechanistic Interpretability Benchmark evaluates (arXiv 2504.13151):

    {"cfg": {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"},
     "nodes": {"input" | "a0.h1" | "m0" | "logits": {"in_graph", "score"}},
     "edges": {"a0.h1->a2.h0<q>": {"score", "in_graph"}}}

`made` beside them, which `Graph.from_json` passes over, says how the scores were made.

A score is positive where the answer needs the node or edge. It is the change of the metric,
patched minus unpatched, or that times -1: corrupt into clean takes from the answer, clean into
corrupt brings it back, and some metrics fall where others rise (SIGNS). MIB's own evaluation was
not run on these files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mingpt.files import replacing
from patching.errors import PathError, ResultError
from patching.paths.graph import KINDS
from patching.paths.result import EdgeResult, PathResult
from patching.result_checks import FieldError, check_fields, dictionary, finite, record, whole

NODES, EDGES = "nodes", "edges"
# Metric -> 1 if it rises as the answer is lost, -1 if it falls.
SIGNS = {
    "logit_diff": 1, "prob_diff": 1, "kl": 1, "target_logit": -1, "log_prob": -1, "recovery": -1,
}  # fmt: skip


def write_mib(
    result: EdgeResult | PathResult,
    path: str | Path,
    metric: str | None = None,
    *,
    nodes: Mapping[str, float] | None = None,
) -> Path:
    """Write the effects of every edge, or of every node, as MIB's JSON; return the path.

    Every node and edge is in the graph: MIB chooses by score.

    Args:
        result: edges of every kind; or with `nodes`, the result that says which run they are of.
        metric: which of the result's metrics; None for the first.
        nodes: what node_effects returned, of this metric and direction.

    Raises:
        PathError: heads share keys and values, not every kind of edge was measured, there are
            no nodes, or the sign of the metric is not known.
    """
    metric = result.metric if metric is None else metric
    if metric not in SIGNS:
        raise PathError(f"whether {metric} rises or falls as the answer is lost is not known")
    sign = SIGNS[metric] * (1 if result.direction == "noise" else -1)
    if nodes is not None:
        n_layer, n_head = (result.n_layer, result.n_head) if isinstance(result, EdgeResult) else (
            result.values.shape)  # fmt: skip
        fields = _graph(n_layer, n_head, result.n_embd, {n: sign * x for n, x in nodes.items()}, {})
    elif isinstance(result, EdgeResult):
        fields = _of_edges(result, metric, sign)
    else:
        raise PathError("a map of senders has no scores of nodes: give nodes=node_effects(...)")
    fields["made"] = _made(result, metric, sign, of_nodes=nodes is not None)
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
        check_fields(fields, {"cfg": shape, NODES: dictionary, EDGES: dictionary})
        found: dict[str, dict[str, float]] = {}
        for kind in (NODES, EDGES):
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


def _of_edges(result: EdgeResult, metric: str, sign: int) -> dict[str, Any]:
    if result.kv_heads != result.n_head:
        raise PathError("MIB's graph has keys and values for each head; this model's heads share")
    if {*result.kinds} != {*KINDS}:
        raise PathError(
            f"MIB's graph has receivers of all kinds, and only {', '.join(result.kinds)} were"
            " measured"
        )
    effects = sign * result.effects(metric)
    edges = {
        f"{result.senders[s]}->{result.receivers[r]}": float(effects[s, r])
        for s, r in zip(*np.nonzero(np.isfinite(effects)), strict=True)
    }
    nodes = dict.fromkeys(result.senders)
    return _graph(result.n_layer, result.n_head, result.n_embd, nodes, edges)


def _graph(
    n_layer: int,
    n_head: int,
    n_embd: int,
    nodes: Mapping[str, float | None],
    edges: Mapping[str, float],
) -> dict[str, Any]:
    """Return the file's fields.

    Args:
        nodes: name -> score; None for no score.
        edges: name -> score.
    """
    cfg = {"n_layers": n_layer, "n_heads": n_head, "parallel_attn_mlp": False, "d_model": n_embd}
    scored: dict[str, Any] = {
        name: {"in_graph": True} | ({} if score is None else {"score": score})
        for name, score in nodes.items()
    }
    scored["logits"] = {"in_graph": True}
    of_edges = {name: {"score": score, "in_graph": True} for name, score in edges.items()}
    return {"cfg": cfg, NODES: scored, EDGES: of_edges}


def _made(
    result: EdgeResult | PathResult, metric: str, sign: int, *, of_nodes: bool
) -> dict[str, Any]:
    """Return what a reader of the file must know."""
    made: dict[str, Any] = {
        "scores": "total effects of nodes" if of_nodes else "direct effects of edges, MLPs frozen",
        "score": f"{'' if sign > 0 else '-'}(patched - unpatched {metric})",
        "metric": metric,
        "direction": result.direction,
        "model": result.model_name,
        "weights_sha256": result.checksum,
    }
    if isinstance(result, EdgeResult) and not of_nodes:
        made |= {"method": result.method, "is_approximate": result.is_approximate,
                 "steps": result.steps, "positions": list(result.positions)}  # fmt: skip
    return made
