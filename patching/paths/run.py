"""Run path patching: along which path does an answer travel from sender to receiver?

`patch_paths` maps all senders to some receivers, `patch_edges` every sender to every single
receiver. Both take the settings as keywords; `run_paths` and `run_edges` take a request.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mingpt.sites import SHARED_SITES
from patching.errors import PathError
from patching.next_tokens import NextTokens
from patching.paths import edge_attribution, loop
from patching.paths.engine.measure import measure_edges, measure_map
from patching.paths.engine.runs import OUT_OF_MEMORY
from patching.paths.graph import KINDS, Paths, Receiver, text_of
from patching.paths.request import STEPS, EdgeRequest, PathRequest, Positions
from patching.paths.result import EdgeResult, EdgeValues, PathResult, PathValues
from patching.progress import Progress, progress_or_bar, steps
from patching.prompts import PromptPair
from patching.running import float32_products, ready, versions
from patching.sweep.engine.memory import allowance
from patching.sweep.metrics import Asked, check_foil
from patching.sweep.pair_notes import pair_notes
from patching.sweep.readout import Measured, check_finite
from patching.sweep.run import as_pairs, check_pair

if TYPE_CHECKING:
    from mingpt.model import GPT


def patch_paths(
    model: GPT,
    pair: PromptPair,
    *,
    receiver: str | Receiver | Sequence[Receiver] = "logits",
    mlps: str = PathRequest.mlps,
    direction: str = PathRequest.direction,
    metric: Asked | Sequence[Asked] = PathRequest.metric,
    sender_positions: Positions = None,
    receiver_positions: Positions = None,
    method: str = PathRequest.method,
    max_memory: int | None = None,
    rows: int = PathRequest.rows,
    progress: Progress | bool | None = None,
) -> PathResult:
    """Read a metric of the base run, changed along the path from each sender to the receivers.

    Path patching as Wang et al. 2022 (arXiv 2211.00593, appendix B) define it; loop.py is the
    definition.

    Args:
        model: put in eval mode. The loop leaves a recording of its own in it.
        receiver: "logits", a text such as "q:9.9,9.10" (layer.head) or "mlp:8", or Receivers.
        mlps: between sender and receiver, "recomputed" or "frozen" (the direct path alone).
        direction: "denoise" (clean into corrupt) or "noise" (corrupt into clean).
        metric: as for patch_sweep.
        sender_positions: at which the sender's output is taken from the other run: None for
            all, "end" for the last, or a list; negative ones count from the end.
        receiver_positions: at which receivers read, in the same way; logits are read at the last.
        method: "fast", or "loop": the definition, two runs of the model for each sender.
        max_memory: bytes for "fast" beside the model; None for half of the free memory.
        rows: tokens in the result's tables of next tokens.
        progress: a function (senders done, senders in all); None for a bar; False for none.

    Returns:
        A PathResult, whose `values` (n_layer, n_head) and `mlp_values` (n_layer,) are the
        metric of the final run: not an effect. A sender without a path has NaN.

    Raises:
        PathError: settings that do not exist or do not fit; too little memory.
        SweepError: a metric that is undefined for the pair, or not finite.
    """
    request = PathRequest(
        receiver, mlps, direction, metric, sender_positions, receiver_positions, method,
        max_memory, rows,
    )  # fmt: skip
    return run_paths(model, pair, request, progress)


def patch_edges(
    model: GPT,
    pair: PromptPair,
    *,
    direction: str = EdgeRequest.direction,
    metric: Asked | Sequence[Asked] = EdgeRequest.metric,
    receivers: str | Sequence[str] = tuple(KINDS),
    positions: Positions = None,
    method: str = EdgeRequest.method,
    steps: int = STEPS,
    max_memory: int | None = None,
    rows: int = EdgeRequest.rows,
    progress: Progress | bool | None = None,
) -> EdgeResult:
    """Read a metric for every edge: the direct path from one sender to one receiver.

    Senders are the embeddings, heads and MLPs; receivers the q, k and v of each head, MLPs and
    logits: 32,491 edges in GPT-2 124M. MLPs are frozen.

    Args:
        model, direction, metric, max_memory, rows: as for patch_paths.
        receivers: kinds of receivers: names in KINDS, as a list or with commas.
        positions: at which receivers read: None for all, "end" for the last, or a list.
        method: "fast"; "loop", the definition; or "eap" or "eap-ig": APPROXIMATE, by gradients
            (see edge_attribution.py).
        steps: of eap-ig: runs whose gradients are averaged.
        progress: a function (edges or passes done, in all); None for a bar; False for none.

    Raises:
        PathError: settings that do not exist or do not fit; too little memory.
        SweepError: a metric that is undefined for the pair, not finite, or without a gradient.
    """
    request = EdgeRequest(
        direction, metric, receivers, positions, method, steps, max_memory, rows
    )  # fmt: skip
    return run_edges(model, pair, request, progress)


@torch.no_grad()
def run_paths(
    model: GPT,
    pair: PromptPair,
    request: PathRequest,
    progress: Progress | bool | None = None,
) -> PathResult:
    """Return the map of senders, as `patch_paths` does."""
    started = time.perf_counter()
    paths = _checked(model, pair, request)
    metrics = request.metrics
    with (
        ready(model, PathError(OUT_OF_MEMORY)),
        progress_or_bar(progress, "patching paths") as report,
    ):
        step = steps(report, len(paths.sending))
        if request.method == "loop":
            found = loop.measure(model, pair, paths, request.direction, metrics, step)
        else:
            found = measure_map(
                model, pair, paths, request.direction, metrics, step=step,
                **_memory(model, request),
            )  # fmt: skip
        found.check(metrics, model.dtype, len(paths.sending))
        seconds = time.perf_counter() - started
        fields = _fields(model, pair, request, found)
    of_layers = found.values[:, 1:].cpu().unflatten(1, (paths.n_layer, -1)).numpy()
    embeddings = found.values[:, :1].cpu().numpy()
    is_shared = any(one.kind in SHARED_SITES for one in paths.receivers)
    return PathResult(
        metrics={
            metric.name: PathValues(
                values[:, :-1].copy(), values[:, -1].copy(), embedding, clean, corrupt
            )
            for metric, values, embedding, clean, corrupt in zip(
                metrics, of_layers, embeddings, found.clean.tolist(), found.corrupt.tolist(),
                strict=True,
            )
        },
        receiver=text_of(paths.receivers),
        mlps=request.mlps,
        sender_positions=paths.sender_positions,
        receiver_positions=paths.receiver_positions,
        n_embd=model.config.n_embd,
        shared_by=model.config.n_head // model.config.kv_heads if is_shared else 1,
        seconds=seconds,
        **fields,
    )  # fmt: skip


@torch.no_grad()
def run_edges(
    model: GPT,
    pair: PromptPair,
    request: EdgeRequest,
    progress: Progress | bool | None = None,
) -> EdgeResult:
    """Return the map of edges, as `patch_edges` does."""
    started = time.perf_counter()
    paths = _checked(model, pair, request)
    metrics = request.metrics
    with (
        ready(model, PathError(OUT_OF_MEMORY)),
        progress_or_bar(progress, "patching edges") as report,
    ):
        found = _measure_edges(model, pair, paths, request, report)
        found.check(metrics, model.dtype, paths.count)
        seconds = time.perf_counter() - started
        fields = _fields(model, pair, request, found)
    config = model.config
    return EdgeResult(
        metrics={
            metric.name: EdgeValues(values, clean, corrupt)
            for metric, values, clean, corrupt in zip(
                metrics, found.values.cpu().numpy(), found.clean.tolist(),
                found.corrupt.tolist(), strict=True,
            )
        },
        senders=tuple(one.name for one in paths.senders),
        receivers=tuple(one.name for one in paths.receivers),
        positions=paths.receiver_positions,
        n_layer=config.n_layer,
        n_head=config.n_head,
        kv_heads=config.kv_heads,
        n_embd=config.n_embd,
        steps=request.steps if request.method == "eap-ig" else 1,
        seconds=seconds,
        **fields,
    )  # fmt: skip


def _measure_edges(
    model: GPT,
    pair: PromptPair,
    paths: Paths,
    request: EdgeRequest,
    report: Progress | None,
) -> Measured:
    metrics, direction = request.metrics, request.direction
    if request.method == "fast":
        step = steps(report, paths.count)
        return measure_edges(
            model, pair, paths, direction, metrics, step=step, **_memory(model, request)
        )
    if request.method == "loop":
        step = steps(report, paths.count)
        return loop.measure_edges(model, pair, paths, direction, metrics, step)
    count = request.steps if request.method == "eap-ig" else None
    step = steps(report, (count or 1) * len(metrics))
    return edge_attribution.measure(model, pair, paths, direction, metrics, step, steps=count)


def _checked(model: GPT, pair: PromptPair, request: PathRequest | EdgeRequest) -> Paths:
    """Return the request's paths, after checking the pair."""
    (pair,) = as_pairs([pair])
    check_pair(model, pair)
    if not pair.has_corrupt:
        raise PathError("the pair has no corrupt prompt, so there is no other run to send from")
    check_foil(request.metrics, pair)
    return request.paths(model.config, len(pair))


