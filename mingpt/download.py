"""Fetch one file over HTTP, checked before it is moved into place."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mingpt.errors import DownloadError
from mingpt.files import replacing

if TYPE_CHECKING:  # imported where it is used: most runs never touch the network
    import requests

Progress = Callable[[int, int], None]  # (done, in all; 0 where that is not known)

SECONDS_TO_ANSWER = 4.0  # name look-up, connection and first header together
SECONDS_TO_STALL = 30.0  # without a byte, once the file is on its way
_CHUNK = 1 << 20  # bytes


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    check: Callable[[Path], object] | None = None,
    progress: Progress | None = None,
) -> None:
    """Download `url` to `path`, whole and checked, or leave nothing behind.

    Args:
        sha256: of the file, in hex; None where nobody has published it.
        check: called with the temporary file before it is moved; may raise.
        progress: called with (bytes done, bytes in all) as they arrive; the
            second is 0 where the server does not tell.

    Raises:
        DownloadError: no connection, no answer, an HTTP error, a web page in
            place of the file, a broken or wrong file, or no room for it.
    """
    import requests

    response = _open(url)
    with response:
        if not response.ok:
            raise DownloadError(f"{url} answers HTTP {response.status_code}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError(f"{url} answers with a web page instead of the file")
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else 0  # 0: not told
        digest, done = hashlib.sha256(), 0
        try:
            with replacing(path) as temporary:
                with temporary.open("wb") as file:
                    for chunk in response.iter_content(_CHUNK):
                        file.write(chunk)
                        digest.update(chunk)
                        done += len(chunk)
                        if progress is not None:
                            progress(done, size)
                if size and done != size:
                    raise DownloadError(f"{url} broke off after {done} of {size} bytes")
                if sha256 is not None and digest.hexdigest() != sha256:
                    raise DownloadError(
                        f"{url} is not the expected file:"
                        f" SHA-256 {digest.hexdigest()} instead of {sha256}"
                    )
                if check is not None:
                    check(temporary)
        except requests.RequestException as error:
            raise DownloadError(f"{url} broke off: {_reason(error)}") from None
        except OSError as error:
            raise DownloadError(f"{path} cannot be written: {error.strerror or error}") from None


def _open(url: str) -> requests.Response:
    """The response with its body still to come, or DownloadError within SECONDS_TO_ANSWER.

    In a thread, because no time-out of requests bounds the look-up of a name,
    and its connection time-out counts anew for each address of a host.
    """
    import requests

    outcome: list[requests.Response | Exception] = []

    def ask() -> None:
        try:
            # identity: Content-Length must count the file's own bytes
            headers = {"Accept-Encoding": "identity"}
            timeout = (SECONDS_TO_ANSWER, SECONDS_TO_STALL)
            outcome.append(requests.get(url, stream=True, headers=headers, timeout=timeout))
        except Exception as error:  # handed over to the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    if not outcome:
        raise DownloadError(f"{url} does not answer within {SECONDS_TO_ANSWER:.0f} seconds")
    if isinstance(outcome[0], Exception):
        raise DownloadError(f"{url} cannot be reached: {_reason(outcome[0])}")
    return outcome[0]


def _reason(error: Exception) -> str:
    """One short line, where requests nests three exceptions' worth of text."""
    import requests

    reasons = {
        requests.exceptions.SSLError: "the certificate is not accepted",
        requests.exceptions.ProxyError: "the proxy refuses",
        requests.exceptions.Timeout: "time-out",
        requests.exceptions.ConnectionError: "no connection",
    }
    for kind, words in reasons.items():
        if isinstance(error, kind):
            return words
    return type(error).__name__
