"""The hub's cache on this machine: find a repository's files, check and link them.

The layout is huggingface_hub's, shared with transformers: in models--<owner>--<name>/,
blobs/<hash> holds each file, snapshots/<commit>/<file> links to it, and refs/main names
main's commit. Beside them we keep a list of the files that have been hashed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mingpt.errors import CheckpointError, DownloadError
from mingpt.files import contained, expanded, replacing
from mingpt.loading import checkpoint, config_json
from mingpt.loading.download import Progress, file_hash, wrong_hash
from mingpt.loading.repositories import Repository

COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
CHECKED_FILE = ".mingpt-checked.json"
SECONDS_BETWEEN_LOOKS = 0.2  # at the progress of the process that holds a lock
SECONDS_FOR_ANOTHER = 120.0  # in which that process must get on


def constants() -> ModuleType:
    """Return the settings of the hub's library, which it reads from HF_* when it is imported.

    Raises:
        DownloadError: a variable holds something that the library refuses.
    """
    try:
        from huggingface_hub import constants
    except ValueError as error:
        raise DownloadError(f"a variable HF_... of the environment is wrong: {error}") from None
    return constants


def directory() -> Path:
    """Return the cache: HF_HUB_CACHE, else HF_HOME/hub, by default ~/.cache/huggingface/hub."""
    settings = constants()
    return expanded(settings.HF_HUB_CACHE or settings.default_cache_path)


def folder(repository: Repository) -> Path:
    """Return the repository's folder; it may not exist yet."""
    return _folder(repository.id)


def snapshots(repository: Repository) -> list[Path]:
    """Return the folders of its commits: the pinned one and main's first, then the newest.

    Of a repository whose hashes are built in, other commits only count if their files
    are the same.

    Raises:
        CheckpointError: refs/main is a link out of the cache.
    """
    found: list[Path] = []
    for name in filter(None, (repository.id, repository.former_id)):
        place = _folder(name)
        first = (repository.revision, _main(place))
        paths = sorted(place.glob("snapshots/*/"), key=lambda path: -path.stat().st_mtime)
        found += sorted(paths, key=lambda path: path.name not in first)
    return [path for path in found if _is_genuine(repository, path)]


def find(repository: Repository) -> Path | None:
    """Return the first snapshot that holds the configuration and all the weights, or None.

    Raises:
        CheckpointError: a link leads out of the cache.
    """
    return next((path for path in snapshots(repository) if is_complete(repository, path)), None)


def is_complete(repository: Repository, snapshot: Path) -> bool:
    """Return True if a snapshot holds the configuration and all the weights.

    Raises:
        CheckpointError: a link leads out of the cache.
    """
    has_config = repository.preset is not None or (snapshot / config_json.NAME).is_file()
    return has_config and checkpoint.weights_complete(snapshot, directory())


def revision(repository: Repository) -> str:
    """Return the commit or branch to fetch from: main's commit, once a file of it is here."""
    if repository.revision == "main":
        return _main(folder(repository)) or "main"
    return repository.revision


# --------------------------------------------------------------------- writing


@contextlib.contextmanager
def locked(place: Path, name: str, progress: Progress | None = None) -> Iterator[None]:
    """Hold a lock of a repository's folder, so that two processes do not fetch the same file.

    Args:
        place: the repository's folder.
        name: of the lock, the library's own: the hash of the file to fetch.
        progress: called with (bytes that the other process has, 0) while this one waits.

    Raises:
        DownloadError: the other process has not got on for SECONDS_FOR_ANOTHER.
    """
    from filelock import FileLock, Timeout

    path = place.parent / ".locks" / place.name / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, has, since = FileLock(path), -1, time.monotonic()
    while True:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=SECONDS_BETWEEN_LOOKS)
            break
        parts = place.glob("blobs/*.incomplete")
        now = sum(part.stat().st_size for part in parts if part.is_file())
        if now != has:
            has, since = now, time.monotonic()
        if progress is not None:
            progress(now, 0)
        if time.monotonic() - since > SECONDS_FOR_ANOTHER:
            raise DownloadError(
                f"another process holds {path} and has fetched nothing for"
                f" {SECONDS_FOR_ANOTHER:.0f} s: end it, and try again"
            )
    try:
        yield
    finally:
        lock.release()


