"""The instruments of `explain`, by name. No tensor is touched: a command's --help lists them."""

from __future__ import annotations

from collections.abc import Iterable

from patching.errors import ExplanationError

INSTRUMENTS = {
    "alti": "how much of each token is in each position, after all blocks (ALTI)",
    "alti-logit": "what each token of the prompt adds to the choice, by ALTI-Logit",
    "logit": "what attention writes of each position towards the choice, not followed further",
    "lens": "what the model would say after each block, at each position (logit lens)",
    "direct": "what each head and each MLP adds to the choice itself (direct logit attribution)",
}
FIGURES = {  # instrument -> the figures that show what it found
    "alti": ("alti",),
    "alti-logit": ("alti-logit", "alti-logit-layers"),
    "logit": ("logit", "logit-layers"),
    "lens": ("lens",),
    "direct": ("direct",),
}
DEFAULT = ("alti", "alti-logit", "lens", "direct")


def instruments_asked(asked: str | Iterable[str]) -> tuple[str, ...]:
    """The names that are asked for, once each, in the order of INSTRUMENTS.

    A string may hold several with commas between them.

    Raises:
        ExplanationError: none, or one that there is not.
    """
    if not isinstance(asked, Iterable):
        raise ExplanationError(f"methods are names, not {asked!r}")
    names = asked.split(",") if isinstance(asked, str) else [*asked]
    names = [name.strip() if isinstance(name, str) else name for name in names]
    for name in names:
        if name not in INSTRUMENTS:
            raise ExplanationError(f"no method {name!r}; there are {', '.join(INSTRUMENTS)}")
    if not names:
        raise ExplanationError(f"no method; there are {', '.join(INSTRUMENTS)}")
    return tuple(name for name in INSTRUMENTS if name in names)


def figures_of(instruments: Iterable[str]) -> tuple[str, ...]:
    """The figures of some instruments."""
    return tuple(figure for name in instruments for figure in FIGURES[name])
