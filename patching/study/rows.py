"""Read the rows of a CSV, TSV, JSONL or JSON file. What the columns mean is decided elsewhere."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingpt.files import check_readable, expanded
from patching.errors import PairsError
from patching.text import shortened

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FORMATS = (*DELIMITERS, ".jsonl", ".json")
MOST_BYTES = 2**30  # of a file; 10,000 pairs are some MB
MOST_LISTED = 20  # line numbers in a message
MOST_COLUMNS = 30  # names in a message
MOST_NESTED = 8  # objects within a row that become columns
UNNAMED = "unnamed"  # a column without a name, as pandas writes its index
# Keys under which a JSON object holds its list of rows: AutoCircuit's, the hub's viewer's.
LISTS = ("prompts", "rows", "data")


@dataclass(frozen=True)
class Row:
    """One row of a file: its place, and its cells by column."""

    place: int  # the line it begins in, from 1; in JSON the row's number, from 1
    cells: Mapping[str, Any]  # text in CSV and TSV; whatever JSON has otherwise


@dataclass(frozen=True)
class Table:
    """The rows of a file."""

    path: Path
    format: str  # "csv", "tsv", "jsonl" or "json"
    unit: str  # what a row's place counts: "line" or "row"
    sha256: str  # of the file's bytes, hex
    columns: tuple[str, ...]  # every column that occurs, in order
    rows: tuple[Row, ...]


def read_rows(path: str | Path) -> Table:
    """Return the rows of a file, whose format its suffix names.

    A JSON object within a row becomes columns such as "metadata.subject". Empty lines
    of CSV, TSV and JSONL are skipped.

    Raises:
        PairsError: another suffix; a file that is missing, too large, empty or not UTF-8;
            a line with another number of fields than the header, or one that is not JSON;
            two columns of one name.
    """
    path = expanded(path)
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise PairsError(f"{path}: a file of pairs ends in {', '.join(FORMATS)}")
    data = _bytes_of(path)
    text = _text_of(path, data)
    if not text.strip():
        raise PairsError(f"{path} is empty")
    if kind in DELIMITERS:
        rows = _delimited(path, text, DELIMITERS[kind])
    else:
        rows = _json_lines(path, text) if kind == ".jsonl" else _json(path, text)
    if not rows:
        raise PairsError(f"{path} has no rows")
    return Table(
        path=path,
        format=kind[1:],
        unit="row" if kind == ".json" else "line",
        sha256=hashlib.sha256(data).hexdigest(),
        columns=tuple(dict.fromkeys(name for row in rows for name in row.cells)),
        rows=tuple(rows),
    )


def listed(numbers: Iterable[int], unit: str = "line") -> str:
    """Return places in words, at most MOST_LISTED of them.

    Example:
        listed([3, 7])  # "lines 3 and 7"
        listed(range(30))  # "lines 0, 1, ..., 19 and 10 more"
    """
    several = list(numbers)
    shown = [str(number) for number in several[:MOST_LISTED]]
    if len(several) > MOST_LISTED:
        shown.append(f"{len(several) - MOST_LISTED} more")
    joined = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    return f"{unit}{'s' if len(several) > 1 else ''} {joined}"


def named_columns(columns: Iterable[str]) -> str:
    """Return names of columns in words, safe to print, at most MOST_COLUMNS of them."""
    names = [shortened(repr(name)[1:-1], 40) for name in columns]
    more = [f"{len(names) - MOST_COLUMNS} more"] * (len(names) > MOST_COLUMNS)
    return ", ".join(names[:MOST_COLUMNS] + more)


def _bytes_of(path: Path) -> bytes:
    check_readable(path, PairsError)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise PairsError(
                f"{path} is too large: a file of pairs has at most {MOST_BYTES:,} bytes"
            )
        return path.read_bytes()
    except OSError as error:
        raise PairsError(f"{path} cannot be read: {error.strerror}") from None


def _text_of(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")  # Excel begins a file with a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PairsError(
            f"{path} line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8"
        ) from None


def _delimited(path: Path, text: str, delimiter: str) -> list[Row]:
    """Return the rows of CSV (RFC 4180) or of the same with tabs."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records = _records(path, reader)
    _, header = next(records)
    names = [name.strip() or UNNAMED for name in header]
    again = sorted({name for name in names if names.count(name) > 1})
    if again:
        raise PairsError(f"{path}: two columns are called {named_columns(again)}")
    rows, others = [], []
    for line, fields in records:
        if len(fields) != len(names):
            others.append((line, len(fields)))
        else:
            rows.append(Row(line, dict(zip(names, fields, strict=True))))
    if others:
        sizes = sorted({size for _, size in others})
        raise PairsError(
            f"{path} {listed(line for line, _ in others)}:"
            f" {', '.join(map(str, sizes[:5]))} fields, but the header names {len(names)}"
        )
    return rows


def _records(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the line it begins in; empty lines are skipped."""
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise PairsError(f"{path} line {line}: {error}") from None


def _json_lines(path: Path, text: str) -> list[Row]:
    rows, broken = [], []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would cut at U+2028 too
        if not line.strip():
            continue
        try:
            found = _parsed(line)
        except ValueError:
            broken.append(number)
            continue
        if not isinstance(found, dict):
            raise PairsError(f"{path} line {number}: not a JSON object with columns as its keys")
        rows.append(Row(number, dict(_flat(found))))
    if broken:
        raise PairsError(f"{path} {listed(broken)}: not JSON, one object a line")
    return rows


def _json(path: Path, text: str) -> list[Row]:
    try:
        found = _parsed(text)
    except ValueError as error:
        raise PairsError(f"{path} is not JSON: {error}") from None
    if isinstance(found, dict):
        held = next((found[name] for name in LISTS if isinstance(found.get(name), list)), None)
        if held is None:
            raise PairsError(
                f"{path}: no list of rows; a JSON object holds it under {', '.join(LISTS)}"
            )
        found = held
    if not isinstance(found, list):
        raise PairsError(f"{path}: no list of rows")
    rows = []
    for number, one in enumerate(found, 1):
        if isinstance(one, dict) and isinstance(one.get("row"), dict):  # the hub's viewer
            one = one["row"]
        if not isinstance(one, dict):
            raise PairsError(f"{path} row {number}: not a JSON object with columns as its keys")
        rows.append(Row(number, dict(_flat(one))))
    return rows


def _parsed(text: str) -> Any:
    """Return what JSON text holds; raise ValueError for text that is not JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _flat(cells: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (column, value), with the keys of inner objects joined by dots."""
    for name, value in cells.items():
        if isinstance(value, dict) and before.count(".") < MOST_NESTED:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value
