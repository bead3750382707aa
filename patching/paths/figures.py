"""Turn path results into the plain values of their figures, and draw them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mingpt.sites import SHARED_SITES
from patching.drawing import style
from patching.drawing.paths import (
    Circuit,
    EdgeMatrix,
    Node,
    SenderMap,
    draw_circuit,
    draw_edge_matrix,
    draw_sender_map,
)
from patching.drawing.sweep import Comparison, draw_comparison
from patching.errors import DrawingError
from patching.paths.agreement import compare_edges
from patching.paths.graph import (
    KINDS,
    LOGITS,
    Receiver,
    layer_named,
    parse_receivers,
    receiver_named,
)
from patching.paths.request import MOST_STRONGEST, STRONGEST
from patching.paths.result import EdgeResult, PathResult, PathsFound
from patching.sweep.request import DIRECTIONS
from patching.text import model_label, shortened

FIGURES = ("matrix", "circuit")  # of edges
METHOD_WORDS = {
    "eap": "Edge attribution patching (approximate, to first order)",
    "eap-ig": "EAP-IG (approximate; gradients averaged over {steps} steps)",
}


def draw_paths(
    result: PathsFound,
    path: str | Path | None = None,
    *,
    metric: str | None = None,
    figure: str = "matrix",
    edges: int = STRONGEST,
    cmap: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a map of senders, or a map of edges as a matrix or as a circuit.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        metric: which of the result's metrics; None for the first.
        figure: of edges, "matrix" or "circuit": the strongest edges as a graph.
        edges: how many of the strongest edges the circuit shows.
        cmap: a matplotlib colour map, for maps; None: RdBu.
        title: in place of the experiment, the model and the prompts. Notes stay.

    Raises:
        DrawingError: another suffix, no such colour map, metric or figure, or too many edges.
    """
    if not isinstance(result, PathResult | EdgeResult):
        raise DrawingError(f"expected PathResult or EdgeResult, not {type(result).__name__}")
    if isinstance(result, PathResult):
        if figure != FIGURES[0]:
            raise DrawingError(f"a map of senders has no figure {figure!r}: it is one map")
        return draw_sender_map(sender_map(result, metric, title), path, cmap=cmap)
    if figure not in FIGURES:
        raise DrawingError(f"no figure {figure!r}; there are {', '.join(FIGURES)}")
    if figure == "circuit":
        return draw_circuit(circuit(result, metric, edges, title), path)
    return draw_edge_matrix(edge_matrix(result, metric, title), path, cmap=cmap)


def sender_map(
    result: PathResult, metric: str | None = None, title: str | None = None
) -> SenderMap:
    """Return the plain values of a map of senders.

    Raises:
        DrawingError: no such metric.
    """
    name = _metric_of(result, metric)
    found, base = result.metrics[name], result.base_value(name)
    embedding = float(found.embedding[0])
    change = f" ({100 * (embedding - base) / base:+z.1f} %)" if base else ""
    path = "" if np.isnan(embedding) else f"; embeddings: {embedding:z.4g}{change}"
    return SenderMap(
        heads=found.heads,
        mlps=found.mlps,
        base=base,
        receivers=_framed(result),
        caption=f"{result.captions[name]} [{result.direction}]",
        title=(*title_lines(result, title), f"unpatched {_base(result)} run: {base:z.4g}{path}"),
        has_percent=base != 0,
    )


def _framed(result: PathResult) -> tuple[tuple[int, int | None], ...]:
    """Return the cells (layer, head or None) of the receivers: of k and v, all heads that read."""
    found: dict[tuple[int, int | None], None] = {}
    for one in parse_receivers(result.receiver):
        if one.layer is None:
            continue
        shared = result.shared_by if one.kind in SHARED_SITES else 1
        first = None if one.head is None else one.head * shared
        heads = [None] if first is None else range(first, first + shared)
        found |= dict.fromkeys((one.layer, head) for head in heads)
    return tuple(found)


