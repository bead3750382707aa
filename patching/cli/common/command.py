"""Run a command: turn errors that were raised on purpose into one line and an exit code.

Nothing here imports PyTorch at the top, so that --help and errors in options
are printed at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from mingpt.errors import MinGPTError
from patching.text import escaped

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what a shell reports for Ctrl-C: 128 + SIGINT
LONGEST_END = 1000  # characters that are kept at both ends of a long error message


class UsageError(MinGPTError, ValueError):
    """A wrong argument, or arguments that do not go together."""


def run_command(command: str, body: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Run `body(argv)`; turn every error that was raised on purpose into one line.

    Returns:
        The exit code: 0, 2 for bad input, 130 after Ctrl-C.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, as with >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            # A terminal that cannot show a character gets its escape, not a traceback.
            stream.reconfigure(errors="backslashreplace")
    try:
        body(argv)
        print_line("", sys.stdout, end="")  # flush
    except (MinGPTError, OSError) as error:
        line = escaped(" ".join(str(error).split()))  # the message may quote the user's text
        if len(line) > 2 * LONGEST_END:  # ... or a file's text, of any length
            line = f"{line[:LONGEST_END]}\u2026{line[-LONGEST_END:]}"
        print(f"{command}: error: {line}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def print_line(text: str, stream: TextIO, end: str = "\n") -> None:
    """Print and flush. Once the reader of a pipe has closed it, print nothing any more."""
    try:
        print(text, end=end, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
