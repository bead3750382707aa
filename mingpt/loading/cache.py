"""Find models on this machine: in our cache, and in the hub's, which is only read.

Our cache is one directory, MINGPT_CACHE or ~/.cache/mingpt. GPT-2's two
tokenizer files are at its top. Each repository's files are in <owner>--<name>/,
beside SHA256SUMS (the hash of every fetched file) and COMMIT (the repository's
commit that the files belong to).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mingpt.errors import CheckpointError, DownloadError
from mingpt.files import contained, expanded, replacing
from mingpt.loading import checkpoint, config_json, hub, tokenizer_files
from mingpt.loading.download import Progress, file_hash
from mingpt.loading.hub import Repository

SUMS_FILE = "SHA256SUMS"
COMMIT_FILE = "COMMIT"
# The states of a file that `verify` reports.
INTACT, WRONG, MISSING, UNKNOWN = "intact", "WRONG", "MISSING", "no hash is known"
TOKENIZER = "gpt2-tokenizer"  # the name of the two files at the top of our cache
SECONDS_BETWEEN_LOOKS = 0.2  # at the progress of the process that holds the lock


@dataclass(frozen=True)
class Place:
    """A directory in a cache."""

    directory: Path
    root: Path  # the cache's own directory: no link is followed out of it

    def tokenizer_files(self) -> tuple[Path, ...]:
        """Return the tokenizer's files in this directory.

        Raises:
            TokenizerError: there are none.
            CheckpointError: a file is a link out of the cache.
        """
        return tuple(
            contained(path, self.root) for path in tokenizer_files.files_in(self.directory)
        )


@dataclass(frozen=True)
class Entry:
    """The files of one model in a cache."""

    name: str  # owner/name, or TOKENIZER
    place: Place
    is_ours: bool  # in our cache, not the hub's
    files: tuple[Path, ...]
    nbytes: int  # of all the files together

    @property
    def is_complete(self) -> bool:
        """True if configuration and all weights are there; always for TOKENIZER."""
        repository = hub.repository(self.name)
        return repository is None or _is_complete(self.place, repository)


def directory() -> Path:
    """Return our cache's directory."""
    return expanded(os.environ.get("MINGPT_CACHE") or "~/.cache/mingpt")


def hub_directory() -> Path:
    """Return the directory of the hub library's cache, by the same variables as that library."""
    for_all = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{for_all}/huggingface"
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
    place = next(filter(None, map(os.environ.get, names)), f"{home}/hub")
    return expanded(os.path.expandvars(place))


def folder(repository: Repository) -> Path:
    """Return the directory for a repository's files in our cache; it may not exist yet."""
    return directory() / f"{repository.owner}--{repository.name}"


def places(repository: Repository) -> list[Place]:
    """Return the directories that may hold a repository's files, our cache's first.

    Raises:
        CheckpointError: a link leads out of the hub's cache.
    """
    ours = Place(folder(repository), directory())
    return [ours, *(Place(path, hub_directory()) for path in _snapshots(repository))]


def complete(repository: Repository) -> Iterator[Place]:
    """Yield the directories that hold a repository's configuration and all its weights.

    Raises:
        CheckpointError: a link leads out of a cache.
    """
    return (place for place in places(repository) if _is_complete(place, repository))


def find(repository: Repository) -> Place | None:
    """Return the first directory that `complete` yields, or None."""
    return next(complete(repository), None)


def entries() -> list[Entry]:
    """Return every model in either cache, and GPT-2's tokenizer, sorted by name."""
    found = []
    top = [directory() / name for name in hub.TOKENIZER_SHA256]
    if files := tuple(path for path in top if path.is_file()):
        found.append(entry(TOKENIZER, Place(directory(), directory()), files))
    for path in sorted(directory().glob("*--*")):
        owner, _, name = path.name.partition("--")
        if path.is_dir() and hub.repository(f"{owner}/{name}"):
            found.append(entry(f"{owner}/{name}", Place(path, directory())))
    for path in sorted(hub_directory().glob("models--*")):
        repository = hub.repository("/".join(path.name.split("--")[1:]))
        if repository is None:
            continue
        # A link out of the cache is not followed; the other models are still listed.
        with contextlib.suppress(CheckpointError):
            for place in complete(repository):
                if place.directory.parent.parent == path and _is_gpt2(place, repository):
                    found.append(entry(str(repository), place))
                    break
    return sorted(found, key=lambda entry: (entry.name, not entry.is_ours))


def entry(name: str, place: Place, files: Iterable[Path] | None = None) -> Entry:
    """Return the entry for a model in a directory.

    Args:
        files: the model's files; None: all but hidden ones, SHA256SUMS and COMMIT.
    """
    if files is None:
        files = (path for path in place.directory.iterdir() if path.is_file())
        ours = (SUMS_FILE, COMMIT_FILE)
        files = (path for path in files if path.name not in ours and path.name[0] != ".")
    files = tuple(sorted(files))
    nbytes = sum(path.stat().st_size for path in files)
    return Entry(name, place, place.root == directory(), files, nbytes)


