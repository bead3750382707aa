"""A local server that imitates the Hugging Face hub, its storage, and their failures.

Also here: the files that it serves, and functions that fill caches with them.
"""

import hashlib
import http.server
import json
import re
import threading
import time
from dataclasses import dataclass, field

from mingpt.loading import repositories
from mingpt.loading.sources import BUILTIN_DIRECTORY

VOCAB = (BUILTIN_DIRECTORY / "vocab.json").read_bytes()
MERGES = (BUILTIN_DIRECTORY / "merges.txt").read_bytes()
ROWS = len(json.loads(VOCAB))


@dataclass
class Served:
    """One file, and how the server sends it."""

    body: bytes = b""
    etag: str | None = "sha256"  # the stated hash: "sha256", "git", None, or any text
    linked: bool = False  # state it as X-Linked-Etag, as the hub does for files in its storage
    status: int = 200
    headers: dict = field(default_factory=dict)
    redirect: str | None = None  # redirect to this address, in place of sending the body
    redirect_body: bool = False  # send the body all the same
    ranges: bool = True  # answer Range requests
    length: bool = True  # send Content-Length
    failures: list = field(default_factory=list)  # (status, headers) of the first answers, or None
    head_failures: list = field(default_factory=list)  # ... of the first answers to HEAD
    cuts: list = field(default_factory=list)  # the first connections break after so many bytes
    wait: float = 0.0  # seconds before the answer
    head_wait: float = 0.0  # ... to HEAD
    drip: float = 0.0  # seconds between one piece and the next
    piece: int = 1  # bytes
    burst: int = 0  # bytes before the first piece

    def stated(self) -> dict:
        if self.etag is None:
            return {}
        name = {"sha256": sha256, "git": git_sha1}.get(self.etag, lambda body: self.etag)(self.body)
        if self.linked:
            return {"X-Linked-Etag": f'"{name}"', "X-Linked-Size": str(len(self.body))}
        return {"ETag": f'"{name}"'}


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def git_sha1(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        """Answer as to GET, without the body: the hub's library asks so for hash and size."""
        self.do_GET()

    def do_GET(self):
        path, hub = self.path.split("?")[0], self.server
        asked = hub.requests if self.command == "GET" else hub.heads
        asked.append((path, dict(self.headers)))
        served = hub.files.get(path)
        if served is None:
            served = Served(b"nothing here", status=404, etag=None, headers=hub.missing(path))
        time.sleep(served.wait if self.command == "GET" else served.head_wait)
        failures = served.failures if self.command == "GET" else served.head_failures
        failure = failures.pop(0) if failures else None
        if failure is not None:
            status, headers = failure
            return self._answer(status, {"Content-Length": "0", **headers})
        headers = {**served.stated(), **served.headers}
        if served.redirect is not None and served.redirect_body:
            headers |= {"Location": served.redirect, "Content-Length": str(len(served.body))}
            return self._answer(302, headers, served.body, served)
        if served.redirect is not None:
            return self._answer(
                302, {"Location": served.redirect, "Content-Length": "0", **headers}
            )
        start, status = 0, served.status
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and served.ranges:
            start, status = int(asked[1]), 206
            if start >= len(served.body):
                return self._answer(416, {"Content-Length": "0"})
            end = len(served.body)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{end}"
        if served.length:
            headers["Content-Length"] = str(len(served.body) - start)
        end = served.cuts.pop(0) if served.cuts else len(served.body)
        return self._answer(status, headers, served.body[start:end], served)

    def _answer(self, status, headers, body=b"", how=Served()):  # noqa: B008 (only read)
        self.send_response(status)
        for name, value in {"Content-Type": "application/octet-stream", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        step = how.piece if how.drip else max(len(body), 1)
        self.wfile.write(body[: how.burst])
        for at in range(how.burst, len(body), step):
            self.wfile.write(body[at : at + step])
            time.sleep(how.drip)
        self.close_connection = True

    def log_message(self, *arguments):
        pass


class HubServer(http.server.ThreadingHTTPServer):
    """A server of `files` (path -> Served) that keeps (path, headers) of every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, dict]] = []  # to GET
        self.heads: list[tuple[str, dict]] = []  # to HEAD
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.storage = f"http://localhost:{self.server_port}"  # to a client, another host

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Ignore clients that hang up: some tests do so on purpose."""

    def asked(self, path: str) -> list[dict]:
        """Return the headers of every request for a path."""
        return [headers for asked, headers in self.requests if asked == path]

    def missing(self, path: str) -> dict:
        """Return the headers of a 404: the hub says which commit has no such file."""
        name, _, rest = path.partition("/resolve/")
        commit = rest.split("/")[0]
        if not any(one.startswith(f"{name}/resolve/{commit}/") for one in self.files):
            return {}
        commit = "c" * 40 if commit == "main" else commit
        return {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}

    def add_repository(self, name: str, files: dict[str, bytes], revision="main", **how) -> None:
        """Add files as the hub serves them: large ones are redirected to another host."""
        commit = "c" * 40 if revision == "main" else revision
        for file, body in files.items():
            path = f"/{name}/resolve/{revision}/{file}"
            served = Served(body, etag="git", headers={"X-Repo-Commit": commit}, **how)
            if file.endswith((".safetensors", ".bin")):
                storage = f"/storage/{sha256(body)}"
                self.files[storage] = Served(body, etag=None, **how)
                served = Served(
                    body,
                    linked=True,
                    redirect=f"{self.storage}{storage}?signature=secret",
                    headers={"X-Repo-Commit": commit},
                )
            self.files[path] = served
            if revision == "main":
                self.files[f"/{name}/resolve/{'c' * 40}/{file}"] = served


def set_hub(patch, *, cache, endpoint: str, offline: bool) -> None:
    """Set the hub's cache, address and mode, for this process and for those that it starts."""
    from huggingface_hub import constants

    patch.setenv("HF_HUB_CACHE", str(cache))
    patch.setenv("HF_ENDPOINT", endpoint)
    patch.setenv("HF_HUB_OFFLINE", "1" if offline else "0")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HF_HUB_OFFLINE", offline)


# --------------------------------------------------------------------- models and caches


def put(directory, files) -> None:
    directory.mkdir(parents=True)
    for name, body in files.items():
        (directory / name).write_bytes(body)


def put_in_hub_cache(root, folder: str, files, commit="a" * 40, *, main=True):
    """Write files in the layout of the hub's library: blobs by hash, snapshots of links, refs."""
    repository = root / folder
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    for name, body in files.items():
        blob = sha256(body) if name.endswith(".safetensors") else git_sha1(body)
        (repository / "blobs" / blob).write_bytes(body)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    if main:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
    return snapshot


def cached(tmp_path, repository: str = "me/mine") -> list[str]:
    """Return the names of a repository's files in the cache's snapshots, each once."""
    root = tmp_path / "hub" / "--".join(("models", *repository.split("/")))
    return sorted({path.name for path in root.glob("snapshots/*/*")})


def leftovers(tmp_path) -> list[str]:
    """Return what no whole file should leave in the cache."""
    return [path.name for path in (tmp_path / "hub").rglob("*") if "incomplete" in path.name]


def serve_openai(server, monkeypatch) -> None:
    """Serve the builtin model's vocabulary as GPT-2's, under OpenAI's names."""
    server.files["/openai/encoder.json"] = Served(VOCAB, etag=None)
    server.files["/openai/vocab.bpe"] = Served(MERGES, etag=None)
    monkeypatch.setattr(repositories, "TOKENIZER_URL", f"{server.url}/openai")
    hashes = {"encoder.json": sha256(VOCAB), "vocab.bpe": sha256(MERGES)}
    monkeypatch.setattr(repositories, "TOKENIZER_SHA256", hashes)
