"""Run a study: sweep every pair, batch by batch, into a folder that survives a crash."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mingpt.files import expanded
from patching.errors import PathError, StudyError, SweepError, named
from patching.paths.request import PathRequest
from patching.progress import Progress, progress_or_bar, steps
from patching.prompts import PromptPair
from patching.running import versions
from patching.study import on_disk
from patching.study.align import choose_align, common_keys, position_keys
from patching.study.batch import BatchNumbers, run_batch
from patching.study.pairs_file import Pairs
from patching.study.pairs_report import PairsReport
from patching.study.request import PATHS, StudyRequest, Workers, cut, path_settings
from patching.study.result import Study
from patching.study.roles import Roles
from patching.study.rows import listed
from patching.study.subjects import settings_of
from patching.sweep.gaussian import Gaussian
from patching.sweep.metrics import check_alone, check_foil, parse_metrics
from patching.sweep.noised import standard_deviation
from patching.sweep.put import FROM_PROMPTS, Put, as_put
from patching.sweep.put_values import PutValues
from patching.sweep.run import as_pairs, check_pair

if TYPE_CHECKING:
    from mingpt.model import GPT

LEAST_PAIRS = 2  # for a mean with an interval


def run_study(
    model: GPT,
    pairs: Sequence[PromptPair],
    *,
    site: str | Sequence[str] = StudyRequest.sites,
    metric: str | Sequence[str] = StudyRequest.metrics,
    direction: str = StudyRequest.direction,
    align: str | None = StudyRequest.align,
    out: str | Path | None = None,
    by_position: bool = StudyRequest.by_position,
    batch: int = StudyRequest.batch,
    max_memory: int = StudyRequest.max_memory,
    put: str | Put = StudyRequest.put,
    paths: str | PathRequest | None = None,
    corrupt_by: Sequence[Gaussian] | None = None,
    workers: int = 1,
    ray: str | None = None,
    gpus_per_worker: float = 0,
    progress: Progress | bool | None = None,
) -> Study:
    """Sweep every pair, and return the study of all of them.

    The same call with the same `out` goes on where an earlier one stopped.

    Args:
        model: put in eval mode for the runs.
        pairs: of any lengths; from read_pairs, or a list of PromptPair.
        site: one or several names in mingpt.SITES, as a list or with commas.
        metric: one or several names in METRICS. Recovery is the ratio of means over pairs.
        direction: "denoise" (clean into corrupt) or "noise" (corrupt into clean).
        align: which positions of different pairs are one cell: "start", "end", "first-diff",
            "last-diff" or "roles"; None: chosen from the pairs, as Study.why explains.
        out: the folder; None for one that vanishes with the study.
        by_position: patch heads at each position alone, not at all at once.
        batch: pairs that run together and are written as one file.
        max_memory: bytes of the runs, beside the model.
        put: as patch_sweep; "mean" and "resample" take the study's own clean prompts.
        paths: path patching in place of sweeps of a site: receivers, as "q:9.9,9.6", or a
            PathRequest, of which receiver, mlps and positions (None or "end") count.
        corrupt_by: noise_on_subjects(pairs), in place of corrupt prompts.
        workers: processes that run batches, each with a model of its own; 1 runs them here.
        ray: the workers' Ray cluster, "auto" or "host:port"; None for this machine.
        gpus_per_worker: of each worker, which then computes on CUDA; a part of one if below 1.
        progress: a function (pairs done, pairs in all); None for a bar; False for none.

    Raises:
        StudyError: settings that do not exist or do not fit the pairs; a folder that holds
            another study, with the difference named; workers that cannot be had.
        SweepError: numbers that are not finite, or too little memory.
        FileError: the folder cannot be written.
    """
    how = put_of(put)
    request = StudyRequest(
        site, metric, direction, align, by_position, batch, max_memory,  # type: ignore[arg-type]
        how.what, how.per, how.seed, *path_settings(paths), *settings_of(corrupt_by, pairs),
    )  # fmt: skip
    places = Workers(workers, ray, gpus_per_worker)
    work = _Work(model, pairs, request, places, how, corrupt_by or ())
    with progress_or_bar(progress, "studying") as report:
        return _in_temporary(work, report) if out is None else work.study_in(expanded(out), report)


def _in_temporary(work: _Work, progress: Progress | None) -> Study:
    """Return the study in a folder that is removed with it."""
    folder = tempfile.mkdtemp(prefix="study-")
    try:
        study = work.study_in(Path(folder), progress)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(study, shutil.rmtree, folder, ignore_errors=True)
    return study


class _Work:
    """The pairs of a study, checked and cut into batches."""

    def __init__(
        self,
        model: GPT,
        pairs: Sequence[PromptPair],
        request: StudyRequest,
        workers: Workers,
        put: Put,
        noise: Sequence[Gaussian] = (),
    ) -> None:
        on_disk.pyarrow_parquet()  # to fail before the first run
        self.model = model
        self.request = request
        self.workers = workers
        self.given = pairs if isinstance(pairs, Pairs) else None
        try:
            self.pairs = as_pairs(pairs)
            self._check_pairs(noise)
            std = standard_deviation(model, self.pairs, noise) if noise else 0.0
            self.noise = tuple(replace(one, std=std, subject="") for one in noise)
            self.put_from = put.pairs
            own = tuple(self.pairs) if request.put in FROM_PROMPTS else ()
            from_where = replace(request.put_in, pairs=put.pairs or own, file=put.file)
            if request.paths is not None:
                for T in {len(pair) for pair in self.pairs}:
                    request.of_paths.paths(model.config, T)
        except (SweepError, PathError) as error:
            raise StudyError(str(error)) from None
        if len(self.pairs) < LEAST_PAIRS:
            report = None if self.given is None else self.given.report
            raise StudyError(_too_few(len(self.pairs), report))
        roles: Sequence[Roles] | None = None if self.given is None else self.given.roles
        at = [one.positions for one in noise] or [pair.differing for pair in self.pairs]
        chosen, why = choose_align(self.pairs, roles, at if noise else None)
        self.align = request.align or chosen
        self.why = why if request.align is None else "as asked"
        self.keys = [
            position_keys(self.align, len(pair), at[number], roles[number] if roles else None)
            for number, pair in enumerate(self.pairs)
        ]
        common_keys(self.keys)  # to fail before the first run
        try:
            if request.mean_per == "role" and self.align == "roles" and not put.pairs:
                from_where = replace(from_where, keys=tuple(map(tuple, self.keys)))
            self.source = PutValues(model, from_where)
            self.source.check(self.pairs)
        except SweepError as error:
            raise StudyError(str(error)) from None
        self.batches = cut([len(pair) for pair in self.pairs], request.batch)

    def _check_pairs(self, noise: Sequence[Gaussian]) -> None:
        """Check each pair for the model and the request.

        Raises:
            SweepError: a pair that does not fit them, with its number.
        """
        for number, pair in enumerate(self.pairs):
            with named(number, len(self.pairs)):
                check_pair(self.model, pair)
                check_foil(self.request.read, pair)
                if noise:
                    replace(self.request.sweeps[0], corrupt_by=noise[number]).check_runs(pair)
                elif pair.has_corrupt != self.pairs[0].has_corrupt:
                    this, first = ("one", "no") if pair.has_corrupt else ("no", "one")
                    raise SweepError(
                        f"it has {this} corrupt prompt, and pair 0 has {first}: all pairs of a"
                        " study have one, or none has"
                    )
                elif not pair.has_corrupt:
                    self._check_alone(pair)

    def _check_alone(self, pair: PromptPair) -> None:
        """Raise SweepError if the study needs the corrupt prompt that a pair has not."""
        if self.request.paths is not None:
            raise SweepError("it has no corrupt prompt, which path patching needs")
        self.request.sweeps[0].check_runs(pair)
        check_alone(parse_metrics(self.request.metrics))

    def study_in(self, folder: Path, progress: Progress | None) -> Study:
        """Begin the study in a folder or go on with it there, and return it finished."""
        self.finish(folder, self.begin(folder), progress)
        return Study.load(folder)

    def begin(self, folder: Path) -> str:
        """Write pairs.parquet and study.json, or check that the folder holds this study.

        Returns:
            The study's id.

        Raises:
            StudyError: the folder holds another study, or shards of an unknown one.
        """
        fields = self._fields()
        if (folder / on_disk.STUDY).exists():
            held = on_disk.read_study(folder)
            other = on_disk.differences(fields, held)
            if other:
                raise StudyError(
                    f"{folder} holds another study ({'; '.join(other)}): choose another folder"
                )
            return str(held["id"])
        if (folder / on_disk.SHARDS).exists():
            raise StudyError(f"{folder} has shards but no {on_disk.STUDY}: choose another folder")
        study = str(fields["id"])
        on_disk.write_table(folder / on_disk.PAIRS, self._pair_columns(), study)
        on_disk.write_study(folder, fields)
        return study

    def finish(self, folder: Path, study: str, progress: Progress | None) -> None:
        """Run and write every batch whose shard is not there yet."""
        step = steps(progress, len(self.pairs))
        paths = [on_disk.shard_path(folder, number) for number in range(len(self.batches))]
        missing = [number for number, path in enumerate(paths) if not path.exists()]
        step(len(self.pairs) - sum(len(self.batches[number]) for number in missing))
        for number, found in self._run(missing):
            tables = self._tables(self.batches[number], found)
            on_disk.write_tables(paths[number], tables, study)
            step(len(self.batches[number]))

    def _run(self, missing: Sequence[int]) -> Iterator[tuple[int, BatchNumbers]]:
        """Yield the number of each missing batch and its numbers, in any order."""
        jobs = {
            number: (
                [self.pairs[one] for one in self.batches[number]],
                [self.noise[one] for one in self.batches[number] if self.noise],
            )
            for number in missing
        }
        if self.workers == Workers():
            for number, (pairs, noise) in jobs.items():
                yield number, run_batch(self.model, pairs, self.request, self.source, noise)
        elif jobs:
            from patching.study.workers import run_on_workers

            yield from run_on_workers(self.model, jobs, self.request, self.workers, self.source.put)

    def _fields(self) -> dict[str, Any]:
        keys = json.dumps([self.align, self.keys])
        subjects = json.dumps([one.positions for one in self.noise])
        report = None if self.given is None else self.given.report
        fields = {
            "schema": on_disk.SCHEMA,
            "request": self.request.to_dict(),
            "model": {"name": self.model.name, "checksum": self.model.checksum()},
            "pairs": {
                "count": len(self.pairs),
                "content": on_disk.content_hash(self.pairs),
                "alignment": on_disk.text_hash(keys),
                **({"put_from": on_disk.content_hash(self.put_from)} if self.put_from else {}),
                **({} if self.noise or self.pairs[0].has_corrupt else {"corrupt": False}),
                **({"subjects": on_disk.text_hash(subjects)} if self.noise else {}),
            },
        }
        of_noise = {"noise_std": self.noise[0].std} if self.noise else {}
        put, of_put = self.source.put, {}
        if put.what in FROM_PROMPTS:  # for titles; the id has the prompts' content
            of_put = {"put_from": {"prompts": len(put.pairs), "file": put.file}}
        return {
            **fields,
            "id": on_disk.study_id(fields),
            **of_put,
            "align": self.align,
            "why": self.why,
            "axes": self._axes(),
            **of_noise,
            "batches": len(self.batches),
            "pairs_file_sha256": None if report is None else report.sha256,
            "pairs_report": None if report is None else report.to_dict(),
            "versions": versions(self.model),
            "workers": self.workers.count,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _axes(self) -> dict[str, list[tuple[str, int]]]:
        """Return the names and sizes of each map's axes; that of position varies."""
        config = self.model.config
        if self.request.paths is not None:
            return {PATHS: [("layer", config.n_layer), ("sender", config.n_head + 1)]}
        return {
            sweep.site: list(sweep.grid(config, len(self.pairs[0])).sizes.items())
            for sweep in self.request.sweeps
        }

    def _pair_columns(self) -> dict[str, Any]:
        """Return the columns of pairs.parquet: texts, tokens, answers, keys, the file's others."""
        columns: dict[str, Any] = {
            "pair": np.arange(len(self.pairs), dtype=np.int32),
            "length": [len(pair) for pair in self.pairs],
            "differing": [list(pair.differing) for pair in self.pairs],
            "keys": [[str(key) for key in keys] for keys in self.keys],
            "hash": [on_disk.content_hash([pair]) for pair in self.pairs],
        }
        for name in (
            "clean_text", "corrupt_text", "clean_tokens", "corrupt_tokens",
            "target_tokens", "foil_tokens", "target_ids", "foil_ids",
        ):  # fmt: skip
            values = [getattr(pair, name) for pair in self.pairs]
            columns[name] = [list(v) if isinstance(v, tuple) else v for v in values]
        if self.noise:
            columns["subject"] = [list(one.positions) for one in self.noise]
        if self.given is not None:
            further = self.given.columns
            columns["place"] = list(self.given.places)
            columns["further"] = [
                json.dumps({name: values[number] for name, values in further.items()})
                for number in range(len(self.pairs))
            ]
        return columns

    def _tables(self, numbers: Sequence[int], found: BatchNumbers) -> list[Any]:
        """Return the tables of the shard of a batch that was run."""
        roles = None
        if self.align == "roles":
            roles = [[str(key) for key in self.keys[number]] for number in numbers]
        return list(on_disk.shard_tables(numbers, found.unpatched, found.maps, roles))


def put_of(put: str | Put) -> Put:
    """Return what is put in.

    Raises:
        StudyError: an unknown name.
    """
    try:
        return as_put(put)
    except SweepError as error:
        raise StudyError(str(error)) from None


def _too_few(pairs: int, report: PairsReport | None) -> str:
    """Return that a study needs more pairs, and why rows of the file were left out."""
    said = f"a study needs {LEAST_PAIRS} pairs, and there is {pairs}"
    if report is None or not report.left_out:
        return f"{said}: patch_sweep (mingpt-patch) sweeps a single pair"
    why = "; ".join(f"{one.reason} ({listed(one.places, report.unit)})" for one in report.left_out)
    return f"{said}: {report.path} has {report.rows} rows, and left out are {why}"
