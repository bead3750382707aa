"""How results lie on disk: two files, one to compute with and one to read."""

from __future__ import annotations

import contextlib
import json
import lzma
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mingpt.files import replacing
from patching.errors import ResultError


def save(path: str | Path, arrays: dict[str, Any], fields: dict[str, Any]) -> tuple[Path, Path]:
    """Write `arrays` as .npz and `fields` as .json, both or neither; return the two paths."""
    npz, readable = result_paths(path)
    with replacing(npz) as npz_part, replacing(readable) as readable_part:
        np.savez(npz_part, **arrays)
        readable_part.write_text(readable_json(fields), encoding="utf-8")
    return npz, readable


@contextlib.contextmanager
def open_result(path: str | Path, what: str) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a result that `save` wrote; whatever its reader stumbles on is an error.

    Args:
        what: it is, for the error's words.

    Raises:
        ResultError: no such file, or not one that `save` wrote for such a result.
    """
    try:
        npz, _ = result_paths(path)
        if not zipfile.is_zipfile(npz):  # of other files NumPy says that they are unsafe
            npz.open("rb").close()
            raise ResultError(f"{npz} is no saved {what}: it is no .npz file")
        with np.load(npz, allow_pickle=False) as arrays:
            yield arrays
    except KeyError as error:
        field = str(error.args[0]).removesuffix(" is not a file in the archive")
        raise ResultError(f"{npz} is no saved {what}: it has no field {field}") from None
    except (
        *(OSError, EOFError, ValueError, TypeError, AttributeError, IndexError),
        *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, MemoryError, RecursionError),
    ) as error:
        raise ResultError(f"{path} is no saved {what}: {error}") from None


def result_paths(path: str | Path) -> tuple[Path, Path]:
    """The .npz and the .json of a result saved at `path`, which may end in either or neither."""
    path = Path(path)
    stem = path.name.removesuffix(".npz").removesuffix(".json")  # a name may hold other dots
    return path.with_name(stem + ".npz"), path.with_name(stem + ".json")


def to_json_lists(values: np.ndarray | list | float) -> list | float | None:
    """An array as nested lists, None where a number is not finite."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [to_json_lists(part) for part in values]
    return values if math.isfinite(values) else None


def readable_json(fields: dict[str, Any]) -> str:
    """JSON with a line for each field, and for each row of an array that is called "values"."""

    def dumps(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    def rows(values: list) -> str:
        return "[\n  " + ",\n  ".join(map(dumps, values)) + "\n]"

    def lines(items: dict[str, Any]) -> str:
        return "{\n" + ",\n".join(f"{dumps(k)}: {text(k, v)}" for k, v in items.items()) + "\n}"

    def text(name: str, value: Any) -> str:
        if name == "values":
            return rows(value)
        if name == "metrics" or (isinstance(value, dict) and "values" in value):
            return lines(value)
        return dumps(value)

    return lines(fields) + "\n"
