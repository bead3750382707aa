"""The command line: options and texts; errors: one line on stderr and an exit code."""

import os
import signal
import subprocess
import sys

import pytest
from click import Argument, Choice, IntRange, Option
from helpers import ROOT

from mingpt import ConfigError
from patching.cli.common.arguments import IndexList
from patching.cli.common.command import LONGEST_END, Command, Several, UsageError, run_command

COMMAND = Command("mingpt-x", "What it does.\n", "examples:\n  mingpt-x --one a\n", {
    "some": [
        Option(["--one"], metavar="TEXT", help="a text"),
        Option(["--repeated"], multiple=True),
        Several(["--many"], multiple=True),
        Option(["--flag"], is_flag=True),
    ],
    "others": [
        Option(["--top-k"], type=IntRange(1), default=3),
        Option(["--kind"], type=Choice(["a", "b"])),
        Option(["--layers"], type=IndexList),
    ],
}, Argument(["texts"], nargs=-1))  # fmt: skip

DEFAULTS = {
    "one": None, "repeated": (), "many": (), "flag": False, "top_k": 3, "kind": None,
    "layers": None, "texts": (),
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("", {}),
        ("--one -3--1", {"one": "-3--1"}),
        ("--one --", {"one": "--"}),
        ("--one=--", {"one": "--"}),
        ("--one -", {"one": "-"}),
        ("--one=--many", {"one": "--many"}),
        ("--one a --one b", {"one": "b"}),
        ("--layers -3--1", {"layers": IndexList("-3--1")}),
        ("--repeated -- --repeated a", {"repeated": ("--", "a")}),
        ("--many a b --flag c --many d", {"many": ("a", "b", "d"), "flag": True, "texts": ("c",)}),
        ("--many -a b -c d", {"many": ("-a", "b"), "texts": ("-c", "d")}),
        ("a --flag -3 --one b - c", {"flag": True, "one": "b", "texts": ("a", "-3", "-", "c")}),
        ("--many a -- --flag --", {"many": ("a",), "texts": ("--flag", "--")}),
    ],
)
def test_options_and_texts(line, given):
    assert vars(COMMAND.parse(line.split())) == {**DEFAULTS, **given}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--flga", "No such option"),
        ("--fla", "No such option"),  # no abbreviations
        ("--top-k 0", "'--top-k': 0 is not in the range x>=1"),
        ("--top-k=--", "'--top-k': '--' is not a valid integer"),
        ("--top-k --", "'--top-k': '--' is not a valid integer"),
        ("--kind --", "'--kind': '--' is not one of 'a', 'b'"),
        ("--layers --", "'--layers': '--' is neither a number nor a range"),
        ("--flag=x", "Option '--flag' does not take a value"),
        ("--one", "--one needs a value"),
        ("--one --many a", "--one needs a value"),
        ("--many --flag", "--many needs a value"),
    ],
)
def test_wrong_options_are_named(line, message):
    with pytest.raises(UsageError) as caught:
        COMMAND.parse(line.split())
    assert message in str(caught.value)
    assert str(caught.value).endswith(" (see --help)")


def test_a_word_that_is_too_much():
    with pytest.raises(UsageError, match="unexpected extra argument"):
        Command("mingpt-x", "", "", {}).parse(["word"])


def test_the_help_has_sections_and_its_texts_as_they_are(capsys):
    assert run_command(COMMAND, lambda arguments: pytest.fail("it is run"), ["--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Usage: mingpt-x [OPTIONS] [TEXTS]...\n\nWhat it does.\n\nsome:\n")
    assert "\n  --one TEXT " in printed
    assert "default: 3" in printed[printed.index("\nothers:\n") :]
    assert "--help" in printed[printed.index("\nother:\n") :]
    assert printed.endswith("\n\nexamples:\n  mingpt-x --one a\n")


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("top_k must be at least 1", "--top-k must be at least 1"),
        ("greedy and top_k, 3", "greedy and --top-k, 3"),
        ("no file 'top_k' or my/top_k.txt or top_k/x or stop_k", None),
    ],
)
def test_messages_name_options_as_they_are_typed(message, typed):
    assert COMMAND.as_typed(message) == (typed or message)


def completed(words: str) -> set[str]:
    """Return what bash is offered for the last of `words`, as "type,value", without PyTorch."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "scripts" / "generate.py")],
        env={
            **os.environ, "_MINGPT_GENERATE_COMPLETE": "bash_complete", "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.split("|")[-1].strip() for line in run.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"torch", "numpy", "matplotlib"}
    return {*run.stdout.splitlines()}


def test_a_shell_completes_options_choices_models_and_files():
    assert {"plain,--num-beams", "plain,--num-samples"} == completed("mingpt-generate --num-")
    assert {"plain,cpu", "plain,cuda"} == completed("mingpt-generate --greedy --device c")
    assert {"plain,builtin", "file,b"} == completed("mingpt-generate --model b")
    assert {"file,jo"} == completed("mingpt-generate --prompts jo")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(monkeypatch, capfd, shell):
    monkeypatch.setenv("_MINGPT_X_COMPLETE", f"{shell}_source")
    assert run_command(COMMAND, lambda arguments: pytest.fail("it is run"), []) == 0
    assert "_MINGPT_X_COMPLETE=" in capfd.readouterr().out


def failing(error: BaseException):
    def body(arguments):
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UsageError("one\n  two\r\nthree\u2028four"), "one two three four"),
        (ConfigError("no model '\x1b[31mred\x07'"), "no model '\\x1b[31mred\\x07'"),
        (FileNotFoundError(2, "No such file", "a\nb"), "a\\nb: No such file"),
        (UsageError("a" * 5000), f"{'a' * LONGEST_END}\u2026{'a' * LONGEST_END}"),
    ],
)
def test_an_error_is_one_line_whatever_it_quotes(capsys, error, line):
    assert run_command(COMMAND, failing(error), []) == 2
    assert capsys.readouterr() == ("", f"mingpt-x: error: {line}\n")


def test_an_error_that_a_library_made_of_an_interrupt_is_not_told(capsys):
    def body(arguments):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise OSError("the connection is lost") from None

    assert run_command(COMMAND, body, []) == 130
    assert capsys.readouterr() == ("", "mingpt-x: interrupted\n")


def test_what_was_not_raised_on_purpose_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(COMMAND, failing(ZeroDivisionError()), [])
