"""The view of attention patterns: all heads small, one head large.

The weights are sent as whole numbers of 16 bits, so that 60 tokens of GPT-2 are 0.7 MB and not
3: each is a multiple of 1 / 65535, at most 8e-6 from the weight.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from patching.page.charts import JSON, chart, field, shown, token_by_token

STEPS = 65535  # of a weight from 0 to 1


def attention_view(pattern: np.ndarray, labels: Sequence[str], title: str) -> JSON:
    """Return the view of all heads' attention.

    Args:
        pattern: (L, nh, T, T) weight of position s (last axis) in t; 0 where s > t.
        labels: (T,) of the positions.
    """
    n_layer, n_head, T, _ = pattern.shape
    tooltip = [
        field("row_label", "position"),
        field("column_label", "reads"),
        field("value", "weight", ".4f"),
    ]
    spec = token_by_token(T, rows_are="position", columns_are="reads", tooltip=tooltip,
                          link=["row"])  # fmt: skip
    one = chart(
        "attention",
        spec,
        {"fields": ["row", "column", "value"], "rows": []},  # the script fills in a head's
        [shown("weight", "value", "attention weight: what each position (row) reads",
               ends=[0.0, 1.0])],
        rows=labels,
        columns=labels,
        rows_are="position",
        columns_are="reads",
        more={"link": "row"},
    )  # fmt: skip
    return {
        "kind": "attention",
        "title": title,
        "layers": n_layer,
        "heads": n_head,
        "tokens": list(labels),
        "steps": STEPS,
        "weights": packed(pattern),
        "chart": one,
    }


def packed(pattern: np.ndarray) -> str:
    """Return the weights on and below the diagonals, as base64 of 16-bit numbers (low byte first).

    Args:
        pattern: (L, nh, T, T).

    Example:
        T = 3 has the weights of (t, s) = (0,0) (1,0) (1,1) (2,0) (2,1) (2,2), head after head.
        The weight of (t, s) in head h of layer l has the number
        (l * nh + h) * T * (T + 1) / 2 + t * (t + 1) / 2 + s.
    """
    T = pattern.shape[-1]
    below = pattern[..., *np.tril_indices(T)]
    whole = np.rint(np.clip(below.astype(np.float64), 0, 1) * STEPS).astype("<u2")
    return base64.b64encode(whole.tobytes()).decode("ascii")
