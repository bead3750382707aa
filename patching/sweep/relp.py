"""RelP's rules: a backward pass through a model whose forward pass stays what it is.

RelP (Rezaei Jafari et al. 2025, arXiv 2508.21258) is attribution patching with the gradients
of a changed backward pass. Each rule makes a step of the model linear, with coefficients that
are constants of the run:

    ln       a layer norm (ln_1, ln_2, ln_f) divides by a constant: sqrt(var + eps) of the run.
             The mean is subtracted as ever (Ali et al. 2022, the LN-rule).
    gelu     the MLP's activation multiplies by a constant: act(x) / x of the run. At x = 0 that
             is the limit, the slope of act: 0.5 of a GELU. A ReLU's ratio is its slope, also at
             0, where PyTorch takes 0; so the rule changes nothing there (the Identity-rule).
    pattern  the attention pattern is a constant, the softmax's output: q and k get no gradient,
             nor does what reaches them (Ali et al. 2022, the AH-rule).

ln and gelu are the rules that the authors' code has by default for a GPT-2; pattern is its choice.
The products in attention are plain. With all three rules the model is linear in its stream.
The values of the forward pass are bit for bit those of a pass without rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mingpt.checks import widened
from mingpt.model import GPT


@contextmanager
def propagation(model: GPT, rules: Sequence[str]) -> Iterator[None]:
    """Give the model's forward passes the backward pass of the rules ln and gelu.

    The rule pattern is no module's; the tap of attribution.py applies it.

    Args:
        rules: names in RELP_RULES; none of them changes nothing.
    """
    with ExitStack() as stack:
        for module in model.modules() if "ln" in rules else ():
            if isinstance(module, nn.LayerNorm):
                stack.enter_context(module.register_forward_hook(_with_fixed_scale))
        for block in model.transformer.h if "gelu" in rules else ():
            stack.enter_context(block.mlp.act.register_forward_hook(_with_fixed_ratio))
        yield


class _Linearised(torch.autograd.Function):
    """The value of one tensor, with the gradient of another of the same shape."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, linear: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def _with_fixed_scale(norm: nn.LayerNorm, inputs: tuple[Tensor], out: Tensor) -> Tensor:
    """Return a layer norm's output, with the gradient of a division by a constant."""
    x = widened(inputs[0])  # (..., C)
    scale = (x.detach().var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    linear = (x - x.mean(-1, keepdim=True)) * (widened(norm.weight.detach()) / scale)
    return _Linearised.apply(out, linear.to(out.dtype))


def _with_fixed_ratio(act: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor:
    """Return an activation's output, with the gradient of a product with a constant."""
    x = inputs[0]
    wide = widened(x.detach())  # in half precision, act(x) / x would be far off for small x
    ratio = torch.where(wide == 0, _slope_at_0(act, wide), act.forward(wide) / wide)
    return _Linearised.apply(out, x * ratio.to(x.dtype))


def _slope_at_0(act: nn.Module, like: Tensor) -> Tensor:
    """Return act'(0), the limit of act(x) / x as x goes to 0, for an act with act(0) = 0."""
    with torch.enable_grad():
        zero = like.new_zeros(()).requires_grad_()
        (slope,) = torch.autograd.grad(act.forward(zero), zero)
    return slope
