"""Write a sweep as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from patching.cli.common.tables import table, token_cell
from patching.sweep.agreement import Agreement
from patching.sweep.result import SweepResult
from patching.sweep.words import unpatched_words
from patching.text import counted, escaped


def summary(result: SweepResult, said: Sequence[str] = ()) -> str:
    """Return the metrics of the unpatched runs, the number of cells, the time, and the notes.

    Args:
        said: notes that have been printed.
    """
    lines = [
        f"{escaped(result.captions[name])}: {unpatched_words(result, name, 'z.4f')}"
        for name in result.metrics
    ]
    approximate = " (approximate)" if result.is_approximate else ""
    lines.append(f"{counted(result.cells, 'cell')} in {result.seconds:.2f} s{approximate}")
    lines += [f"note: {escaped(note)}" for note in result.notes if note not in said]
    return "\n".join(lines)


def agreement_table(
    approximate: SweepResult, exact: SweepResult, agreement: Mapping[str, Agreement]
) -> str:
    """Return the rank correlation of two sweeps and the cells that differ most, by metric."""
    return "\n\n".join(
        _agreement(approximate, exact, name, found) for name, found in agreement.items()
    )


def _agreement(approximate: SweepResult, exact: SweepResult, name: str, found: Agreement) -> str:
    rho = found.rank_correlation
    correlation = "undefined: one of the two is constant" if rho is None else f"{rho:.4f}"
    head = (
        f"{escaped(approximate.captions[name])}: rank correlation with the exact sweep"
        f" ({exact.seconds:.2f} s) {correlation}; furthest apart:"
    )
    axes = approximate.axes
    rows = [(*axes, "token", "approximate", "exact", "difference")]
    for miss in found.misses:
        values = (miss.approximate, miss.exact, miss.approximate - miss.exact)
        token = ""
        if axes[-1] == "position":
            pair, position = approximate.pair, miss.index[-1]
            both = (pair.clean_tokens[position], pair.corrupt_tokens[position])
            token = " / ".join(dict.fromkeys(map(token_cell, both)))
        rows.append((*map(str, miss.index), token, *(f"{value:.4f}" for value in values)))
    columns = len(axes)
    right = (*range(columns), *range(columns + 1, columns + 4))
    return f"{head}\n{table(rows, right=right)}"
