"""Choose the number of CPU threads: as many as there are cores that no other process keeps busy.

PyTorch splits each product into equal parts, one for each thread, and waits for the last
one. A thread that shares its core with another process holds up all others: with one of two
cores busy, two threads take about twice as long as one.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")  # Linux: a line of times for each core, in ticks
SHORTEST = 0.2  # seconds: in less time, too few ticks pass
# How often GNU's OpenMP looks for work before a thread sleeps. Its default is some millions:
# then a thread that waits takes the core from the one that it waits for.
SPINS = "1000"


@dataclass(frozen=True)
class CoreTimes:
    """What the cores have done up to a moment, in seconds."""

    at: float  # the moment, by a clock that only runs forward
    busy: float  # time in which cores worked, all that this process may use together
    own: float  # time in which they worked for this process
    cores: int  # that this process may use

    @classmethod
    def now(cls) -> CoreTimes | None:
        """Return the times up to now; None on a system that does not tell."""
        try:
            lines = STAT.read_text(encoding="ascii").splitlines()
            mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        except (OSError, UnicodeDecodeError, AttributeError):
            return None
        busy = sum(_busy_ticks(line) for line in lines if line.split(" ")[0] in mine)
        times = os.times()
        ticks = os.sysconf("SC_CLK_TCK")
        return cls(time.monotonic(), busy / ticks, times.user + times.system, len(mine))


def _busy_ticks(line: str) -> int:
    """Return the ticks in which a core worked.

    Example:
        _busy_ticks("cpu0 10 1 5 900 7 0 2 0 0 0")  # 18: user, nice, system, irq, softirq
    """
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, line.split()[1:])
    return user + nice + system + irq + softirq


def free_cores(before: CoreTimes, after: CoreTimes) -> int | None:
    """Return the number of cores that other processes left free between two moments.

    Returns:
        1 or more; None if the moments are too close to tell.
    """
    seconds = after.at - before.at
    if seconds < SHORTEST:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return max(1, after.cores - round(others / seconds))


def prepare() -> CoreTimes | None:
    """Let waiting threads sleep soon; call it before PyTorch is imported.

    Returns:
        The cores' times, for `choose`.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    return CoreTimes.now()


def choose(before: CoreTimes | None) -> None:
    """Let PyTorch use the free cores, unless OMP_NUM_THREADS says how many; call it after import.

    Args:
        before: what `prepare` returned.
    """
    import torch

    after = CoreTimes.now()
    if before is None or after is None or "OMP_NUM_THREADS" in os.environ:
        return
    free = free_cores(before, after)
    if free is not None and free < torch.get_num_threads():
        torch.set_num_threads(free)
