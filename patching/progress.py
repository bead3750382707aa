"""Progress: functions that report the work done, and bars on stderr that show it."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from patching.interrupts import check_interrupted

if TYPE_CHECKING:
    from tqdm import tqdm

Progress = Callable[[int, int], None]  # (work done, work in all; 0 where that is not known)
SECONDS_BEFORE_A_BAR = 1.0
BYTES = {"unit": "B", "unit_scale": True}
SHARE = {"bar_format": "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"}


def steps(progress: Progress | None, total: int) -> Callable[..., None]:
    """Return a function that adds to the work done and reports the sum to `progress`.

    It raises KeyboardInterrupt if a command was interrupted and a library swallowed that.

    Example:
        step = steps(print, 3)  # prints 0 3
        step(2)  # prints 2 3
    """
    done = 0

    def step(more: int = 1) -> None:
        nonlocal done
        check_interrupted()
        done += more
        if progress is not None:
            progress(done, total)

    step(0)
    return step


@contextlib.contextmanager
def progress_or_bar(progress: Progress | bool | None, label: str) -> Iterator[Progress | None]:
    """Yield `progress` if it is a function, or else a function that draws a bar.

    Args:
        progress: a function; None for a bar, where one can be shown; False for
            None to be yielded.
        label: the text before the bar.
    """
    if callable(progress):
        yield progress
        return
    with bar(label, quiet=progress is False) as own:
        yield own


@contextlib.contextmanager
def bar(label: str, *, quiet: bool = False, in_bytes: bool = False) -> Iterator[Progress | None]:
    """Yield a progress function that draws a bar on stderr once a second has passed.

    Yield None if `quiet`, and outside a notebook if stderr is not a terminal.

    Args:
        label: the text before the bar.
        in_bytes: the amounts are bytes, to be shown as MB and MB/s.
    """
    if quiet or not (_in_a_notebook() or sys.stderr.isatty()):
        yield None
        return
    bars: list[tqdm] = []

    def progress(done: int, total: int) -> None:
        from tqdm.auto import tqdm  # in a notebook, a widget

        known = total or None
        if not bars or bars[0].total != known:  # the first file, or the next one
            for old in bars:
                old.close()
            look = BYTES if in_bytes else SHARE
            bars[:] = [
                tqdm(
                    total=known,
                    desc=label,
                    delay=SECONDS_BEFORE_A_BAR,
                    leave=False,
                    **look,
                    **_terminal(),
                )
            ]
        bars[0].update(done - bars[0].n)

    try:
        yield progress
    finally:
        for old in bars:
            old.close()


def _terminal() -> dict[str, Any]:
    """Return the bar's size on a terminal; a notebook's widget has its own."""
    if _in_a_notebook():
        return {}
    size = shutil.get_terminal_size()  # 80 x 24 if the terminal reports 0 x 0
    return {"ncols": size.columns, "nrows": size.lines, "file": sys.stderr}


def _in_a_notebook() -> bool:
    """Return True if this process is a Jupyter kernel."""
    return "ipykernel" in sys.modules
