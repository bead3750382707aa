"""Errors of a command: one line on stderr and an exit code."""

import pytest

from mingpt import ConfigError
from patching.cli.common.command import LONGEST_END, UsageError, run_command


def failing(error: BaseException):
    def body(argv):
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UsageError("one\n  two\r\nthree\u2028four"), "one two three four"),
        (ConfigError("no model '\x1b[31mred\x07'"), "no model '\\x1b[31mred\\x07'"),
        (FileNotFoundError(2, "No such file", "a\nb"), "[Errno 2] No such file: 'a\\nb'"),
        (UsageError("a" * 5000), f"{'a' * LONGEST_END}\u2026{'a' * LONGEST_END}"),
    ],
)
def test_an_error_is_one_line_whatever_it_quotes(capsys, error, line):
    assert run_command("mingpt-x", failing(error), []) == 2
    assert capsys.readouterr() == ("", f"mingpt-x: error: {line}\n")


def test_what_was_not_raised_on_purpose_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command("mingpt-x", failing(ZeroDivisionError()), [])
