"""The folder of a study: study.json, pairs.parquet, and a shard of Parquet for each batch.

A file is written under another name and then moved, so it is whole or absent. A shard names
its study in its own metadata, so shards of two studies are never mixed. The columns of a shard
are pair, site, metric, layer, head, position, role, value: a row for each cell of each pair,
and under the sites "clean" and "corrupt" the metrics of the unpatched runs.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mingpt.files import replacing
from patching.errors import ResultError, StudyError
from patching.prompts import PromptPair
from patching.result_checks import check_fields, dictionary, one_of, optional, record, text, whole
from patching.result_files import read_fields, refused, save_text
from patching.study.align import ALIGNMENTS

SCHEMA = 1  # version of the folder's format
STUDY, PAIRS, SHARDS = "study.json", "pairs.parquet", "shards"
UNPATCHED = ("clean", "corrupt")  # the site of an unpatched run's metrics
COLUMNS = ("pair", "site", "metric", "layer", "head", "position", "role", "value")
REPEATING = ("site", "metric", "role")  # texts that Parquet stores once
NEEDS_PYARROW = "studies are Parquet files: pip install 'patched-mingpt[study]' (pyarrow)"
_TABLE = {
    "schema": whole(1),
    "request": dictionary,
    "model": dictionary,
    "pairs": dictionary,
    "id": text,
    "align": one_of(ALIGNMENTS),
    "why": text,
    "batches": whole(1),
    "pairs_file_sha256": optional(text),
    "pairs_report": optional(dictionary),
    "versions": dictionary,
    "created": text,
}
# Of means and resampling: how many prompts, and the file that they were read from.
_LATER = {"put_from": record({"prompts": whole(1), "file": optional(text)})}


def pyarrow_parquet() -> Any:
    """Return the module pyarrow.parquet, imported when it is first needed.

    Raises:
        StudyError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise StudyError(NEEDS_PYARROW) from None
    return parquet


# --------------------------------------------------------------------- study.json


def study_id(fields: Mapping[str, Any]) -> str:
    """Return a hash (hex) of what decides the numbers: request, model, pairs."""
    decisive = {name: fields[name] for name in ("schema", "request", "model", "pairs")}
    return text_hash(json.dumps(decisive, sort_keys=True))


def text_hash(text: str) -> str:
    """Return the SHA-256 (hex) of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(pairs: Sequence[PromptPair]) -> str:
    """Return a hash (hex) of the pairs' token ids and answers, in order."""
    digest = hashlib.sha256()
    for pair in pairs:
        parts = (pair.clean_ids, pair.corrupt_ids, pair.target_ids, pair.foil_ids)
        digest.update(json.dumps(parts).encode())
    return digest.hexdigest()


def differences(asked: Mapping[str, Any], held: Mapping[str, Any]) -> list[str]:
    """Return in words what differs between a study asked for and the one that a folder holds.

    Example:
        ["direction: noise there, denoise asked for"]
    """
    found = []
    for part in ("request", "model", "pairs"):
        for name in sorted(asked[part].keys() | held[part].keys()):
            there, here = held[part].get(name), asked[part].get(name)
            if there != here:
                what = name if part == "request" else f"{part} {name}"
                found.append(f"{what}: {_shown(there)} there, {_shown(here)} asked for")
    return found


def _shown(value: Any) -> str:
    shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{shown[:12]}..." if len(shown) == 64 else shown  # a checksum


def read_study(folder: Path) -> dict[str, Any]:
    """Return the fields of study.json.

    Raises:
        ResultError: there is none, it was changed, or it is of another version.
    """
    path = folder / STUDY
    fields = read_fields(path, "study", new_field="schema")
    with refused(path, "study"):
        later = {name: check for name, check in _LATER.items() if name in fields}
        check_fields(fields, _TABLE | later)
    if fields["schema"] != SCHEMA or fields["id"] != study_id(fields):
        raise ResultError(f"{path} is a study of another version (schema {fields['schema']})")
    return fields


