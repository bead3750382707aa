"""Write a verification as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from patching.cli.common.tables import table
from patching.text import escaped
from patching.verification.identities import IDENTITY
from patching.verification.result import Row, Verification


def report(found: Verification) -> Iterator[str]:
    """Yield the table of rows, the sources, what was not checked, and the outcome."""
    sources = list(dict.fromkeys(row.source for row in found.rows if row.source != IDENTITY))
    numbers = {source: f" [{number}]" for number, source in enumerate(sources, 1)}
    rows: list[tuple[str, ...]] = [
        ("ok", "difference", "allowed", "published", "ours", "figure or identity")
    ]
    rows += [(*_cells(row), escaped(row.what) + numbers.get(row.source, "")) for row in found.rows]
    yield table(rows, right=(1, 2, 3, 4))
    if sources:
        yield "\n".join(f"[{n}] {escaped(source)}" for n, source in enumerate(sources, 1))
    if found.notes:
        yield "\n".join(map(escaped, found.notes))
    yield outcome(found)


def outcome(found: Verification) -> str:
    """Return a line with the number of rows that hold, and the time."""
    count = len(found.rows)
    held = f"all {count} rows hold" if found.ok else f"{len(found.off)} of {count} rows are OFF"
    return f"{held}; {found.seconds:.1f} s"


def line(row: Row) -> str:
    """Return a row as one line, for a row that is off."""
    where = f" at {row.place}" if row.place else ""
    return (
        f"{'ok' if row.ok else 'OFF'}: {escaped(row.what)} ({escaped(row.source)}): published"
        f" {row.published:.7g}, ours {row.ours:.7g}{where}; they differ by {row.difference:.2g},"
        f" allowed {row.allowed:.2g} ({row.because})"
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        "yes" if row.ok else "OFF",
        f"{row.difference:.2g}",
        f"{row.allowed:.2g}",
        f"{row.published:z.5g}",
        f"{row.ours:z.5g}",
    )
