"""Save a result as two files: an .npz to compute with, and a .json to read."""

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

# Errors when reading a file that is damaged or was not written by `save`.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    MemoryError,
    RecursionError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def save(path: str | Path, arrays: dict[str, Any], fields: dict[str, Any]) -> tuple[Path, Path]:
    """Write `arrays` as .npz and `fields` as .json, both or neither; return the two paths."""
    npz, readable = result_paths(path)
    with replacing(npz) as npz_part, replacing(readable) as readable_part:
        np.savez(npz_part, **arrays)
        readable_part.write_text(readable_json(fields), encoding="utf-8")
    return npz, readable


@contextlib.contextmanager
def open_result(path: str | Path, what: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Open a result that `save` wrote, and yield its arrays.

    An error in the block that comes from the file's content, such as a missing
    field, is raised as a ResultError.

    Args:
        path: with the suffix .npz or .json, or without either.
        what: the kind of result, for the message: "sweep".

    Raises:
        ResultError: there is no such file, or it holds no such result.
    """
    try:
        npz, _ = result_paths(path)
        if not zipfile.is_zipfile(npz):  # NumPy's own message calls other files unsafe
            npz.open("rb").close()  # raises OSError if there is no such file
            raise ResultError(f"{npz} is no saved {what}: it is no .npz file")
        with np.load(npz, allow_pickle=False) as arrays:
            yield arrays
    except KeyError as error:
        field = str(error.args[0]).removesuffix(" is not a file in the archive")
        raise ResultError(f"{npz} is no saved {what}: it has no field {field}") from None
    except _UNREADABLE as error:
        raise ResultError(f"{path} is no saved {what}: {error}") from None


def result_paths(path: str | Path) -> tuple[Path, Path]:
    """Return the .npz and the .json of a result.

    Args:
        path: where it is saved, with the suffix .npz or .json, or without either.
    """
    path = Path(path)
    stem = path.name.removesuffix(".npz").removesuffix(".json")  # a name may hold other dots
    return path.with_name(stem + ".npz"), path.with_name(stem + ".json")


def to_json_lists(values: Any) -> Any:
    """Return an array as nested lists, with None for every number that is not finite."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [to_json_lists(part) for part in values]
    return values if math.isfinite(values) else None


def readable_json(fields: dict[str, Any]) -> str:
    """Return JSON with a line for each field, and for each row of an array called "values".

    Example:
        readable_json({"site": "z", "values": [[1, 2], [3, 4]]})
        # {
        # "site": "z",
        # "values": [
        #   [1, 2],
        #   [3, 4]
        # ]
        # }
    """
    return _object_json(fields) + "\n"


def _object_json(fields: dict[str, Any]) -> str:
    """Return an object, each of its fields on a new line."""
    lines = []
    for name, value in fields.items():
        if name == "values":
            text = "[\n  " + ",\n  ".join(map(_line_json, value)) + "\n]"
        elif name == "metrics" or (isinstance(value, dict) and "values" in value):
            text = _object_json(value)
        else:
            text = _line_json(value)
        lines.append(f"{_line_json(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}"


def _line_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
