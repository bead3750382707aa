"""Fetching, against a server of our own: whole and checked, or nothing."""

import hashlib
import http.server
import socket
import threading
import time

import pytest
import torch
from conftest import make_model

import mingpt
from mingpt import GPT, DownloadError, download, pretrained
from mingpt.download import fetch

BODY = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers by path; `files` are served as they are."""

    files: dict[str, bytes] = {}  # noqa: RUF012 (one server, one table)

    def do_GET(self):
        if self.path == "/html":
            return self._send(200, b"<html>log in first</html>", "text/html; charset=utf-8")
        if self.path == "/cut":
            self._send(200, BODY[:1000], length=len(BODY))
            return self.connection.close()
        if self.path == "/unmeasured":
            return self._send(200, BODY, length=-1)
        if self.path == "/slow":
            time.sleep(3)
        if self.path in self.files:
            return self._send(200, self.files[self.path])
        return self._send(404, b"nothing here")

    def _send(self, status, body, kind="application/octet-stream", length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length != -1:
            self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class QuietServer(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that hangs up is what some tests are about."""


@pytest.fixture
def hub():
    server = QuietServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.files = {"/good": BODY}
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def online(monkeypatch, tmp_path):
    """An empty cache, and leave to fetch."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_good_file_arrives_with_progress(hub, tmp_path):
    seen = []
    path = tmp_path / "sub" / "file"
    fetch(f"{hub}/good", path, sha256=SHA256, progress=lambda *step: seen.append(step))
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [child.name for child in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("where", "settings", "message"),
    [
        ("/good", {"sha256": "0" * 64}, f"not the expected file: SHA-256 {SHA256}"),
        ("/missing", {}, "HTTP 404"),
        ("/html", {}, "web page"),
        ("/cut", {}, "broke off"),
    ],
)
def test_anything_else_leaves_nothing(hub, tmp_path, where, settings, message):
    path = tmp_path / "sub" / "file"
    with pytest.raises(DownloadError, match=message):
        fetch(f"{hub}{where}", path, **settings)
    assert not path.exists()
    assert not path.parent.exists() or not [*path.parent.iterdir()]


def test_a_file_of_unknown_length_arrives_with_progress(hub, tmp_path):
    seen = []
    fetch(f"{hub}/unmeasured", tmp_path / "file", progress=lambda *step: seen.append(step))
    assert (tmp_path / "file").read_bytes() == BODY
    assert seen[-1] == (len(BODY), 0)


def test_a_short_body_is_noticed_whatever_the_http_library_thinks(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("requests.Response.iter_content", lambda self, size: iter([BODY[:1000]]))
    with pytest.raises(DownloadError, match=f"broke off after 1000 of {len(BODY)} bytes"):
        fetch(f"{hub}/good", tmp_path / "file")
    assert not [*tmp_path.iterdir()]


def test_a_bad_file_does_not_replace_a_good_one(hub, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"good")
    with pytest.raises(DownloadError):
        fetch(f"{hub}/good", path, sha256="0" * 64)
    assert path.read_bytes() == b"good"


def test_no_connection_is_one_short_line(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        with pytest.raises(DownloadError, match=r"cannot be reached: no connection$"):
            fetch(url, tmp_path / "file")


def test_silence_costs_a_few_seconds_at_most(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SECONDS_TO_ANSWER", 0.3)
    started = time.monotonic()
    with pytest.raises(DownloadError, match="does not answer"):
        fetch(f"{hub}/slow", tmp_path / "file")
    assert time.monotonic() - started < 2
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_is_one_short_line(hub, tmp_path, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mingpt.files.tempfile.mkstemp", full)
    with pytest.raises(DownloadError, match="cannot be written: No space left on device"):
        fetch(f"{hub}/good", tmp_path / "file")


# --------------------------------------------------------------------- through the names


def serve_gpt2(monkeypatch, hub: str, tokenizer_directory, weights: bytes) -> None:
    """Let `hub` play both OpenAI's storage and the Hugging Face hub."""
    vocab = (tokenizer_directory / "vocab.json").read_bytes()
    merges = (tokenizer_directory / "merges.txt").read_bytes()
    Hub.files = {
        "/openai/encoder.json": vocab,
        "/openai/vocab.bpe": merges,
        "/distilbert/distilgpt2/resolve/main/model.safetensors": weights,
    }
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setattr(pretrained, "_TOKENIZER_URL", f"{hub}/openai")
    hashes = {"encoder.json": vocab, "vocab.bpe": merges}
    monkeypatch.setattr(
        pretrained,
        "_TOKENIZER_SHA256",
        {name: hashlib.sha256(body).hexdigest() for name, body in hashes.items()},
    )


@pytest.fixture
def small_gpt2(monkeypatch, tmp_path):
    """A checkpoint that stands in for distilgpt2, with the shipped vocabulary."""
    tokenizer = mingpt.BPETokenizer.from_directory(pretrained.BUILTIN_DIRECTORY)
    model = make_model(vocab_size=tokenizer.vocab_size)
    monkeypatch.setitem(pretrained.PRESETS, "distilgpt2", model.config)
    model.save_pretrained(tmp_path / "origin", tokenizer)
    return model


def test_a_preset_is_fetched_once_into_the_cache(hub, online, small_gpt2, monkeypatch, tmp_path):
    origin = tmp_path / "origin"
    serve_gpt2(monkeypatch, hub, origin, (origin / "model.safetensors").read_bytes())
    model, tokenizer = mingpt.load("distilgpt2")
    assert model.checksum() == small_gpt2.checksum()
    assert model.name == "distilgpt2"
    assert tokenizer.encode(" Jones")
    found = sorted(str(path.relative_to(online)) for path in online.rglob("*") if path.is_file())
    assert found == ["distilbert--distilgpt2/model.safetensors", "encoder.json", "vocab.bpe"]
    Hub.files = {}  # whatever is fetched from here on is a 404
    assert mingpt.load("distilgpt2")[0].checksum() == small_gpt2.checksum()


def test_an_error_page_is_not_cached_as_weights(hub, online, small_gpt2, monkeypatch, tmp_path):
    serve_gpt2(monkeypatch, hub, tmp_path / "origin", b"Sorry, try again later")
    with pytest.raises(DownloadError, match="no whole safetensors"):
        GPT.from_pretrained("distilgpt2")
    assert not [path for path in online.rglob("*") if path.is_file()]


def test_without_a_network_the_file_the_place_and_the_way_out_are_named(online, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError) as caught:
        GPT.from_pretrained("gpt2")
    message = str(caught.value)
    assert "model.safetensors" in message
    assert str(online / "openai-community--gpt2") in message
    assert "'builtin'" in message
    assert "\n" not in message
    assert not online.exists()


def test_gpt2s_own_weights_are_pinned():
    hub = pretrained.HUB_MODELS["gpt2"]
    assert (len(hub.sha256), len(hub.revision), hub.megabytes) == (64, 40, 548)


def test_a_cache_that_holds_the_files_is_only_read(online, small_gpt2, monkeypatch, tmp_path):
    online.mkdir()
    for name, origin in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
        (online / name).write_bytes((tmp_path / "origin" / origin).read_bytes())
    monkeypatch.setattr("mingpt.files.tempfile.mkstemp", lambda **where: pytest.fail("wrote"))
    assert mingpt.BPETokenizer().encode(" Jones")
    assert torch.is_tensor(mingpt.BPETokenizer()("Jones"))
