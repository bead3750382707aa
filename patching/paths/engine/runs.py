"""Record a pair's two runs, and read metrics of runs that are patched from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.model import GPT
from patching.paths.engine.record import Recorded, record
from patching.prompts import PromptPair
from patching.sweep.metrics import Metric
from patching.sweep.readout import Measured, Reader, check_unpatched
from patching.sweep.request import DIRECTIONS

OUT_OF_MEMORY = (
    "the memory is not enough; allow less (max_memory), or use shorter prompts or a narrower dtype"
)


@dataclass(frozen=True)
class Runs:
    """The two recorded runs of a pair, and what reads its metrics."""

    model: GPT
    pair: PromptPair
    base: Recorded
    source: Recorded
    finals: dict[str, Tensor]
    reader: Reader
    direction: str

    @classmethod
    def of(cls, model: GPT, pair: PromptPair, direction: str, metrics: Sequence[Metric]) -> Runs:
        """Run both prompts; the model's own recording and last logits stay as they were.

        Raises:
            SweepError: logits that are not finite, or a metric that is undefined.
        """
        recorded = {run: record(model, pair.ids(run)) for run in ("clean", "corrupt")}
        finals = {run: found.final for run, found in recorded.items()}
        reader = Reader(model, pair, metrics, finals["clean"], finals["corrupt"])
        check_unpatched(metrics, reader.readout, model.dtype)
        base, source = (recorded[run] for run in DIRECTIONS[direction])
        return cls(model, pair, base, source, finals, reader, direction)

    @property
    def at_base(self) -> Tensor:
        """The metrics (M, 1) of the unpatched base run."""
        base, _ = DIRECTIONS[self.direction]
        return {"clean": self.reader.clean, "corrupt": self.reader.corrupt}[base][:, None]

    def values(self, *shape: int) -> Tensor:
        """Return metrics (M, *shape), all NaN."""
        return self.reader.clean.new_full((len(self.reader.clean), *shape), torch.nan)

    def measured(self, values: Tensor) -> Measured:
        """Return values (M, S) or (M, S, R) with the unpatched runs' metrics."""
        reader, finals = self.reader, self.finals
        return Measured(values, reader.clean, reader.corrupt, finals["clean"], finals["corrupt"])