def write_study(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write study.json; it is the last file of a new study, and makes it one."""
    save_text(folder / STUDY, dict(fields))


# --------------------------------------------------------------------- Parquet


def write_table(path: Path, columns: Mapping[str, Any], study: str) -> None:
    """Write columns (arrays or lists) as one Parquet file, whole or not at all."""
    pyarrow_parquet()
    import pyarrow as pa

    write_tables(path, [pa.table(dict(columns))], study)


def write_tables(path: Path, tables: Sequence[Any], study: str) -> None:
    """Write tables of the same columns, each as a row group of its own, whole or not at all.

    Args:
        study: the study's id, for the file's metadata.
    """
    parquet = pyarrow_parquet()
    schema = tables[0].schema.with_metadata({"study": study})
    sink = io.BytesIO()  # then written at once: an error is the file system's own
    with parquet.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=[name for name in REPEATING if name in schema.names],
    ) as writer:
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=max(1, len(table)))
    with replacing(path) as part:
        part.write_bytes(sink.getbuffer())


def shard_path(folder: Path, batch: int) -> Path:
    """Return the path of a batch's shard."""
    return folder / SHARDS / f"{batch:06d}.parquet"


def shard_tables(
    numbers: Sequence[int],
    unpatched: Mapping[str, Mapping[str, np.ndarray]],
    maps: Mapping[tuple[str, str], tuple[np.ndarray, tuple[str, ...]]],
    roles: Sequence[Sequence[str]] | None,
) -> Iterator[Any]:
    """Yield a shard's tables: one for each unpatched run, then one for each site and metric.

    Args:
        numbers: the B pairs of the batch.
        unpatched: run -> metric -> values (B,).
        maps: (site, metric) -> the values (B, layers, heads or positions, ...) and the names
            of the axes after the first.
        roles: the role of each pair's positions (B, T); None without roles.
    """
    pair = np.array(numbers, dtype=np.int32)
    for run in UNPATCHED:
        names = list(unpatched[run])
        yield _shard_table(
            pair=np.tile(pair, len(names)),
            site=[run] * (len(names) * len(pair)),
            metric=[name for name in names for _ in numbers],
            value=np.concatenate([unpatched[run][name] for name in names]),
        )
    for (site, metric), (values, axes) in maps.items():
        index = dict(zip(("pair", *axes), np.indices(values.shape), strict=True))
        columns: dict[str, Any] = {name: index[name].ravel() for name in axes}
        if roles is not None and "position" in axes:
            at = [index[name].ravel().tolist() for name in ("pair", "position")]
            columns["role"] = [roles[n][position] for n, position in zip(*at, strict=True)]
        yield _shard_table(
            pair=pair[index["pair"].ravel()],
            site=[site] * values.size,
            metric=[metric] * values.size,
            value=values.ravel(),
            **columns,
        )


def _shard_table(**columns: Any) -> Any:
    """Return a table with the columns of a shard; those not given are null."""
    import pyarrow as pa

    kinds = (
        pa.int32(), pa.string(), pa.string(), pa.int16(), pa.int16(), pa.int32(), pa.string(),
        pa.float64(),
    )  # fmt: skip
    count = len(columns["pair"])
    arrays = {
        name: pa.array(columns[name], type=kind) if name in columns else pa.nulls(count, kind)
        for name, kind in zip(COLUMNS, kinds, strict=True)
    }
    return pa.table(arrays)


def open_parquet(path: Path, study: str) -> Any:
    """Return a file of a study as a pyarrow ParquetFile.

    Args:
        study: the id that the file must have in its metadata.

    Raises:
        ResultError: it cannot be read, or is of another study.
    """
    parquet = pyarrow_parquet()
    import pyarrow as pa

    try:
        # Read by Python: pyarrow would take some names of files for addresses.
        file = parquet.ParquetFile(pa.BufferReader(path.read_bytes()))
    except (OSError, pa.ArrowException) as error:
        raise ResultError(f"{path} cannot be read: {_first_line(error)}") from None
    metadata = file.schema_arrow.metadata or {}
    if metadata.get(b"study", b"").decode(errors="replace") != study:
        raise ResultError(f"{path} is of another study: move it away")
    return file


def rows_of(file: Any, groups: Sequence[int], columns: Sequence[str]) -> Any:
    """Return columns of a file's row groups as a pyarrow table.

    Raises:
        ResultError: they cannot be read.
    """
    import pyarrow as pa

    try:
        return file.read_row_groups(list(groups), columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise ResultError(f"a file of the study cannot be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
