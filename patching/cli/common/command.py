"""Read a command line and run it: help in sections, errors as one line, an exit code.

Nothing here imports PyTorch, so that --help and errors in options are printed at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import TextIO

import click
from click.shell_completion import shell_complete

from mingpt.errors import MinGPTError
from mingpt.version import __version__
from patching.cli.common.brought_names import answer, answer_text
from patching.interrupts import check_interrupted, discard, run_watched, tell
from patching.text import escaped

EXIT_BAD_INPUT = 2
LONGEST_END = 1000  # characters that are kept at both ends of a long error message
WIDEST_HELP = 100  # columns, on a terminal that is wider
OPTION_COLUMNS = 22  # width of the options in the help; a longer one gets a line of its own


class UsageError(MinGPTError, ValueError):
    """A wrong argument, or arguments that do not go together."""


class Several(click.Option):
    """An option that takes all words up to the next option as values."""


class Command(click.Command):
    """A command line: options in titled sections, and help texts printed as they are written.

    Args:
        name: the command's.
        description, epilog: the help before and after the options.
        sections: title -> options.
        texts: arguments without an option's name.
    """

    def __init__(
        self,
        name: str,
        description: str,
        epilog: str,
        sections: Mapping[str, Sequence[click.Option]],
        *texts: click.Argument,
    ) -> None:
        self.prog, self.description, self.sections = name, description, sections
        settings = {"max_content_width": WIDEST_HELP, "help_option_names": ["-h", "--help"]}
        super().__init__(
            name,
            params=[*chain[click.Parameter](*sections.values()), *texts],
            epilog=epilog,
            context_settings={**settings, "show_default": True},
        )
        click.version_option(__version__, message=f"{name} {__version__}")(self)

    @property
    def completed(self) -> click.Command:
        """The command whose options a shell completes: this one."""
        return self

    def parse(self, args: Sequence[str]) -> SimpleNamespace | None:
        """Return the options by name; None if help, or what a shell completes, was printed.

        Raises:
            UsageError: an option or its value is wrong.
        """
        variable = f"_{re.sub('[-.]', '_', self.prog)}_COMPLETE".upper()
        if asked := os.environ.get(variable):
            shell_complete(self.completed, {}, self.prog, variable, asked)
            return None
        try:
            return SimpleNamespace(**self.make_context(self.prog, list(args)).params)
        except click.exceptions.Exit:  # --help or --version
            return None
        except BrokenPipeError:  # ... whose reader has left
            discard(sys.stdout.fileno())
            return None
        except click.ClickException as error:
            raise UsageError(f"{self._said(error)} (see --help)") from None

    def _said(self, error: click.ClickException) -> str:
        """Return click's message, and for a mistake that is known what to type instead."""
        options = {name for one in self.params for name in one.opts if name.startswith("--")}
        message = error.format_message().rstrip(".")
        if isinstance(error, click.NoSuchOption):
            found = answer(error.option_name, options)
            # A known answer is better than click's guesses, which end its own message.
            return message if found is None else f"{error.message.rstrip('.')}: {found}"
        if error.message.startswith("Got unexpected extra argument"):
            found = answer_text(options)
            return message if found is None else f"{message}: {found}"
        return message + _comma_hint(message)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse `args` with the options moved before the texts.

        Click alone takes a text that begins with a dash for an option, and an option that
        follows `--clean` for its value. The value may begin with a dash: `--layers -3--1`.
        """
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        known = {name: one for one in options for name in one.opts}
        front, texts, waiting = [], [], [*args]
        while waiting and (word := waiting.pop(0)) != "--":
            name, equals, _ = word.partition("=")
            option = known.get(name)
            if option is None and not word.startswith("--"):
                texts.append(word)
            elif option is None or option.is_flag or equals:
                front.append(word)
            elif waiting and waiting[0].partition("=")[0] not in known:
                front += [word, waiting.pop(0)]
                while isinstance(option, Several) and waiting and not waiting[0].startswith("-"):
                    front += [word, waiting.pop(0)]
            elif not ctx.resilient_parsing:  # as it is while a shell completes the value
                raise click.BadOptionUsage(word, f"{word} needs a value", ctx)
        return super().parse_args(ctx, [*front, "--", *texts, *waiting])

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return --help, printed as all else is: click writes UTF-8 where ASCII is asked for."""

        def show(ctx: click.Context, option: click.Parameter, is_asked: bool) -> None:
            if is_asked and not ctx.resilient_parsing:
                print_line(ctx.get_help(), sys.stdout)
                ctx.exit()

        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = show
        return option

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage, the description, the options in their sections, and the epilog."""
        self.format_usage(ctx, formatter)
        formatter.write(f"\n{self.description}")
        listed = [*chain(*self.sections.values())]
        others = [one for one in self.get_params(ctx) if one not in listed]
        for title, options in {**self.sections, "other": others}.items():
            records = [one.get_help_record(ctx) for one in options if isinstance(one, click.Option)]
            with formatter.section(title):
                formatter.write_dl([one for one in records if one], col_max=OPTION_COLUMNS)
        formatter.write(f"\n{self.epilog}")

    def as_typed(self, message: str) -> str:
        """Return a message of the library with the options' names: --top-k for top_k."""
        names = [one.name for one in self.params if "_" in one.name]
        word = rf"(?<![\w'\"/.-])({'|'.join(names) or '(?!)'})(?![\w'\"/])"
        return re.sub(word, lambda found: f"--{found[1].replace('_', '-')}", message)


