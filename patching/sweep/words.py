"""Say in words what a sweep did, for titles of figures and pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from patching.sweep.put import ABLATIONS
from patching.sweep.request import DIRECTIONS
from patching.text import counted, squeezed

if TYPE_CHECKING:
    from patching.sweep.result import SweepResult

MOST_OF_PROMPT = 60  # characters of another prompt that a note names


def experiment_words(result: SweepResult, what: str) -> str:
    """Return what was done, such as "Activation patching of z, clean into corrupt".

    Args:
        what: the site, and what else is to be said of it.
    """
    base, source = run_names(result)
    if result.patches is not None:
        return f"Patches of {result.patches}() for each cell of {what}, into {base}"
    if result.put in ABLATIONS:
        return f"{ABLATIONS[result.put]} of {what}, {base} run"
    if result.is_approximate:
        name, how = result.estimate_words
        return f"{name} ({how}) of {what}, {source} into {base}"
    return f"Activation patching of {what}, {source} into {base}"


def run_names(result: SweepResult) -> tuple[str, str]:
    """Return the names of the base and the source run; a run with noise is "noised"."""
    names = {"clean": "clean", "corrupt": "corrupt" if result.noise is None else "noised"}
    base, source = DIRECTIONS[result.direction]
    return names[base], names[source]


def noise_notes(said: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return a remark on the noise, if there is some; `said` is SweepResult.noise."""
    if said is None:
        return ()
    positions = ", ".join(map(str, said["positions"]))
    of = f" of \u201c{said['subject']}\u201d" if said["subject"] else ""
    how = ""
    if said["asked"].endswith("s"):
        how = f" ({said['asked'][:-1]} x that of the subject's embeddings)"
    return (
        f"the corrupt run is the clean one with Gaussian noise on the token embeddings{of}"
        f" ({'position' if len(said['positions']) == 1 else 'positions'} {positions}): standard"
        f" deviation {said['std']:.4g}{how}, mean over {counted(said['draws'], 'draw')}, seed"
        f" {said['seed']}",
    )


def put_words(put: str, said: Mapping[str, Any]) -> str:
    """Return what was put in, where it was not the source run's activation.

    Args:
        put, said: SweepResult.put and put_from.

    Example:
        "the mean of 40 clean prompts at each position"
    """
    if put == "mean":
        where = {
            "position": "at each position",
            "role": "of each role",
            "all": "over all positions",
        }[said["per"]]
        return f"the mean of {counted(said['prompts'], 'clean prompt')} {where}"
    if put == "resample":
        prompt = squeezed(said["prompt"], MOST_OF_PROMPT)
        return f"the run of \u201c{prompt}\u201d (seed {said['seed']})"
    return "zeros"


def put_notes(put: str, said: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a remark on what was put in, if it was not the source run's; as put_words."""
    if put == "zero":
        return ("zeros are put in",)
    return (f"put in is {put_words(put, said)}",) if said else ()


def unpatched_words(result: SweepResult, metric: str, form: str = ".4f") -> str:
    """Return a metric of the unpatched runs, such as "clean -3.2100, corrupt 2.0400".

    Args:
        form: the format of a number.
    """
    found = result.metrics[metric]
    return ", ".join(f"{run} {getattr(found, run):{form}}" for run in result.runs)
