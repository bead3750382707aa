"""Fetch one file over HTTP: resume it after a break, check it, then move it into place.

The caller gives the file's address (hub.py). The expected hash is known before the
first byte is kept: from the caller, or from the headers of the server's own
answer. A server may redirect to a storage on another host. Only the headers of the
first host count, and the token is not sent to the storage.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

from mingpt.errors import DownloadError

if TYPE_CHECKING:  # at run time imported where it is used: most runs need no network
    import requests

Progress = Callable[[int, int], None]  # (bytes done, bytes in all or 0 if unknown)

SECONDS_TO_CONNECT = 4.0
SECONDS_TO_ANSWER = 15.0  # name look-up, connection and first header together
SECONDS_TO_STALL = 30.0  # in each such span at least LEAST_BYTES must arrive
LEAST_BYTES = 1 << 15
ATTEMPTS = 5  # failures in a row before we give up; two for a host that never answered
SECONDS_BETWEEN = 1.0  # after the first failure; the wait doubles with each further one
LONGEST_WAIT = 60.0  # seconds that a server may ask for with Retry-After
MOST_REDIRECTS = 5
_CHUNK = 1 << 18  # bytes
_WORTH_ANOTHER_TRY = 1 << 20  # bytes; an attempt with so many new ones sets the failures to 1


class NotFoundError(DownloadError):
    """The server has no such file."""


@dataclass(frozen=True)
class Fetched:
    """Hash, size and commit of a file that has arrived."""

    sha256: str
    size: int  # bytes
    commit: str | None  # the hub's commit that the file belongs to


@dataclass
class _Statement:
    """The first server's statements about the file; the storage's headers do not count."""

    linked: str | None = None  # X-Linked-Etag: the hash of a file that is in a storage
    etag: str | None = None  # ETag: the file's hash if the server sends the file itself
    size: int | None = None  # bytes
    commit: str | None = None

    @property
    def hash(self) -> str | None:
        """The file's hash in hex: SHA-256 (64 digits), or SHA-1 as a git blob (40)."""
        return self.linked or self.etag

    def read(self, answer: requests.Response) -> None:
        """Fill the fields that no earlier answer has filled."""
        headers = answer.headers
        self.linked = self.linked or _hash_in(headers.get("X-Linked-Etag"))
        self.etag = self.etag or _hash_in(headers.get("ETag"))
        if self.size is None:
            self.size = _number_in(headers.get("X-Linked-Size"))
        if re.fullmatch(r"[0-9a-f]{40}", headers.get("X-Repo-Commit", "")):
            self.commit = self.commit or headers["X-Repo-Commit"]


class _BrokenError(Exception):
    """An attempt that failed; another one may succeed."""

    def __init__(self, words: str, *, answered: bool, wait: float | None = None) -> None:
        super().__init__(words)
        self.answered = answered  # True if the server answered
        self.wait = wait  # seconds that the server asks us to wait


