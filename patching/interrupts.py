"""Ctrl-C and the signals that end a process: noted, raised, and told in one line.

A handler notes each signal and raises KeyboardInterrupt. A library may swallow that
(in a destructor), or make another error of it. So the end of a command follows the note,
and `check_interrupted` looks at it where work is reported, printed and written.

This file imports little: a command installs the handlers before it imports the rest.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "terminated"}
# Signal -> its name. Windows has no SIGHUP.
SIGNALS = {int(getattr(signal, name)): name for name in WORDS if hasattr(signal, name)}
SECONDS_TO_CLEAN_UP = 1.0  # a signal that comes so soon after the first one raises nothing

_noted: list[tuple[int, float]] = []  # the signals that came, and when
_is_held = False  # True while signals are noted and not raised
_is_watching = False  # True within `run_watched`


def run_watched(command: str, body: Callable[[], int], *, is_process: bool = False) -> int:
    """Return the exit code of `body`, or that of the signal that ended it, told in one line.

    Afterwards the handlers are what they were. A signal that is ignored, as under nohup,
    stays ignored. A call within another one, or outside the main thread, installs nothing.

    Args:
        command: the name that the line begins with.
        body: does the work.
        is_process: the process ends with this call. The signals are then ignored afterwards:
            while Python shuts down, they could print nothing but a traceback.
    """
    global _is_held, _is_watching
    if _is_watching:
        return body()
    number = int(signal.SIGINT)
    with _handlers(is_process):
        try:
            code = body()
            if not _noted:
                return code
        except BaseException as error:
            if not (_noted or isinstance(error, KeyboardInterrupt)):
                raise
        _is_held = True
        if _noted:
            number = _noted[0][0]
        tell(f"{command}: {WORDS[SIGNALS[number]]}")
    return 128 + number  # as a shell reports it


def check_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal has come."""
    if _noted:
        raise KeyboardInterrupt


def is_noted() -> bool:
    """Return True if a signal has come, which `held` keeps from being raised."""
    return bool(_noted)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Run the block to its end, and raise KeyboardInterrupt then if a signal came."""
    global _is_held
    before, _is_held = _is_held, True
    try:
        yield
    finally:
        _is_held = before
    check_interrupted()


def tell(line: str) -> None:
    """Print a line on stderr, if that can be written."""
    with contextlib.suppress(OSError, ValueError):
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:
            discard(sys.stderr.fileno())


def discard(descriptor: int) -> None:
    """Let a stream that cannot be written end in nothing, so that Python's exit can flush it."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


@contextlib.contextmanager
def _handlers(is_process: bool) -> Iterator[None]:
    global _is_held, _is_watching
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {n: old for n, old in before.items() if old not in (signal.SIG_IGN, None)}
    hook = sys.unraisablehook
    _is_watching = True
    try:
        # "Exception ignored in ..." would be a second line beside that of the signal.
        sys.unraisablehook = lambda args: None if _noted else hook(args)
        for number in before:
            signal.signal(number, _note)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_IGN if is_process else old)
        sys.unraisablehook = hook
        _is_held = _is_watching = False
        _noted.clear()


def _note(number: int, frame: object) -> None:
    now = time.monotonic()
    _noted.append((number, now))
    is_first = len(_noted) == 1
    if not _is_held and (is_first or now - _noted[0][1] > SECONDS_TO_CLEAN_UP):
        raise KeyboardInterrupt
