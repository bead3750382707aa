"""Say when two prompts are hardly a pair: no gap between their runs, or the answers exchanged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from patching.text import visible

if TYPE_CHECKING:
    from patching.next_tokens import NextTokens, TokenScore
    from patching.prompts import PromptPair
    from patching.sweep.result import MetricValues

MARGIN = 1000  # roundings of the largest logit that the gap must exceed
MOST_GAPS = 3  # a cell further than so many gaps from both runs is remarked on
COMPARED = ("logit_diff", "recovery")  # metrics that grow in proportion to the logit difference


def pair_notes(
    pair: PromptPair,
    clean: NextTokens,
    corrupt: NextTokens,
    metrics: Mapping[str, MetricValues],
    eps: float,
) -> tuple[str, ...]:
    """Return remarks for a reader of the sweep; none for a pair whose runs are well apart.

    Args:
        clean, corrupt: the next tokens of the unpatched runs.
        metrics: the sweep's; cells of COMPARED are checked.
        eps: the relative rounding of the model's dtype.
    """
    at_clean, at_corrupt = _difference(clean), _difference(corrupt)
    largest = max(
        abs(score.logit) for run in (clean, corrupt) for score in (*run.target, *run.foil)
    )
    notes = []
    gap, noise = abs(at_corrupt - at_clean), eps * largest
    what = "logit differences" if pair.foil_ids else "target's logits"
    if not pair.has_corrupt:
        pass  # nothing to be apart from
    elif gap < MARGIN * noise:
        notes.append(
            f"hardly a pair: the {what} of the clean ({at_clean:.4g}) and the corrupt run"
            f" ({at_corrupt:.4g}) are {gap:.2g} apart, {gap / noise:.0f} roundings of the"
            " model's numbers; the map may show rounding"
        )
    else:
        furthest = max((_gaps_beyond(metrics[name]) for name in COMPARED if name in metrics),
                       default=0.0)  # fmt: skip
        if furthest > MOST_GAPS:
            notes.append(
                f"hardly a pair: a patch moves the logit difference {furthest:.3g} times as far"
                f" beyond the two runs as they are apart ({gap:.2g})"
            )
    if pair.foil_ids and at_clean > 0:
        target, foil = ("/".join(map(visible, one)) for one in
                        (pair.target_tokens, pair.foil_tokens))  # fmt: skip
        swapped = at_corrupt < at_clean
        note = f"the clean run prefers the foil {foil} to the target {target} by {at_clean:.4g}"
        notes.append(note + ("; are target and foil exchanged?" if swapped else ""))
    return tuple(notes)


def _difference(run: NextTokens) -> float:
    """Return logit(foil) - logit(target), or logit(target) where there is no foil."""
    target = _log_sum_exp(run.target)
    return _log_sum_exp(run.foil) - target if run.foil else target


def _log_sum_exp(scores: Sequence[TokenScore]) -> float:
    logits = [score.logit for score in scores]
    top = max(logits)
    return top + math.log(sum(math.exp(logit - top) for logit in logits))


def _gaps_beyond(found: MetricValues) -> float:
    """Return how far the furthest cell lies beyond both runs, in gaps between them."""
    low, high = sorted((found.clean, found.corrupt))
    cells = found.values[np.isfinite(found.values)]
    if not (cells.size and high > low):
        return 0.0
    return float(max(low - cells.min(), cells.max() - high, 0.0)) / (high - low)
