"""Files that are whole or absent: deep folders, full disks, errors of the block."""

import errno
import inspect
import sys

import pytest

from mingpt.errors import FileError
from mingpt.files import replacing


def test_a_folder_of_any_depth_is_made(tmp_path):
    path = tmp_path.joinpath(*["a"] * 400, "x.txt")
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack()) + 200)
        with replacing(path) as part:
            part.write_text("whole")
    finally:
        sys.setrecursionlimit(limit)
    assert path.read_text() == "whole"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO])
def test_a_full_disk_names_the_file(tmp_path, number):
    path = tmp_path / "x.png"
    path.write_text("old")
    with (
        pytest.raises(FileError, match=rf"^{path} cannot be written: \w"),
        replacing(path) as part,
    ):
        part.write_text("half")
        raise OSError(number, "No space left on device")  # as NumPy raises it: without a name
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_made_names_the_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"/x/y.png cannot be written: .*/file is not a folder$"):
        replacing(tmp_path / "file" / "x" / "y.png").__enter__()


@pytest.mark.parametrize("error", [ConnectionResetError(errno.ECONNRESET, "reset"), KeyError("x")])
def test_other_errors_of_the_block_stay_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, replacing(tmp_path / "x"):
        raise error
    assert caught.value is error
    assert not [*tmp_path.iterdir()]
