"""Attribution patching: every cell of a sweep from two forward passes and a backward one.

To first order, putting the source run's activation a' where the base run had a
changes a metric by (a' - a) . d metric / d a. One backward pass gives that
gradient at every site at once (Nanda 2023, "Attribution Patching: Activation
Patching At Industrial Scale"; Syed et al. 2023, arXiv 2310.10348).

The result is APPROXIMATE, and known to be poor
- on the residual stream (resid_pre, resid_mid, resid_post), most of all in the
  lower blocks: the change is large against what is there, and the layer norms
  that follow are far from linear over such a step (Nanda 2023);
- where attention is saturated, so for q, k and the sites they depend on: a softmax
  that is nearly 1 at one key has almost no gradient, although another query or
  key could change it much;
- where direct and indirect effects cancel (Kramar et al. 2024, "AtP*", arXiv
  2403.00745);
- for metrics that are saturated themselves: log_prob, prob_diff and kl where a
  probability is near 0 or 1. An estimate can leave the metric's range: a
  divergence can be negative.
For a window, the effects of its layers are summed. Each effect includes the path
through the window's later layers, which the patched run overwrites.
The result tends to be good where the activation is small against the stream: z, v,
attn_out and mlp_out of the upper blocks. `agreement.py` measures it for a pair.
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
from patching.sweep.readout import Measured, Reader, check_unpatched, read
from patching.sweep.request import DIRECTIONS, Grid


def passes(metrics: Sequence[Metric]) -> int:
    """Return the number of passes through the model, forward and backward, for one pair."""
    return 2 + len(metrics)


@torch.inference_mode(False)
@torch.no_grad()
def measure(
    model: GPT,
    pair: PromptPair,
    grid: Grid,
    direction: str,
    metrics: Sequence[Metric],
    step: Callable[[], None],
) -> Measured:
    """Estimate to first order the metrics of the patched run, for every cell of the grid.

    Args:
        model: in eval mode; its recording and last logits stay as they were.
        step: called after each pass.

    Raises:
        SweepError: a metric that is undefined, or that has no gradient.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise SweepError(
            "attribution takes gradients, and PyTorch has none for a model that was"
            " made in torch.inference_mode: load it outside"
        )
    base, source = DIRECTIONS[direction]
    finals = {}
    finals[source], put_in = _run(model, pair.ids(source), grid.site)
    step()
    with torch.enable_grad():
        final, there = _run(model, pair.ids(base), grid.site)
    finals[base] = final.detach()
    step()
    reader = Reader(model, pair, metrics, finals["clean"], finals["corrupt"])
    check_unpatched(metrics, reader.readout, final.dtype)
    with torch.enable_grad():
        logits = reader.logits(final[None])  # (1, R)
    at_base = {"clean": reader.clean, "corrupt": reader.corrupt}[base]  # (M,)
    # A metric of one's own may return whole numbers; its estimates are fractions.
    at_base = at_base.to(reader.readout.clean_logits.dtype)
    values = at_base.new_full((len(metrics), *grid.shape), torch.nan)
    chosen = torch.meshgrid(*map(torch.tensor, grid.axes.values()), indexing="ij")
    for number, metric in enumerate(metrics):
        gradients = _gradients(metric, logits, reader, there)
        effects = [  # of each layer (T,) or (nh, T): the change times the gradient
            ((widened(new) - widened(old.detach())) * gradient)[0].sum(-1)
            for new, old, gradient in zip(put_in, there, gradients, strict=True)
        ]
        changed = at_base[number] + _cells(torch.stack(effects), grid)  # the grid's shape
        values[number][chosen] = changed[chosen]
        step()
    return Measured(values, reader.clean, reader.corrupt, finals["clean"], finals["corrupt"])


def _run(model: GPT, ids: Sequence[int], wanted: str) -> tuple[Tensor, list[Tensor]]:
    """Return ln_f's output at the last position (C,), and a site's activation in each block."""
    kept = []

    def tap(layer: int, site: str, x: Tensor) -> Tensor:
        if site == "resid_pre" and layer == 0 and torch.is_grad_enabled():
            x = x.detach().requires_grad_()  # for a gradient even if no parameter requires one
        if site == wanted:
            kept.append(x)
        return x

    x = model.stream(torch.tensor([ids], device=model.device), tap)  # (1, T, C)
    return model.transformer.ln_f(x[0, -1]), kept


def _gradients(metric: Metric, logits: Tensor, reader: Reader, there: list[Tensor]) -> list[Tensor]:
    """Return the gradient of the base run's metric with respect to each block's activation.

    The gradient at the logits is scaled to about 1 before it goes back through the
    model, because float16 has no number below 6e-8. The factor is a power of two,
    so that it rounds nothing.

    Raises:
        SweepError: the metric has no gradient.
    """
    wide = widened(logits).detach().requires_grad_()
    slope, why = None, ""
    try:
        with torch.enable_grad():
            value = read([metric], wide, reader.readout)[0, 0]
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value, wide, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # for example, the metric goes through NumPy
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
    """Sum effects (n_layer, [nh,] T) over the positions and layers of each cell: grid.shape."""
    if "position" not in grid.sizes:
        effects = effects.sum(-1)
    if grid.window == 1:
        return effects
    windows = (grid.window_of(layer) for layer in range(len(effects)))
    return torch.stack([effects[window.start : window.stop].sum(0) for window in windows])
