"""Run a study: sweep every pair, batch by batch, into a folder that survives a crash."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mingpt.files import expanded
from patching.errors import StudyError, SweepError, named
from patching.progress import Progress, progress_or_bar, steps
from patching.prompts import PromptPair
from patching.running import ready, versions
from patching.study import on_disk
from patching.study.align import choose_align, common_keys, position_keys
from patching.study.pairs_file import Pairs
from patching.study.request import StudyRequest, cut
from patching.study.result import Study
from patching.study.roles import Roles
from patching.sweep.engine.measure import measure
from patching.sweep.metrics import check_foil
from patching.sweep.readout import Measured, check_finite
from patching.sweep.run import OUT_OF_MEMORY, as_pairs, check_pair

if TYPE_CHECKING:
    from mingpt.model import GPT


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
        align: which positions of different pairs are the same cell: "start", "end",
            "first-diff", "last-diff" or "roles"; None: chosen from the pairs, which
            Study.why explains.
        out: the folder; None for one that vanishes with the study.
        by_position: patch heads at each position alone, not at all at once.
        batch: pairs that run together and are written as one file.
        max_memory: bytes of the runs, beside the model.
        progress: a function (pairs done, pairs in all); None for a bar; False for none.

    Raises:
        StudyError: settings that do not exist or do not fit the pairs; a folder that holds
            another study, with the difference named.
        SweepError: numbers that are not finite, or too little memory.
        FileError: the folder cannot be written.
    """
    request = StudyRequest(
        site, metric, direction, align, by_position, batch, max_memory,  # type: ignore[arg-type]
    )  # fmt: skip
    on_disk.pyarrow_parquet()  # to fail before the first run
    work = _Work(model, pairs, request)
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

    def __init__(self, model: GPT, pairs: Sequence[PromptPair], request: StudyRequest) -> None:
        self.model = model
        self.request = request
        self.given = pairs if isinstance(pairs, Pairs) else None
        try:
            self.pairs = as_pairs(pairs)
            for number, pair in enumerate(self.pairs):
                with named(number, len(self.pairs)):
                    check_pair(model, pair)
                    check_foil(request.read, pair)
        except SweepError as error:
            raise StudyError(str(error)) from None
        roles: Sequence[Roles] | None = None if self.given is None else self.given.roles
        chosen, why = choose_align(self.pairs, roles)
        self.align = request.align or chosen
        self.why = why if request.align is None else "as asked"
        self.keys = [
            position_keys(self.align, len(pair), pair.differing, roles[number] if roles else None)
            for number, pair in enumerate(self.pairs)
        ]
        common_keys(self.keys)  # to fail before the first run
        self.batches = cut([len(pair) for pair in self.pairs], request.batch)

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
        for number, batch in enumerate(self.batches):
            path = on_disk.shard_path(folder, number)
            if not path.exists():
                on_disk.write_tables(path, self._tables(batch), study)
            step(len(batch))

    def _fields(self) -> dict[str, Any]:
        keys = json.dumps([self.align, self.keys])
        report = None if self.given is None else self.given.report
        fields = {
            "schema": on_disk.SCHEMA,
            "request": self.request.to_dict(),
            "model": {"name": self.model.name, "checksum": self.model.checksum()},
            "pairs": {
                "count": len(self.pairs),
                "content": on_disk.content_hash(self.pairs),
                "alignment": on_disk.text_hash(keys),
            },
        }
        return {
            **fields,
            "id": on_disk.study_id(fields),
            "align": self.align,
            "why": self.why,
            "axes": {
                sweep.site: list(sweep.grid(self.model.config, len(self.pairs[0])).sizes.items())
                for sweep in self.request.sweeps
            },
            "batches": len(self.batches),
            "pairs_file_sha256": None if report is None else report.sha256,
            "pairs_report": None if report is None else report.to_dict(),
            "versions": versions(self.model),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
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
        if self.given is not None:
            further = self.given.columns
            columns["place"] = list(self.given.places)
            columns["further"] = [
                json.dumps({name: values[number] for name, values in further.items()})
                for number in range(len(self.pairs))
            ]
        return columns

    @torch.no_grad()
    def _tables(self, batch: Sequence[int]) -> list[Any]:
        """Return the tables of a batch's shard, after running it."""
        pairs = [self.pairs[number] for number in batch]
        names = [metric.name for metric in self.request.read]
        maps, unpatched = {}, dict[str, dict[str, np.ndarray]]()
        for sweep in self.request.sweeps:
            grids = [sweep.grid(self.model.config, len(pair)) for pair in pairs]
            with ready(self.model, SweepError(OUT_OF_MEMORY)):
                found = measure(
                    self.model,
                    pairs,
                    grids,
                    sweep.direction,
                    sweep.metrics,
                    allowed=self.request.max_memory,
                    strict=False,
                )
                for one, grid in zip(found, grids, strict=True):
                    one.check(sweep.metrics, self.model.dtype, grid.n_cells)
                unpatched = unpatched or self._unpatched(pairs, found, names)
            for place, name in enumerate(names):
                values = torch.stack([one.values[place] for one in found])  # (B, layers, ...)
                maps[sweep.site, name] = (values.cpu().double().numpy(), tuple(grids[0].axes))
        roles = None
        if self.align == "roles":
            roles = [[str(key) for key in self.keys[number]] for number in batch]
        return list(on_disk.shard_tables(batch, unpatched, maps, roles))

    def _unpatched(
        self, pairs: Sequence[PromptPair], found: Sequence[Measured], names: Sequence[str]
    ) -> dict[str, dict[str, np.ndarray]]:
        """Return run -> metric -> values (B,) of the unpatched runs.

        Two more numbers are 1 or 0: "top", the answer is the likeliest token; and
        "preferred", it is likelier than the other answer. The corrupt run's answer is the foil.
        Without a foil, what would need it is NaN.
        """
        values = {}
        for run in on_disk.UNPATCHED:
            finals = torch.stack([getattr(one, f"{run}_final") for one in found])  # (B, C)
            logits = self.model.lm_head(finals)  # (B, V)
            check_finite(logits, self.model.dtype)
            read = torch.stack([getattr(one, run) for one in found]).cpu().double()  # (B, M)
            rows = dict(zip(names, read.numpy().T, strict=True))
            rows |= {name: np.full(len(pairs), np.nan) for name in ("top", "preferred")}
            answers = [(pair.target_ids, pair.foil_ids) for pair in pairs]
            ours, theirs = zip(*(a if run == "clean" else a[::-1] for a in answers), strict=True)
            best = logits.argmax(-1).tolist()
            one, other = (_logits_of(logits, ids) for ids in (ours, theirs))
            for number, (answer, apart) in enumerate(
                zip(ours, (one - other).tolist(), strict=True)
            ):
                if answer:
                    rows["top"][number] = best[number] in answer
                if not math.isnan(apart):
                    rows["preferred"][number] = apart > 0
            values[run] = rows
        return values


def _logits_of(logits: Tensor, answers: Sequence[Sequence[int]]) -> Tensor:
    """Return the logit (B,) of each row's set of tokens; NaN for an empty one.

    Args:
        logits: (B, V).
        answers: of each row, the ids of a set.
    """
    if all(len(ids) == 1 for ids in answers):
        one = torch.tensor([ids[0] for ids in answers], device=logits.device)
        return logits.gather(1, one[:, None])[:, 0]
    rows = [row[list(ids)].logsumexp(-1) for row, ids in zip(logits, answers, strict=True)]
    return torch.stack([x if ids else x * math.nan for x, ids in zip(rows, answers, strict=True)])