def verify(entry: Entry, progress: Callable[[int], None] | None = None) -> dict[str, str]:
    """Hash a model's files: name -> INTACT, WRONG, MISSING or UNKNOWN.

    Args:
        progress: called with the number of bytes just read.

    Raises:
        CheckpointError: a file is a link out of the cache.
    """
    repository = hub.repository(entry.name)
    found = dict.fromkeys(_sums(entry.place.directory), MISSING)
    for path in entry.files:
        expected = expected_hash(contained(path, entry.place.root), repository)
        if expected is None:
            found[path.name] = UNKNOWN
        else:
            is_intact = file_hash(path, len(expected), progress) == expected
            found[path.name] = INTACT if is_intact else WRONG
    return found


def expected_hash(path: Path, repository: Repository | None) -> str | None:
    """Return the hash that a cached file should have, 64 or 40 digits; None if unknown.

    The first that exists is taken: the hash in hub.py, the one in SHA256SUMS, the
    file's own name (the hub's cache names files after their hashes).
    """
    known = hub.TOKENIZER_SHA256 if repository is None else repository.sha256
    blob = re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", path.resolve().name)
    return known.get(path.name) or _sums(path.parent).get(path.name) or (blob and blob[0])


def record(path: Path, sha256: str) -> None:
    """Write the hash of a fetched file into SHA256SUMS."""
    sums = {**_sums(path.parent), path.name: sha256}
    with replacing(path.with_name(SUMS_FILE)) as temporary:
        lines = (f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
        temporary.write_text("".join(lines), encoding="utf-8")


def commit_in(place: Path) -> str | None:
    """Return the commit in a folder's COMMIT; None if there is none."""
    found = re.fullmatch(r"[0-9a-f]{40}", _text(place / COMMIT_FILE).strip())
    return found and found[0]


def note_commit(place: Path, commit: str) -> None:
    """Write COMMIT, so that files fetched later are taken from the same commit."""
    with replacing(place / COMMIT_FILE) as temporary:
        temporary.write_text(f"{commit}\n", encoding="utf-8")


def remove(entry: Entry) -> None:
    """Delete a model from our cache.

    Raises:
        CheckpointError: it is in the hub's cache, or a link out of ours.
    """
    place = entry.place.directory
    if not entry.is_ours:
        raise CheckpointError(f"{place} is the hub's own library's, and not ours to delete")
    with adding_to(place):
        if entry.name == TOKENIZER:
            for path in entry.files:
                path.unlink()
        else:
            shutil.rmtree(place)


@contextlib.contextmanager
def adding_to(place: Path, progress: Progress | None = None) -> Iterator[None]:
    """Hold the lock for writing into a folder of our cache, one process at a time.

    The folder is created, and removed again if it stays empty.

    Args:
        progress: called with (bytes that the other process has fetched, 0)
            while this one waits.

    Raises:
        DownloadError: the cache cannot be written.
        CheckpointError: the folder is a link out of the cache.
    """
    made = [path for path in (place, *place.parents) if not path.exists()]
    lock = FileLock(directory() / f".{place.name}.lock")
    try:
        directory().mkdir(parents=True, exist_ok=True)
        _wait_for(lock, place, progress)
        try:
            contained(place, directory()).mkdir(exist_ok=True)
            yield
        finally:
            # Deleted before it is released: a waiting process then makes a new lock file.
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()
            lock.release()
    except OSError as error:
        raise DownloadError(f"{place} cannot be written: {error.strerror or error}") from None
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # raised if it is not empty
                path.rmdir()


def _wait_for(lock: FileLock, place: Path, progress: Progress | None) -> None:
    while True:
        try:
            lock.acquire(timeout=SECONDS_BETWEEN_LOOKS)
            return
        except Timeout:
            if progress is not None:
                progress(max((_size(path) for path in place.glob(".*.part")), default=0), 0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it has just been moved into place
        return 0


def _snapshots(repository: Repository) -> Iterator[Path]:
    """Yield a repository's snapshots in the hub's cache: refs/main's, then the newest first."""
    names = [str(repository), repository.name] if repository.preset else [str(repository)]
    for name in names:
        path = hub_directory() / "--".join(("models", *name.split("/")))
        snapshots = sorted(path.glob("snapshots/*/"), key=_age)
        named = _text(contained(path / "refs" / "main", hub_directory())).strip()
        yield from sorted(snapshots, key=lambda snapshot: snapshot.name != named)


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _is_complete(place: Place, repository: Repository) -> bool:
    has_config = repository.preset is not None or (place.directory / config_json.NAME).is_file()
    return has_config and checkpoint.weights_complete(place.directory, place.root)


def _is_gpt2(place: Place, repository: Repository) -> bool:
    """Return True if a snapshot's configuration is a GPT-2's, or cannot be read."""
    path = place.directory / config_json.NAME
    if not path.is_file():
        return repository.preset is not None
    contained(path, place.root)
    try:
        return config_json.is_gpt2(config_json.read_fields(path))
    except CheckpointError:
        return True


def _sums(place: Path) -> dict[str, str]:
    lines = _text(place / SUMS_FILE).splitlines()
    found = (re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines)
    return {line[2]: line[1] for line in found if line}
