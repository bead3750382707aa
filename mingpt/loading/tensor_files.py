"""Read files of named tensors: safetensors, shards with an index, and PyTorch's own format.

Nothing is ever unpickled: torch.load is called with weights_only=True, and only
in versions of PyTorch where that is safe. Data is mapped into memory: a tensor's
bytes are read from the disk only when it is used.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mingpt.errors import CheckpointError, FileError
from mingpt.files import check_readable, contained, read_text
from mingpt.memory import enough_memory

# In earlier versions a crafted file can run code or corrupt memory even with
# weights_only=True (CVE-2025-32434, CVE-2026-24747).
_SAFE_TORCH_LOAD = (2, 10)
MOST_INDEX_BYTES = 10**7  # of an index of shards: a name or two for each of 100,000 tensors
# Of the pickle in a file that torch.save wrote: 200 bytes for each of 80,000 tensors.
MOST_PICKLE_BYTES = 1 << 24
# What allocates as many bytes as a pickle asks for, of all that torch.load's
# weights_only lets through. The state dict of a GPT needs none of them.
_ALLOCATING = re.compile(
    r"(__builtin__|builtins) bytearray|torch(\.\w+)? \w*Tensor|torch\.storage .*"
)
# The types that are supported, as safetensors names them.
KINDS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_KIND_OF = {dtype: kind for kind, dtype in KINDS.items()}


@dataclass(frozen=True)
class Header:
    """Shape, type, size and layout of a tensor, known before its data is read."""

    shape: tuple[int, ...]
    kind: str  # F16, BF16, F32, F64; anything else is not supported
    nbytes: int
    is_mappable: bool  # the numbers are in order and aligned, so that nothing is copied


def write(tensors: Mapping[str, Tensor], path: Path, header: dict[str, str]) -> None:
    """Write tensors as safetensors.

    Args:
        header: texts that the file keeps beside them.

    Raises:
        FileError: the file cannot be written, or the disk is full.
    """
    try:
        save_file({name: x.contiguous() for name, x in tensors.items()}, path, header)
    except SafetensorError as error:  # in which the library wraps the system's own
        raise FileError(f"{path.parent} cannot be written: {error}") from None


class Container(Protocol):
    """Named tensors in one file or several."""

    path: Path  # named in messages

    def headers(self) -> dict[str, Header]:
        """Return every tensor's header by name."""

    def tensors(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Return these tensors, on the CPU; where possible, as views of the mapped file.

        Each call maps the file anew. The memory is freed when the returned
        tensors are.
        """


class SafetensorsFile:
    """One .safetensors file.

    Raises:
        CheckpointError: (from every method) the file is missing, unreadable or
            not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def headers(self) -> dict[str, Header]:
        """Return every tensor's header by name."""
        with self._opened() as file, self.path.open("rb") as raw:
            start = 8 + int.from_bytes(raw.read(8), "little")  # of the data, in bytes
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            return {
                key: _header(tuple(one.get_shape()), one.get_dtype(), start)
                for key, one in slices.items()
            }

    def tensors(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Return views of the mapped file; a write to one stays in memory."""
        with self._opened() as file:
            return {key: file.get_tensor(key) for key in keys}

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        check_readable(self.path, CheckpointError)
        try:
            with safe_open(self.path, framework="pt") as file:
                yield file
        except SafetensorError as error:
            raise CheckpointError(f"{self.path} is no whole safetensors file: {error}") from None
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error}") from None


class TorchFile:
    """A state dict in a file that torch.save wrote.

    Args:
        path: the file.
        entry: the key of the state dict in the file's dict; None if the file is
            the state dict itself.
        loaded: load_torch's result for the file, if the caller has it.

    Raises:
        CheckpointError: there is no state dict.
    """

    def __init__(self, path: Path, entry: str | None = None, loaded: Any = None) -> None:
        self.path = path
        self.entry = entry
        self._read: dict[str, Tensor] | None = None
        check_readable(path, CheckpointError)
        if not zipfile.is_zipfile(path):  # the format before 1.6 can only be read
            self._read = self._state(load_torch(path) if loaded is None else loaded)

    def headers(self) -> dict[str, Header]:
        """Return every tensor's header by name."""
        return {key: self._header(key, tensor) for key, tensor in self._load().items()}

    def tensors(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Return views of the mapped file; a write to one stays in memory."""
        state = self._load()
        return {key: state[key] for key in keys}

    def _header(self, key: str, tensor: Tensor) -> Header:
        is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if tensor.is_nested or tensor.is_quantized or not is_plain:
            return _header((), "no plain tensor", None)
        size = tensor.element_size()
        held = tensor.untyped_storage().nbytes() - size * tensor.storage_offset()
        if held < size * tensor.numel():  # a stride of 0 makes a large tensor of one number
            raise CheckpointError(
                f"{self.path}: {key} has the shape {tuple(tensor.shape)}, but the file holds"
                f" {max(0, held // size)} numbers for it"
            )
        kind = _KIND_OF.get(tensor.dtype, str(tensor.dtype))
        start = tensor.data_ptr() if tensor.is_contiguous() else None
        return _header(tuple(tensor.shape), kind, start)

    def _load(self) -> dict[str, Tensor]:
        return self._state(load_torch(self.path)) if self._read is None else self._read

    def _state(self, loaded: Any) -> dict[str, Tensor]:
        state = loaded if self.entry is None else loaded.get(self.entry)
        if not is_state_dict(state):
            where = self.path if self.entry is None else f"{self.path}: {self.entry!r}"
            raise CheckpointError(f"{where} is no state dict: names and tensors")
        return state


class Shards:
    """Several files and the index that lists them.

    Args:
        path: the index.
        root: the folder that the files must be in after links are followed;
            None allows any place.

    Raises:
        CheckpointError: the index is damaged, a shard is missing or outside
            `root`, or two shards hold the same tensor.
    """

    def __init__(self, path: Path, root: Path | None = None) -> None:
        self.path = path
        self._part_of: dict[str, Container] = {}
        self._headers: dict[str, Header] = {}
        for name in shard_names(path):
            part = one_file(contained(path.with_name(name), root))
            for key, header in part.headers().items():
                if key in self._headers:
                    raise CheckpointError(f"{path}: two of its files hold {key}")
                self._headers[key], self._part_of[key] = header, part

    def headers(self) -> dict[str, Header]:
        """Return every tensor's header by name."""
        return self._headers

    def tensors(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Return views of the mapped files; a write to one stays in memory."""
        wanted: dict[Container, list[str]] = {}
        for key in keys:
            wanted.setdefault(self._part_of[key], []).append(key)
        parts = [part.tensors(some) for part, some in wanted.items()]
        return {key: tensor for part in parts for key, tensor in part.items()}


def open_container(path: Path, root: Path | None = None) -> Container:
    """Return the container for a file, chosen by suffix: index, safetensors or PyTorch's.

    Args:
        root: see Shards.

    Raises:
        CheckpointError: the file cannot be opened.
    """
    return Shards(path, root) if path.suffix == ".json" else one_file(path)


def one_file(path: Path) -> Container:
    """Return the container for a single file, chosen by suffix.

    Raises:
        CheckpointError: the file cannot be opened.
    """
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def shard_names(index: Path) -> list[str]:
    """Return the names of the files that an index lists; they are beside it.

    Raises:
        CheckpointError: the file cannot be read, is no index, or lists something that is not
            the name of a shard.
    """
    text = read_text(index, MOST_INDEX_BYTES, CheckpointError)
    try:
        weight_map = json.loads(text)["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of shards: {error!r}") from None
    strange = [name for name in names if not _is_shard_name(name)]
    if strange or not names:
        raise CheckpointError(f"{index} is no index of shards: it lists {strange or 'nothing'}")
    return names


def load_torch(path: Path) -> Any:
    """Read a file that torch.save wrote, if it holds only tensors and plain values.

    Its data is mapped into memory where the format allows it.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or holds anything else.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _SAFE_TORCH_LOAD:
        raise CheckpointError(
            f"{path} is only read with PyTorch 2.10 or newer: in {torch.__version__} a crafted"
            " file of this format can run code (CVE-2025-32434, CVE-2026-24747)"
        )
    check_readable(path, CheckpointError)
    try:
        with warnings.catch_warnings(), enough_memory(CheckpointError(f"{path}: out of memory")):
            warnings.simplefilter("ignore")
            _check_pickles(path)
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except CheckpointError:
        raise
    except Exception:  # of many types, whose messages advise weights_only=False
        raise CheckpointError(
            f"{path} is no whole PyTorch file, or holds more than tensors and plain values;"
            " nothing is ever unpickled"
        ) from None


def _check_pickles(path: Path) -> None:
    """Raise ValueError for a damaged file, or one that would allocate more than it holds."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ValueError("torch.save compresses nothing")
            # PyTorch takes a mapped tensor's place from a header that it does not check.
            if (name := archive.testzip()) is not None:
                raise ValueError(f"{name} is not what was saved")
            found = [record for record in records if record.filename.endswith("data.pkl")]
            if sum(record.file_size for record in found) > MOST_PICKLE_BYTES:
                raise ValueError("the pickle is too large")
            pickles = [io.BytesIO(archive.read(record)) for record in found]
    else:  # before PyTorch 1.6: a magic number, a version, the system, the state dict
        with path.open("rb") as file:
            pickles = [io.BytesIO(file.read(MOST_PICKLE_BYTES))] * 4
    for pickle in pickles:
        for code, argument, _ in pickletools.genops(pickle):
            if code.name == "GLOBAL" and _ALLOCATING.fullmatch(str(argument)):
                raise ValueError(f"{argument} is in the pickle")


def is_state_dict(state: object) -> bool:
    """Return True if `state` is a non-empty dict of names and tensors."""
    return (
        isinstance(state, dict)
        and bool(state)
        and all(isinstance(key, str) and isinstance(x, Tensor) for key, x in state.items())
    )


def _is_shard_name(name: object) -> bool:
    if not isinstance(name, str):
        return False
    return re.fullmatch(r"\w[\w.-]*\.(?:safetensors|bin)", name, re.ASCII) is not None


def _header(shape: tuple[int, ...], kind: str, start: int | None) -> Header:
    """Return the header of a tensor whose data starts at a byte; None if it is not in order."""
    itemsize = KINDS[kind].itemsize if kind in KINDS else 1  # other kinds are refused later
    is_mappable = start is not None and start % itemsize == 0
    return Header(shape, kind, itemsize * math.prod(shape), is_mappable)
