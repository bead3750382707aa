"""Metrics: functions of the logits at a run's last position."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from patching.errors import SweepError
from patching.prompts import PromptPair

if TYPE_CHECKING:  # annotations only: a command's --help lists the metrics
    from torch import Tensor

# In logits. Where clean and corrupt run are closer than this, recovery would divide
# rounding errors: float32 logits of size 100 are rounded by about 1e-5.
SMALLEST_DIFFERENCE = 1e-4
# ... or closer than so many roundings of the largest of their logits. In bfloat16 a logit
# of 8 is rounded to steps of 0.06.
ROUNDINGS = 8
UNNAMED = "custom"  # the name of a metric that is a function without a name


@dataclass(frozen=True)
class Readout:
    """The unpatched runs' logits, with which a metric may compare a patched run's.

    R is the number of logits that are read: all V of the vocabulary, or 2 (target
    and foil) if every metric needs only these.
    """

    target: int  # index of the target's logit among the R
    foil: int  # index of the foil's logit
    clean_logits: Tensor  # (R,) of the unpatched clean run, last position
    corrupt_logits: Tensor  # (R,) of the unpatched corrupt run, last position
    eps: float = 0.0  # relative rounding of the model's dtype; the logits here may be wider


@dataclass(frozen=True)
class Metric:
    """A named number, computed from the last position's logits of each of E runs.

    A metric of your own is Metric("margin", lambda logits, readout: ...), or
    simply a function of one run's logits (V,), passed to a sweep as its metric.
    """

    name: str
    read: Callable[[Tensor, Readout], Tensor]  # logits (E, R) -> (E,)
    words: Callable[[PromptPair], str] | None = None  # describes it, for a colour bar
    check: Callable[[Readout], None] = lambda readout: None  # raises SweepError if undefined
    diverging: bool = False  # its colour map is centred at the value of the unpatched base run
    answers_only: bool = False  # it reads only target's and foil's logits (R = 2)
    flat_at_clean: bool = False  # its minimum is the clean run, so its gradient is 0 there

    def describe(self, pair: PromptPair) -> str:
        """Return the metric's description for this pair."""
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
    answers = [readout.target, readout.foil]
    largest = max(
        logits[answers].abs().max().item()
        for logits in (readout.clean_logits, readout.corrupt_logits)
    )
    least = max(SMALLEST_DIFFERENCE, ROUNDINGS * readout.eps * largest)
    if not abs(corrupt - clean) >= least:
        clean, corrupt = clean + 0.0, corrupt + 0.0  # no -0
        raise SweepError(
            f"recovery is undefined: the logit differences of the clean ({clean:.6g}) and the"
            f" corrupt run ({corrupt:.6g}) are less than {least:.3g} apart"
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
            flat_at_clean=True,
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
# A metric as a caller gives it: a name, a Metric, or a function of logits (V,).
Asked = str | Metric | Callable[["Tensor"], "Tensor"]


def parse_metrics(asked: Asked | Sequence[Asked]) -> list[Metric]:
    """Return the metrics that are asked for, in their order.

    Args:
        asked: one or several; a string may hold several names with commas
            between them.

    Raises:
        SweepError: no metric, one twice, an unknown name, or something that is
            neither a name nor a Metric nor a function.
    """
    is_list = isinstance(asked, Iterable) and not isinstance(asked, str)
    several = list(cast(Sequence[Asked], asked)) if is_list else [cast(Asked, asked)]
    metrics = []
    for part in several:
        for one in part.split(",") if isinstance(part, str) else [part]:
            metrics.append(_metric(one))
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
    """Raise SweepError for a metric whose gradient is 0 in the run that is patched."""
    for metric in metrics:
        if direction == "noise" and metric.flat_at_clean:
            raise SweepError(
                f"{metric.name} is at its minimum in the clean run, where its gradient is 0, so"
                " attribution cannot estimate it in direction noise; use logit_diff or recovery"
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
        raise SweepError(f"{metric.name} is a built-in metric; give yours another name")
    return metric


def _each_row(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Readout], Tensor]:
    """Return a Metric's read function, logits (E, V) -> (E,), from one of logits (V,)."""

    def read(logits: Tensor, readout: Readout) -> Tensor:
        import torch  # not at the top: a command's --help lists the metrics

        numbers = []
        for row in logits:
            found = function(row)
            try:
                number = torch.as_tensor(found, dtype=logits.dtype, device=logits.device)
            except (TypeError, ValueError, RuntimeError):
                raise SweepError(f"a metric returned {found!r:.80}, not a number") from None
            if number.numel() != 1:
                shape = tuple(number.shape)
                raise SweepError(f"a metric returned numbers of shape {shape}, not one number")
            numbers.append(number.reshape(()))
        return torch.stack(numbers)  # (E,)

    return read
