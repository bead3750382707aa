"""Save a result as two files: an .npz to compute with, and a .json to read.

The .npz holds a checksum of its arrays. The .json ends in a checksum of its own text, and
names the SHA-256 of the .npz that was saved with it. So a file that was changed, and two files
of different runs, are refused when they are read. A figure names the checksum of its .json.

A checksum shows damage and mistakes; whoever wants to deceive can compute it anew. So the wings
check every field as well (result_checks.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import struct
import tokenize
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mingpt.files import replacing
from patching.errors import ResultError
from patching.interrupts import held
from patching.result_checks import FieldError

CONTENT_CHECKSUM = "content_sha256"  # in the .npz: of its other entries
NPZ_CHECKSUM = "npz_sha256"  # in the .json: of the .npz file
TEXT_CHECKSUM = "text_sha256"  # in the .json: of its text before this field
_TEXT_END = f',\n"{TEXT_CHECKSUM}": "'.encode()
_CHANGED = "it was changed after it was saved: its checksum is another"

# Errors of zipfile, NumPy and json when they read a damaged or hostile file.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    ArithmeticError,
    SyntaxError,
    MemoryError,
    RuntimeError,  # RecursionError, NotImplementedError
    UserWarning,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
)


# --------------------------------------------------------------------- writing


def save(path: str | Path, arrays: Mapping[str, Any], fields: dict[str, Any]) -> tuple[Path, Path]:
    """Write `arrays` as .npz and `fields` as .json, both or neither; return the two paths."""
    npz, readable = result_paths(path)
    entries = {name: np.asarray(value) for name, value in arrays.items()}
    entries[CONTENT_CHECKSUM] = np.asarray(content_checksum(entries))
    # The .json is moved to its place first. A process that is killed before it moves the .npz
    # leaves a .json that names another .npz than the one beside it. Ctrl-C waits for both moves.
    with held(), replacing(npz) as npz_part, replacing(readable) as readable_part:
        np.savez(npz_part, allow_pickle=False, **entries)
        named = {NPZ_CHECKSUM: hashlib.sha256(npz_part.read_bytes()).hexdigest()}
        readable_part.write_bytes(_signed(readable_json(fields | named)))
    return npz, readable


def save_text(path: str | Path, fields: dict[str, Any]) -> Path:
    """Write `fields` as .json alone; return its path."""
    _, readable = result_paths(path)
    with replacing(readable) as part:
        part.write_bytes(_signed(readable_json(fields)))
    return readable


def result_paths(path: str | Path) -> tuple[Path, Path]:
    """Return the .npz and the .json of a result.

    Args:
        path: where it is saved, with the suffix .npz or .json, or without either.
    """
    path = Path(path)
    stem = path.name.removesuffix(".npz").removesuffix(".json")  # a name may hold other dots
    return path.with_name(stem + ".npz"), path.with_name(stem + ".json")


def content_checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 (hex) of all arrays' names, dtypes, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _signed(text: str) -> bytes:
    """Return the bytes of a JSON object with a checksum of all that stands before it."""
    body = text.removesuffix("\n}\n").encode("ascii" if text.isascii() else "utf-8")
    return body + _TEXT_END + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


# --------------------------------------------------------------------- reading


@contextlib.contextmanager
def refused(
    path: str | Path, what: str, errors: tuple[type[Exception], ...] = (FieldError,)
) -> Iterator[None]:
    """Raise ResultError, which names the file, for an error that comes from its content.

    Args:
        what: the kind of result, for the message: "sweep".
        errors: the errors that come from the content.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy warns of odd headers, zipfile of odd names
            yield
    except errors as error:
        words = str(error) or type(error).__name__
        raise ResultError(f"{path} is no saved {what}: {words}") from None


def read_arrays(path: str | Path, what: str, *, old_field: str) -> dict[str, np.ndarray]:
    """Return the arrays of a result that `save` wrote, after checking its two files.

    An .npz without its .json beside it is read alone.

    Args:
        path: with the suffix .npz or .json, or without either.
        what: the kind of result, for messages: "sweep".
        old_field: a field that only version 0.1 wrote; its files have no checksum.

    Raises:
        ResultError: no such file, another kind of file, a changed one, or the two files are of
            different runs.
    """
    with refused(path, what, _UNREADABLE):
        npz, readable = result_paths(path)
    with refused(npz, what, _UNREADABLE):
        content = _content_of(npz)
        arrays = _unpacked(content)
        stated = arrays.pop(CONTENT_CHECKSUM, None)
        if stated is None and old_field not in arrays:
            raise FieldError("it has no checksum")
        if stated is not None and stated.tolist() != content_checksum(arrays):
            raise FieldError(_CHANGED)
    with refused(readable, what, _UNREADABLE):
        text = _content_of(readable) if readable.exists() else b""
        names = _fields_of(text).get(NPZ_CHECKSUM) if _is_signed(text) else None
        if text and stated is not None and not _is_signed(text):
            raise FieldError(f"{_CHANGED} (without it, {npz.name} is read alone)")
    if _is_signed(text) and names != hashlib.sha256(content).hexdigest():
        raise ResultError(
            f"{npz} and {readable} are of two runs: the .json names another .npz; run again, or"
            " remove the .json, and the .npz is read alone"
        )
    return arrays


