"""Say in words what a sweep did, for titles of figures and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patching.sweep.request import DIRECTIONS

if TYPE_CHECKING:
    from patching.sweep.result import SweepResult


def experiment_words(result: SweepResult, what: str) -> str:
    """Return what was done, such as "Activation patching of z, clean into corrupt".

    Args:
        what: the site, and what else is to be said of it.
    """
    base, source = DIRECTIONS[result.direction]
    if result.patches is not None:
        return f"Patches of {result.patches}() for each cell of {what}, into {base}"
    if result.put == "zero":
        return f"Zero ablation of {what}, {base} run"
    if result.is_approximate:
        name, how = result.estimate_words
        return f"{name} ({how}) of {what}, {source} into {base}"
    return f"Activation patching of {what}, {source} into {base}"
