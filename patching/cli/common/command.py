"""The edge of every command: errors raised on purpose become one line and an exit code.

Nothing here imports PyTorch at the top, so that --help and a mistyped option
answer at once.
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
LONGEST_END = 1000  # characters of an error's beginning, and of its end


class UsageError(MinGPTError, ValueError):
    """An argument, or a combination of them, that the command cannot work with."""


def run_command(command: str, body: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Run `body`; turn every error that was raised on purpose into one line.

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
        tell("", sys.stdout, end="")  # what is still to be flushed
    except (MinGPTError, OSError) as error:
        line = escaped(" ".join(str(error).split()))  # it may quote what the user typed
        if len(line) > 2 * LONGEST_END:  # or what a file says, at any length
            line = f"{line[:LONGEST_END]}\u2026{line[-LONGEST_END:]}"
        print(f"{command}: error: {line}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def tell(text: str, stream: TextIO, end: str = "\n") -> None:
    """Print at once. When a pipe's reader has gone, the work goes on unheard."""
    try:
        print(text, end=end, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
