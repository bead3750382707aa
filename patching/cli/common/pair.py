"""Options and texts that the commands on one pair of prompts share; fields of their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from click import Option

from patching.cli.common import output
from patching.cli.common.arguments import parse_texts
from patching.cli.common.command import UsageError
from patching.sweep.metrics import Metric, without_foil

if TYPE_CHECKING:
    from patching.cli.common.models import LoadedModel
    from patching.paths.result import PathsFound
    from patching.sweep.result import SweepResult

    Found = TypeVar("Found", SweepResult, PathsFound)


def prompt_options(corrupt_too: str = "") -> list[Option]:
    """Return --clean, --corrupt, --target and --foil.

    Args:
        corrupt_too: what the help of --corrupt says beside what it is.
    """
    return [
        Option(["--clean"], metavar="TEXT", help="the prompt that asks for the target"),
        Option(["--corrupt"], metavar="TEXT",
               help=f"the prompt that asks for the foil{corrupt_too}"),
        Option(["--target"], metavar="WORD", multiple=True,
               help="the clean prompt's next word; repeated, a set of words"),
        Option(["--foil"], metavar="WORD", multiple=True,
               help="the corrupt prompt's next word, or words; only for a --metric that compares"
               " it with the target"),
    ]  # fmt: skip


def pair_texts(
    arguments: SimpleNamespace,
    example: dict[str, str],
    metrics: Sequence[Metric],
    *,
    optional: Sequence[str] = ("foil",),
) -> dict[str, Any]:
    """Return the prompts and answers that were given, or the example's.

    Args:
        optional: as for parse_texts.

    Raises:
        UsageError: some are missing, such as the foil of a metric that needs one.
    """
    texts = parse_texts(arguments, example, optional=optional)
    needing = [metric.name for metric in metrics if metric.needs_foil]
    if needing and "foil" not in texts:
        raise UsageError(
            f"--foil missing: {needing[0]} compares it with the target; --metric"
            f" {', '.join(without_foil())} need none"
        )
    return texts


def with_command(
    found: Found, arguments: SimpleNamespace, names: Sequence[str], loaded: LoadedModel
) -> Found:
    """Return a result with the options `names`, matplotlib's version, and the model's note."""
    import matplotlib

    return replace(
        found,
        command={name: getattr(arguments, name) for name in names},
        versions={**found.versions, "matplotlib": matplotlib.__version__},
        notes=(*output.fallback_notes(loaded.fallback), *found.notes),
    )
