"""Write path results as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from patching.cli.common.tables import table
from patching.paths.agreement import EdgeAgreement
from patching.paths.figures import experiment_words
from patching.paths.result import EdgeResult, PathResult, PathsFound
from patching.text import counted, escaped

MOST_ROWS = 12  # of the table of senders or edges


def report(result: PathsFound, said: Sequence[str] = ()) -> str:
    """Return the largest changes of each metric, the time, and the notes.

    Args:
        said: notes that have been printed.
    """
    blocks = [f"{experiment_words(result)} ({result.direction})"]
    for name, found in result.metrics.items():
        ends = f"clean {found.clean:z.4f}, corrupt {found.corrupt:z.4f}"
        blocks.append(f"{escaped(result.captions[name])}: {ends}\n{_table(result, name)}")
    count, unit = _count(result)
    approximate = " (approximate)" if result.is_approximate else ""
    lines = [f"{counted(count, unit)} in {result.seconds:.2f} s{approximate}"]
    lines += [f"note: {escaped(note)}" for note in result.notes if note not in said]
    return "\n\n".join([*blocks, "\n".join(lines)])


def agreement_lines(exact: PathsFound, agreement: Mapping[str, EdgeAgreement]) -> str:
    """Return how well estimated edges agree with the exact ones, a line for each metric."""
    lines = []
    for name, found in agreement.items():
        pearson, spearman, magnitudes = (
            "undefined" if one is None else f"{one:.4f}"
            for one in (found.pearson, found.spearman, found.of_magnitudes)
        )
        lines.append(
            f"{escaped(exact.captions[name])}: with the exact {found.edges:,} edges"
            f" ({exact.seconds:.2f} s) Pearson {pearson}, Spearman {spearman}; Pearson of absolute"
            f" values {magnitudes}"
        )
    return "\n".join(lines)


def _count(result: PathsFound) -> tuple[int, str]:
    if isinstance(result, EdgeResult):
        return result.count, "edge"
    return (len(result.by_sender()) if isinstance(result, PathResult) else 0), "sender"


def _table(result: PathsFound, metric: str) -> str:
    """Return the senders or edges that change a metric most: value, change, and in percent."""
    base = result.base_value(metric)
    if isinstance(result, EdgeResult):
        strongest = result.strongest(MOST_ROWS, metric)
        found = [(f"{sender} -> {receiver}", change) for sender, receiver, change in strongest]
        what, count = "edge", result.count
    elif isinstance(result, PathResult):
        changes = [(name, value - base) for name, value in result.by_sender(metric)]
        found = sorted(changes, key=lambda one: -abs(one[1]))[:MOST_ROWS]
        what, count = "sender", len(changes)
    if not found:
        return "no sender has a path to these receivers"
    rows = [(what, "value", "change", "in %")]
    for name, change in found:
        percent = f"{100 * change / base:+.2f}" if base else ""
        rows.append((name, f"{base + change:z.4f}", f"{change:+z.4f}", percent))
    heading = f"the largest changes, of {counted(count, what)}:"
    return f"{heading}\n{table(rows, right=(1, 2, 3))}"