def read_fields(path: str | Path, what: str, *, new_field: str) -> dict[str, Any]:
    """Return the fields of a .json that `save_text` wrote, after checking its text.

    Args:
        path: the file.
        what: the kind of result, for messages.
        new_field: a field that version 0.1 did not write; its files have no checksum.

    Raises:
        ResultError: there is no such file, it is another kind of file, or a changed one.
    """
    with refused(path, what, _UNREADABLE):
        text = _content_of(Path(path))
        fields = _fields_of(text)
        if not _is_signed(text) and (new_field in fields or TEXT_CHECKSUM in fields):
            raise FieldError(_CHANGED)
        return fields


def saved_checksum(path: str | Path) -> str:
    """Return the checksum of a result's .json, by which its figures name it.

    Raises:
        ResultError: there is no such file, or it has no checksum.
    """
    _, readable = result_paths(path)
    with refused(readable, "result", _UNREADABLE):
        text = _content_of(readable)
        if not _is_signed(text):
            raise FieldError("it has no checksum")
        return str(_fields_of(text)[TEXT_CHECKSUM])


def _content_of(path: Path) -> bytes:
    """Return the bytes of a regular file: a pipe or a device could block, or never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise FieldError("it is no regular file")
    return path.read_bytes()


def _unpacked(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz; unpack nothing that is larger than the file itself."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise FieldError("it is no .npz file")
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
            raise FieldError("it is compressed, and `save` compresses nothing")
        if sum(one.file_size for one in entries) > len(content):
            raise FieldError("it states more bytes than it has")
        for one in entries:
            name = one.filename.removesuffix(".npy")
            if name in arrays:
                raise FieldError(f"it has two fields {name}")
            arrays[name] = _array(name, archive.read(one))
    return arrays


def _array(name: str, content: bytes) -> np.ndarray:
    """Return the array of a .npy, once its header agrees with its length.

    Raises:
        FieldError: it holds objects, which would be unpickled, or another number of bytes.
    """
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise FieldError(f"its field {name} has a header that `save` does not write")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in "bifU":
        raise FieldError(f"its field {name} holds {dtype}, neither numbers nor text")
    if (
        min(shape, default=0) < 0
        or math.prod(shape) * dtype.itemsize != len(content) - stream.tell()
    ):
        raise FieldError(f"its field {name} has another length than it states")
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def _is_signed(text: bytes) -> bool:
    """Return True if a JSON text ends in its own checksum."""
    body, _, end = text.rpartition(_TEXT_END)
    return end == hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def _fields_of(text: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object."""

    def constant(name: str) -> None:
        raise FieldError(f"it holds {name}, which is no number")

    fields = json.loads(text.decode("utf-8"), parse_constant=constant)
    if not isinstance(fields, dict):
        raise FieldError("it is no JSON object")
    return fields


# --------------------------------------------------------------------- fields of an .npz


def scalar(arrays: Mapping[str, np.ndarray], name: str) -> Any:
    """Return a field that holds a single number or text, as Python's type.

    Raises:
        FieldError: there is no such field, or it holds several.
    """
    if name not in arrays:
        raise FieldError(f"it has no field {name}")
    if arrays[name].shape != ():
        raise FieldError(f"its field {name} has the shape {arrays[name].shape}, not ()")
    return arrays[name].item()


def structured(arrays: Mapping[str, np.ndarray], name: str) -> Any:
    """Return a field that holds JSON text.

    Raises:
        FieldError: there is no such field, or it holds something else.
    """
    value = scalar(arrays, name)
    try:
        return json.loads(value)
    except (TypeError, ValueError, RecursionError):
        raise FieldError(f"its field {name} is not JSON") from None


# --------------------------------------------------------------------- readable JSON


def to_json_lists(values: Any) -> Any:
    """Return an array as nested lists, with None for every number that is not finite."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list | tuple):
        return [to_json_lists(part) for part in values]
    return values if math.isfinite(values) else None


def readable_json(fields: dict[str, Any]) -> str:
    """Return JSON with a line for each field, and for each row of an array called "values".

    Letters of any script stand as they are. Characters that are not printable, such as those
    that turn the direction of a line, are escaped.

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
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() else re.sub(r"[^\x20-\x7e]", _printable, text)


def _printable(match: re.Match[str]) -> str:
    r"""Return a character, or its escape (\u202e) if it is not printable."""
    char = match[0]
    return char if char.isprintable() else json.dumps(char)[1:-1]
