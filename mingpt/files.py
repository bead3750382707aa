"""Writing files so that they are either whole or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mingpt.errors import CheckpointError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it if the block succeeds.

    The folder is created. If the block raises (Ctrl-C included) the temporary
    file is removed and what was at `path` is left as it was.

    Raises:
        OSError: the folder cannot be created or written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: some writers choose the format by it.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part" + path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp's 0600 is for secrets
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def contained(path: Path, root: Path | None) -> Path:
    """`path`, once it is clear that it really lies under `root`, or if that is None.

    Links are followed first, `root`'s own too: a link inside a cache may point
    to another place in it, as the hub's do, but to none outside.

    Raises:
        CheckpointError: it lies elsewhere.
    """
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise CheckpointError(f"{path} is a link out of {root}, and is not followed")
    return path


def expanded(path: str | Path) -> Path:
    """`path` with a leading ~ replaced where that is a known home; otherwise as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises for ~nobody)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
