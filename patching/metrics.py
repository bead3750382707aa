"""What is read off a run: small functions of the last position's logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patching.errors import SweepError
from patching.prompts import PromptPair

if TYPE_CHECKING:  # annotations only: a command's --help lists the metrics
    from torch import Tensor

# Below this, in logits, clean and corrupt run agree and recovery would divide
# noise by noise: float32 logits of size 100 are some 1e-5 apart from rounding alone.
SMALLEST_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Readout:
    """What a metric may compare a run with."""

    target_id: int
    foil_id: int
    clean_logits: Tensor  # (V,) of the unpatched clean run, last position
    corrupt_logits: Tensor  # (V,) of the unpatched corrupt run, last position


@dataclass(frozen=True)
class Metric:
    """A named number read off the last position's logits (V,)."""

    name: str
    read: Callable[[Tensor, Readout], Tensor]  # logits (V,) -> scalar
    words: Callable[[PromptPair], str]  # what it measures, for a colour bar
    check: Callable[[Readout], None] = lambda readout: None  # raises where it is undefined
    neutral: float | None = None  # where a diverging colour map has its centre


def _logit_diff(logits: Tensor, readout: Readout) -> Tensor:
    return logits[readout.foil_id] - logits[readout.target_id]


def _target_logit(logits: Tensor, readout: Readout) -> Tensor:
    return logits[readout.target_id] - readout.clean_logits[readout.target_id]


def _prob_diff(logits: Tensor, readout: Readout) -> Tensor:
    probabilities = logits.softmax(-1)
    return probabilities[readout.foil_id] - probabilities[readout.target_id]


def _recovery(logits: Tensor, readout: Readout) -> Tensor:
    clean = _logit_diff(readout.clean_logits, readout)
    corrupt = _logit_diff(readout.corrupt_logits, readout)
    return (corrupt - _logit_diff(logits, readout)) / (corrupt - clean)


def _check_recovery(readout: Readout) -> None:
    clean = _logit_diff(readout.clean_logits, readout).item()
    corrupt = _logit_diff(readout.corrupt_logits, readout).item()
    if not abs(corrupt - clean) >= SMALLEST_DIFFERENCE:
        raise SweepError(
            f"recovery is undefined: the logit differences of the clean ({clean:.6g}) and the"
            f" corrupt run ({corrupt:.6g}) are less than {SMALLEST_DIFFERENCE:g} apart"
        )


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "logit_diff",
            _logit_diff,
            lambda pair: f"logit({pair.foil_token}) - logit({pair.target_token})",
        ),
        Metric(
            "target_logit",
            _target_logit,
            lambda pair: f"logit({pair.target_token}), patched - clean",
        ),
        Metric(
            "prob_diff",
            _prob_diff,
            lambda pair: f"p({pair.foil_token}) - p({pair.target_token})",
        ),
        Metric(
            "recovery",
            _recovery,
            lambda pair: (
                "recovery (0 corrupt, 1 clean) of"
                f" logit({pair.foil_token}) - logit({pair.target_token})"
            ),
            check=_check_recovery,
            neutral=0.0,
        ),
    )
}


def metric_named(name: str) -> Metric:
    """The metric of that name.

    Raises:
        SweepError: there is none.
    """
    if name not in METRICS:
        raise SweepError(f"no metric {name!r}; there are {', '.join(METRICS)}")
    return METRICS[name]
