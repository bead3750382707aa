"""Writing files so that each is whole or absent, and paths that users give."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mingpt.errors import CheckpointError, FileError

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
