"""Options: lists of indices, values that begin with a dash, text files, texts that go together."""

from argparse import Namespace

import pytest

from patching.cli.common.arguments import IndexList, parse_texts, read_lines
from patching.cli.common.command import UsageError
from patching.cli.patch import build_parser


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
    with pytest.raises(UsageError, match="layer"):
        IndexList(text).of("layer", 10)


@pytest.mark.parametrize("value", ["-1", "-3--1", "-x", "- item", "--", "-"])
def test_values_that_begin_with_a_dash(value):
    parser = build_parser()
    for arguments in (["--clean", value], [f"--clean={value}"]):
        assert parser.parse_args(arguments).clean == value


EXAMPLE = {"clean": "a", "corrupt": "b", "target": "c", "foil": "d"}


def test_texts_are_all_given_or_none():
    assert parse_texts(Namespace(**dict.fromkeys(EXAMPLE)), EXAMPLE) == EXAMPLE
    given = {name: text.upper() for name, text in EXAMPLE.items()}
    assert parse_texts(Namespace(**given), EXAMPLE) == given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean": None, "foil": None}, "--clean, --foil missing: the 4 prompt options"),
        ({"corrupt": ""}, "--corrupt is empty"),
        ({"foil": "c"}, "--target and --foil are the same: 'c'"),
    ],
)
def test_texts_that_do_not_go_together(changes, message):
    with pytest.raises(UsageError, match=message):
        parse_texts(Namespace(**{**EXAMPLE, **changes}), EXAMPLE)


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
    ],
)
def test_files_without_lines(tmp_path, data, message):
    path = tmp_path / "prompts.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match=f"--file .*{message}"):
        read_lines("--file", path)
