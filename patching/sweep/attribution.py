"""Attribution patching: every cell of a sweep from two forward passes and a backward one.

To first order, putting the source run's activation a' where the base run had a
changes a metric by (a' - a) . d metric / d a, and one backward pass gives that
gradient at every site at once (Nanda 2023, "Attribution Patching: Activation
Patching At Industrial Scale"; Syed et al. 2023, arXiv 2310.10348).

APPROXIMATE, and known to be poor
- on the residual stream (resid_pre, resid_mid, resid_post), most of all in the
  lower blocks: what is put in is large against what is there, and the layer
  norms that follow are far from linear over such a step (Nanda 2023);
- where attention is saturated, so q, k and what they are made of: a softmax that
  is nearly 1 at one key has next to no gradient, however much another query or
  key would change it; and where direct and indirect effects cancel (Kramar et
  al. 2024, "AtP*", arXiv 2403.00745).
- for metrics that are saturated themselves: log_prob, prob_diff and kl where a
  probability is near 0 or 1. An estimate can leave the metric's range, a
  divergence be negative.
Of a window, the effects of its layers are added up, although what one of them
changes in the next one's output is overwritten there in the patched run.
It tends to be good on what is small against the stream: z, v, attn_out and
mlp_out of the upper blocks. `agreement.py` says how good it is, pair by pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mingpt.checks import widened
from mingpt.model import GPT
from patching.errors import SweepError
from patching.prompts import PromptPair
from patching.sweep.metrics import Metric
from patching.sweep.readout import Measured, Reader, check_unpatched
from patching.sweep.request import DIRECTIONS, Grid


def passes(metrics: Sequence[Metric]) -> int:
    """How many passes through the model it takes for one pair."""
    return 2 + len(metrics)


def measure(
    model: GPT,
    pair: PromptPair,
    grid: Grid,
    direction: str,
    metrics: Sequence[Metric],
    step: Callable[[], None],
) -> Measured:
    """As loop.measure, to first order.

    Args:
        model: in eval mode; its recording and last logits stay as they were.
        step: called after each pass.

    Raises:
        SweepError: a metric that is undefined, or that has no gradient.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise SweepError(
            "attribution takes gradients, and PyTorch has none of a model that was"
            " made in torch.inference_mode: load it outside"
        )
    with torch.inference_mode(False), torch.no_grad():
        ids = {
            run: torch.tensor([getattr(pair, f"{run}_ids")], device=model.device)
            for run in ("clean", "corrupt")
        }
        base, source = DIRECTIONS[direction]
        runs = {}
        runs[source], put_in = _run(model, ids[source], grid.site)
        step()
        with torch.enable_grad():
            runs[base], there = _run(model, ids[base], grid.site)
        step()
        finals = {run: final.detach() for run, final in runs.items()}
        reader = Reader(model, pair, metrics, finals["clean"], finals["corrupt"])
        check_unpatched(metrics, reader.readout, runs[base].dtype)
        at_base = {"clean": reader.clean, "corrupt": reader.corrupt}[base]  # (M,)
        at_base = at_base.to(reader.readout.clean_logits.dtype)  # one may count, in whole numbers
        values = at_base.new_full((len(metrics), *grid.shape), torch.nan)
        with torch.enable_grad():
            logits = reader.logits(runs[base][None])  # (1, R)
        for number, metric in enumerate(metrics):
            gradients = _gradients(metric, logits, reader, there)
            effects = [
                ((widened(new) - widened(old.detach())) * gradient)[0].sum(-1)
                for new, old, gradient in zip(put_in, there, gradients, strict=True)
            ]
            changed = at_base[number] + _cells(torch.stack(effects), grid)
            chosen = torch.meshgrid(*map(torch.tensor, grid.axes.values()), indexing="ij")
            values[number][chosen] = changed[chosen]
            step()
    return Measured(values, reader.clean, reader.corrupt, finals["clean"], finals["corrupt"])


def _run(model: GPT, ids: Tensor, wanted: str) -> tuple[Tensor, list[Tensor]]:
    """ln_f's output at the last position (C,), and a site's activation in each block."""
    kept = []

    def tap(layer: int, site: str, x: Tensor) -> Tensor:
        if site == "resid_pre" and layer == 0 and torch.is_grad_enabled():
            x = x.detach().requires_grad_()  # whether or not the parameters want a gradient
        if site == wanted:
            kept.append(x)
        return x

    x = model.stream(ids, tap)  # (1, T, C)
    return model.transformer.ln_f(x[0, -1]), kept


def _gradients(metric: Metric, logits: Tensor, reader: Reader, there: list[Tensor]) -> list[Tensor]:
    """Of a metric of the base run, by the activation in each block.

    What goes back through the model is about 1 at the logits, by a power of two
    that changes no digit: float16 has nothing below 6e-8.

    Raises:
        SweepError: it has none.
    """
    wide = widened(logits).detach().requires_grad_()
    slope, why = None, ""
    try:
        with torch.enable_grad():
            value = metric.read(wide, reader.readout)[0]
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value, wide, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # the metric leaves PyTorch on its way
        why = f" ({error})"
    if slope is None:
        raise SweepError(
            f"{metric.name} has no gradient: attribution needs a metric that PyTorch can"
            f" differentiate{why}"
        )
    scale = 2.0 ** math.frexp(slope.abs().max().item())[1]
    back = torch.autograd.grad(logits, there, (slope / scale).to(logits.dtype), retain_graph=True)
    return [widened(gradient) * scale for gradient in back]


def _cells(effects: Tensor, grid: Grid) -> Tensor:
    """Sum effects (L, [nh,] T) over all that a cell patches: the grid's shape."""
    if "position" not in grid.sizes:
        effects = effects.sum(-1)
    if grid.window == 1:
        return effects
    windows = (grid.window_of(layer) for layer in range(len(effects)))
    return torch.stack([effects[window.start : window.stop].sum(0) for window in windows])
