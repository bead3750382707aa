"""Progress bars on stderr."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator

SECONDS_BEFORE_A_BAR = 1.0
Progress = Callable[[int, int], None]  # (done, in all or 0)
BYTES = {"unit": "B", "unit_scale": True}
SHARE = {"bar_format": "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"}


class Bars:
    """Progress bars on stderr: none when it is no terminal, or with --quiet."""

    def __init__(self, quiet: bool) -> None:
        self.shown = sys.stderr.isatty() and not quiet

    @contextlib.contextmanager
    def bar(self, label: str, *, in_bytes: bool = False) -> Iterator[Progress | None]:
        """A progress callback that draws once a second has passed."""
        if not self.shown:
            yield None
            return
        from tqdm import tqdm

        size = shutil.get_terminal_size()  # 80 x 24 where a terminal says 0 x 0
        bars: list[tqdm] = []

        def progress(done: int, total: int) -> None:
            known = total or None
            if not bars or bars[0].total != known:  # another file, or the first
                for old in bars:
                    old.close()
                bars[:] = [
                    tqdm(
                        total=known,
                        desc=label,
                        **(BYTES if in_bytes else SHARE),
                        delay=SECONDS_BEFORE_A_BAR,
                        leave=False,
                        ncols=size.columns,
                        nrows=size.lines,
                        file=sys.stderr,
                    )
                ]
            bars[0].update(done - bars[0].n)

        try:
            yield progress
        finally:
            for old in bars:
                old.close()
