"""Edge attribution patching: every edge from two forward passes and a backward one.

To first order, an edge changes a metric by

    (source - base output of the sender) . (d metric / d input of the receiver)

summed over positions (Syed et al. 2023, arXiv 2310.10348: EAP). The gradient goes through the
receiver's layer norm. EAP-IG (Hanna et al. 2024, arXiv 2403.17806, on inputs) averages the
gradients of runs whose embeddings are base + k/steps (source - base), k = 1, ..., steps; the
differences stay those of the two runs. The source run is among these points, the base run is not.
Hanna et al. go from the corrupt to the clean run whatever is patched: with k = 1, ..., m, as in the
paper, those are our points of direction denoise; with k = 0, ..., m - 1, as in src/eap/attribute.py
of hannamw/EAP-IG at commit 62f83cd, those of direction noise.

The result is APPROXIMATE: `agreement.py` compares it with the exact edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.checks import widened
from mingpt.model import GPT
from patching.attention import output_heads
from patching.paths.engine.record import Recorded
from patching.paths.engine.runs import Runs
from patching.paths.graph import HEAD_KINDS, Paths, Receiver
from patching.prompts import PromptPair
from patching.sweep.attribution import check_has_gradients, gradients
from patching.sweep.metrics import Metric
from patching.sweep.readout import Measured, Reader


@torch.inference_mode(False)
@torch.no_grad()
def measure(
    model: GPT,
    pair: PromptPair,
    paths: Paths,
    direction: str,
    metrics: Sequence[Metric],
    step: Callable[[], None],
    *,
    steps: int | None = None,
) -> Measured:
    """Estimate to first order the metrics of run D for every edge.

    Args:
        model: in eval mode; its recording and last logits stay as they were.
        step: called after each backward pass.
        steps: of eap-ig; None for eap, whose gradients are the base run's.

    Raises:
        SweepError: a metric that is undefined, or that has no gradient.
    """
    check_has_gradients(model)
    runs = Runs.of(model, pair, direction, metrics)
    base, source, reader = runs.base, runs.source, runs.reader
    at = torch.tensor(paths.receiver_positions, device=model.device)
    differences = widened(_differences(model, base, source)[:, at])  # (S, n, C)
    linked = torch.tensor(
        [[one.receives_from(sender) for one in paths.receivers] for sender in paths.senders],
        device=model.device,
    )  # (S, R)
    shares = [0.0] if steps is None else [k / steps for k in range(1, steps + 1)]
    start, end = base.at["resid_pre"][0], source.at["resid_pre"][0]  # (T, C) each
    effects = differences.new_zeros(len(metrics), *linked.shape)
    for share in shares:
        point = _Point.of(model, pair, start + share * (end - start))
        for number, metric in enumerate(metrics):
            slopes = point.slopes(model, reader, metric, paths.receivers)
            for place, slope in enumerate(slopes):  # (T, C) of each receiver
                effects[number, :, place] += torch.einsum("snc,nc->s", differences, slope[at])
            step()
    values = runs.at_base[..., None] + effects / len(shares)
    return runs.measured(values.masked_fill(~linked, torch.nan))


def _differences(model: GPT, base: Recorded, source: Recorded) -> Tensor:
    """Return source - base of every sender's output (S, T, C), in the order of the senders."""
    parts = [(source.at["resid_pre"][0] - base.at["resid_pre"][0])[None]]
    for layer, block in enumerate(model.transformer.h):
        z = source.at["z"][layer] - base.at["z"][layer]  # (nh, T, hs)
        parts.append(z @ output_heads(block.attn))  # (nh, T, C)
        parts.append((source.at["mlp_out"][layer] - base.at["mlp_out"][layer])[None])
    return torch.cat(parts)


@dataclass(frozen=True)
class _Point:
    """One run with its graph for gradients: the run at some embeddings."""

    at: dict[str, list[Tensor]]  # site -> of each block, with the batch's axis of 1
    logits: Callable[[Reader], Tensor]

    @classmethod
    def of(cls, model: GPT, pair: PromptPair, embeddings: Tensor) -> _Point:
        """Run the model on embeddings (T, C), positions included."""
        kept: dict[str, list[Tensor]] = {}

        def tap(layer: int, site: str, x: Tensor) -> Tensor:
            if (layer, site) == (0, "resid_pre"):
                x = embeddings[None].detach().clone().requires_grad_()
            kept.setdefault(site, []).append(x)
            return x

        with torch.enable_grad():
            ids = torch.tensor([pair.clean_ids], device=model.device)  # replaced by the tap
            x = model.stream(ids, tap)
            final = model.transformer.ln_f(x[0, -1])  # (C,)

        def logits(reader: Reader) -> Tensor:
            with torch.enable_grad():
                return reader.logits(final[None])  # (1, R)

        return cls(kept, logits)

    def slopes(
        self, model: GPT, reader: Reader, metric: Metric, receivers: Sequence[Receiver]
    ) -> Iterator[Tensor]:
        """Yield the gradient (T, C) of a metric at each receiver's input, before its layer norm.

        They come in the order of `receivers`, whose layers and kinds are together.
        """
        sites = [*HEAD_KINDS, "mlp_out", "resid_post"]
        there = [x for site in sites for x in self.at[site]]
        found = iter(gradients(metric, self.logits(reader), reader, there))
        at = {site: [next(found)[0] for _ in self.at[site]] for site in sites}
        known, of_kind = None, at["resid_post"][-1][None]  # that of the last kind and layer
        for one in receivers:
            if one.layer is None:
                yield at["resid_post"][-1]
                continue
            if (one.layer, one.kind) != known:
                site = "mlp_out" if one.kind == "mlp" else one.kind
                of_kind = self._at_inputs(model, one, at[site][one.layer])
                known = one.layer, one.kind
            yield of_kind[one.head or 0]

    def _at_inputs(self, model: GPT, receiver: Receiver, slope: Tensor) -> Tensor:
        """Carry a gradient back through a layer norm to the stream: (heads or 1, T, C).

        Args:
            slope: at q, k or v (heads, T, hs), or at the MLP's output (T, C).
        """
        layer, kind = receiver.layer or 0, receiver.kind
        block = model.transformer.h[layer]
        x = self.at["resid_mid" if kind == "mlp" else "resid_pre"][layer]
        x = x.detach()  # (1, T, C)
        # As in attribution, scaled to about 1: float16 has no number below 6e-8.
        scale = 2.0 ** math.frexp(slope.abs().max().item())[1]
        slope = (slope / scale).to(x.dtype)
        with torch.enable_grad():
            if kind == "mlp":
                x = x.requires_grad_()
                (found,) = torch.autograd.grad(block.mlp(block.ln_2(x)), x, slope[None])
                return widened(found) * scale
            first = sum(block.attn.sizes[: "qkv".index(kind)])
            rows = slice(first, first + block.attn.sizes["qkv".index(kind)])
            weight = block.attn.c_attn.weight[rows].unflatten(0, (len(slope), -1))  # (heads, hs, C)
            x = x.expand(len(slope), -1, -1).clone().requires_grad_()
            (found,) = torch.autograd.grad(block.ln_1(x), x, slope @ weight)
        return widened(found) * scale
