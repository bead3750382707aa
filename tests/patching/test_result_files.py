"""Result files: readable JSON, and their names."""

import io
import json
import math
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from patching.errors import ResultError
from patching.result_files import (
    read_arrays,
    readable_json,
    result_paths,
    save,
    saved_checksum,
    to_json_lists,
)


def test_a_line_for_each_field_and_each_row():
    fields = {"site": "z", "values": [[1, None], [3, 4]], "metrics": {"kl": {"values": [[0]]}}}
    text = readable_json(fields)
    assert json.loads(text) == fields
    assert text == (
        '{\n"site": "z",\n"values": [\n  [1, null],\n  [3, 4]\n],\n'
        '"metrics": {\n"kl": {\n"values": [\n  [0]\n]\n}\n}\n}\n'
    )


def test_nothing_that_is_not_finite_gets_into_json():
    assert to_json_lists(np.array([[1.5, np.nan], [np.inf, 2]])) == [[1.5, None], [None, 2]]
    assert to_json_lists(-math.inf) is None
    with pytest.raises(ValueError, match="JSON"):
        readable_json({"x": math.nan})


@pytest.mark.parametrize("name", ["run", "run.npz", "run.json"])
def test_names(tmp_path, name):
    assert result_paths(tmp_path / name) == (tmp_path / "run.npz", tmp_path / "run.json")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self):
        return Path.touch, (self.sprung,)


@pytest.mark.parametrize("kind", ["object array", "pickled array", "pickle"])
def test_nothing_in_a_result_is_unpickled(tmp_path, kind):
    path, sprung = tmp_path / "run.npz", tmp_path / "sprung"
    trap = np.array([Trap(sprung)], dtype=object)
    if kind == "object array":
        np.savez(path, values=trap)
    elif kind == "pickled array":
        with path.open("wb") as file:
            np.save(file, trap)
    else:
        path.write_bytes(pickle.dumps(trap))
    with pytest.raises(ResultError) as refused:
        read_arrays(path, "sweep", old_field="values")
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{path} is no saved sweep: ")
    assert not sprung.exists()
    pickle.loads(pickle.dumps(trap))
    assert sprung.exists()  # it would have been seen


# --------------------------------------------------------------------- two files of one run


def saved(path: Path, number: int) -> str:
    """Save a result that holds a number; return the checksum of its .json."""
    save(path, {"number": number}, {"number": number})
    return saved_checksum(path)


def load(path: Path) -> int:
    return read_arrays(path, "sweep", old_field="arguments")["number"].item()


def refusal(path: Path) -> str:
    with pytest.raises(ResultError) as refused:
        load(path)
    (line,) = str(refused.value).splitlines()
    return line


def test_files_of_two_runs_are_refused(tmp_path):
    """As two writers with the same path can leave them."""
    first, second = saved(tmp_path / "a", 1), saved(tmp_path / "b", 2)
    assert first != second
    assert (load(tmp_path / "a"), load(tmp_path / "b")) == (1, 2)
    shutil.copy(tmp_path / "b.json", tmp_path / "a.json")
    assert refusal(tmp_path / "a") == (
        f"{tmp_path / 'a.npz'} and {tmp_path / 'a.json'} are of two runs: the .json names another"
        " .npz; run again, or remove the .json, and the .npz is read alone"
    )
    (tmp_path / "a.json").unlink()
    assert load(tmp_path / "a") == 1


@pytest.mark.parametrize("is_first", [True, False])
def test_a_kill_between_the_two_moves_is_seen(tmp_path, monkeypatch, is_first):
    """The process ends once one file is in its place; nothing can be cleaned up."""
    if not is_first:
        saved(tmp_path / "x", 1)

    class Killed(BaseException):
        pass

    replace, moved = Path.replace, []

    def move(self, target):
        moved.append(replace(self, target))
        raise Killed

    monkeypatch.setattr(Path, "replace", move)
    with pytest.raises(Killed):
        saved(tmp_path / "x", 2)
    assert len(moved) == 1
    assert ("No such file" if is_first else "are of two runs") in refusal(tmp_path / "x")


def test_a_json_that_was_changed_is_named(tmp_path):
    saved(tmp_path / "x", 1)
    text = (tmp_path / "x.json").read_text()
    for changed in (text.replace("1", "2", 1), text[:-1], "{}", "[" * 9999):
        (tmp_path / "x.json").write_text(changed)
        assert refusal(tmp_path / "x") == (
            f"{tmp_path / 'x.json'} is no saved sweep: it was changed after it was saved: its"
            " checksum is another (without it, x.npz is read alone)"
        )


def test_a_file_without_a_checksum_is_only_one_of_version_01(tmp_path):
    np.savez(tmp_path / "x.npz", number=1)
    assert "it has no checksum" in refusal(tmp_path / "x")
    np.savez(tmp_path / "x.npz", number=1, arguments="{}")
    assert load(tmp_path / "x") == 1
    (tmp_path / "x.json").write_text("what version 0.1 wrote is not read")
    assert load(tmp_path / "x") == 1
    saved(tmp_path / "y", 2)
    shutil.copy(tmp_path / "y.json", tmp_path / "x.json")
    assert "are of two runs" in refusal(tmp_path / "x")


# --------------------------------------------------------------------- hostile .npz files


def npy(header: str, content: bytes = b"") -> bytes:
    """Return a .npy with any header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (400000000,), }\n"
HOSTILE = {
    "a zip bomb": ({"a.npy": np.zeros(10**6).tobytes()}, zipfile.ZIP_DEFLATED, "is compressed"),
    "a shape without its numbers": ({"a.npy": npy(HUGE)}, zipfile.ZIP_STORED, "another length"),
    "a negative shape": (
        {"a.npy": npy(HUGE.replace("400", "-4"))}, zipfile.ZIP_STORED, "another length",
    ),
    "no header": ({"a.npy": b""}, zipfile.ZIP_STORED, "EOF"),
    "a deep header": ({"a.npy": npy("(" * 9000)}, zipfile.ZIP_STORED, ""),
    "objects": (
        {"a.npy": npy(HUGE.replace("<f8", "|O"), b"x" * 8)}, zipfile.ZIP_STORED, "holds object",
    ),
    "a structure": (
        {"a.npy": npy(HUGE.replace("'<f8'", "[('a', '<f8')]"))}, zipfile.ZIP_STORED, "neither",
    ),
    "another version": (
        {"a.npy": b"\x93NUMPY\x03\x00" + npy(HUGE)[8:]}, zipfile.ZIP_STORED, "does not write",
    ),
    "a field twice": ({"a.npy": npy(HUGE), "a": b""}, zipfile.ZIP_STORED, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_npz_is_refused(tmp_path, name):
    entries, compression, message = HOSTILE[name]
    with zipfile.ZipFile(tmp_path / "x.npz", "w", compression) as file:
        for entry, content in entries.items():
            file.writestr(entry, content)
    assert message in refusal(tmp_path / "x")


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    """A zip's directory can name the same bytes many times, to unpack far more than it has."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a.npy", npy(HUGE.replace("400000000", "1000"), bytes(8000)))
        (one,) = file.filelist
        file.filelist = [one] * 100
    (tmp_path / "x.npz").write_bytes(stream.getvalue())
    assert "states more bytes than it has" in refusal(tmp_path / "x")
