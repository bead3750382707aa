"""Draw progress bars on stderr."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator

SECONDS_BEFORE_A_BAR = 1.0
Progress = Callable[[int, int], None]  # (work done, work in all or 0 if unknown)
BYTES = {"unit": "B", "unit_scale": True}
SHARE = {"bar_format": "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"}


class Bars:
    """Progress bars on stderr; none with --quiet or if stderr is not a terminal."""

    def __init__(self, quiet: bool) -> None:
        self.shown = sys.stderr.isatty() and not quiet

    @contextlib.contextmanager
    def bar(self, label: str, *, in_bytes: bool = False) -> Iterator[Progress | None]:
        """Yield a progress function that draws a bar once a second has passed.

        Yield None if no bars are shown.

        Args:
            in_bytes: the amounts are bytes, to be shown as MB and MB/s.
        """
        if not self.shown:
            yield None
            return
        from tqdm import tqdm

        size = shutil.get_terminal_size()  # 80 x 24 if the terminal reports 0 x 0
        bars: list[tqdm] = []

        def progress(done: int, total: int) -> None:
            known = total or None
            if not bars or bars[0].total != known:  # the first file, or the next one
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
