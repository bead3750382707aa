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

Two methods take other gradients, and are approximate as well:
- relp: those of a backward pass through RelP's rules (relp.py), at the cost of attribution;
- attribution-ig: the mean of the gradients in runs between the two, S steps. Run k of 1 to S
  starts from the embeddings base + k/S (source - base), so the last one is the source run, and
  the base run is not among them. These are the points of EAP-IG (inputs; Hanna et al. 2024,
  arXiv 2403.17806) in hannamw/EAP-IG at commit 795f560, src/eap/attribute.py, whose base run is
  the clean one; attribute_node.py there takes the base run and leaves out the source run. With
  S = 1 the gradient is the source run's alone. In block 0's resid_pre this is integrated
  gradients (Sundararajan et al. 2017, arXiv 1703.01365) by a right Riemann sum: as S grows, the
  effects of all positions add up to the difference between the two runs. It costs S forward
  passes, and S backward ones for each metric. A gradient that is 0 in one run, as behind a
  saturated softmax, need not be 0 between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mingpt.checks import widened
from mingpt.model import GPT
from patching.errors import SweepError
from patching.prompts import PromptPair
from patching.sweep.metrics import Metric
from patching.sweep.readout import Measured, Reader, check_unpatched, read
from patching.sweep.relp import propagation
from patching.sweep.request import DIRECTIONS, Grid, Request


class Run(NamedTuple):
    """The part of a forward pass that is kept."""

    final: Tensor  # (C,) ln_f's output at the last position
    there: list[Tensor]  # the site's activation in each block


def passes(request: Request) -> int:
    """Return the number of passes through the model, forward and backward, for one pair."""
    backward = len(request.metrics)
    return 2 + (backward if request.steps is None else request.steps * (1 + backward))


@torch.inference_mode(False)
@torch.no_grad()
def measure(
    model: GPT, pair: PromptPair, grid: Grid, request: Request, step: Callable[[], None]
) -> Measured:
    """Estimate the metrics of the patched run from gradients, for every cell of the grid.

    Args:
        model: in eval mode; its recording and last logits stay as they were.
        request: its method is one of APPROXIMATE.
        step: called after each pass.

    Raises:
        SweepError: a metric that is undefined, or that has no gradient.
    """
    check_has_gradients(model)
    metrics, rules = request.metrics, request.rules or ()
    base, source = DIRECTIONS[request.direction]
    put_in = _run(model, pair.ids(source), grid.site)
    step()
    with torch.set_grad_enabled(request.steps is None), propagation(model, rules):
        unpatched = _run(model, pair.ids(base), grid.site, rules)
    step()
    finals = {source: put_in.final, base: unpatched.final.detach()}
    reader = Reader(model, pair, metrics, finals["clean"], finals["corrupt"])
    check_unpatched(metrics, reader.readout, unpatched.final.dtype)
    both = put_in.there, [old.detach() for old in unpatched.there]
    if request.steps is None:
        points = iter([unpatched])
    else:
        points = _between(model, pair, grid.site, (base, source), request.steps, step)
    at_base = {"clean": reader.clean, "corrupt": reader.corrupt}[base]  # (M,)
    # A metric of one's own may return whole numbers; its estimates are fractions.
    at_base = at_base.to(reader.readout.clean_logits.dtype)
    effects = _effects(points, both, metrics, reader, step)
    values = at_base.new_full((len(metrics), *grid.shape), torch.nan)
    chosen = torch.meshgrid(*map(torch.tensor, grid.axes.values()), indexing="ij")
    for number in range(len(metrics)):
        changed = at_base[number] + _cells(effects[number], grid)  # the grid's shape
        values[number][chosen] = changed[chosen]
    return Measured(values, reader.clean, reader.corrupt, finals["clean"], finals["corrupt"])


def check_has_gradients(model: GPT) -> None:
    """Raise SweepError for a model made in torch.inference_mode, which has no gradients."""
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise SweepError(
            "attribution takes gradients, and PyTorch has none for a model that was"
            " made in torch.inference_mode: load it outside"
        )


def _run(
    model: GPT,
    ids: Sequence[int],
    wanted: str,
    rules: Sequence[str] = (),
    embedded: Tensor | None = None,
) -> Run:
    """Run a prompt and keep a site's activations.

    Args:
        rules: of RelP; with "pattern", no gradient goes through the attention patterns.
        embedded: token plus position embeddings (1, T, C) in place of those of `ids`.
    """
    kept = []

    def tap(layer: int, site: str, x: Tensor) -> Tensor:
        is_start = site == "resid_pre" and layer == 0
        if is_start and embedded is not None:
            x = embedded
        # The start gets a gradient even if no parameter requires one.
        if torch.is_grad_enabled() and (is_start or (site == "pattern" and "pattern" in rules)):
            x = x.detach().requires_grad_()
        if site == wanted:
            kept.append(x)
        return x

    x = model.stream(torch.tensor([ids], device=model.device), tap)  # (1, T, C)
    return Run(model.transformer.ln_f(x[0, -1]), kept)


def _between(
    model: GPT,
    pair: PromptPair,
    site: str,
    runs: tuple[str, str],
    steps: int,
    step: Callable[[], None],
) -> Iterator[Run]:
    """Yield the runs, with gradients, from embeddings between the base and the source run's."""
    positions = torch.arange(len(pair), device=model.device)
    ids = torch.tensor([pair.ids(run) for run in runs], device=model.device)  # (2, T)
    start, end = model.embed(ids, positions).split(1)  # (1, T, C) each
    for number in range(1, steps + 1):
        with torch.enable_grad():
            embedded = start + number / steps * (end - start)
            point = _run(model, pair.ids(runs[0]), site, embedded=embedded)
        step()
        yield point
        del point  # and with it the activations that its gradients need


def _effects(
    points: Iterator[Run],
    both: tuple[Sequence[Tensor], Sequence[Tensor]],
    metrics: Sequence[Metric],
    reader: Reader,
    step: Callable[[], None],
) -> Tensor:
    """Return each metric's effects (M, n_layer, [nh,] T): the change times the mean gradient.

    Args:
        points: the runs in which the gradients are taken; each is let go before the next.
        both: the source run's and the base run's activations, of each block.
    """
    found = []
    for point in points:
        with torch.enable_grad():
            logits = reader.logits(point.final[None])  # (1, R)
        for metric in metrics:
            slopes = gradients(metric, logits, reader, point.there)
            effects = [
                ((widened(new) - widened(old)) * gradient)[0].sum(-1)
                for new, old, gradient in zip(*both, slopes, strict=True)
            ]
            found.append(torch.stack(effects))  # of each layer (T,) or (nh, T)
            step()
        del point, logits
    return torch.stack(found).unflatten(0, (-1, len(metrics))).mean(0)


def gradients(metric: Metric, logits: Tensor, reader: Reader, there: list[Tensor]) -> list[Tensor]:
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