def edge_matrix(
    result: EdgeResult, metric: str | None = None, title: str | None = None
) -> EdgeMatrix:
    """Return the plain values of a matrix of edges.

    Raises:
        DrawingError: no such metric.
    """
    name = _metric_of(result, metric)
    effects = result.effects(name)
    has_path = np.isfinite(effects).any(axis=1)  # senders of the last layer may have none
    senders = tuple(one for one, is_in in zip(result.senders, has_path, strict=True) if is_in)
    names = {"q": "q", "k": "k", "v": "v", "mlp": "its MLP"}
    within = ", ".join(names[kind] for kind in names if kind in result.kinds)
    return EdgeMatrix(
        effects=effects[has_path],
        rows=_starts(map(layer_named, senders), "embeddings"),
        columns=_starts((one.layer for one in result.hearing), "logits"),
        within=within,
        caption=_effect_caption(result, name),
        title=title_lines(result, title),
    )


def circuit(
    result: EdgeResult, metric: str | None = None, edges: int = STRONGEST, title: str | None = None
) -> Circuit:
    """Return the strongest edges as a graph.

    Raises:
        DrawingError: no such metric, or a number of edges that cannot be drawn.
    """
    name = _metric_of(result, metric)
    if not (isinstance(edges, int) and 1 <= edges <= MOST_STRONGEST):
        raise DrawingError(f"a circuit has 1 to {MOST_STRONGEST} edges, not {edges!r}")
    strongest = [one for one in result.strongest(edges, name) if one[2] != 0]
    drawn = []
    for sender, receiver, effect in strongest:
        node, kind = _node_of(receiver_named(receiver), is_shared=result.kv_heads < result.n_head)
        drawn.append((sender, node, kind, effect))
    names = dict.fromkeys(name for edge in drawn for name in edge[:2])
    own = title_lines(result, title)
    said = f"the {len(drawn)} strongest of {result.count:,} edges"
    return Circuit(
        nodes=tuple(_placed([*names], result)),
        columns=result.n_head + 1,
        edges=tuple(drawn),
        caption=f"{said}; width: {_effect_caption(result, name)}",
        title=own,
    )


