"""The request for a study: what is patched and read for every pair. No tensor is touched here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from mingpt.checks import check_whole
from mingpt.errors import ConfigError
from mingpt.sites import DEFAULT_SITE, HEAD_SITES
from patching.errors import PathError, StudyError, SweepError
from patching.paths.graph import text_of
from patching.paths.request import PathRequest
from patching.study.align import ALIGNMENTS
from patching.sweep.gaussian import DRAWS, STD, Gaussian
from patching.sweep.metrics import METRICS, Metric, parse_metrics
from patching.sweep.put import Put
from patching.sweep.request import Request

BATCH = 64  # pairs of one length that run together, and are one file on disk
MAX_MEMORY = 2**30  # bytes of a batch's runs; a fixed number, because it decides the rounding
OF_PUT = ("put", "mean_per", "put_seed")  # fields of what is put in
OF_NOISE = ("corrupt_by", "noise_std", "noise_draws", "noise_seed")  # ... of noise
OF_PATHS = ("paths", "mlps", "sender_positions", "receiver_positions")  # ... of path patching
PATHS = "paths"  # the site of a study of paths: layer x sender
RECOVERY = "recovery"  # computed from logit_diff, over all pairs


@dataclass(frozen=True)
class StudyRequest:
    """The settings of a study, apart from model and pairs; checked when they are made.

    Raises:
        StudyError: an unknown site, metric, direction or alignment, one of them twice,
            or a number out of its range.
    """

    sites: tuple[str, ...] = (DEFAULT_SITE,)
    metrics: tuple[str, ...] = ("logit_diff",)
    direction: str = "denoise"
    align: str | None = None  # a name in ALIGNMENTS; None: chosen from the pairs
    by_position: bool = False  # heads: patch each position alone, instead of all at once
    batch: int = BATCH
    max_memory: int = MAX_MEMORY
    put: str = Put.what  # what is put in: a name in PUTS
    mean_per: str = Put.per  # of a mean: a name in MEANS_PER
    put_seed: int = Put.seed  # of the prompt that is put in, of resampling
    paths: str | None = None  # receivers, as "q:9.9,9.6": path patching in place of sweeps
    mlps: str = PathRequest.mlps  # of paths
    sender_positions: str | None = None  # of paths: None for all, or "end"
    receiver_positions: str | None = None
    corrupt_by: str | None = None  # "gaussian": noise on each pair's subject, no corrupt prompt
    noise_std: str = STD  # as Gaussian.std
    noise_draws: int = DRAWS
    noise_seed: int = 0
    # The sweep of each site; made from the settings above.
    sweeps: tuple[Request, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("sites", "metrics"):
            object.__setattr__(self, name, _names(name[:-1], getattr(self, name)))
        if self.paths is not None:
            self._check_paths()
        if self.align is not None and self.align not in ALIGNMENTS:
            raise StudyError(f"no alignment {self.align!r}; there are {', '.join(ALIGNMENTS)}")
        try:
            for name in ("batch", "max_memory"):
                check_whole(name, getattr(self, name), 1)
            sweeps = tuple(
                Request(
                    site=site,
                    metric=[metric.name for metric in self.read],
                    direction=self.direction,
                    by_position=self.by_position and site in HEAD_SITES,
                    max_memory=self.max_memory,
                    put=self.put_in,
                    corrupt_by=self.noise,
                )
                for site in self.sites
                if self.paths is None
            )
        except (SweepError, ConfigError) as error:
            raise StudyError(str(error)) from None
        if (
            self.paths is None
            and self.by_position
            and not any(site in HEAD_SITES for site in self.sites)
        ):
            raise StudyError(f"by_position is for {', '.join(HEAD_SITES)}")
        object.__setattr__(self, "sweeps", sweeps)

    def _check_paths(self) -> None:
        """Check the settings of path patching; write the receivers as text_of does.

        Raises:
            StudyError: they do not exist, or go with those of a sweep.
        """
        if self.by_position or not self.put_in.is_recorded or self.corrupt_by is not None:
            raise StudyError(
                "paths go neither with by_position nor with put nor with corrupt_by: leave them out"
            )
        if self.sites not in (StudyRequest.sites, (PATHS,)):
            raise StudyError("paths have receivers and no site: leave site out")
        for name in ("sender_positions", "receiver_positions"):
            if getattr(self, name) not in (None, "end"):
                raise StudyError(
                    f"{name} is 'end' or left out, because prompts of a study differ in length"
                )
        object.__setattr__(self, "sites", (PATHS,))
        try:
            object.__setattr__(self, "paths", text_of(self.of_paths.receivers))
        except (PathError, SweepError) as error:
            raise StudyError(str(error)) from None

    @property
    def of_paths(self) -> PathRequest:
        """The request of path patching for each pair; only where `paths` is given."""
        names = [metric.name for metric in self.read]
        return PathRequest(
            self.paths or "", self.mlps, self.direction, names, self.sender_positions,
            self.receiver_positions, max_memory=self.max_memory,
        )  # fmt: skip

    @property
    def put_in(self) -> Put:
        """The thing put in, without the pairs that it is taken from."""
        return Put(self.put, per=self.mean_per, seed=self.put_seed)

    @property
    def noise(self) -> Gaussian | None:
        """The settings of the noise, with another position than any pair's; None for no noise.

        Raises:
            SweepError: a setting out of its range.
        """
        if self.corrupt_by is None:
            return None
        if self.corrupt_by != "gaussian":
            raise SweepError(f"no corruption {self.corrupt_by!r:.80}; there is gaussian")
        return Gaussian((0,), self.noise_std, self.noise_draws, self.noise_seed)

    @property
    def read(self) -> list[Metric]:
        """The metrics that are read off the runs: logit_diff in place of recovery.

        Recovery is a ratio of sums over pairs, so it is computed from them at the end. The
        recovery of a single pair would divide by its own gap, however small.
        """
        names = ["logit_diff" if name == RECOVERY else name for name in self.metrics]
        return parse_metrics(list(dict.fromkeys(names)))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings in types that JSON has."""
        fields = [one.name for one in dataclasses.fields(self) if one.init]
        if self.put_in.is_recorded:  # as in studies of 0.3, which have no such fields
            fields = [name for name in fields if name not in OF_PUT]
        if self.paths is None:
            fields = [name for name in fields if name not in OF_PATHS]
        if self.corrupt_by is None:
            fields = [name for name in fields if name not in OF_NOISE]
        values = {name: getattr(self, name) for name in fields}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> StudyRequest:
        """Read what `to_dict` returned, and ignore any other field."""
        names = [one.name for one in dataclasses.fields(cls) if one.init]
        later = (*OF_PUT, *OF_PATHS, *OF_NOISE)
        return cls(**{name: fields[name] for name in names if name in fields or name not in later})