def link(blob: Path, path: Path) -> None:
    """Make `path` in a snapshot a link to a blob, or a copy of it where there are no links."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a link whose blob was deleted
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        with replacing(path) as temporary:
            shutil.copyfile(blob, temporary)
        remember(path, [blob.name])


def note_commit(repository: Repository, commit: str) -> None:
    """Write refs/main if there is none, so that files fetched later are of the same commit."""
    if repository.revision == "main" and _main(folder(repository)) is None:
        with replacing(folder(repository) / "refs" / "main") as temporary:
            temporary.write_text(commit, encoding="ascii")


# --------------------------------------------------------------------- checking


def check(repository: Repository, path: Path, progress: Progress | None = None) -> None:
    """Compare a cached file's hash with the one that the hub stated, and with the built-in one.

    A blob's name is the hash that the hub stated. A file is hashed once: the result is
    kept beside it, with the file's size and time. A wrong file is deleted.

    Args:
        path: of a file in a snapshot.
        progress: called with (bytes done, bytes in all) while hashing.

    Raises:
        CheckpointError: it is another file, a link out of the cache, or a file of
            weights for which no hash is known.
    """
    contained(path, directory())
    blob, hashes = _blob(path), expected_hashes(repository, path)
    if not hashes:
        if path.suffix in (".safetensors", ".bin"):
            raise CheckpointError(
                f"{path} cannot be checked: this cache does not say its hash; delete it"
                f" (mingpt-fetch --remove {repository}) and fetch it again"
            )
        return
    if _records(blob).get(_key(blob)) == [*_state(blob), *hashes]:
        return
    if wrong := wrong_hash(blob, hashes, progress):
        try:
            for one in {path, blob}:
                one.unlink()
            done = "it was deleted, to be fetched again"
        except OSError as error:
            done = f"it cannot be deleted: {error.strerror}"
        raise CheckpointError(f"{path} is not the expected file: {wrong}; {done}")
    remember(blob, hashes)


def remember(blob: Path, hashes: Sequence[str]) -> None:
    """Note that a file has these hashes, as long as its size and time stay the same."""
    records = {**_records(blob), _key(blob): [*_state(blob), *hashes]}
    with contextlib.suppress(OSError), replacing(_place(blob) / CHECKED_FILE) as temporary:
        temporary.write_text(json.dumps(records, indent=0), encoding="utf-8")


def expected_hashes(repository: Repository, path: Path) -> list[str]:
    """Return the hashes that a cached file should have: the stated and the built-in one."""
    blob = _blob(path)
    stated = blob.name
    if not HASH.fullmatch(stated):  # a cache without links
        recorded = _records(blob).get(_key(blob), [])[2:]
        stated = next((one for one in recorded if HASH.fullmatch(str(one))), "")
    return [one for one in (stated, repository.sha256.get(path.name)) if one]


def _is_genuine(repository: Repository, snapshot: Path) -> bool:
    """Return True for the pinned commit, and for others whose files have the built-in hashes."""
    if snapshot.name == repository.revision:
        return True
    paths = {snapshot / name: wanted for name, wanted in repository.sha256.items()}
    return all(wanted == _sha256(path) for path, wanted in paths.items() if path.is_file())


def _sha256(path: Path) -> str:
    """Return the SHA-256 of a cached file, which large files have for a name."""
    name = _blob(path).name
    return name if len(name) == 64 and HASH.fullmatch(name) else file_hash(path, 64)


# --------------------------------------------------------------------- paths


def _folder(name: str) -> Path:
    return directory() / "--".join(("models", *name.split("/")))


def _main(place: Path) -> str | None:
    """Return the commit in a repository's refs/main, or None.

    Raises:
        CheckpointError: it is a link out of the cache.
    """
    path = contained(place / "refs" / "main", directory())
    if not path.is_file() or path.stat().st_size > 100:
        return None
    text = path.read_bytes().decode("ascii", "replace").strip()
    return text if COMMIT.fullmatch(text) else None


def _blob(path: Path) -> Path:
    """Return the blob that a snapshot's file links to; the file itself where it is no link."""
    # One step only: a blob may itself link into a store that several repositories share.
    there = path.parent / path.readlink() if path.is_symlink() else path
    return Path(os.path.normpath(there))


def _place(blob: Path) -> Path:
    """Return the folder of the repository that a blob, or a file in a snapshot, belongs to."""
    return blob.parents[1] if blob.parent.name == "blobs" else blob.parents[2]


def _key(blob: Path) -> str:
    return blob.relative_to(_place(blob)).as_posix()


def _state(blob: Path) -> list[int]:
    """Return what changes when a file is written: its size in bytes, and its time."""
    stat = blob.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _records(blob: Path) -> dict[str, list[Any]]:
    """Return the list of hashed files; empty where there is none, or none that can be read."""
    path = _place(blob) / CHECKED_FILE
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if path.is_file() and not path.is_symlink():
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return {key: value for key, value in found.items() if isinstance(value, list)}
    return {}
