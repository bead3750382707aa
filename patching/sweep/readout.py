"""Compute a run's metrics from its final vector: ln_f's output (C,) at the last position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.checks import widened
from mingpt.model import GPT
from patching.errors import SweepError
from patching.prompts import PromptPair
from patching.sweep.metrics import Metric, Readout
from patching.sweep.request import DIRECTIONS

RUNS_AT_ONCE = 128  # runs in one product with the whole unembedding: 26 MB of GPT-2's logits
RUNS_IN_CACHE = 16  # runs whose logits the metrics read at a time, while the CPU caches them


@dataclass
class NextOfCells:
    """The k likeliest next tokens of each cell's run, the likeliest first."""

    ids: Tensor  # (*grid.shape, k); -1 where nothing was patched
    logits: Tensor  # (*grid.shape, k); NaN where nothing was patched
    probabilities: Tensor  # (*grid.shape, k)

    @classmethod
    def empty(cls, values: Tensor, k: int) -> NextOfCells:
        """Return the tokens of no cell.

        Args:
            values: of a metric (*grid.shape), whose dtype and device count.
        """
        shape = (*values.shape, k)
        unknown = values.new_full(shape, torch.nan)
        ids = torch.full(shape, -1, dtype=torch.int64, device=values.device)
        return cls(ids, unknown, unknown.clone())

    def put(self, flat: Tensor, logits: Tensor) -> None:
        """Write the likeliest tokens of some cells.

        Args:
            flat: (n,) places in the flattened grid.
            logits: (n, V), or (1, V) for all of them.
        """
        top = widened(logits).topk(self.ids.size(-1))
        sums = widened(logits).logsumexp(-1, keepdim=True)
        for kept, found in (
            (self.ids, top.indices),
            (self.logits, top.values),
            (self.probabilities, (top.values - sums).exp()),
        ):
            kept.flatten(0, -2)[flat] = found.to(kept.dtype)


@dataclass
class Measured:
    """The M metrics of one pair, of the patched runs and of the unpatched ones."""

    values: Tensor  # (M, *grid.shape), NaN where nothing was patched
    clean: Tensor  # (M,) metrics of the unpatched clean run
    corrupt: Tensor  # (M,) metrics of the unpatched corrupt run
    clean_final: Tensor  # (C,) ln_f's output at the clean run's last position
    corrupt_final: Tensor  # (C,) the same of the corrupt run
    next: NextOfCells | None = None  # what each cell's run would say next, if that was asked for

    def check(self, metrics: Sequence[Metric], dtype: torch.dtype, chosen: int) -> None:
        """Check that every chosen cell is a finite number, in every metric.

        Args:
            dtype: the model's, for the message.
            chosen: number of cells that the request patches.

        Raises:
            SweepError: a cell is infinite or not a number.
        """
        for number, metric in enumerate(metrics):
            missing = chosen - int(self.values[number].isfinite().sum())
            if missing:
                raise SweepError(
                    f"{metric.name} is not a finite number in {missing} of {chosen} cells"
                    f" in {_name(dtype)}"
                )


def check_unpatched(metrics: Sequence[Metric], readout: Readout, dtype: torch.dtype) -> None:
    """Check that the unpatched runs' logits are finite and every metric is defined.

    Raises:
        SweepError: a logit is not finite, or a metric is undefined.
    """
    check_finite(torch.stack((readout.clean_logits, readout.corrupt_logits)), dtype)
    for metric in metrics:
        metric.check(readout)


def check_finite(logits: Tensor, dtype: torch.dtype) -> None:
    """Raise SweepError unless all logits are finite; the message names `dtype`."""
    if not logits.isfinite().all():
        raise SweepError(f"the model's logits are not finite in {_name(dtype)}; use a wider dtype")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def bytes_to_read(
    metrics: Sequence[Metric], vocab_size: int, itemsize: int, *, next_tokens: bool = False
) -> int:
    """Return the bytes that a Reader holds at most.

    Args:
        next_tokens: the likeliest tokens of every run are read too.
    """
    if not next_tokens and all(metric.answers_only for metric in metrics):
        return 0
    return vocab_size * (2 * RUNS_AT_ONCE * itemsize + 6 * RUNS_IN_CACHE * max(itemsize, 4))


class Reader:
    """Reads the metrics of one pair from final vectors, the outputs of ln_f.

    Attributes:
        readout: the unpatched runs' logits, for the metrics to compare with.
        clean, corrupt: the metrics (M,) of the unpatched runs.
    """

    def __init__(
        self,
        model: GPT,
        pair: PromptPair,
        metrics: Sequence[Metric],
        clean_final: Tensor,
        corrupt_final: Tensor,
    ) -> None:
        self.metrics = metrics
        self.unembedding = model.lm_head.weight  # (V, C)
        target, foil = pair.target_ids, pair.foil_ids
        self.answers_only = all(metric.answers_only for metric in metrics)
        if self.answers_only:  # only the answers' rows of the unembedding are read
            self.unembedding = self.unembedding[[*target, *foil]]  # (R, C)
            places = range(len(target) + len(foil))
            target, foil = tuple(places[: len(target)]), tuple(places[len(target) :])
        unpatched = widened(self.logits(torch.stack((clean_final, corrupt_final))))  # (2, R)
        eps = torch.finfo(model.dtype).eps
        self.readout = Readout(target, foil, unpatched[0], unpatched[1], eps)
        self.clean, self.corrupt = read(metrics, unpatched, self.readout).T

    def logits(self, finals: Tensor) -> Tensor:
        """Return logits (E, R) of final vectors (E, C)."""
        # On a CPU, this order is up to three times as fast for a few rows.
        return (self.unembedding @ finals.T).T

    def read(self, finals: Tensor) -> Tensor:
        """Return the metrics (M, E) of final vectors (E, C)."""
        values = [self.clean.new_empty(len(self.metrics), 0)]
        for some in finals.split(RUNS_AT_ONCE) if len(finals) else ():
            size = len(some) if self.answers_only else RUNS_IN_CACHE
            for logits in self.logits(some).split(size):
                values.append(read(self.metrics, widened(logits.contiguous()), self.readout))
        return torch.cat(values, dim=1)


def read(metrics: Sequence[Metric], logits: Tensor, readout: Readout) -> Tensor:
    """Return every metric of every run (M, E), from logits (E, R).

    Raises:
        SweepError: a metric of the caller's returns another shape than (E,).
    """
    values = [metric.read(logits, readout) for metric in metrics]
    for metric, found in zip(metrics, values, strict=True):
        if not (isinstance(found, Tensor) and found.shape == logits.shape[:1]):
            shape = tuple(found.shape) if isinstance(found, Tensor) else found
            raise SweepError(
                f"{metric.name} returned {shape!r:.80} for {len(logits)} runs; a Metric's read"
                f" returns a tensor of one number for each run, ({len(logits)},)"
            )
    return torch.stack(values)


def neutral_values(metrics: Sequence[Metric], found: Measured, direction: str) -> dict[str, float]:
    """Return the neutral value of each metric that has one; of recovery, the base run's."""
    base = {"clean": found.clean, "corrupt": found.corrupt}[DIRECTIONS[direction][0]].tolist()
    values = {}
    for metric, at_base in zip(metrics, base, strict=True):
        value = at_base if metric.neutral is None and metric.diverging else metric.neutral
        if value is not None and math.isfinite(value):
            values[metric.name] = value
    return values
