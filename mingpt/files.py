"""Writing files so that each is whole or absent, reading them, and paths that users give."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mingpt.errors import CheckpointError, FileError, MinGPTError

# Errors of a full or broken disk, of a quota, and of a limit of a file's size.
FULL = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move it onto `path` if the block succeeds.

    The folder is created. If the block raises (Ctrl-C included), the temporary
    file is removed and `path` is left as it was.

    Raises:
        FileError: the folder cannot be created or written, or the disk is full.
    """
    path = Path(path)
    try:
        for folder in reversed(path.parents):  # parents=True calls itself for each of them
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
        # The suffix must stay last: some writers choose the format by it.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part" + path.suffix)
    except FileExistsError as error:
        raise FileError(f"{path} cannot be written: {error.filename} is not a folder") from error
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # as open() would; mkstemp allows the owner only
        temporary.replace(path)
    except OSError as error:  # the block's own, such as one of the network, stay as they are
        if error.errno not in FULL:
            raise
        raise FileError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_readable(path: Path, error: type[MinGPTError]) -> None:
    """Check that `path` is a regular file and can be opened; nothing is read.

    A pipe would block until somebody writes into it, and a device may have no end.

    Raises:
        error: the file is missing, of another kind, or must not be read.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return
    except FileNotFoundError:
        raise error(f"{path} is missing") from None
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}") from None
    except ValueError as reason:  # a null character in the name
        raise error(f"{path} cannot be read: {reason}") from None
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
    raise error(f"{path} cannot be read: it is {kind}, not a regular file")


def read_text(path: Path, most_bytes: int, error: type[MinGPTError]) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        error: as check_readable; the file has more than `most_bytes`, or is not UTF-8.
    """
    check_readable(path, error)
    try:
        # By its size, because a bounded read would take a buffer of most_bytes.
        if path.stat().st_size > most_bytes:
            raise error(f"{path} is too large: a file of its kind has at most {most_bytes:,} bytes")
        data = path.read_bytes()
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as reason:
        line = data.count(b"\n", 0, reason.start) + 1
        raise error(f"{path} is not UTF-8 text: line {line}") from None


def contained(path: Path, root: Path | None) -> Path:
    """Return `path` if it lies under `root` once links are followed, or if `root` is None.

    A link inside the hub's cache points to another place in the cache. A link
    that leads out of it is refused.

    Raises:
        CheckpointError: the path leads out of `root`.
    """
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise CheckpointError(f"{path} is a link out of {root}, and is not followed")
    return path


def expanded(path: str | Path) -> Path:
    """Return `path` with a leading ~ or ~name expanded; a ~name without a home stays."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises for ~nobody)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
