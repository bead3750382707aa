"""Say how long a study will take, from a batch of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from patching.prompts import PromptPair
from patching.study.run import run_study
from patching.sweep.gaussian import Gaussian

if TYPE_CHECKING:
    from mingpt.model import GPT


def estimate_seconds(
    model: GPT,
    pairs: Sequence[PromptPair],
    *,
    batch: int,
    corrupt_by: Sequence[Gaussian] | None = None,
    **how: Any,
) -> float:
    """Return about how many seconds `run_study` will take, its statistics not included.

    One batch of the most frequent length is run twice, and the second run is timed: a first
    one also prepares PyTorch. Time is taken to grow with the number of tokens.

    Args:
        batch: pairs that run together.
        corrupt_by: the noise of each pair, if there is noise.
        how: the other arguments of run_study.
    """
    tokens = Counter(len(pair) for pair in pairs)
    ((length, _),) = tokens.most_common(1)
    chosen = [number for number, pair in enumerate(pairs) if len(pair) == length][:batch]
    some = [pairs[number] for number in chosen]
    noise = None if corrupt_by is None else [corrupt_by[number] for number in chosen]
    taken = 0.0
    for _ in range(2):
        started = time.perf_counter()
        run_study(model, some, batch=batch, corrupt_by=noise, progress=False, **how)
        taken = time.perf_counter() - started
    return taken * sum(T * count for T, count in tokens.items()) / (length * len(some))