def _memory(model: GPT, request: PathRequest | EdgeRequest) -> dict[str, Any]:
    given = request.max_memory
    return {
        "allowed": allowance(model.device) if given is None else given,
        "strict": given is not None,
    }


def _fields(
    model: GPT, pair: PromptPair, request: PathRequest | EdgeRequest, found: Measured
) -> dict[str, Any]:
    """Return the fields that a map of senders and a map of edges share."""
    metrics = request.metrics
    with float32_products(model):
        logits = model.lm_head(torch.stack((found.clean_final, found.corrupt_final)))  # (2, V)
    check_finite(logits, model.dtype)
    clean, corrupt = (
        NextTokens.of(row, request.rows, pair.target_ids, pair.foil_ids, pair.text_of)
        for row in logits
    )
    return {
        "direction": request.direction,
        "captions": {metric.name: metric.describe(pair) for metric in metrics},
        "diverging": tuple(metric.name for metric in metrics if metric.diverging),
        "pair": pair.without_tokenizer(),
        "model_name": model.name,
        "method": request.method,
        "max_memory": request.max_memory,
        "checksum": model.checksum(),
        "clean_next": clean,
        "corrupt_next": corrupt,
        "rows": request.rows,
        "versions": versions(model),
        "notes": pair_notes(pair, clean, corrupt, {}, torch.finfo(model.dtype).eps),
    }