def fetch(
    url: str,
    path: Path,
    *,
    token: str | None = None,
    sha256: str | None = None,
    verify: bool = True,
    check: Callable[[Path], object] | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """Download `url` to `path`, whole and checked, or leave nothing behind.

    A killed process leaves a hidden part of the file, which the next process
    completes. Two processes must not fetch the same file at the same time: the
    caller holds a lock (cache.adding_to).

    Args:
        token: sent to the host of `url` only.
        sha256: the file's hash, in hex; None: the hash that the server states.
        verify: False accepts a file for which no hash is known.
        check: called with the temporary file before it is moved; raises to refuse it.
        progress: called with (bytes done, bytes in all) as they arrive; the
            second is 0 if the server does not state it.

    Raises:
        NotFoundError: the server answers 404.
        DownloadError: there is no connection, no answer, no hash or no room for
            the file; or the answer is an HTTP error, a web page, or another file.
    """
    if token is not None and re.fullmatch(r"[!-~]+", token) is None:
        raise DownloadError("HF_TOKEN is no token: it holds a space or another strange character")
    part, commit = _Part(path), None
    failures, ever_answered, furthest = 0, False, 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not part.is_whole:
            try:
                commit = _attempt(url, part, token, sha256, verify, progress)
            except _BrokenError as error:
                ever_answered = ever_answered or error.answered
                # Only bytes beyond the furthest attempt count, not bytes fetched again.
                is_further = part.size >= furthest + _WORTH_ANOTHER_TRY
                failures = 1 if is_further else failures + 1
                furthest = max(furthest, part.size)
                if failures >= (ATTEMPTS if ever_answered else 2):
                    tries = f" ({failures} tries)" if failures > 1 else ""
                    raise DownloadError(f"{_shown(url)} {error}{tries}") from None
                time.sleep(error.wait or SECONDS_BETWEEN * 2 ** (failures - 1))
        if check is not None:
            check(part.path)
        digest = part.sha256()
        part.keep()
        return Fetched(digest, part.size, commit)
    except OSError as error:
        raise DownloadError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        part.discard()


def reach(url: str) -> None:
    """Check that a server answers at `url`, with any status.

    Raises:
        DownloadError: no answer within SECONDS_TO_CONNECT.
    """
    try:
        _ask(url, {}, None, SECONDS_TO_CONNECT).close()
    except _BrokenError as error:
        raise DownloadError(f"{_shown(url)} {error}") from None


# --------------------------------------------------------------------- one attempt


def _attempt(
    url: str,
    part: _Part,
    token: str | None,
    sha256: str | None,
    verify: bool,
    progress: Progress | None,
) -> str | None:
    """Fetch the file, or the rest of it, and check its hash; return the hub's commit.

    The server's answer may give the hash by which a part of the file is found on
    the disk. This attempt then fetches nothing, and the next one fetches the rest.
    """
    if part.has_no_hash:
        part.restart()  # without a hash, two pieces cannot be checked to fit together
    answer, statement = _open(url, token, part.size)
    with answer:
        _check_status(url, answer, has_token=token is not None)
        if answer.status_code == 416:
            part.restart()
            raise _BrokenError("has no such part of the file", answered=True)
        if _kind(answer) in ("text/html", "application/xhtml+xml"):
            raise DownloadError(
                f"{_shown(url)} answers with a web page instead of the file:"
                " a log-in page of this network, perhaps"
            )
        stated = statement.hash
        if sha256 is not None and len(stated or "") == 64 and stated != sha256:
            raise _wrong(url, stated, sha256)
        expected = sha256 or stated
        if expected is None and verify:
            raise DownloadError(
                f"{_shown(url)}: the server states no hash to check the file by;"
                " mingpt-fetch --no-verify accepts it without a hash"
            )
        if part.expect(expected):
            part.is_whole = part.sha256() == expected  # killed when all bytes were there
            return statement.commit
        size = _begin(answer, part, statement.size)
        is_chunked = "chunked" in answer.headers.get("Transfer-Encoding", "").lower()
        if size is None and expected is None and not is_chunked:
            raise DownloadError(f"{_shown(url)}: neither a hash nor a size tells when it is whole")
        _check_room(part, size)
        _receive(answer, part, size or 0, progress)
    if size is not None and part.size != size:
        if part.size > size:
            part.restart()
            raise _BrokenError(f"sends more than {size} bytes", answered=True)
        raise _BrokenError(f"broke off after {part.size} of {size} bytes", answered=True)
    got = part.git_sha1() if len(expected or "") == 40 else part.sha256()
    if expected is not None and got != expected:
        if part.is_pieced or size is None:  # pieces of two files, or an incomplete file
            part.restart()
            raise _BrokenError("gave pieces that do not fit together", answered=True)
        raise _wrong(url, got, expected)
    part.is_whole = True
    return statement.commit


def _open(url: str, token: str | None, offset: int) -> tuple[requests.Response, _Statement]:
    """Return the answer, its body not read yet, and the first host's statement."""
    headers = {
        "Accept-Encoding": "identity",  # Content-Length must count the file's own bytes
        **({"Range": f"bytes={offset}-"} if offset else {}),
    }
    statement, here = _Statement(), url
    for hop in range(MOST_REDIRECTS + 1):
        answer = _ask(here, headers, token if hop == 0 else None, SECONDS_TO_ANSWER)
        if _origin(here) == _origin(url):
            statement.read(answer)
        if not answer.is_redirect:
            return answer, statement
        answer.close()
        there = urljoin(here, answer.headers["Location"])
        is_plain = urlsplit(there).scheme == "http" and urlsplit(here).scheme == "http"
        if urlsplit(there).scheme != "https" and not is_plain:
            raise DownloadError(f"{_shown(url)} redirects to {_shown(there)}: not followed")
        here = there
    raise DownloadError(f"{_shown(url)} redirects more than {MOST_REDIRECTS} times: in a circle?")


def _ask(url: str, headers: dict[str, str], token: str | None, seconds: float) -> requests.Response:
    """Return the answer, its body not read yet; fail after `seconds`.

    The request runs in a thread, because the time-outs of requests do not bound
    the look-up of a host's name, and start again for each of the host's addresses.
    """
    import requests

    outcome: list[requests.Response | Exception] = []

    def authorise(request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Set even without a token: otherwise requests looks for a password in ~/.netrc.
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    def ask() -> None:
        try:
            outcome.append(
                requests.get(
                    url,
                    headers=headers,
                    auth=authorise,
                    stream=True,
                    allow_redirects=False,
                    timeout=(SECONDS_TO_CONNECT, SECONDS_TO_STALL),
                )
            )
        except Exception as error:  # raised in the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise _BrokenError(f"does not answer within {seconds:g} s", answered=False)
    if isinstance(outcome[0], requests.exceptions.ConnectionError | requests.exceptions.Timeout):
        raise _BrokenError(f"cannot be reached: {_reason(outcome[0])}", answered=False)
    if isinstance(outcome[0], Exception):
        raise DownloadError(f"{_shown(url)} cannot be requested: {_reason(outcome[0])}")
    return outcome[0]


def _check_status(url: str, answer: requests.Response, *, has_token: bool) -> None:
    """Raise an error if the answer's status says that it is not the file."""
    status, code = answer.status_code, answer.headers.get("X-Error-Code", "")
    if status in (200, 206, 416):
        return
    says = f"{_shown(url)} answers HTTP {status}"
    if status in (408, 429) or status >= 500:
        wait = _retry_after(answer.headers.get("Retry-After"))
        if wait is not None and wait > LONGEST_WAIT:
            raise DownloadError(f"{says} and asks to come back in {wait:.0f} s")
        raise _BrokenError(f"answers HTTP {status}", answered=True, wait=wait)
    if _origin(answer.url) != _origin(url):
        raise DownloadError(f"{says}: the storage that the hub redirects to refuses the file")
    if code == "GatedRepo":
        raise DownloadError(
            f"{says}: the repository is gated; accept its terms on its page, and set HF_TOKEN"
            " to a token of that account"
        )
    if status in (401, 403):
        which = "has no access to it" if has_token else "may have access"
        raise DownloadError(
            f"{says}: there is no such repository, or a private one;"
            f" {'the' if has_token else 'a'} token in HF_TOKEN {which}"
        )
    if status == 404 and code != "RepoNotFound":
        raise NotFoundError(f"{says}: there is no such file")
    raise DownloadError(says)


def _begin(answer: requests.Response, part: _Part, stated: int | None) -> int | None:
    """Prepare `part` for the answer's body; return the size of the whole file, if known."""
    if answer.status_code == 200:
        part.restart()  # the server ignores Range and sends the whole file
        length = _number_in(answer.headers.get("Content-Length"))
        return length if stated is None else stated
    content_range = answer.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d+|\*)", content_range, re.ASCII)
    if found is None or int(found[1]) != part.size:
        part.restart()
        raise _BrokenError("sends another part than was asked for", answered=True)
    return _number_in(found[2]) if stated is None else stated


def _check_room(part: _Part, size: int | None) -> None:
    """Raise DownloadError if the disk has no room for the rest of a file of `size` bytes."""
    room = shutil.disk_usage(part.path.parent).free
    if size is not None and size - part.size > room:
        raise DownloadError(
            f"{part.target} cannot be written: it takes {size - part.size} bytes,"
            f" and there is room for {room}"
        )


def _receive(answer: requests.Response, part: _Part, size: int, progress: Progress | None) -> None:
    """Write the answer's body into `part`."""
    import urllib3

    since, then = time.monotonic(), part.size
    with part.appending() as write:
        while True:
            try:
                # Take what has arrived, not a full chunk, so that a slow server is noticed.
                data = answer.raw.read1(_CHUNK, decode_content=False)
            except urllib3.exceptions.ReadTimeoutError:
                raise _BrokenError("has stalled", answered=True) from None
            except (urllib3.exceptions.HTTPError, OSError):
                raise _BrokenError(
                    f"broke off after {part.size} of {size or 'unknown'} bytes", answered=True
                ) from None
            if not data:
                return
            write(data)
            if progress is not None:
                progress(part.size, size)
            if size and part.size > size:
                return  # too much already: do not fill the disk
            if time.monotonic() - since > SECONDS_TO_STALL:
                if part.size - then < LEAST_BYTES:
                    raise _BrokenError("has all but stalled", answered=True)
                since, then = time.monotonic(), part.size


# --------------------------------------------------------------------- the unfinished file


class _Part:
    """The hidden file that a download is written to, beside its target.

    Its name holds the expected hash, so that a part left by a killed process is
    only completed if it belongs to the same file.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self.size = 0  # bytes written so far
        self.is_pieced = False  # the bytes came from more than one answer
        self.is_whole = False  # the bytes are the whole file, and checked
        self._digest = hashlib.sha256()
        self._is_named = False  # expect() was called, so the server has answered
        self._expected: str | None = None

    def expect(self, expected: str | None) -> bool:
        """Name the hidden file after its hash; return True if a part of it was on the disk."""
        if self._is_named and self._expected == expected:
            return False
        self.discard()  # the file has changed since the last attempt
        self.restart()
        self._is_named, self._expected = True, expected
        self.path = self.target.with_name(f".{self.target.name}.{(expected or 'x')[:16]}.part")
        for other in self.target.parent.glob(f".{self.target.name}.*.part"):
            if other != self.path or expected is None or other.is_symlink():
                other.unlink()
        if not self.path.is_file():
            return False
        with self.path.open("rb") as file:
            while data := file.read(_CHUNK):
                self._digest.update(data)
                self.size += len(data)
        self.is_pieced = self.size > 0
        return self.is_pieced

    @property
    def has_no_hash(self) -> bool:
        """True once the server has answered and stated no hash."""
        return self._is_named and self._expected is None

    @contextlib.contextmanager
    def appending(self) -> Iterator[Callable[[bytes], None]]:
        """Yield a function that appends bytes to the file."""
        self.is_pieced = self.size > 0
        with self.path.open("ab" if self.size else "wb") as file:
            yield lambda data: self._write(file, data)

    def _write(self, file: BinaryIO, data: bytes) -> None:
        try:
            file.write(data)
        except OSError as error:  # _receive takes an OSError for a broken connection
            raise _unwritten(self.target, error) from None
        self._digest.update(data)
        self.size += len(data)

    def restart(self) -> None:
        """Begin again at the first byte."""
        self.size, self.is_pieced, self._digest = 0, False, hashlib.sha256()

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes written so far."""
        return self._digest.hexdigest()

    def git_sha1(self) -> str:
        """Return the file's hash as a git blob: SHA-1 of a header and the bytes."""
        return file_hash(self.path, 40)

    def keep(self) -> None:
        """Write the file out to the disk, then move it into place."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(self.target)

    def discard(self) -> None:
        """Remove the hidden file, if it is there."""
        with contextlib.suppress(OSError):
            self.path.unlink()


def file_hash(path: Path, digits: int, progress: Callable[[int], None] | None = None) -> str:
    """Return a file's SHA-256 (64 hex digits), or its SHA-1 as a git blob (40).

    Args:
        digits: 64 or 40.
        progress: called with the number of bytes just read.
    """
    if digits == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
            if progress is not None:
                progress(len(data))
    return digest.hexdigest()


# --------------------------------------------------------------------- headers and messages


def _hash_in(etag: str | None) -> str | None:
    """Return the hash in an ETag of the hub, or None."""
    found = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64}|[0-9a-f]{40})"?', etag or "")
    return found and found[1]


def _number_in(text: str | None) -> int | None:
    """Return the number of bytes that a header states, or None."""
    found = re.fullmatch(r"\d{1,18}", text or "", re.ASCII)
    return int(found[0]) if found else None


def _retry_after(text: str | None) -> float | None:
    """Return the seconds to wait in a Retry-After header: a number, or a date."""
    if text is None:
        return None
    if (seconds := _number_in(text.strip())) is not None:
        return float(seconds)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())


def _kind(answer: requests.Response) -> str:
    return answer.headers.get("Content-Type", "").split(";")[0].strip().lower()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _shown(url: str) -> str:
    """Return the address without a password or a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _wrong(url: str, got: str | None, wanted: str) -> DownloadError:
    kind = "SHA-256" if len(wanted) == 64 else "git's SHA-1"
    return DownloadError(
        f"{_shown(url)} is not the expected file: {kind} {got} instead of {wanted}"
    )


def _unwritten(path: Path, error: OSError) -> DownloadError:
    return DownloadError(f"{path} cannot be written: {error.strerror or error}")


def _reason(error: Exception) -> str:
    """Return a short reason in place of requests' nested messages."""
    import requests

    reasons = {
        requests.exceptions.SSLError: "the certificate is not accepted",
        requests.exceptions.ProxyError: "the proxy refuses",
        requests.exceptions.Timeout: "time-out",
        requests.exceptions.ConnectionError: "no connection",
        ValueError: "it is no address",  # the base class of InvalidURL and MissingSchema
    }
    for kind, words in reasons.items():
        if isinstance(error, kind):
            return words
    return type(error).__name__
