"""Reading files: those that are none, those that are too large."""

import os
import sys
from pathlib import Path

import pytest

from mingpt import CheckpointError, TokenizerError
from mingpt.files import check_readable, read_text
from mingpt.loading import config_json, tensor_files, tokenizer_files

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")


def test_a_text_is_read_as_utf_8(tmp_path):
    (tmp_path / "a.txt").write_bytes("é\n".encode())
    assert read_text(tmp_path / "a.txt", 3, CheckpointError) == "é\n"
    with pytest.raises(CheckpointError, match=r"a\.txt is too large: .* at most 2 bytes"):
        read_text(tmp_path / "a.txt", 2, CheckpointError)
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"a\.txt is not UTF-8 text: line 1"):
        read_text(tmp_path / "a.txt", 3, CheckpointError)


def test_what_is_no_file_is_named(tmp_path):
    for path, message in (
        (tmp_path, "cannot be read: it is a folder, not a regular file"),
        (tmp_path / "none", "is missing"),
        (Path("a\0b"), "cannot be read: embedded null"),
    ):
        with pytest.raises(TokenizerError, match=message):
            check_readable(path, TokenizerError)


@needs_pipes
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="it is a pipe, a device or a socket"):
        read_text(tmp_path / "pipe", 10, CheckpointError)


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no /dev")
def test_a_device_is_not_read(tmp_path):
    (tmp_path / "config.json").symlink_to("/dev/zero")  # it never ends
    with pytest.raises(CheckpointError, match="it is a pipe, a device or a socket"):
        config_json.read(tmp_path / "config.json")


def test_a_file_that_must_not_be_read_is_not_missing(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")

    def refuse(self, *arguments, **more):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # root may read whatever its mode
    with pytest.raises(CheckpointError, match=r"safetensors cannot be read: Permission denied$"):
        tensor_files.one_file(path).headers()
    with pytest.raises(CheckpointError, match=r"ckpt\.pt cannot be read: Permission denied$"):
        tensor_files.load_torch(path.rename(tmp_path / "ckpt.pt"))


@pytest.mark.parametrize(
    ("module", "limit", "read", "error"),
    [
        (config_json, "MOST_BYTES", config_json.read, CheckpointError),
        (tensor_files, "MOST_INDEX_BYTES", tensor_files.shard_names, CheckpointError),
        (tokenizer_files, "MOST_BYTES", tokenizer_files.read_tokenizer, TokenizerError),
    ],
)
def test_every_kind_of_file_has_its_limit(tmp_path, monkeypatch, module, limit, read, error):
    (tmp_path / "x.json").write_text("{}" + " " * 99)
    monkeypatch.setattr(module, limit, 100)
    with pytest.raises(error, match=r"x\.json is too large: a file of its kind has at most 100"):
        read(tmp_path / "x.json")
    if needs_pipes.args[0]:
        return
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(error, match="it is a pipe, a device or a socket"):
        read(tmp_path / "pipe.json")