def _comma_hint(message: str) -> str:
    """Return both readings of a decimal comma that click has refused; "" without one."""
    found = re.search(r"'(-?\d+),(\d+)' is not a valid (float|int)", message)
    if found is None:
        return ""
    a, b = found[1], found[2]
    return (
        f": it reads as two numbers, {a} and {b}, where one is wanted; if {a}.{b} is meant, write"
        f" {a}.{b}"
    )


def run_command(
    command: Command,
    body: Callable[[SimpleNamespace], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Run `body` with the options; turn every error that was raised on purpose into one line.

    Args:
        command: reads the command line.
        body: does the work; may return an exit code, None for 0.
        argv: the command line without the command; None for the process's.

    Returns:
        The exit code: the body's, 2 for bad input, 130 after Ctrl-C, 128 + a signal's number.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, as with >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            # A terminal that cannot show a character gets its escape, not a traceback.
            stream.reconfigure(errors="backslashreplace")

    def work() -> int:
        code = None
        try:
            arguments = command.parse(sys.argv[1:] if argv is None else argv)
            if arguments is not None:
                _set_up_hub(command.prog)
                code = body(arguments)
            print_line("", sys.stdout, end="")  # flush
        except (MinGPTError, OSError) as error:
            check_interrupted()  # a library may have made its own error of an interrupt
            tell(f"{command.prog}: error: {_line(command, error)}")
            return EXIT_BAD_INPUT
        return code or 0

    return run_watched(command.prog, work)


def _set_up_hub(command: str) -> None:
    """Let the hub's library print nothing and send no statistics; say what no longer counts.

    The library reads the environment when it is imported.
    """
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if os.environ.get("MINGPT_CACHE"):
        tell(
            f"{command}: MINGPT_CACHE no longer counts: models are in the hub's cache, HF_HUB_CACHE"
        )


def _line(command: Command, error: Exception) -> str:
    """Return an error's message in one line that is safe to print and not too long."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{escaped(str(error.filename))}: {error.strerror}"
    line = escaped(command.as_typed(" ".join(message.split())))  # it may quote the user's text
    if len(line) > 2 * LONGEST_END:  # ... or a file's text, of any length
        line = f"{line[:LONGEST_END]}\u2026{line[-LONGEST_END:]}"
    return line


def print_line(text: str, stream: TextIO, end: str = "\n") -> None:
    """Print and flush. Once the reader of a pipe has closed it, print nothing any more.

    Raises:
        KeyboardInterrupt: a signal has come.
        OSError: the stream cannot be written, as on a full disk.
    """
    check_interrupted()
    try:
        print(text, end=end, file=stream, flush=True)
    except OSError as error:
        discard(stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise
