"""Fetching one file, from a server of our own: whole and checked, or not at all."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from helpers import ROOT
from hub_server import HubServer, Served, git_sha1, sha256

from mingpt import DownloadError
from mingpt.loading import download
from mingpt.loading.download import NotFoundError, fetch

BODY = bytes(range(256)) * 10_000  # 2.56 MB
SIXTY_PERCENT = len(BODY) * 6 // 10
HASH = sha256(BODY)


@pytest.fixture
def hub():
    with HubServer() as server:
        server.files["/good"] = Served(BODY)
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Wait hundredths of a second instead of seconds."""
    monkeypatch.setattr(download, "SECONDS_BETWEEN", 0.01)


def files_in(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def get(hub, path, name="/x", *, hashes=(HASH,), **how) -> None:
    fetch(f"{hub.url}{name}", path / "file", hashes=hashes, **how)


def test_a_good_file_arrives_with_progress(hub, tmp_path):
    seen = []
    get(hub, tmp_path / "sub", "/good", progress=lambda *step: seen.append(step))
    assert (tmp_path / "sub" / "file").read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert files_in(tmp_path) == ["file"]
    assert len(hub.requests) == 1


def test_an_empty_file_is_a_file(hub, tmp_path):
    hub.files["/x"] = Served(b"")
    get(hub, tmp_path, hashes=[git_sha1(b"")])
    assert (tmp_path / "file").read_bytes() == b""


def test_a_file_of_unknown_length_arrives_with_progress(hub, tmp_path):
    hub.files["/x"], seen = Served(BODY, length=False), []
    get(hub, tmp_path, progress=lambda *step: seen.append(step))
    assert (tmp_path / "file").read_bytes() == BODY
    assert seen[-1] == (len(BODY), 0)


# --------------------------------------------------------------------- what it is checked by


@pytest.mark.parametrize("wrong", ["0" * 64, "0" * 40])
@pytest.mark.parametrize("first", [True, False])
def test_every_hash_must_be_right(hub, tmp_path, wrong, first):
    hashes = [wrong, HASH] if first else [HASH, wrong]
    with pytest.raises(DownloadError, match=rf"/good is not the .*(SHA-256|SHA-1) .* of {wrong}$"):
        get(hub, tmp_path, "/good", hashes=hashes)
    assert files_in(tmp_path) == []
    get(hub, tmp_path, "/good", hashes=[HASH, git_sha1(BODY)])


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/xhtml+xml"])
def test_a_web_page_is_none(hub, tmp_path, kind):
    hub.files["/x"] = Served(BODY, headers={"Content-Type": kind})
    with pytest.raises(DownloadError, match="web page instead of the file: a log-in page"):
        get(hub, tmp_path)


def test_a_bad_file_does_not_replace_a_good_one(hub, tmp_path):
    (tmp_path / "file").write_bytes(b"good")
    with pytest.raises(DownloadError):
        get(hub, tmp_path, "/good", hashes=["0" * 64])
    assert (tmp_path / "file").read_bytes() == b"good"
    assert files_in(tmp_path) == ["file"]


# --------------------------------------------------------------------- breaking off


def test_a_broken_download_goes_on_where_it_broke_off(hub, tmp_path):
    hub.files["/x"], seen = Served(BODY, cuts=[SIXTY_PERCENT]), []
    get(hub, tmp_path, progress=lambda *step: seen.append(step[0]))
    assert (tmp_path / "file").read_bytes() == BODY
    ranges = [headers.get("Range") for headers in hub.asked("/x")]
    assert ranges == [None, f"bytes={SIXTY_PERCENT}-"]
    assert seen == sorted(seen)  # nothing was fetched twice


def test_a_server_without_ranges_is_asked_for_all_of_it_again(hub, tmp_path):
    hub.files["/x"] = Served(BODY, cuts=[SIXTY_PERCENT], ranges=False)
    get(hub, tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY


def test_pieces_that_do_not_fit_together_are_thrown_away(hub, tmp_path):
    hub.files["/x"] = Served(b"x" + BODY[1:], cuts=[SIXTY_PERCENT])

    def changes(done, size):
        hub.files["/x"] = Served(BODY)

    get(hub, tmp_path, progress=changes)
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("headers", [{}, {"Content-Range": "bytes 7-9/10"}])
def test_another_part_than_was_asked_for_is_not_appended(hub, tmp_path, headers):
    hub.files["/x"] = Served(BODY, cuts=[SIXTY_PERCENT], ranges=False, status=206, headers=headers)
    with pytest.raises(DownloadError):
        get(hub, tmp_path)
    assert not (tmp_path / "file").exists()


def test_what_has_arrived_is_kept_when_the_server_goes(hub, tmp_path):
    hub.files["/x"] = Served(BODY, cuts=[SIXTY_PERCENT], failures=[None, *[(503, {})] * 9])
    with pytest.raises(DownloadError, match="answers HTTP 503; giving up"):
        get(hub, tmp_path)
    assert (tmp_path / "file.incomplete").stat().st_size == SIXTY_PERCENT
    hub.files["/x"].failures.clear()
    hub.requests.clear()
    get(hub, tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY
    assert [headers["Range"] for headers in hub.asked("/x")] == [f"bytes={SIXTY_PERCENT}-"]


def test_what_has_arrived_is_kept_on_ctrl_c(hub, tmp_path):
    hub.files["/x"] = Served(BODY, piece=1 << 16, drip=0.001)

    def interrupt(done, size):
        if done > len(BODY) // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(hub, tmp_path, progress=interrupt)
    assert len(BODY) // 2 < (tmp_path / "file.incomplete").stat().st_size < len(BODY)
    get(hub, tmp_path)
    assert hub.asked("/x")[-1]["Range"].startswith("bytes=1")
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_body_that_is_always_short_is_given_up(hub, tmp_path):
    hub.files["/x"] = Served(BODY, cuts=[1000] * 9, ranges=False)
    with pytest.raises(DownloadError, match=rf"broke off after 1000 of {len(BODY)} bytes; giving"):
        get(hub, tmp_path)
    assert len(hub.requests) == 5


def test_a_server_that_always_begins_anew_is_given_up(hub, tmp_path):
    hub.files["/x"] = Served(BODY, cuts=[SIXTY_PERCENT] * 99, failures=[None, (416, {})] * 99)
    with pytest.raises(DownloadError, match="giving up"):
        get(hub, tmp_path)
    assert len(hub.requests) < 10


def test_a_body_longer_than_stated_is_cut_off(hub, tmp_path):
    hub.files["/x"], most = Served(BODY * 20), []
    with pytest.raises(DownloadError, match=f"sends more than {len(BODY)} bytes; giving up"):
        get(hub, tmp_path, size=len(BODY), progress=lambda done, size: most.append(done))
    assert max(most) <= len(BODY)
    assert (tmp_path / "file.incomplete").stat().st_size == 0


def test_an_endless_body_does_not_fill_the_disk(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOST_UNSTATED", 1 << 20)
    hub.files["/x"] = Served(BODY, length=False)
    with pytest.raises(DownloadError, match="sends more than 1048576 bytes"):
        get(hub, tmp_path)
    assert (tmp_path / "file.incomplete").stat().st_size == 0


def test_a_file_of_unknown_length_that_comes_short_is_asked_for_again(hub, tmp_path):
    hub.files["/x"] = Served(BODY, length=False, cuts=[SIXTY_PERCENT])
    get(hub, tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY


def test_every_megabyte_earns_another_try(hub, tmp_path):
    cuts = [k * len(BODY) // 2 for k in range(1, 8)]
    hub.files["/x"] = Served(BODY * 4, cuts=cuts)
    get(hub, tmp_path, hashes=[sha256(BODY * 4)])  # seven breaks; five without progress end it
    assert (tmp_path / "file").read_bytes() == BODY * 4


@pytest.mark.parametrize(
    "headers", [{}, {"Retry-After": "0"}, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 -0000"}]
)
def test_a_busy_server_is_asked_again(hub, tmp_path, headers):
    failures = [(status, headers) for status in (429, 500, 503, 408)]
    hub.files["/x"] = Served(BODY, failures=[*failures])
    get(hub, tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY
    assert len(hub.requests) == 5


def test_the_waits_grow(hub, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    monkeypatch.setattr(download, "SECONDS_BETWEEN", 1.0)
    hub.files["/x"] = Served(BODY, failures=[(503, {"Retry-After": "3600"})] * 5)
    with pytest.raises(DownloadError, match=r"/x answers HTTP 503; giving up$"):
        get(hub, tmp_path)
    assert [seconds for seconds in slept if seconds] == [1, 2, 4, 8]  # the server's own sleep is 0


@pytest.mark.parametrize("burst", [0, 100_000])
def test_a_stalled_connection_is_given_up_after_two_tries(hub, tmp_path, monkeypatch, burst):
    monkeypatch.setattr(download, "SECONDS_TO_STALL", 0.1)
    hub.files["/x"] = Served(BODY, drip=2, burst=burst, ranges=False)
    with pytest.raises(DownloadError, match=r"/x has stalled; giving up"):
        get(hub, tmp_path)
    assert len(hub.requests) == 2


@pytest.mark.parametrize("burst", [0, 100_000])
def test_a_slow_drip_is_a_stall(hub, tmp_path, monkeypatch, burst):
    monkeypatch.setattr(download, "SECONDS_TO_STALL", 0.2)
    hub.files["/x"] = Served(BODY, drip=0.02, burst=burst)
    started = time.monotonic()
    with pytest.raises(DownloadError, match="all but stalled"):
        get(hub, tmp_path)
    assert time.monotonic() - started < 5


def test_slow_but_steady_gets_there(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SECONDS_TO_STALL", 0.2)
    monkeypatch.setattr(download, "LEAST_BYTES", 2)
    hub.files["/x"] = Served(BODY[:40], drip=0.02)
    get(hub, tmp_path, hashes=[sha256(BODY[:40])])
    assert (tmp_path / "file").read_bytes() == BODY[:40]


# --------------------------------------------------------------------- no file at all


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (Served(status=404), "HTTP 404: there is no such file"),
        (Served(status=401), r"answers HTTP 401$"),
        (Served(status=451), r"answers HTTP 451$"),
        (Served(redirect="/x"), "redirects more than 10 times"),
        (Served(redirect="file:///etc/passwd"), "redirects to file:///etc/passwd: not followed"),
        (Served(redirect="ftp://127.0.0.1/x"), r"redirects to ftp://127\.0\.0\.1/x: not followed"),
        (Served(redirect="http://[x"), "it is no address"),
    ],
)
def test_anything_else_is_one_line_and_leaves_nothing(hub, tmp_path, served, message):
    hub.files["/x"] = served
    with pytest.raises(DownloadError, match=message) as caught:
        get(hub, tmp_path / "sub")
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == []


def test_only_a_missing_file_is_a_missing_file(hub, tmp_path):
    hub.files["/private"] = Served(status=403)
    for path, kind in {"/nowhere": NotFoundError, "/private": DownloadError}.items():
        with pytest.raises(DownloadError) as caught:
            get(hub, tmp_path, path)
        assert type(caught.value) is kind


def test_nobody_goes_on_from_https_to_http():
    with pytest.raises(DownloadError, match=r"redirects to http://b/x: not followed"):
        download._redirected("https://a/x", "http://b/x", {})
    assert download._redirected("http://a/x", "https://b/x", {})[0] == "https://b/x"


def test_the_body_of_a_redirect_is_not_read(hub, tmp_path):
    hub.files["/x"] = Served(BODY, redirect="/good", redirect_body=True, drip=5)
    started = time.monotonic()
    get(hub, tmp_path)
    assert time.monotonic() - started < 3


def test_headers_that_come_byte_by_byte_cost_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SECONDS_TO_ANSWER", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as dripping:
        connections = []

        def drip():
            with contextlib.suppress(OSError):  # the client has left, or the test is over
                while True:
                    connections.append(dripping.accept()[0])
                    connections[-1].sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
                    for _ in range(12):
                        time.sleep(0.1)
                        connections[-1].sendall(b"x")

        threading.Thread(target=drip, daemon=True).start()
        started = time.monotonic()
        url = f"http://127.0.0.1:{dripping.getsockname()[1]}/x"
        with pytest.raises(DownloadError, match="does not answer; giving up"):
            fetch(url, tmp_path / "file", hashes=[HASH])
        assert time.monotonic() - started < 3
        for connection in connections:
            connection.close()


def test_no_connection_is_one_short_line(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        with pytest.raises(DownloadError, match=r"cannot be reached: no connection; giving up$"):
            fetch(url, tmp_path / "file", hashes=[HASH])


def test_silence_costs_a_few_seconds_at_most(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SECONDS_TO_STALL", 0.3)
    hub.files["/x"] = Served(BODY, wait=3)
    started = time.monotonic()
    with pytest.raises(DownloadError, match="does not answer; giving up"):
        get(hub, tmp_path)
    assert time.monotonic() - started < 2
    assert files_in(tmp_path) == []


# --------------------------------------------------------------------- the disk


def test_a_disk_that_fills_up_is_one_short_line(hub, tmp_path, monkeypatch):
    def full(answer, part, *rest):
        part.write_bytes(b"all that there is room for")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_receive", full)
    with pytest.raises(DownloadError, match=r"file cannot be written: No space left on device$"):
        get(hub, tmp_path, "/good")
    assert files_in(tmp_path) == []


def test_what_does_not_fit_is_not_begun(hub, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DownloadError, match=f"takes {len(BODY)} bytes, and there is room for 1000"):
        get(hub, tmp_path, "/good")
    assert files_in(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_one_short_line(hub, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="cannot be written"):
        get(hub, tmp_path / "file", "/good")


# --------------------------------------------------------------------- the token


def test_the_token_goes_to_the_first_host_only(hub, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("default login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with HubServer() as other:
        hub.files["/x"] = Served(redirect="/again")
        hub.files["/again"] = Served(redirect=f"{other.url}/store")
        other.files["/store"] = Served(redirect=f"{hub.url}/good")
        get(hub, tmp_path, headers={"authorization": "Bearer hf_secret"})
        sent = [hub.asked("/x"), hub.asked("/again"), other.asked("/store"), hub.asked("/good")]
    names = [{name.lower(): value for name, value in headers[0].items()} for headers in sent]
    assert [one.get("authorization") for one in names] == ["Bearer hf_secret"] * 2 + [None] * 2


def test_no_password_of_the_users_is_sent(hub, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    get(hub, tmp_path, "/good")
    assert "Authorization" not in hub.asked("/good")[0]


def test_what_is_secret_in_an_address_is_in_no_message(tmp_path, hub):
    url = hub.url.replace("//", "//me:password@")
    with pytest.raises(DownloadError, match=f"{hub.url}/nowhere answers") as caught:
        fetch(f"{url}/nowhere?signature=secret", tmp_path / "file", hashes=[HASH])
    assert "password" not in str(caught.value)
    assert "secret" not in str(caught.value)


# --------------------------------------------------------------------- what an earlier run left


FETCH = """
import sys
from pathlib import Path
from mingpt.loading.download import fetch
fetch(sys.argv[1], Path(sys.argv[2]), hashes=[sys.argv[3]])
"""


def test_after_kill_9_the_next_run_goes_on(hub, tmp_path):
    body, part = BODY[: 32 << 16], tmp_path / "file.incomplete"
    hub.files["/x"] = Served(body, drip=0.05, piece=1 << 16)
    arguments = [f"{hub.url}/x", str(tmp_path / "file"), sha256(body)]
    process = subprocess.Popen([sys.executable, "-c", FETCH, *arguments], cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        while not part.exists() or part.stat().st_size == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    left = part.stat().st_size
    assert 0 < left < len(body)
    hub.files["/x"].drip = 0.0
    hub.requests.clear()
    get(hub, tmp_path, hashes=[sha256(body)])
    assert (tmp_path / "file").read_bytes() == body
    assert files_in(tmp_path) == ["file"]
    assert [headers["Range"] for headers in hub.asked("/x")] == [f"bytes={left}-"]


def test_a_run_that_was_killed_after_the_last_byte_has_nothing_to_fetch(hub, tmp_path):
    (tmp_path / "file.incomplete").write_bytes(BODY)
    get(hub, tmp_path, size=len(BODY))
    assert (tmp_path / "file").read_bytes() == BODY
    assert hub.requests == []


@pytest.mark.parametrize("left", [b"b" * 100, b"b" * 1000, b"b" * 2000])
@pytest.mark.parametrize("size", [1000, None])
def test_what_a_killed_run_left_wrong_does_no_harm(hub, tmp_path, left, size):
    hub.files["/x"] = Served(b"a" * 1000)
    (tmp_path / "file.incomplete").write_bytes(left)
    get(hub, tmp_path, hashes=[sha256(b"a" * 1000)], size=size)
    assert (tmp_path / "file").read_bytes() == b"a" * 1000
    assert files_in(tmp_path) == ["file"]


def test_a_link_in_place_of_the_part_is_not_written_through(hub, tmp_path):
    (tmp_path / "victim").write_bytes(b"a")
    (tmp_path / "file.incomplete").symlink_to(tmp_path / "victim")
    get(hub, tmp_path, "/good")
    assert (tmp_path / "victim").read_bytes() == b"a"


def test_a_pipe_in_place_of_the_part_does_not_block(hub, tmp_path):
    os.mkfifo(tmp_path / "file.incomplete")
    get(hub, tmp_path, "/good")
    assert (tmp_path / "file").read_bytes() == BODY


def test_git_names_a_file_so():
    assert git_sha1(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git hash-object /dev/null


def test_the_hash_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(BODY)
    assert download.file_hash(tmp_path / "x", 64) == HASH
    assert download.file_hash(tmp_path / "x", 40) == git_sha1(BODY)
