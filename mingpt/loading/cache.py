"""What lies where on this machine: our cache, and the hub's, which is only read.

Ours is one directory, MINGPT_CACHE or ~/.cache/mingpt: GPT-2's two tokenizer
files at its top, each repository's files in <owner>--<name>/ under it, together
with SHA256SUMS, the hash of every file that was fetched, and COMMIT, the one of
the repository's that they belong to.
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
COMMIT_FILE = "COMMIT"  # of the repository, that the files in a folder belong to
# What `verify` finds of a file.
INTACT, WRONG, MISSING, UNKNOWN = "intact", "WRONG", "MISSING", "no hash is known"
TOKENIZER = "gpt2-tokenizer"  # the name of the two files at the top of our cache
SECONDS_BETWEEN_LOOKS = 0.2  # at a lock that another process holds


@dataclass(frozen=True)
class Place:
    """A directory in a cache."""

    directory: Path
    root: Path  # of the cache: no link is followed out of it

    def tokenizer_files(self) -> tuple[Path, ...]:
        """The tokenizer's files here.

        Raises:
            TokenizerError: there are none.
            CheckpointError: they lie outside the cache.
        """
        return tuple(
            contained(path, self.root) for path in tokenizer_files.files_in(self.directory)
        )


@dataclass(frozen=True)
class Entry:
    """What a cache holds of one model."""

    name: str  # owner/name, or TOKENIZER
    place: Place
    is_ours: bool  # else the hub's
    files: tuple[Path, ...]
    nbytes: int  # of them all

    @property
    def is_complete(self) -> bool:
        """Whether configuration and weights are all there."""
        repository = hub.repository(self.name)
        return repository is None or _is_complete(self.place, repository)


def directory() -> Path:
    """Our cache."""
    return expanded(os.environ.get("MINGPT_CACHE") or "~/.cache/mingpt")


def hub_directory() -> Path:
    """The cache of the hub's own library, as that library finds it."""
    for_all = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{for_all}/huggingface"
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
    place = next(filter(None, map(os.environ.get, names)), f"{home}/hub")
    return expanded(os.path.expandvars(place))


def folder(repository: Repository) -> Path:
    """Where our cache has, or will have, a repository's files."""
    return directory() / f"{repository.owner}--{repository.name}"


def places(repository: Repository) -> list[Place]:
    """Where files of a repository may be: in our cache, then in the hub's.

    Raises:
        CheckpointError: a link out of a cache.
    """
    ours = Place(folder(repository), directory())
    return [ours, *(Place(path, hub_directory()) for path in _snapshots(repository))]


def complete(repository: Repository) -> Iterator[Place]:
    """Those of them that hold weights and configuration, whole.

    Raises:
        CheckpointError: a link out of a cache.
    """
    return (place for place in places(repository) if _is_complete(place, repository))


def find(repository: Repository) -> Place | None:
    """The first of them."""
    return next(complete(repository), None)


def entries() -> list[Entry]:
    """Every model in either cache, by name; and GPT-2's tokenizer."""
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
        # A link out of the cache is not followed, and does not hide the other models.
        with contextlib.suppress(CheckpointError):
            for place in complete(repository) if repository else ():
                if place.directory.parent.parent == path and _is_gpt2(place, repository):
                    found.append(entry(str(repository), place))
                    break
    return sorted(found, key=lambda entry: (entry.name, not entry.is_ours))


def entry(name: str, place: Place, files: Iterable[Path] | None = None) -> Entry:
    """What lies in a place: `files`, or all that are not ours to keep account of it."""
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
    """The hash that a cached file should have, 64 or 40 digits; None if nobody knows.

    What is known beforehand decides, else what SHA256SUMS says; the hub's cache
    names its files after their hashes.
    """
    known = hub.TOKENIZER_SHA256 if repository is None else repository.sha256
    blob = re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", path.resolve().name)
    return known.get(path.name) or _sums(path.parent).get(path.name) or (blob and blob[0])


def record(path: Path, sha256: str) -> None:
    """Note the hash of a file that was fetched."""
    sums = {**_sums(path.parent), path.name: sha256}
    with replacing(path.with_name(SUMS_FILE)) as temporary:
        lines = (f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
        temporary.write_text("".join(lines), encoding="utf-8")


def commit_in(place: Path) -> str | None:
    """The commit that the files in a folder of ours belong to, if it was noted."""
    found = re.fullmatch(r"[0-9a-f]{40}", _text(place / COMMIT_FILE).strip())
    return found and found[0]


def note_commit(place: Path, commit: str) -> None:
    """Note it, so that what is fetched later belongs to it too."""
    with replacing(place / COMMIT_FILE) as temporary:
        temporary.write_text(f"{commit}\n", encoding="utf-8")


def remove(entry: Entry) -> None:
    """Delete a model from our cache.

    Raises:
        CheckpointError: it is not ours, or a link out of the cache.
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
    """Leave to write into a folder of our cache: for one process at a time.

    The folder is created, and is gone again if nothing was put into it.

    Args:
        progress: called with (bytes that the other process has so far, 0)
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
            # While it is held: whoever waits for it sees that, and takes a new one.
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()
            lock.release()
    except OSError as error:
        raise DownloadError(f"{place} cannot be written: {error.strerror or error}") from None
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it is not empty, then
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
    except OSError:  # it has just been moved to its place
        return 0


def _snapshots(repository: Repository) -> Iterator[Path]:
    """A repository's snapshots in the hub's cache: the one refs/main names, then newest first."""
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
    """Whether a snapshot's configuration is a GPT-2's, or so damaged that it could be."""
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
