"""List, verify and delete the models in the hub's cache, for mingpt-fetch."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingpt.errors import CheckpointError
from mingpt.files import contained
from mingpt.loading import cache, config_json
from mingpt.loading.download import file_hash
from mingpt.loading.repositories import Repository, repository

# The states of a file that `verify` reports.
INTACT, WRONG, LINK, UNKNOWN = "intact", "WRONG", "A LINK OUT OF THE CACHE", "no hash is known"


@dataclass(frozen=True)
class Entry:
    """One commit of a GPT-2 in the cache."""

    name: str  # owner/name, or the hub's former name
    repository: Repository
    snapshot: Path
    files: tuple[Path, ...]
    nbytes: int  # of all the files together
    is_complete: bool


def entries() -> tuple[list[Entry], list[str]]:
    """Return every GPT-2 in the cache, sorted by name, and what the library could not read.

    Raises:
        CheckpointError: something in place of a reference is no file.
    """
    from huggingface_hub import scan_cache_dir

    root = cache.directory()
    if not root.is_dir():
        return [], []
    for path in root.glob("*/refs/**/*"):
        if not (path.is_file() or path.is_dir()):  # from a FIFO the library would read for ever
            raise CheckpointError(f"{path} is no file: delete it")
    found = scan_cache_dir(root)
    listed = []
    for repo in found.repos:
        one = repository(repo.repo_id)
        if repo.repo_type == "model" and one is not None:
            commits = [commit for commit in repo.revisions if _is_gpt2(commit.snapshot_path, one)]
            listed += [_entry(repo.repo_id, one, commit) for commit in commits]
    # Folders of other programs, and of fetches that brought no whole file yet, are no damage.
    texts = [" ".join(str(warning).split()) for warning in found.warnings]
    warnings = [one for one in texts if "models--" in one and "Snapshots dir" not in one]
    return sorted(listed, key=lambda entry: (entry.name, entry.snapshot)), warnings


def verify(entry: Entry, progress: Callable[[int], None] | None = None) -> dict[Path, str]:
    """Hash a model's files: path -> INTACT, WRONG, LINK or UNKNOWN.

    Args:
        progress: called with the number of bytes just read.
    """
    found = {}
    for path in entry.files:
        try:
            contained(path, cache.directory())
        except CheckpointError:
            found[path] = LINK
            continue
        hashes = cache.expected_hashes(entry.repository, path)
        right = all(file_hash(path, len(one), progress) == one for one in hashes)
        found[path] = (INTACT if right else WRONG) if hashes else UNKNOWN
    return found


def remove_parts(one: Repository) -> bool:
    """Delete what an interrupted fetch left of a repository without a whole file, if anything.

    Raises:
        CheckpointError: the folder is a link out of the cache.
    """
    place = contained(cache.folder(one), cache.directory())
    if not place.is_dir() or (place / "snapshots").exists():
        return False
    shutil.rmtree(place)
    return True


def remove(chosen: Sequence[Entry]) -> None:
    """Delete commits from the cache, and the files that no other commit has.

    Raises:
        CheckpointError: a folder is a link out of the cache. Nothing is deleted.
    """
    from huggingface_hub import scan_cache_dir

    for entry in chosen:
        contained(entry.snapshot, cache.directory())
    found = scan_cache_dir(cache.directory())
    for repo in found.repos:  # one by one: a copy of a repository has the same commits
        names = [one.snapshot.name for one in chosen if one.snapshot.parents[1] == repo.repo_path]
        dataclasses.replace(found, repos=frozenset([repo])).delete_revisions(*names).execute()


def _entry(name: str, one: Repository, commit: Any) -> Entry:
    files = tuple(sorted(file.file_path for file in commit.files))
    is_complete = False
    with contextlib.suppress(CheckpointError):  # a link leads out of the cache
        is_complete = cache.is_complete(one, commit.snapshot_path)
    return Entry(name, one, commit.snapshot_path, files, commit.size_on_disk, is_complete)


def _is_gpt2(snapshot: Path, one: Repository) -> bool:
    """Return True if a snapshot's configuration is a GPT-2's, or cannot be read."""
    path = snapshot / config_json.NAME
    if not path.is_file():
        return one.preset is not None
    try:
        return config_json.is_gpt2(config_json.read_fields(contained(path, cache.directory())))
    except CheckpointError:
        return True