@dataclass(frozen=True)
class Workers:
    """The processes that run a study's batches. They do not decide its numbers.

    Raises:
        StudyError: a number out of its range.
    """

    count: int = 1
    ray: str | None = None  # address of a Ray cluster; None: this machine
    gpus: float = 0.0  # of each worker

    def __post_init__(self) -> None:
        try:
            check_whole("workers", self.count, 1)
        except ConfigError as error:
            raise StudyError(str(error)) from None
        if not (isinstance(self.gpus, Real) and 0 <= self.gpus < math.inf):
            raise StudyError(f"gpus_per_worker is 0 or more, not {self.gpus!r}")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise StudyError(f"gpus_per_worker is a part of one GPU or whole ones: {self.gpus!r}")


def _names(what: str, asked: str | Sequence[str]) -> tuple[str, ...]:
    """Return names from one text with commas between them, or from a list.

    Raises:
        StudyError: none, one twice, something else than a name, or an unknown metric.
    """
    given = asked.split(",") if isinstance(asked, str) else list(asked)
    if not all(isinstance(one, str) for one in given):
        raise StudyError(f"a study takes a {what} by its name, not {given!r:.80}")
    names = tuple(one.strip() for one in given)
    again = next((name for name in names if names.count(name) > 1), None)
    if not names:
        raise StudyError(f"no {what}")
    if again is not None:
        raise StudyError(f"the {what} {again} is asked for twice")
    if what == "metric":
        other = next((name for name in names if name not in METRICS), None)
        if other is not None:
            raise StudyError(f"no metric {other!r}; there are {', '.join(METRICS)}")
    return names


def path_settings(
    paths: str | PathRequest | None,
) -> tuple[str | None, str, str | None, str | None]:
    """Return StudyRequest's paths, mlps, sender_positions and receiver_positions.

    Raises:
        StudyError: no such receivers, or positions that are a list.
    """
    if paths is None:
        return None, StudyRequest.mlps, None, None
    try:
        asked = PathRequest(paths) if isinstance(paths, str) else paths
    except PathError as error:
        raise StudyError(str(error)) from None
    if not isinstance(asked, PathRequest):
        raise StudyError(f"paths are receivers as text, or a PathRequest, not {paths!r:.80}")
    at = (asked.sender_positions, asked.receiver_positions)
    if not all(one is None or isinstance(one, str) for one in at):
        raise StudyError("positions are 'end' or left out: prompts of a study differ in length")
    return text_of(asked.receivers), asked.mlps, *at  # type: ignore[return-value]


def sender_labels(count: int) -> tuple[str, ...]:
    """Return the labels of the columns of a map of paths (count,): "0", "1", ..., "MLP"."""
    return (*map(str, range(count - 1)), "MLP")


def cut(lengths: Sequence[int], batch: int) -> list[list[int]]:
    """Return batches of pair numbers: at most `batch` pairs of one length in each.

    The cuts depend on the pairs and on `batch` alone, so that a study that goes on has the
    same batches on whatever machine.
    """
    by_length: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        by_length.setdefault(length, []).append(number)
    return [
        numbers[first : first + batch]
        for _, numbers in sorted(by_length.items())
        for first in range(0, len(numbers), batch)
    ]
