"""What is read off a run: small functions of the last position's logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from patching.errors import SweepError
from patching.prompts import PromptPair

if TYPE_CHECKING:  # annotations only: a command's --help lists the metrics
    from torch import Tensor

# Below this, in logits, clean and corrupt run agree and recovery would divide
# noise by noise: float32 logits of size 100 are some 1e-5 apart from rounding alone.
SMALLEST_DIFFERENCE = 1e-4
UNNAMED = "custom"  # a metric that is a function without a name


@dataclass(frozen=True)
class Readout:
    """What a metric may compare a run with.

    R is the number of logits that are read: the vocabulary's, or 2 where the
    metric needs no others than target's and foil's.
    """

    target: int  # where the target's logit stands among the R
    foil: int
    clean_logits: Tensor  # (R,) of the unpatched clean run, last position
    corrupt_logits: Tensor  # (R,) of the unpatched corrupt run, last position


@dataclass(frozen=True)
class Metric:
    """A named number read off the last position's logits of each of E runs.

    One of your own: Metric("margin", lambda logits, readout: ...), or just a
    function of one run's logits (V,) where a sweep asks for a metric.
    """

    name: str
    read: Callable[[Tensor, Readout], Tensor]  # logits (E, R) -> (E,)
    words: Callable[[PromptPair], str] | None = None  # what it measures, for a colour bar
    check: Callable[[Readout], None] = lambda readout: None  # raises where it is undefined
    diverging: bool = False  # drawn in colours that part at the value of the run that is patched
    answers_only: bool = False  # whether R = 2 is enough
    least_at_clean: bool = False  # no run has less than the clean one, so it has no slope there

    def describe(self, pair: PromptPair) -> str:
        """What it measures, in words, for this pair."""
        return self.name if self.words is None else self.words(pair)


def _logit_diff(logits: Tensor, readout: Readout) -> Tensor:
    return logits[..., readout.foil] - logits[..., readout.target]


def _target_logit(logits: Tensor, readout: Readout) -> Tensor:
    return logits[..., readout.target] - readout.clean_logits[readout.target]


def _log_prob(logits: Tensor, readout: Readout) -> Tensor:
    return logits.log_softmax(-1)[..., readout.target]


def _prob_diff(logits: Tensor, readout: Readout) -> Tensor:
    probabilities = logits.softmax(-1)
    return probabilities[..., readout.foil] - probabilities[..., readout.target]


def _kl(logits: Tensor, readout: Readout) -> Tensor:
    clean = readout.clean_logits.log_softmax(-1)
    return (clean.exp() * (clean - logits.log_softmax(-1))).sum(-1)


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
            answers_only=True,
        ),
        Metric(
            "target_logit",
            _target_logit,
            lambda pair: f"logit({pair.target_token}), patched - clean",
            answers_only=True,
        ),
        Metric(
            "log_prob",
            _log_prob,
            lambda pair: f"ln p({pair.target_token})",
        ),
        Metric(
            "prob_diff",
            _prob_diff,
            lambda pair: f"p({pair.foil_token}) - p({pair.target_token})",
        ),
        Metric(
            "kl",
            _kl,
            lambda pair: "KL(clean || patched) of the next token, in nats",
            least_at_clean=True,
        ),
        Metric(
            "recovery",
            _recovery,
            lambda pair: (
                "recovery (0 corrupt, 1 clean) of"
                f" logit({pair.foil_token}) - logit({pair.target_token})"
            ),
            check=_check_recovery,
            diverging=True,
            answers_only=True,
        ),
    )
}
Asked = str | Metric | Callable[["Tensor"], "Tensor"]  # how a metric may be asked for


def metrics_asked(asked: Asked | Sequence[Asked]) -> list[Metric]:
    """The metrics that are asked for, one or several, in their order.

    A string may hold several names with commas between them.

    Raises:
        SweepError: none, one twice, a name that there is not, or something
            that is neither a name nor a Metric nor a function.
    """
    is_one = isinstance(asked, str) or not isinstance(asked, Iterable)
    several = [asked] if is_one else list(asked)
    names = [part.split(",") if isinstance(part, str) else [part] for part in several]
    metrics = [_metric(part) for parts in names for part in parts]
    unnamed = [number for number, metric in enumerate(metrics) if metric.name == UNNAMED]
    for place, number in enumerate(unnamed[1:], 2):
        metrics[number] = replace(metrics[number], name=f"{UNNAMED}{place}")
    if not metrics:
        raise SweepError("no metric to read")
    for metric in metrics:
        if [other.name for other in metrics].count(metric.name) > 1:
            raise SweepError(f"the metric {metric.name} is asked for twice")
    return metrics


def check_slopes(metrics: Iterable[Metric], direction: str) -> None:
    """Raises SweepError for a metric that no gradient tells anything of in that direction."""
    for metric in metrics:
        if direction == "noise" and metric.least_at_clean:
            raise SweepError(
                f"{metric.name} is at its least in the clean run, so it has no gradient there, and"
                " attribution in direction noise says nothing of it; logit_diff or recovery do"
            )


def _metric(asked: Asked) -> Metric:
    if isinstance(asked, Metric):
        if not asked.name.isidentifier():
            raise SweepError(f"a metric's name is letters, digits and _, not {asked.name!r}")
        return _not_built_in(asked)
    if isinstance(asked, str):
        if asked.strip() not in METRICS:
            raise SweepError(f"no metric {asked.strip()!r}; there are {', '.join(METRICS)}")
        return METRICS[asked.strip()]
    if not callable(asked):
        raise SweepError(f"a metric is a name, a Metric or a function, not {asked!r}")
    name = getattr(asked, "__name__", "")
    return _not_built_in(Metric(name if name.isidentifier() else UNNAMED, _each_row(asked)))


def _not_built_in(metric: Metric) -> Metric:
    if metric.name in METRICS and metric is not METRICS[metric.name]:
        raise SweepError(f"{metric.name} is a metric that there is already; name yours otherwise")
    return metric


def _each_row(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Readout], Tensor]:
    """A function of one run's logits (V,) as a Metric reads: of (E, V)."""

    def read(logits: Tensor, readout: Readout) -> Tensor:
        import torch  # not at the top: a command's --help lists the metrics

        like = {"dtype": logits.dtype, "device": logits.device}
        return torch.stack([torch.as_tensor(function(row), **like) for row in logits])

    return read
