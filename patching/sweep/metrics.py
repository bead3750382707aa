"""Metrics: functions of the logits at a run's last position.

Target and foil may each be a set of tokens. The logit of a set is the log-sum-exp of its
tokens' logits, so that its probability is the sum of theirs:

    p(S) = sum_i p(i) = sum_i exp(l_i) / Z = exp(logsumexp_i l_i) / Z

For one token, both are the token's own logit and probability, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from patching.errors import SweepError
from patching.prompts import PromptPair
from patching.text import visible

if TYPE_CHECKING:  # annotations only: a command's --help lists the metrics
    from torch import Tensor

# In logits. Where clean and corrupt run are closer than this, recovery would divide
# rounding errors: float32 logits of size 100 are rounded by about 1e-5.
SMALLEST_DIFFERENCE = 1e-4
# ... or closer than so many roundings of the largest of their logits. In bfloat16 a logit
# of 8 is rounded to steps of 0.06.
ROUNDINGS = 8
MOST_NAMED = 3  # tokens of a set that a caption names
UNNAMED = "custom"  # the name of a metric that is a function without a name


@dataclass(frozen=True)
class Readout:
    """The unpatched runs' logits, with which a metric may compare a patched run's.

    R is the number of logits that are read: all V of the vocabulary, or only those of
    target and foil if no metric needs others.
    """

    target: tuple[int, ...]  # indices of the target's tokens among the R
    foil: tuple[int, ...]  # indices of the foil's tokens; empty if there is no foil
    clean_logits: Tensor  # (R,) of the unpatched clean run, last position
    corrupt_logits: Tensor  # (R,) of the unpatched corrupt run, last position
    eps: float = 0.0  # relative rounding of the model's dtype; the logits here may be wider

    def target_logit(self, logits: Tensor) -> Tensor:
        """Return the target's logit (E,) from logits (E, R): of a set, the log-sum-exp."""
        return _logit_of(logits, self.target)

    def foil_logit(self, logits: Tensor) -> Tensor:
        """Return the foil's logit (E,) from logits (E, R): of a set, the log-sum-exp."""
        return _logit_of(logits, self.foil)


def _logit_of(logits: Tensor, answer: tuple[int, ...]) -> Tensor:
    if len(answer) == 1:
        return logits[..., answer[0]]
    return logits[..., list(answer)].logsumexp(-1)


def _probability_of(probabilities: Tensor, answer: tuple[int, ...]) -> Tensor:
    if len(answer) == 1:
        return probabilities[..., answer[0]]
    return probabilities[..., list(answer)].sum(-1)


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
    neutral: float | None = None  # the value that favours neither side, for diverging colours
    answers_only: bool = False  # it reads only the logits of target and foil
    needs_foil: bool = False  # it is undefined for a pair without a foil
    needs_corrupt: bool = False  # it compares with the unpatched corrupt run
    flat_at_clean: bool = False  # its minimum is the clean run, so its gradient is 0 there

    def describe(self, pair: PromptPair) -> str:
        """Return the metric's description for this pair."""
        return self.name if self.words is None else self.words(pair)


def _logit_diff(logits: Tensor, readout: Readout) -> Tensor:
    return readout.foil_logit(logits) - readout.target_logit(logits)


def _target_logit(logits: Tensor, readout: Readout) -> Tensor:
    return readout.target_logit(logits) - readout.target_logit(readout.clean_logits)


def _log_prob(logits: Tensor, readout: Readout) -> Tensor:
    return readout.target_logit(logits.log_softmax(-1))


def _prob_diff(logits: Tensor, readout: Readout) -> Tensor:
    probabilities = logits.softmax(-1)
    foil = _probability_of(probabilities, readout.foil)
    return foil - _probability_of(probabilities, readout.target)


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
    answers = [*readout.target, *readout.foil]
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


def _named(tokens: Sequence[str]) -> str:
    """Return an answer's name in a caption: its token, or the first tokens of a set."""
    shown = [visible(token) for token in tokens[:MOST_NAMED]]
    if len(tokens) == 1:
        return shown[0]
    more = [f"{len(tokens) - MOST_NAMED} more"] * (len(tokens) > MOST_NAMED)
    return f"{{{', '.join(shown + more)}}}"


def _answers(name: str) -> Callable[[PromptPair], str]:
    """Return a caption "name(foil) - name(target)"."""
    return lambda pair: f"{name}({_named(pair.foil_tokens)}) - {name}({_named(pair.target_tokens)})"


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "logit_diff",
            _logit_diff,
            _answers("logit"),
            neutral=0.0,
            answers_only=True,
            needs_foil=True,
        ),
        Metric(
            "target_logit",
            _target_logit,
            lambda pair: f"logit({_named(pair.target_tokens)}), patched - clean",
            neutral=0.0,
            answers_only=True,
        ),
        Metric(
            "log_prob",
            _log_prob,
            lambda pair: f"ln p({_named(pair.target_tokens)})",
        ),
        Metric(
            "prob_diff",
            _prob_diff,
            _answers("p"),
            neutral=0.0,
            needs_foil=True,
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
            lambda pair: f"recovery (0 corrupt, 1 clean) of {_answers('logit')(pair)}",
            check=_check_recovery,
            diverging=True,
            answers_only=True,
            needs_foil=True,
            needs_corrupt=True,
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


def check_slopes(metrics: Iterable[Metric], method: str, only: str | None) -> None:
    """Raise SweepError for a metric whose gradient is 0 wherever an approximate method takes it.

    Args:
        only: the unpatched run at which alone it is taken, "clean" or "corrupt"; or None.
    """
    for metric in metrics:
        if only == "clean" and metric.flat_at_clean:
            instead = "use logit_diff or recovery"
            if method == "attribution-ig":  # of one step; with more, gradients lie between the runs
                instead = f"take more steps, or {instead}"
            raise SweepError(
                f"{metric.name} is at its minimum in the clean run, where its gradient is 0, so"
                f" {method} cannot estimate it from that run; {instead}"
            )


def check_foil(metrics: Iterable[Metric], pair: PromptPair) -> None:
    """Raise SweepError for a metric that needs a foil, if the pair has none."""
    for metric in metrics:
        if metric.needs_foil and not pair.foil_ids:
            raise SweepError(
                f"{metric.name} compares the target with a foil, and the pair has none; metrics"
                f" that need no foil: {', '.join(without_foil())}"
            )


def check_alone(metrics: Iterable[Metric]) -> None:
    """Raise SweepError for a metric that needs a corrupt run, which a pair has not."""
    for metric in metrics:
        if metric.needs_corrupt:
            raise SweepError(
                f"{metric.name} compares with the corrupt run, and the pair has no corrupt prompt:"
                " give one, or read another metric"
            )


def without_foil() -> list[str]:
    """Return the names of the built-in metrics that need no foil."""
    return [name for name, metric in METRICS.items() if not metric.needs_foil]


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

        return torch.stack([_one_number(function(row), logits) for row in logits])  # (E,)

    return read


def _one_number(found: object, like: Tensor) -> Tensor:
    """Return a metric's value as a scalar of the dtype and device of `like`.

    Raises:
        SweepError: it is not one number.
    """
    import torch

    try:
        number = torch.as_tensor(found, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        raise SweepError(f"a metric returned {found!r:.80}, not a number") from None
    if number.numel() != 1:
        raise SweepError(
            f"a metric returned numbers of shape {tuple(number.shape)}, not one number"
        )
    return number.reshape(())
