"""The values of options: lists of indices and numbers, text files, texts that go together."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from patching.cli.common import arguments
from patching.cli.common.arguments import IndexList, number_list, parse_texts, read_lines
from patching.cli.common.command import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", [0]), ("0,3,5-7", [0, 3, 5, 6, 7]), ("-1", [9]), ("-3--1", [7, 8, 9]),
        ("7--1", [7, 8, 9]), ("3,1,1-2", [1, 2, 3]), (" 1 , 2 ", [1, 2]),
    ],
)  # fmt: skip
def test_index_lists(text, expected):
    assert IndexList(text).of("layer", 10) == expected


@pytest.mark.parametrize("text", ["", ",", "a", "1-", "--", "1.5", "10", "-11", "1-2-3", "²"])
def test_bad_index_lists(text):
    with pytest.raises((UsageError, click.BadParameter), match=r"layer|neither a number nor"):
        IndexList(text).of("layer", 10)


@pytest.mark.parametrize(
    ("text", "expected"), [("1", [1]), ("3, 1,3,none", [3, 1, None]), ("none", [None])]
)
def test_lists_of_numbers(text, expected):
    assert number_list(int, lambda n: n >= 1, "a count", none=True)(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "'x' is not a share"),
        ("0.5,nan", "'nan' is not a share"),
        ("0.5,", "'' is not a share"),
        ("none", "'none' is not a share"),
        ("0,7", "'0' is not a share; commas separate numbers: write 0.7"),
    ],
)
def test_bad_lists_of_numbers(text, message):
    with pytest.raises(click.BadParameter, match=f"^{message}$"):
        number_list(float, lambda share: 0 < share < 1, "a share")(text)


EXAMPLE = {"clean": "a", "corrupt": "b", "target": "c", "foil": "d"}


def test_texts_are_all_given_or_none():
    assert parse_texts(SimpleNamespace(**dict.fromkeys(EXAMPLE)), EXAMPLE) == EXAMPLE
    given = {name: text.upper() for name, text in EXAMPLE.items()}
    assert parse_texts(SimpleNamespace(**given), EXAMPLE) == given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean": None, "foil": None}, "--clean, --foil missing: give them too, or none of"),
        ({"corrupt": ""}, "--corrupt is empty"),
        ({"foil": "c"}, "--target and --foil are the same: 'c'"),
    ],
)
def test_texts_that_do_not_go_together(changes, message):
    with pytest.raises(UsageError, match=message):
        parse_texts(SimpleNamespace(**{**EXAMPLE, **changes}), EXAMPLE)


def test_lines_are_numbered_and_blank_ones_left_out(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffone\r\n\n \ntwo\u2028 still two\n".encode())
    assert read_lines("--file", path) == {1: "one", 4: "two\u2028 still two"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\n \n", "is empty"),
        (b"\xff", "is not UTF-8 text"),
        (None, "cannot be read: No such file"),
        (b"a" * 101, "has more than 0 MiB"),
    ],
)
def test_files_without_lines(tmp_path, monkeypatch, data, message):
    monkeypatch.setattr(arguments, "MOST_BYTES", 100)
    path = tmp_path / "prompts.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match=f"--file .*{message}"):
        read_lines("--file", path)


def test_a_device_is_refused():
    with pytest.raises(UsageError, match="--file /dev/zero is neither a file nor a pipe"):
        read_lines("--file", Path("/dev/zero"))


@pytest.mark.parametrize(("times", "found"), [(1, {1: "one", 2: "two"}), (2**16, None)])
def test_a_pipe_is_read_to_a_limit(tmp_path, monkeypatch, times, found):
    monkeypatch.setattr(arguments, "MOST_BYTES", 2**16)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = f"import sys; open(sys.argv[1], 'w').write('one\\ntwo\\n' * {times})"
    with subprocess.Popen([sys.executable, "-c", script, pipe], stderr=subprocess.DEVNULL):
        if found is not None:
            assert read_lines("--file", pipe) == found
            return
        with pytest.raises(UsageError, match="has more than 0 MiB"):
            read_lines("--file", pipe)
