"""Fetch one file over HTTP: go on after a break, check its hash, then move it into place.

The caller knows the hash beforehand (hub.py, sources.py). Whatever has arrived when the
connection breaks, or when the user presses Ctrl-C, stays on the disk. The next call goes
on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin, urlsplit

from mingpt.errors import DownloadError

if TYPE_CHECKING:  # at run time imported where it is used: most runs need no network
    import requests

Answer = TypeVar("Answer")
Progress = Callable[[int, int], None]  # (bytes done, bytes in all or 0 if unknown)

SECONDS_TO_CONNECT = 4.0
SECONDS_TO_ANSWER = 10.0  # name look-up, connection and all headers
SECONDS_TO_STALL = 10.0  # in each such span at least LEAST_BYTES must arrive
LEAST_BYTES = 1 << 15
ATTEMPTS = 5  # failures in a row before we give up; a stall counts as STALL of them
STALL = 3
SECONDS_BETWEEN = 1.0  # after the first failure; the wait doubles with each further one
MOST_REDIRECTS = 10
MOST_UNSTATED = 1 << 24  # bytes to take where neither the hub nor the answer states a size
_CHUNK = 1 << 18  # bytes
_WORTH_ANOTHER_TRY = 1 << 20  # bytes; an attempt with so many new ones sets the failures to 1


class NotFoundError(DownloadError):
    """The server has no such file."""

    commit: str | None = None  # the hub's commit that has no such file, if the hub says so


class _BrokenError(Exception):
    """An attempt that failed; another one may succeed."""

    def __init__(self, words: str, *, weight: int = 1) -> None:
        super().__init__(words)
        self.weight = weight


def fetch(
    url: str,
    target: Path,
    *,
    hashes: Sequence[str],
    size: int | None = None,
    headers: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Download `url` to `target`; a file with another hash is removed.

    The bytes are written to `target` with ".incomplete" added to its name. Two
    processes must not fetch the same file at the same time: the caller holds a lock.

    Args:
        hashes: at least one hash in hex: SHA-256 (64 digits), or SHA-1 as a git blob (40).
        size: of the whole file, in bytes; None: what the answer states.
        headers: of the request. Authorization is sent to the host of `url` only.
        progress: called with (bytes done, bytes in all) as they arrive.

    Raises:
        NotFoundError: the server answers 404.
        DownloadError: there is no connection or no room for the file; or the answer is
            an HTTP error, a web page, or another file.
    """
    part = target.with_name(f"{target.name}.incomplete")
    failures, furthest = 0, 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if part.is_symlink() or (part.exists() and not part.is_file()):
            part.unlink()  # never written through
        while True:
            try:
                _attempt(url, part, hashes, size, headers or {}, progress)
                break
            except _BrokenError as error:
                # Only bytes beyond the furthest attempt count, not bytes fetched again.
                has = _size(part)
                failures = error.weight + (0 if has >= furthest + _WORTH_ANOTHER_TRY else failures)
                furthest = max(furthest, has)
                if failures >= ATTEMPTS:
                    raise DownloadError(f"{_shown(url)} {error}; giving up") from None
                time.sleep(SECONDS_BETWEEN * 2 ** (failures - 1))
        part.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # a part must not fill the disk
        raise DownloadError(f"{target} cannot be written: {error.strerror or error}") from None


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


def wrong_hash(path: Path, hashes: Sequence[str], progress: Progress | None = None) -> str | None:
    """Return words for the first of `hashes` that is not the file's; None if all are."""
    size, done = path.stat().st_size, 0

    def step(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, len(hashes) * size)

    for wanted in hashes:
        got = file_hash(path, len(wanted), step)
        if got != wanted:
            kind = "SHA-256" if len(wanted) == 64 else "git's SHA-1"
            return f"{kind} {got} instead of {wanted}"
    return None


# --------------------------------------------------------------------- one attempt


def _attempt(
    url: str,
    part: Path,
    hashes: Sequence[str],
    size: int | None,
    headers: Mapping[str, str],
    progress: Progress | None,
) -> None:
    """Fetch the file, or the rest of it, into `part`, and check its hashes."""
    has = _size(part)
    if size is None or has != size:
        with _open(url, {**headers, **({"Range": f"bytes={has}-"} if has else {})}) as answer:
            start = _start(answer, has)
            if start is None:
                part.unlink(missing_ok=True)
                raise _BrokenError("sends another part than was asked for")
            size = _stated_size(answer, start) if size is None else size
            _check_room(part, size, start)
            _receive(answer, part, start, size, progress)
    if size is not None and _size(part) < size:
        raise _BrokenError(f"broke off after {_size(part)} of {size} bytes")
    if wrong := wrong_hash(part, hashes):
        part.unlink()
        if has or size is None:  # pieces of two files, or an incomplete file
            raise _BrokenError(f"gave pieces that do not fit together: {wrong}")
        raise DownloadError(f"{_shown(url)} is not the expected file: {wrong}")


def within(seconds: float, request: Callable[[], Answer]) -> Answer:
    """Return a request's answer; raise TimeoutError if there is none within `seconds`.

    The request runs in a thread, because time-outs of HTTP clients bound neither the look-up
    of a host's name nor headers that come byte by byte.
    """
    answers: list[Answer] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(request())
        except Exception as error:  # raised in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"does not answer within {seconds:g} s")
    return answers[0]


