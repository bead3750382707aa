"""Fetch a repository's files into the hub's cache, with huggingface_hub.

The library knows the token and the HF_* variables, and asks the hub for a file's commit,
hash and size. The bytes come by download.py, because the library's own transfer
(hf_hub_download, version 2.4) throws away what has arrived when the line breaks, compares
the size and not the hash, and waits for minutes. cache.py knows the folders.

huggingface_hub is imported where it is used: `builtin` and local folders need none of it.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from mingpt.errors import DownloadError
from mingpt.files import contained
from mingpt.loading import cache
from mingpt.loading.download import NotFoundError, Progress, fetch, within
from mingpt.loading.repositories import Repository

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

SECONDS_TO_ANSWER = 10.0  # name look-up, connection and headers together
SECONDS_TO_REACH = 4.0  # ... to learn whether there is a network at all
ATTEMPTS = 3  # at a hub that is busy
SECONDS_BETWEEN = 1.0  # then twice as long
OFFLINE = "--offline or HF_HUB_OFFLINE forbids using the network"
BY_HAND = "put it there by hand, or use the model 'builtin', which needs no network"
NOT_THERE = "the repository has no such file"


def is_offline() -> bool:
    """Return True if HF_HUB_OFFLINE forbids the network."""
    return cache.constants().HF_HUB_OFFLINE


def endpoint() -> str:
    """Return HF_ENDPOINT, or the hub's own address; raise DownloadError if it is no address."""
    address: str = cache.constants().ENDPOINT
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        is_known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if is_known and "@" not in parts.netloc:
            return address
    raise DownloadError(
        "HF_ENDPOINT is no address of the form https://host (a token belongs in HF_TOKEN)"
    )


def reach() -> None:
    """Check that the hub answers; raise DownloadError if not within SECONDS_TO_REACH."""
    url = endpoint()
    from huggingface_hub import get_session

    _within(SECONDS_TO_REACH, lambda: get_session().head(url, timeout=SECONDS_TO_REACH))


def obtain(
    repository: Repository, name: str, progress: Progress | None = None, *, offline: bool = False
) -> Path:
    """Return one file of a repository in the cache, checked; fetch it if it is not there.

    Args:
        name: of the file; it holds no "/".
        progress: called with (bytes done, bytes in all) while fetching.
        offline: never use the network.

    Raises:
        NotFoundError: the repository has no such file.
        DownloadError: the hub cannot be reached or refuses, or sends another file.
        CheckpointError: a link leads out of the cache.
    """
    place = cache.folder(repository)
    for path in (place, place / "blobs", place / "snapshots"):
        contained(path, cache.directory())
    revision = cache.revision(repository)
    missing = place / ".no_exist" / revision / name  # the library's mark
    path = place / "snapshots" / revision / name
    if missing.exists():
        raise NotFoundError(NOT_THERE)
    if path.is_file():
        cache.check(repository, path, progress)
        return path
    if offline or is_offline():
        raise DownloadError(OFFLINE)
    try:
        stated = ask(repository, name, revision)
        commit, digest = str(stated.commit_hash), str(stated.etag)
        blob, path = place / "blobs" / digest, place / "snapshots" / commit / name
        hashes = [digest, *filter(None, [repository.sha256.get(name)])]
        with cache.locked(place, digest, progress):
            if not blob.is_file():
                url, size = _url(repository, name, commit), stated.size
                fetch(url, blob, hashes=hashes, size=size, headers=_headers(), progress=progress)
                cache.remember(blob, hashes)
            cache.link(blob, path)
            cache.note_commit(repository, commit)
        cache.check(repository, path, progress)  # a blob that was there already
        return path
    except NotFoundError as error:
        if error.commit == revision:
            with contextlib.suppress(OSError):
                missing.parent.mkdir(parents=True, exist_ok=True)
                missing.touch()
        raise
    except OSError as error:
        raise DownloadError(f"{place} cannot be written: {error.strerror or error}") from None


def ask(repository: Repository, name: str, revision: str) -> HfFileMetadata:
    """Return the commit, hash (`etag`) and size that the hub states for a file; see obtain."""
    url, seconds = _url(repository, name, revision), SECONDS_TO_ANSWER
    from huggingface_hub import get_hf_file_metadata

    request = partial(get_hf_file_metadata, url, False, seconds, headers=_headers())
    for failures in range(1, ATTEMPTS + 1):
        try:
            found = _within(seconds, request)
            break
        except _BusyError as error:
            if failures == ATTEMPTS:
                raise DownloadError(f"{error} ({failures} tries)") from None
            time.sleep(SECONDS_BETWEEN * failures)
    commit, digest = found.commit_hash or "", found.etag or ""
    # Both become names of folders and files.
    if not (cache.COMMIT.fullmatch(commit) and cache.HASH.fullmatch(digest)):
        raise DownloadError(
            f"{url} states no commit, or no hash to check the file by: it is no hub, or a"
            " log-in page of this network"
        )
    if cache.COMMIT.fullmatch(revision) and commit != revision:
        raise DownloadError(f"{url} answers with another commit, {commit}")
    return found


class _BusyError(Exception):
    """The hub answers that it is busy; another try may succeed."""


def _url(repository: Repository, name: str, revision: str) -> str:
    return f"{endpoint()}/{repository}/resolve/{revision}/{quote(name)}"


def _headers() -> dict[str, str]:
    from huggingface_hub import get_token

    token = None if cache.constants().HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token and re.fullmatch(r"[!-~]+", token) is None:
        raise DownloadError("HF_TOKEN is no token: it holds a space or another strange character")
    return {"authorization": f"Bearer {token}"} if token else {}


def _within(seconds: float, request: Callable[[], Any]) -> Any:
    """Return a request's answer; fail after `seconds`, and turn the library's errors into ours."""
    try:
        return within(seconds, request)
    except TimeoutError as error:
        raise DownloadError(f"{endpoint()} {error}") from None
    except Exception as error:
        raise _translated(error) from None


def _translated(error: Exception) -> Exception:
    """Return our error for one of the library, or of the HTTP client that it uses."""
    from huggingface_hub import errors

    answer = getattr(error, "response", None)
    status = getattr(answer, "status_code", None)
    says = f"{endpoint()} answers HTTP {status}"
    if isinstance(error, errors.GatedRepoError):
        says += ": the repository is gated; accept its terms on its page, and set HF_TOKEN"
    elif status in (401, 403) or isinstance(error, errors.RepositoryNotFoundError):
        says += ": there is no such repository, or a private one; HF_TOKEN may give access"
    elif status == 404:
        missing = NotFoundError(NOT_THERE)
        if answer is not None and isinstance(error, errors.EntryNotFoundError):
            missing.commit = answer.headers.get("X-Repo-Commit")
        return missing
    elif status is None:
        kind = type(error).__name__  # of httpx or httpx2, as the library's version has it
        kind = "time-out" if "Timeout" in kind else kind.replace("ConnectError", "no connection")
        hint = "; is a variable such as HTTPS_PROXY wrong?" if kind.endswith("Error") else ""
        says = f"{endpoint()} cannot be reached: {kind}{hint}"
    is_busy = status in (408, 429) or (status or 0) >= 500
    return _BusyError(says) if is_busy else DownloadError(says)
