"""The methods and figures of `explain`, by name.

PyTorch is not imported here, so that the command's --help, which lists them, is fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

from patching.errors import ExplanationError

METHODS = {
    "alti": "share of each token in each position, after all blocks (ALTI)",
    "alti-logit": "what each token of the prompt adds to the logit difference, by ALTI-Logit",
    "logit": "what attention adds to the logit difference from each position that it reads",
    "lens": "what the model would predict after each block, at each position (logit lens)",
    "direct": "what each head and each MLP adds to the logit difference by itself"
    " (direct logit attribution)",
    "attention": "what each head reads at each position, and scores of the heads",
}
FIGURES = {  # method -> the figures that show its results
    "alti": ("alti",),
    "alti-logit": ("alti-logit", "alti-logit-layers"),
    "logit": ("logit", "logit-layers"),
    "lens": ("lens",),
    "direct": ("direct",),
    "attention": ("attention", "head-scores"),
}
ROWS = 10  # tokens in the table of next tokens
DEFAULT = ("alti", "alti-logit", "lens", "direct")


def parse_methods(methods: str | Iterable[str]) -> tuple[str, ...]:
    """Return the names of methods, each once, in the order of METHODS.

    Args:
        methods: names; one string may hold several, separated by commas.

    Raises:
        ExplanationError: no name, or an unknown one.
    """
    if not isinstance(methods, Iterable):
        raise ExplanationError(f"methods are names, not {methods!r}")
    names = methods.split(",") if isinstance(methods, str) else list(methods)
    names = [name.strip() if isinstance(name, str) else name for name in names]
    for name in names:
        if name not in METHODS:
            raise ExplanationError(f"no method {name!r}; there are {', '.join(METHODS)}")
    if not names:
        raise ExplanationError(f"no method; there are {', '.join(METHODS)}")
    return tuple(name for name in METHODS if name in names)


def check_rows(rows: object) -> None:
    """Check the number of likeliest next tokens to keep.

    Raises:
        ExplanationError: not a whole number of at least 1.
    """
    if not isinstance(rows, Integral) or not 1 <= int(rows) < 2**63:
        raise ExplanationError(f"rows must be a whole number of at least 1, not {rows!r}")


def figures_of(methods: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the figures of some methods."""
    return tuple(figure for name in methods for figure in FIGURES[name])
