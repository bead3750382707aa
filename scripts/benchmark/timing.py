"""Time methods in turn on one device; measure the rate of large products, and peak memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmark.methods import LOOPS
from benchmark.report import Report, short
from mingpt.model import GPT
from patching.prompts import PromptPair

PRODUCT = 2048  # rows and columns of the product that the floor's rate is measured with


@dataclass(frozen=True)
class Settings:
    """The settings of a benchmark, from the command line."""

    lengths: list[int]  # tokens of the prompts
    rounds: int
    patience: float  # seconds for the rounds of one method at one length
    device: torch.device


@dataclass
class Clock:
    """Measures the seconds of a call on a device, and the rate of products there."""

    device: torch.device
    factors: torch.Tensor = field(init=False)
    product: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        size = PRODUCT if self.device.type == "cpu" else 4 * PRODUCT
        self.factors = torch.randn(size, size, device=self.device)
        self.product = self.factors @ self.factors

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the seconds of one call, waiting for the device before and after."""
        self._wait()
        started = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - started

    def rate(self) -> float:
        """Return the multiply-adds a second of one large float32 product."""

        def multiply() -> None:
            torch.mm(self.factors, self.factors, out=self.product)

        return len(self.factors) ** 3 / min(self.seconds(multiply) for _ in range(3))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Timed:
    """The results of the rounds."""

    seconds: dict[str, list[float]]  # method -> its rounds; only methods that ran
    grids: dict[str, np.ndarray]  # method -> its values
    rate: float  # multiply-adds a second, median of the rounds

    def median(self, name: str) -> float:
        """Return the median of a method's rounds in seconds."""
        return statistics.median(self.seconds[name])

    def cell(self, name: str, rounds: int) -> str:
        """Return the median for a table; for a loop, also its ratio to the fast sweep's."""
        if name not in self.seconds:
            return "not run"
        text = short(self.median(name))
        if name in LOOPS:
            text += f", {self.median(name) / self.median('fast'):.1f} x"
        count = len(self.seconds[name])
        return text if count == rounds else f"{text} ({count})"

    def apart(self) -> float:
        """Return the largest difference between any two methods in any cell."""
        return float(np.ptp(np.stack(list(self.grids.values())), axis=0).max())


def in_turn(
    clock: Clock,
    calls: Mapping[str, Callable[[], np.ndarray]],
    settings: Settings,
    report: Report,
    loop_seconds: float = 0.0,
) -> Timed:
    """Warm every call up, then run them in turn, round after round.

    Args:
        loop_seconds: estimate of a loop's round. If it is more than
            settings.patience, loops are left out. A loop gets as many of the
            rounds as fit into the patience, at least one.
    """
    seconds: dict[str, list[float]] = {}
    grids: dict[str, np.ndarray] = {}
    rounds: dict[str, int] = {}
    for name, call in calls.items():
        if name in LOOPS and loop_seconds > settings.patience:
            continue
        report.step(f"{name}: warm-up")

        def warm_up(name: str = name, call: Callable[[], np.ndarray] = call) -> None:
            grids[name] = call()

        took = clock.seconds(warm_up)
        fits = max(1, int(settings.patience / took)) if name in LOOPS else settings.rounds
        rounds[name] = min(settings.rounds, fits)
        seconds[name] = []
    rates = []
    for number in range(settings.rounds):
        rates.append(clock.rate())
        for name in seconds:
            if number < rounds[name]:
                report.step(f"{name}: round {number + 1} of {rounds[name]}")
                seconds[name].append(clock.seconds(calls[name]))
    return Timed(seconds, grids, statistics.median(rates))


@torch.no_grad()
def loop_seconds(clock: Clock, model: GPT, pair: PromptPair) -> float:
    """Estimate the seconds of a loop of one forward for each cell, from one forward."""
    ids = torch.tensor([pair.corrupt_ids], device=clock.device)
    model(ids)
    return clock.seconds(lambda: model(ids)) * model.config.n_layer * len(pair)


def peak_bytes(device: torch.device, call: Callable[[], object]) -> int | None:
    """Return the peak bytes of a call above those held before; None if the system has no count."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        clear.write_text("5")  # sets the high-water mark (VmHWM) to the present size
        before = _status(status, "VmRSS")
        call()
        return _status(status, "VmHWM") - before
    except OSError:
        return None


def _status(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
