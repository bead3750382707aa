"""Altering files: bytes anywhere, or one field of JSON, of a checkpoint or of a result."""

import io
import json
import math
import random
import zipfile
from typing import Any

import numpy as np
import torch

from mingpt import GPT, GPTConfig

DEEP = "[" * 100_000
VALUES = (None, True, False, -1, 0, 1, 2, 2**24, 2**63, 10**30, 0.5, 1e308, math.nan, math.inf,
          "", "x", [], [1], [[]], {}, {"a": 1}, DEEP)  # fmt: skip


def altered_bytes(draw: random.Random, data: bytes, frail: list[range]) -> bytes:
    """Return `data` with some of its frail bytes changed, or cut or grown anywhere."""
    how = draw.choice(("flip", "flip", "bytes", "zero", "swap", "cut", "insert", "delete"))
    end, long = len(data), draw.choice((1, 2, 16, 300))
    part = draw.choice(frail)
    start = draw.choice(part)
    stop = min(start + long, part.stop)
    changed = bytearray(data)
    if how == "flip":
        changed[start] ^= 1 << draw.randrange(8)
    elif how == "bytes":
        changed[start:stop] = draw.randbytes(stop - start)
    elif how == "zero":
        changed[start:stop] = bytes(stop - start)
    elif how == "swap":
        other = draw.choice(part)
        size = min(stop - start, part.stop - other)
        first, second = changed[start : start + size], changed[other : other + size]
        changed[start : start + size], changed[other : other + size] = second, first
    elif how == "cut":
        del changed[draw.randrange(end) :]
    elif how == "insert":
        changed[start:start] = draw.randbytes(long)
    else:
        del changed[start:stop]
    return bytes(changed[: end + 300])


def edit_json(draw: random.Random, data: bytes) -> bytes:
    """Return JSON with one value replaced or left out, or one key renamed."""
    value = json.loads(data)
    return json.dumps(_edited(draw, value), ensure_ascii=False).replace(f'"{DEEP}"', DEEP).encode()


def _edited(draw: random.Random, value: Any) -> Any:
    parents: list[Any] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            parents += [one] * bool(one)
            waiting += one.values() if isinstance(one, dict) else one
    if not parents or draw.random() < 0.02:
        return draw.choice(VALUES)
    parent = draw.choice(parents)
    key = draw.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    how = draw.choice(("replace", "replace", "replace", "delete", "move"))
    if how == "replace":
        parent[key] = draw.choice(VALUES)
    elif how == "delete":
        del parent[key]
    elif isinstance(parent, dict):
        parent[key + "x"] = parent.pop(key)
    else:
        parent.insert(0, parent.pop(key))
    return value


def edit_lines(draw: random.Random, data: bytes) -> bytes:
    """Return text with one line left out, repeated, moved or made strange."""
    lines = data.decode().split("\n")
    line = lines.pop(draw.randrange(len(lines)))
    strange = ("", " ", "x", "a b c", line + line, line + " ", "\ufeff" + line, "\0", "\u2028")
    for new in draw.choice(((), (line,) * 20, (line,), (draw.choice(strange),))):
        lines.insert(draw.randrange(len(lines) + 1), new)
    return "\n".join(lines).encode()


def edit_header(draw: random.Random, data: bytes) -> bytes:
    """Return a safetensors file with its header's JSON altered."""
    size = int.from_bytes(data[:8], "little")
    header = edit_json(draw, data[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def edit_torch(draw: random.Random, data: bytes) -> bytes:
    """Return a file of torch.save with a tensor or another entry made unfit."""
    loaded = torch.load(io.BytesIO(data), weights_only=True)
    state = loaded.get("model", loaded)
    name = draw.choice(sorted(state))
    tensor = state[name]
    unfit: list[Any] = [
        None, 1, "x", [tensor], tensor.long(), tensor.bool(), tensor[None], tensor[:-1],
        tensor * math.nan, tensor.to_sparse(), tensor.to(torch.complex64),
        torch.zeros(1).expand(2**16, 2**16),
    ]  # fmt: skip
    how = draw.choice(("replace", "delete", "rename", "args", "bomb"))
    if how == "replace":
        state[name] = draw.choice(unfit)
    elif how == "delete":
        del state[name]
    elif how == "rename" or "model_args" not in loaded:
        state[name + "x"] = state.pop(name)
    elif how == "args":
        loaded["model_args"] = _edited(draw, loaded["model_args"])
    else:  # tensors that are much larger than the file
        args = loaded["model_args"]
        args["n_embd"] = 2 ** draw.choice((10, 14, 24))
        with torch.device("meta"):
            wide = GPT(GPTConfig(**args)).state_dict()
        loaded["model"] = {key: torch.zeros(1).expand(x.shape) for key, x in wide.items()}
    saved = io.BytesIO()
    torch.save(loaded, saved)
    return saved.getvalue()


def edit_npz(draw: random.Random, data: bytes) -> bytes:
    """Return an .npz file with one of its arrays altered or left out."""
    arrays = dict(np.load(io.BytesIO(data)))
    name = draw.choice(sorted(arrays))
    array = arrays.pop(name)
    if array.dtype.kind == "U" and draw.random() < 0.8:
        text = str(array)
        with_json = text[:1] in ("{", "[", '"') or text == "null"
        new = edit_json(draw, text.encode()).decode() if with_json else draw.choice(("", "x", "é"))
        arrays[name] = np.array(new)
    else:
        ones = np.ones(array.shape, dtype=np.float32)
        strange: list[Any] = [
            None, array[None], array.ravel()[:-1], ones * np.nan, ones + 1, ones.astype(bool),
            ones[..., None] * -1, "x", np.array([{}], dtype=object),
        ]  # fmt: skip
        new = draw.choice(strange)
        if new is not None:
            arrays[name] = new
    saved = io.BytesIO()
    np.savez(saved, **arrays)
    return saved.getvalue()


def whole(data: bytes) -> list[range]:
    """Return the whole file."""
    return [range(len(data))]


def header(data: bytes) -> list[range]:
    """Return the header of a safetensors file."""
    return [range(8 + int.from_bytes(data[:8], "little"))]


def not_tensors(data: bytes) -> list[range]:
    """Return the parts of a file of torch.save that hold no numbers."""
    loaded = torch.load(io.BytesIO(data), weights_only=True)
    if not zipfile.is_zipfile(io.BytesIO(data)):  # the old format ends with size and bytes of each
        return [range(len(data) - sum(8 + x.nbytes for x in loaded.values()))]
    parts, start = [], 0
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for one in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
            if "/data/" in one.filename:
                name, more = (int.from_bytes(data[one.header_offset + at :][:2], "little")
                              for at in (26, 28))  # fmt: skip
                first = one.header_offset + 30 + name + more
                parts.append(range(start, first))
                start = first + one.file_size
    return [*parts, range(start, len(data))]
