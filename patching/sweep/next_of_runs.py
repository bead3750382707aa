"""Tables of the unpatched runs' next tokens, and the likeliest tokens of each cell's run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mingpt.model import GPT
from patching.errors import named
from patching.next_tokens import NextTokens, text_or_id
from patching.prompts import PromptPair
from patching.sweep.readout import RUNS_AT_ONCE, Measured, check_finite


def next_token_tables(
    model: GPT, pairs: Sequence[PromptPair], measured: Sequence[Measured], rows: int
) -> list[tuple[NextTokens, NextTokens]]:
    """Return the next-token tables of each pair's clean and corrupt run.

    Raises:
        SweepError: logits that are not finite.
    """
    ends = [end for found in measured for end in (found.clean_final, found.corrupt_final)]
    parts = torch.stack(ends).split(RUNS_AT_ONCE)  # of (2 pairs, C)
    logits = (row for part in parts for row in model.lm_head(part))  # (V,) each
    tables = []
    for number, pair in enumerate(pairs):
        both = next(logits), next(logits)  # of the clean and the corrupt run
        with named(number, len(pairs)):
            check_finite(torch.stack(both), model.dtype)
        clean, corrupt = (_table(one, pair, rows) for one in both)
        tables.append((clean, corrupt))
    return tables


def _table(logits: Tensor, pair: PromptPair, rows: int) -> NextTokens:
    return NextTokens.of(logits, rows, pair.target_ids, pair.foil_ids, pair.text_of)


def next_of_cells(pair: PromptPair, found: Measured) -> dict[str, Any]:
    """Return the result's fields of what each cell's run would say next."""
    if found.next is None:
        return {}
    ids = found.next.ids.cpu().numpy()
    numbers = sorted({*ids.ravel().tolist()} - {-1})
    return {
        "next_ids": ids.astype(np.int32),
        "next_logits": found.next.logits.cpu().numpy(),
        "next_probabilities": found.next.probabilities.cpu().numpy(),
        "next_texts": {number: text_or_id(pair.text_of, number) for number in numbers},
    }
