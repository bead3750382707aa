"""The noise of mingpt-study run: its options' checks, and the noise of the pairs that were read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from patching.cli.common.command import UsageError
from patching.study.subjects import SUBJECT, noise_on_subjects
from patching.sweep.gaussian import DRAWS, STD

if TYPE_CHECKING:
    from patching.study.pairs_file import Pairs
    from patching.sweep.gaussian import Gaussian

DEFAULTS = {"subject": None, "noise_std": STD, "noise_draws": DRAWS}


def subject_of(arguments: SimpleNamespace) -> str | None:
    """Return the column or role that --subject names; None without noise.

    Raises:
        UsageError: an option of noise without --corrupt-by gaussian, or an empty one.
    """
    if arguments.corrupt_by is None:
        for name, default in DEFAULTS.items():
            if getattr(arguments, name) != default:
                raise UsageError(f"--{name.replace('_', '-')} is for --corrupt-by gaussian")
        return None
    if arguments.subject == "":
        raise UsageError("--subject is empty: name a column of the file, or a role")
    return arguments.subject or SUBJECT


def fields_of(arguments: SimpleNamespace) -> dict[str, Any]:
    """Return the fields of StudyRequest that the options of noise decide."""
    if arguments.corrupt_by is None:
        return {}
    return {
        "corrupt_by": arguments.corrupt_by,
        "noise_std": arguments.noise_std,
        "noise_draws": arguments.noise_draws,
        "noise_seed": arguments.seed,
    }


def noise_of(arguments: SimpleNamespace, pairs: Pairs) -> list[Gaussian] | None:
    """Return the noise on each pair's subject; None without noise."""
    if arguments.corrupt_by is None:
        return None
    return noise_on_subjects(
        pairs, std=arguments.noise_std, draws=arguments.noise_draws, seed=arguments.seed
    )
