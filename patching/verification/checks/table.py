"""The kinds of published figures, and the check of one figure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mingpt.model import GPT
from patching.errors import VerificationError
from patching.running import ready
from patching.verification.checks import direct as direct_terms
from patching.verification.checks import logits, sites, sweeps
from patching.verification.published import Figure
from patching.verification.result import Row

# Kind -> a function that returns the published and our own numbers, arrays of one shape.
Check = Callable[[Figure, GPT], tuple[np.ndarray, np.ndarray]]
CHECKS: dict[str, Check] = {
    "sweep": sweeps.sweep,
    "cells": sweeps.cells,
    "unpatched": sweeps.unpatched,
    "next_tokens": logits.next_tokens,
    "mean": logits.mean,
    "put_in": sites.put_in,
    "pattern": sites.pattern,
    "head_scores": sites.head_scores,
    "direct": direct_terms.direct,
    "terms": direct_terms.terms,
}


def check_figure(figure: Figure, model: GPT) -> Row:
    """Compute a published figure with `model` and compare the two.

    Raises:
        VerificationError: too little memory.
        SweepError, ExplanationError: the model cannot run it.
    """
    memory = VerificationError("the memory is not enough for this figure; free some and run again")
    with ready(model, memory):
        published, ours = CHECKS[figure.kind](figure, model)
    return Row.compare(figure.what, figure.source, published, ours, figure.allowed, figure.because)
