"""Verify a model: the identities that must hold on any, and published figures of a known one."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from mingpt.model import GPT
from patching.errors import VerificationError
from patching.progress import Progress, progress_or_bar, steps
from patching.running import ready, versions
from patching.verification.checks.table import check_figure
from patching.verification.identities import IDENTITIES, Limit
from patching.verification.published import Figure
from patching.verification.request import Request
from patching.verification.result import Row, Verification
from patching.verification.sample import Sample
from patching.verification.transformers_copy import NotCheckedError

IDENTITY_COST = 500  # of each identity, in the unit of Figure.cost
OUT_OF_MEMORY = "the memory is not enough to verify this model"


def run_verification(
    model: GPT,
    request: Request | None = None,
    *,
    figures: Sequence[Figure] = (),
    identity: str = "not looked up",
    progress: Progress | bool | None = None,
) -> Verification:
    """Check every identity on a model, and every published figure that is given.

    Args:
        model: run in eval mode; the loop leaves its own recording in it.
        request: None for the defaults.
        figures: of this very model; see `published.read_figures`.
        identity: which model it is and how that is known, for the result.
        progress: a function (done, total); None for a bar; False for none.

    Raises:
        VerificationError: a model that is too small for the identities, figures of another
            shape than the model's, or too little memory.
        SweepError, ExplanationError: the model cannot run a figure's prompts.
    """
    request = Request() if request is None else request
    started = time.perf_counter()
    if figures and model.dtype not in (torch.float32, torch.float64):
        raise VerificationError(
            f"published figures are of float32; this model is {model.dtype}: use float32"
        )
    sample = Sample.draw(model.config, size=request.samples, seed=request.seed)
    rows: list[Row] = []
    notes: list[str] = []
    total = IDENTITY_COST * len(IDENTITIES) + sum(figure.cost for figure in figures)
    with progress_or_bar(progress, "verifying") as report:
        step = steps(report, total)
        with ready(model, VerificationError(OUT_OF_MEMORY)):
            limit = Limit.of(model, sample)
            for identity_check in IDENTITIES:
                try:
                    rows += identity_check(model, sample, limit)
                except NotCheckedError as error:
                    words = identity_check.__name__.replace("_", " ")
                    notes.append(f"not checked: {words}: {error}")
                step(IDENTITY_COST)
        for figure in figures:
            rows.append(check_figure(figure, model))
            step(figure.cost)
    return Verification(
        model_name=model.name,
        identity=identity,
        rows=tuple(rows),
        notes=tuple(notes),
        versions=versions(model),
        checksum=model.checksum(),
        seconds=time.perf_counter() - started,
    )