def draw_edge_agreement(
    approximate: EdgeResult,
    exact: EdgeResult,
    path: str | Path | None = None,
    *,
    metric: str | None = None,
    cmap: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw estimated edges against the exact ones: a point for each edge.

    Args:
        path, metric, cmap, title: as for draw_paths; the colour of a point is its receiver's
            layer, and that of the logits one more than the last.

    Raises:
        DrawingError: another suffix, no such colour map or metric.
        PathError: the two are not of the same edges.
    """
    name = _metric_of(approximate, metric)
    agreement = compare_edges(approximate, exact)[name]
    pearson = "undefined" if agreement.pearson is None else f"{agreement.pearson:.3f}"
    x, y = exact.effects(name), approximate.effects(name)
    both = np.isfinite(x)
    L = exact.n_layer
    layers = np.array([L if one.layer is None else one.layer for one in exact.hearing])
    points = Comparison(
        exact=x[both],
        approximate=y[both],
        layer=np.broadcast_to(layers, x.shape)[both],
        n_layer=exact.n_layer + 1,  # the logits are above the last block
        rank_correlation=agreement.spearman,
        caption=f"change of {exact.captions[name]} [{exact.direction}]",
        title=(*title_lines(approximate, title), f"correlation (Pearson) {pearson}"),
    )
    return draw_comparison(points, path, cmap=cmap)


def title_lines(result: PathsFound, title: str | None = None) -> tuple[str, ...]:
    """Return the lines of a title: the experiment and the model, the notes, both prompts."""
    if title is not None:
        return (title, *result.notes)
    pair = result.pair
    return (
        f"{experiment_words(result)} ({result.direction}); model {model_label(result.model_name)}",
        *result.notes,
        f"clean: {shortened(pair.clean_text, style.LONGEST_PROMPT)}",
        f"corrupt: {shortened(pair.corrupt_text, style.LONGEST_PROMPT)}",
    )


def experiment_words(result: PathsFound) -> str:
    """Return what was done, such as "Path patching, senders to the logits, clean into corrupt"."""
    base, source = DIRECTIONS[result.direction]
    into = f"{source} into {base}"
    if isinstance(result, EdgeResult):
        words = METHOD_WORDS.get(result.method, "Path patching").format(steps=result.steps)
        kinds = "" if len(result.kinds) == len(KINDS) else f" to {', '.join(result.kinds)}"
        at = _positions("received", result.positions, result)
        return f"{words} of every edge{kinds}, MLPs frozen{at}{_shared(result)}, {into}"
    if not isinstance(result, PathResult):
        raise DrawingError(f"expected PathResult or EdgeResult, not {type(result).__name__}")
    receivers = parse_receivers(result.receiver)
    is_logits = receivers == (LOGITS,)
    what = "the logits" if is_logits else shortened(result.receiver, 80)
    at = _positions("sent", result.sender_positions, result)
    if not is_logits:
        at += _positions("received", result.receiver_positions, result)
    return f"Path patching, senders to {what}, MLPs {result.mlps}{at}{_shared(result)}, {into}"


def _positions(done: str, chosen: tuple[int, ...], result: PathsFound) -> str:
    """Return ", sent at 0, 3", or "" where all positions were chosen."""
    if len(chosen) == len(result.pair):
        return ""
    return f", {done} at {shortened(', '.join(map(str, chosen)), 60)}"


def _shared(result: PathsFound) -> str:
    """Return how many query heads read each head of k and v; "" for one, or without k and v."""
    if isinstance(result, EdgeResult):
        is_read = bool({"k", "v"} & {*result.kinds})
        count = result.n_head // result.kv_heads if is_read else 1
    else:
        count = result.shared_by if isinstance(result, PathResult) else 1
    return f", each k and v head read by {count} query heads" if count > 1 else ""


def _base(result: PathsFound) -> str:
    return DIRECTIONS[result.direction][0]


def _effect_caption(result: EdgeResult, metric: str) -> str:
    approximate = ", approximate" if result.is_approximate else ""
    return f"change of {result.captions[metric]} [{result.direction}]{approximate}"


def _metric_of(result: PathsFound, asked: str | None) -> str:
    if asked is not None and asked not in result.metrics:
        raise DrawingError(f"no metric {asked!r} in it; there are {', '.join(result.metrics)}")
    return asked or result.metric


def _starts(layers: Iterable[int | None], other: str) -> dict[int, str]:
    """Return where each layer begins, with its label.

    Args:
        layers: of senders or receivers, in order; None for embeddings or logits.
        other: the label of these.

    Example:
        _starts([None, 0, 0, 1], "embeddings")  # {0: "embeddings", 1: "layer 0", 3: "layer 1"}
    """
    found: dict[str, int] = {}
    for place, layer in enumerate(layers):
        found.setdefault(other if layer is None else f"layer {layer}", place)
    return {place: label for label, place in found.items()}


def _node_of(receiver: Receiver, *, is_shared: bool) -> tuple[str, str]:
    """Return a receiver's node, and "q", "k" or "v" or "": ("a9.h1", "q") of q 9.1.

    A head of k and v that several query heads read is a node of its own, ("a9.kv1", "k"). It
    sends nothing itself.
    """
    if receiver.head is None:
        return receiver.name, ""
    letters = "kv" if is_shared and receiver.kind in SHARED_SITES else "h"
    return f"a{receiver.layer}.{letters}{receiver.head}", receiver.kind


def _placed(names: list[str], result: EdgeResult) -> list[Node]:
    """Return nodes with places: layers upward, heads by number, a layer's MLP above on the right.

    Embeddings and logits are in the middle.
    """
    nodes, shared = [], result.n_head // result.kv_heads
    for name in names:
        match = re.match(r"([am])(\d+)(?:\.(h|kv)(\d+))?", name)
        if match is None:
            layer = -1.0 if name == "input" else float(result.n_layer)
            nodes.append(Node(name, layer, result.n_head / 2))
        elif match[1] == "m":
            nodes.append(Node(name, int(match[2]) + 0.5, result.n_head))
        elif match[3] == "kv":  # below the middle of the heads that read it
            nodes.append(Node(name, int(match[2]) - 0.25, (int(match[4]) + 0.5) * shared - 0.5))
        else:
            nodes.append(Node(name, float(match[2]), int(match[4])))
    return nodes
