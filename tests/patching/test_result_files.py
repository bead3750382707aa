"""Result files: readable JSON, and their names."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from patching.errors import ResultError
from patching.result_files import read_arrays, readable_json, result_paths, to_json_lists


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