def _open(url: str, headers: Mapping[str, str]) -> requests.Response:
    """Return the answer, its body not read yet; follow redirects, whose bodies are not read."""
    import requests

    session, here = requests.Session(), url
    # Otherwise requests reads the whole body of a redirect, even of one that it does not follow.
    session.get_redirect_target = lambda response: None  # type: ignore[assignment, method-assign]
    try:
        for _ in range(MOST_REDIRECTS + 1):
            get = partial(
                session.get,
                here,
                # Accept-Encoding: Content-Length must count the file's own bytes.
                headers={**headers, "Accept-Encoding": "identity"},
                auth=lambda request: request,  # else requests would look in ~/.netrc
                stream=True,
                timeout=(SECONDS_TO_CONNECT, SECONDS_TO_STALL),
            )
            answer = within(SECONDS_TO_ANSWER, get)
            if not answer.is_redirect:
                break
            answer.close()
            here, headers = _redirected(here, answer.headers["Location"], headers)
        else:
            raise DownloadError(f"{_shown(url)} redirects more than {MOST_REDIRECTS} times")
    except (TimeoutError, requests.exceptions.ReadTimeout):
        raise _BrokenError("does not answer", weight=STALL) from None
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise _BrokenError(f"cannot be reached: {_reason(error)}") from None
    except (requests.exceptions.RequestException, ValueError) as error:
        raise DownloadError(f"{_shown(url)} cannot be requested: {_reason(error)}") from None
    try:
        _check_status(url, answer)
    except BaseException:
        answer.close()
        raise
    return answer


def _redirected(
    here: str, location: str, headers: Mapping[str, str]
) -> tuple[str, Mapping[str, str]]:
    """Return the address that a redirect leads to, and the headers for it.

    Raises:
        DownloadError: it leads from https to another scheme, or to none of HTTP's.
    """
    there = urljoin(here, location)
    before, after = urlsplit(here), urlsplit(there)
    if after.scheme != "https" and not before.scheme == after.scheme == "http":
        raise DownloadError(f"{_shown(here)} redirects to {_shown(there)}: not followed")
    if (before.scheme, before.netloc) != (after.scheme, after.netloc):  # the token stays behind
        headers = {name: text for name, text in headers.items() if name.lower() != "authorization"}
    return there, headers


def _check_status(url: str, answer: requests.Response) -> None:
    """Raise an error if the answer's status or kind says that it is not the file."""
    status = answer.status_code
    if status in (408, 429) or status >= 500:
        raise _BrokenError(f"answers HTTP {status}")
    if status == 404:
        raise NotFoundError(f"{_shown(url)} answers HTTP 404: there is no such file")
    if status not in (200, 206, 416):
        raise DownloadError(f"{_shown(url)} answers HTTP {status}")
    kind = answer.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise DownloadError(
            f"{_shown(url)} answers with a web page instead of the file:"
            " a log-in page of this network, perhaps"
        )


def _start(answer: requests.Response, asked: int) -> int | None:
    """Return the place of the body's first byte in the file; None if it is not to be used."""
    if answer.status_code == 200:
        return 0  # the server ignores Range and sends the whole file
    found = re.match(r"bytes (\d{1,18})-", answer.headers.get("Content-Range", ""), re.ASCII)
    return asked if found and int(found[1]) == asked else None


def _stated_size(answer: requests.Response, start: int) -> int | None:
    """Return the bytes of the whole file, if the answer states how many follow."""
    found = re.fullmatch(r"\d{1,18}", answer.headers.get("Content-Length", ""), re.ASCII)
    return start + int(found[0]) if found else None


def _check_room(part: Path, size: int | None, start: int) -> None:
    """Raise DownloadError if the disk has no room for the rest of a file of `size` bytes."""
    room = shutil.disk_usage(part.parent).free
    if size is not None and size - start > room:
        raise DownloadError(
            f"{part.parent} cannot hold the file: it takes {size - start} bytes,"
            f" and there is room for {room}"
        )


def _receive(
    answer: requests.Response, part: Path, start: int, size: int | None, progress: Progress | None
) -> None:
    """Write the answer's body into `part`, from byte `start` on."""
    import urllib3

    most = MOST_UNSTATED if size is None else size
    done, since, then = start, time.monotonic(), start
    with part.open("ab" if start else "wb") as file:
        while True:
            try:
                # Take what has arrived, not a full chunk, so that a slow server is noticed.
                data = answer.raw.read1(_CHUNK, decode_content=False)
            except urllib3.exceptions.ReadTimeoutError:
                raise _BrokenError("has stalled", weight=STALL) from None
            except (urllib3.exceptions.HTTPError, OSError):
                raise _BrokenError(f"broke off after {done} of {size or '?'} bytes") from None
            if not data:
                return
            done += len(data)
            if done > most:
                file.truncate(0)  # it is another file, and must not fill the disk
                raise _BrokenError(f"sends more than {most} bytes")
            file.write(data)
            if progress is not None:
                progress(done, size or 0)
            if time.monotonic() - since > SECONDS_TO_STALL:
                if done - then < LEAST_BYTES:
                    raise _BrokenError("has all but stalled", weight=STALL)
                since, then = time.monotonic(), done


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _shown(url: str) -> str:
    """Return the address without a password or a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _reason(error: Exception) -> str:
    """Return a short reason in place of requests' nested messages."""
    import requests

    reasons = {
        requests.exceptions.SSLError: "the certificate is not accepted",
        requests.exceptions.ProxyError: "the proxy refuses",
        requests.exceptions.Timeout: "time-out",
        requests.exceptions.ConnectionError: "no connection",
        ValueError: "it is no address",  # InvalidURL, InvalidSchema, ...
    }
    return next((words for kind, words in reasons.items() if isinstance(error, kind)), "no answer")
