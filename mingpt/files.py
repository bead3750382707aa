"""Writing files so that each is whole or absent, and paths that users give."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mingpt.errors import CheckpointError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move it onto `path` if the block succeeds.

    The folder is created. If the block raises (Ctrl-C included), the temporary
    file is removed and `path` is left as it was.

    Raises:
        OSError: the folder cannot be created or written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix must stay last: some writers choose the format by it.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part" + path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # as open() would; mkstemp allows the owner only
        temporary.replace(path)
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
