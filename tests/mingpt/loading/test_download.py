"""Fetching one file, from a server of our own: whole and checked, or nothing."""

import email.utils
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from helpers import ROOT
from hub_server import HubServer, Served, git_sha1, sha256

from mingpt import DownloadError
from mingpt.loading import download
from mingpt.loading.download import NotFoundError, fetch, reach

BODY = bytes(range(256)) * 10_000  # 2.56 MB
SIXTY_PERCENT = len(BODY) * 6 // 10


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


def test_a_good_file_arrives_with_progress(hub, tmp_path):
    seen = []
    path = tmp_path / "sub" / "file"
    fetched = fetch(f"{hub.url}/good", path, progress=lambda *step: seen.append(step))
    assert path.read_bytes() == BODY
    assert (fetched.sha256, fetched.size) == (sha256(BODY), len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert files_in(tmp_path) == ["file"]
    assert len(hub.requests) == 1


def test_an_empty_file_is_a_file(hub, tmp_path):
    hub.files["/empty"] = Served(b"", etag="git")
    fetch(f"{hub.url}/empty", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b""


def test_a_file_of_unknown_length_arrives_with_progress(hub, tmp_path):
    hub.files["/x"], seen = Served(BODY, length=False), []
    fetch(f"{hub.url}/x", tmp_path / "file", progress=lambda *step: seen.append(step))
    assert (tmp_path / "file").read_bytes() == BODY
    assert seen[-1] == (len(BODY), 0)


# --------------------------------------------------------------------- what it is checked by


@pytest.mark.parametrize("etag", ["sha256", "git"])
@pytest.mark.parametrize("linked", [True, False])
def test_the_servers_hash_is_believed(hub, tmp_path, etag, linked):
    hub.files["/x"] = Served(BODY, etag=etag, linked=linked)
    assert fetch(f"{hub.url}/x", tmp_path / "file").sha256 == sha256(BODY)


@pytest.mark.parametrize("etag", ["0" * 64, "0" * 40, f"W/{'0' * 64}"])
def test_a_wrong_hash_is_refused(hub, tmp_path, etag):
    hub.files["/x"] = Served(BODY, headers={"ETag": etag}, etag=None)
    with pytest.raises(DownloadError, match=r"/x is not the expected file: (SHA-256|git's)"):
        fetch(f"{hub.url}/x", tmp_path / "file")
    assert files_in(tmp_path) == []


def test_the_linked_files_hash_counts_not_the_answers(hub, tmp_path):
    hub.files["/x"] = Served(BODY, linked=True, headers={"ETag": f'"{"0" * 64}"'})
    fetch(f"{hub.url}/x", tmp_path / "file")


def test_the_hubs_word_counts_not_the_storages(hub, tmp_path):
    hub.files["/store"] = Served(BODY, etag="0" * 64)
    with HubServer() as other:
        hub.files["/x"] = Served(BODY, linked=True, redirect=f"{other.url}/store")
        other.files["/store"] = Served(BODY, etag="0" * 64)
        fetch(f"{hub.url}/x", tmp_path / "file")
        hub.files["/bare"] = Served(redirect=f"{other.url}/good", etag=None)
        other.files["/good"] = Served(BODY)
        with pytest.raises(DownloadError, match="states no hash"):
            fetch(f"{hub.url}/bare", tmp_path / "other")


def test_the_hubs_first_word_counts_not_its_later_ones(hub, tmp_path):
    hub.files["/x"] = Served(BODY, etag="0" * 64, linked=True, redirect="/again")
    hub.files["/again"] = Served(BODY, linked=True)
    with pytest.raises(DownloadError, match=f"instead of {'0' * 64}"):
        fetch(f"{hub.url}/x", tmp_path / "file")


@pytest.mark.parametrize("name", ["X-Linked-Size", "Retry-After"])
@pytest.mark.parametrize("number", ["9" * 5000, "\xb2", "-1", ""])
def test_numbers_that_are_none_are_passed_over(hub, tmp_path, name, number):
    hub.files["/x"] = Served(BODY, headers={name: number}, failures=[(503, {name: number})])
    fetch(f"{hub.url}/x", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_pinned_hash_counts_before_any_other(hub, tmp_path):
    hub.files["/x"] = Served(BODY, etag="git")
    fetch(f"{hub.url}/x", tmp_path / "file", sha256=sha256(BODY))
    with pytest.raises(DownloadError, match=f"SHA-256 {sha256(BODY)} instead of {'0' * 64}"):
        fetch(f"{hub.url}/x", tmp_path / "other", sha256="0" * 64)


def test_a_file_that_cannot_be_the_pinned_one_is_not_fetched(hub, tmp_path):
    seen = []
    with pytest.raises(DownloadError, match="not the expected file"):
        fetch(
            f"{hub.url}/good", tmp_path / "x", sha256="0" * 64, progress=lambda *x: seen.append(x)
        )
    assert not seen


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/xhtml+xml"])
def test_a_web_page_is_none_even_if_nothing_is_checked(hub, tmp_path, kind):
    hub.files["/x"] = Served(BODY, etag=None, headers={"Content-Type": kind})
    with pytest.raises(DownloadError, match="web page"):
        fetch(f"{hub.url}/x", tmp_path / "file", verify=False)


@pytest.mark.parametrize("etag", [None, "abc", "d41d8cd98f00b204e9800998ecf8427e"])
def test_without_a_hash_it_is_refused_unless_one_says_so(hub, tmp_path, etag):
    hub.files["/x"] = Served(BODY, etag=etag)
    with pytest.raises(DownloadError, match=r"states no hash .* --no-verify"):
        fetch(f"{hub.url}/x", tmp_path / "file")
    assert files_in(tmp_path) == []
    fetch(f"{hub.url}/x", tmp_path / "file", verify=False)
    assert (tmp_path / "file").read_bytes() == BODY


def test_what_the_caller_checks_decides_too(hub, tmp_path):
    def check(path):
        assert path.read_bytes() == BODY
        raise DownloadError("not to my liking")

    with pytest.raises(DownloadError, match="liking"):
        fetch(f"{hub.url}/good", tmp_path / "file", check=check)
    assert files_in(tmp_path) == []


def test_a_bad_file_does_not_replace_a_good_one(hub, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"good")
    with pytest.raises(DownloadError):
        fetch(f"{hub.url}/good", path, sha256="0" * 64)
    assert path.read_bytes() == b"good"
    assert files_in(tmp_path) == ["file"]


# --------------------------------------------------------------------- breaking off


def test_a_broken_download_goes_on_where_it_broke_off(hub, tmp_path):
    hub.files["/x"], seen = Served(BODY, cuts=[SIXTY_PERCENT]), []
    fetch(f"{hub.url}/x", tmp_path / "file", progress=lambda *step: seen.append(step[0]))
    assert (tmp_path / "file").read_bytes() == BODY
    assert [headers.get("Range") for headers in hub.asked("/x")] == [
        None,
        f"bytes={SIXTY_PERCENT}-",
    ]
    assert seen == sorted(seen)  # nothing was fetched twice


def test_a_server_without_ranges_is_asked_for_all_of_it_again(hub, tmp_path):
    hub.files["/x"] = Served(BODY, cuts=[SIXTY_PERCENT], ranges=False)
    fetch(f"{hub.url}/x", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_file_that_changes_in_between_is_begun_anew(hub, tmp_path):
    other = bytes(reversed(BODY))
    hub.files["/x"] = Served(BODY, cuts=[SIXTY_PERCENT])

    def changes(done, size):
        hub.files["/x"] = Served(other)

    fetch(f"{hub.url}/x", tmp_path / "file", progress=changes)
    assert (tmp_path / "file").read_bytes() == other


def test_pieces_that_do_not_fit_together_are_thrown_away(hub, tmp_path):
    wrong = b"x" + BODY[1:]
    hub.files["/x"] = Served(wrong, etag=sha256(BODY), cuts=[SIXTY_PERCENT])

    def changes(done, size):
        hub.files["/x"] = Served(BODY)

    fetch(f"{hub.url}/x", tmp_path / "file", progress=changes)
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("headers", [{}, {"Content-Range": "bytes 0-9/10"}])
def test_another_part_than_was_asked_for_is_not_appended(hub, tmp_path, headers):
    hub.files["/x"] = Served(BODY, cuts=[SIXTY_PERCENT], ranges=False, status=206, headers=headers)
    with pytest.raises(DownloadError):
        fetch(f"{hub.url}/x", tmp_path / "file")
    assert files_in(tmp_path) == []


def test_without_a_hash_pieces_are_not_put_together(hub, tmp_path):
    other = bytes(reversed(BODY))
    hub.files["/x"] = Served(BODY, etag=None, cuts=[SIXTY_PERCENT])

    def changes(done, size):
        hub.files["/x"] = Served(other, etag=None)

    fetch(f"{hub.url}/x", tmp_path / "file", verify=False, progress=changes)
    assert (tmp_path / "file").read_bytes() == other
    assert ["Range" in headers for headers in hub.asked("/x")] == [False, False]


def test_without_a_hash_a_file_must_at_least_have_an_end(hub, tmp_path):
    hub.files["/x"] = Served(BODY, etag=None, length=False)
    with pytest.raises(DownloadError, match="neither a hash nor a size tells when it is whole"):
        fetch(f"{hub.url}/x", tmp_path / "file", verify=False)


def test_nor_is_it_where_no_hash_would_tell(hub, tmp_path):
    hub.files["/x"] = Served(BODY, etag=None, cuts=[SIXTY_PERCENT])
    size, rest = len(BODY), len(BODY) - SIXTY_PERCENT
    wrong = {"Content-Range": f"bytes 5-{rest + 4}/{size}"}

    def changes(done, size):
        hub.files["/x"] = Served(BODY[:rest], etag=None, ranges=False, status=206, headers=wrong)

    with pytest.raises(DownloadError, match="another part than was asked for"):
        fetch(f"{hub.url}/x", tmp_path / "file", verify=False, progress=changes)
    assert files_in(tmp_path) == []


def test_a_body_that_is_always_short_is_given_up(hub, tmp_path):
    hub.files["/x"] = Served(BODY, cuts=[1000] * 9, ranges=False)
    with pytest.raises(
        DownloadError, match=rf"broke off after 1000 of {len(BODY)} bytes \(5 tries"
    ):
        fetch(f"{hub.url}/x", tmp_path / "file")
    assert files_in(tmp_path) == []


def test_a_server_that_always_begins_anew_is_given_up(hub, tmp_path):
    hub.files["/x"] = Served(BODY, cuts=[SIXTY_PERCENT] * 99, failures=[None, (416, {})] * 99)
    with pytest.raises(DownloadError, match=r"\(5 tries\)"):
        fetch(f"{hub.url}/x", tmp_path / "file")
    assert files_in(tmp_path) == []


def test_a_body_longer_than_stated_is_refused(hub, tmp_path):
    hub.files["/x"] = Served(BODY, headers={"X-Linked-Size": "100"})
    with pytest.raises(DownloadError, match=r"sends more than 100 bytes \(5 tries\)"):
        fetch(f"{hub.url}/x", tmp_path / "file")
    assert files_in(tmp_path) == []


def test_a_body_that_is_too_long_is_cut_off_and_asked_for_anew(hub, tmp_path):
    hub.files["/x"] = Served(BODY * 20, etag=sha256(BODY), headers={"X-Linked-Size": "2560000"})
    most = []

    def changes(done, size):
        most.append(done)
        if done > len(BODY):
            hub.files["/x"] = Served(BODY)

    fetch(f"{hub.url}/x", tmp_path / "file", progress=changes)
    assert (tmp_path / "file").read_bytes() == BODY
    assert max(most) < 2 * len(BODY)
    assert ["Range" in headers for headers in hub.asked("/x")] == [False, False]


def test_a_file_of_unknown_length_that_comes_short_is_asked_for_again(hub, tmp_path):
    hub.files["/x"] = Served(BODY, length=False, cuts=[SIXTY_PERCENT])
    fetch(f"{hub.url}/x", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


def test_every_megabyte_earns_another_try(hub, tmp_path):
    hub.files["/x"] = Served(BODY * 4, cuts=[k * len(BODY) // 2 for k in range(1, 8)])
    fetch(f"{hub.url}/x", tmp_path / "file")  # seven breaks; five without progress are too many
    assert (tmp_path / "file").read_bytes() == BODY * 4


@pytest.mark.parametrize(
    "failures",
    [
        [(503, {}), (503, {})],
        [(500, {}), (502, {}), (504, {}), (408, {})],
        [(429, {"Retry-After": "0"})],
        [(429, {"Retry-After": "Fri, 01 Jan 2021 00:00:00 GMT"})],
        [(429, {"Retry-After": "when I feel like it"})],
    ],
)
def test_a_busy_server_is_asked_again(hub, tmp_path, failures):
    hub.files["/x"] = Served(BODY, failures=[*failures])
    fetch(f"{hub.url}/x", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert len(hub.requests) == len(failures) + 1


@pytest.mark.parametrize("as_date", [False, True])
def test_a_busy_server_is_given_the_time_it_asks_for(hub, tmp_path, monkeypatch, as_date):
    slept = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    after = email.utils.formatdate(time.time() + 7, usegmt=True) if as_date else "7"
    hub.files["/x"] = Served(BODY, failures=[(429, {"Retry-After": after})])
    fetch(f"{hub.url}/x", tmp_path / "file")
    waits = [seconds for seconds in slept if seconds]  # the server's own sleep is 0
    assert waits == [pytest.approx(7, abs=1.1)]


def test_the_waits_grow(hub, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    monkeypatch.setattr(download, "SECONDS_BETWEEN", 1.0)
    hub.files["/x"] = Served(BODY, failures=[(503, {})] * 5)
    with pytest.raises(DownloadError, match=r"/x answers HTTP 503 \(5 tries\)$"):
        fetch(f"{hub.url}/x", tmp_path / "file")
    assert [seconds for seconds in slept if seconds] == [1, 2, 4, 8]


def test_nobody_waits_for_an_hour(hub, tmp_path):
    hub.files["/x"] = Served(BODY, failures=[(429, {"Retry-After": "3600"})])
    with pytest.raises(DownloadError, match="HTTP 429 and asks to come back in 3600 s"):
        fetch(f"{hub.url}/x", tmp_path / "file")
    assert files_in(tmp_path) == []


def test_a_stalled_connection_is_given_up(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SECONDS_TO_STALL", 0.1)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    hub.files["/x"] = Served(b"abcd", drip=2)
    with pytest.raises(DownloadError, match=r"/x has stalled \(2 tries\)"):
        fetch(f"{hub.url}/x", tmp_path / "file")
    assert files_in(tmp_path) == []


def test_a_slow_drip_is_a_stall(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SECONDS_TO_STALL", 0.3)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    hub.files["/x"] = Served(BODY, drip=0.02)
    started = time.monotonic()
    with pytest.raises(DownloadError, match="all but stalled"):
        fetch(f"{hub.url}/x", tmp_path / "file")
    assert time.monotonic() - started < 5
    assert files_in(tmp_path) == []


def test_a_slow_drip_after_a_burst_is_a_stall_too(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SECONDS_TO_STALL", 0.2)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    hub.files["/x"] = Served(BODY, drip=0.02, burst=100_000)
    with pytest.raises(DownloadError, match="all but stalled"):
        fetch(f"{hub.url}/x", tmp_path / "file")


def test_slow_but_steady_gets_there(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SECONDS_TO_STALL", 0.2)
    monkeypatch.setattr(download, "LEAST_BYTES", 2)
    hub.files["/x"] = Served(BODY[:40], drip=0.02)
    fetch(f"{hub.url}/x", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY[:40]


# --------------------------------------------------------------------- no file at all


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (Served(status=404), "HTTP 404: there is no such file"),
        (Served(status=401), "HTTP 401: there is no such repository, or a private one; a token"),
        (Served(status=403, headers={"X-Error-Code": "GatedRepo"}), "403: the repository is gated"),
        (Served(status=404, headers={"X-Error-Code": "RepoNotFound"}), r"answers HTTP 404$"),
        (Served(status=451), r"answers HTTP 451$"),
        (Served(b"<html>log in", headers={"Content-Type": "text/html; charset=utf-8"}), "web page"),
        (Served(redirect="/x"), "redirects more than 5 times"),
        (Served(redirect="file:///etc/passwd"), r"redirects to file:///etc/passwd: not followed"),
    ],
)
def test_anything_else_is_one_line_and_leaves_nothing(hub, tmp_path, served, message):
    hub.files["/x"] = served
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(f"{hub.url}/x", tmp_path / "sub" / "file")
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == []
    assert len(hub.requests) == (6 if served.redirect == "/x" else 1)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_the_storage_refuses_is_not_missing_at_the_hub(hub, tmp_path, status):
    with HubServer() as other:
        hub.files["/x"] = Served(BODY, linked=True, redirect=f"{other.url}/y")
        other.files["/y"] = Served(status=status)
        with pytest.raises(DownloadError, match=f"HTTP {status}: the storage that") as caught:
            fetch(f"{hub.url}/x", tmp_path / "file")
    assert type(caught.value) is DownloadError


def test_only_a_missing_file_is_a_missing_file(hub, tmp_path):
    hub.files["/gated"] = Served(status=404, headers={"X-Error-Code": "RepoNotFound"})
    for path, kind in {"/nowhere": NotFoundError, "/gated": DownloadError}.items():
        with pytest.raises(DownloadError) as caught:
            fetch(f"{hub.url}{path}", tmp_path / "file")
        assert type(caught.value) is kind


def test_a_captive_portal_is_named_though_it_redirects(hub, tmp_path):
    with HubServer() as portal:
        portal.files["/login"] = Served(b"<html>", headers={"Content-Type": "text/html"})
        hub.files["/x"] = Served(redirect=f"{portal.url}/login", etag=None)
        with pytest.raises(DownloadError, match="web page instead of the file: a log-in page"):
            fetch(f"{hub.url}/x", tmp_path / "file")


def test_nobody_goes_on_from_https_to_http(monkeypatch, tmp_path):
    import requests

    answer = requests.Response()
    answer.status_code, answer.headers["Location"] = 302, "http://elsewhere/x"
    answer.close = lambda: None
    monkeypatch.setattr(requests, "get", lambda url, **settings: answer)
    with pytest.raises(DownloadError, match=r"redirects to http://elsewhere/x: not followed"):
        fetch("https://somewhere/x", tmp_path / "file")


def test_no_connection_is_one_short_line(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        with pytest.raises(DownloadError, match=r"cannot be reached: no connection \(2 tries\)$"):
            fetch(url, tmp_path / "file")
        with pytest.raises(DownloadError, match=r"cannot be reached: no connection$"):
            reach(url)


def test_silence_costs_a_few_seconds_at_most(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SECONDS_TO_ANSWER", 0.3)
    hub.files["/slow"] = Served(BODY, wait=3)
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"does not answer within 0\.3 s \(2 tries\)"):
        fetch(f"{hub.url}/slow", tmp_path / "file")
    assert time.monotonic() - started < 2
    assert files_in(tmp_path) == []


def test_whoever_answers_at_all_is_reached(hub):
    reach(f"{hub.url}/nowhere")


# --------------------------------------------------------------------- the disk


def test_a_disk_that_fills_up_is_one_short_line(hub, tmp_path, monkeypatch):
    def full(self, file, data):
        raise download._unwritten(self.target, OSError(28, "No space left on device"))

    monkeypatch.setattr(download._Part, "_write", full)
    with pytest.raises(DownloadError, match=r"file cannot be written: No space left on device$"):
        fetch(f"{hub.url}/good", tmp_path / "file")
    assert files_in(tmp_path) == []


def test_a_device_that_is_full_is_one_short_line(hub, tmp_path):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("no /dev/full on this system")
    part = download._Part(tmp_path / "file")
    part.path = download.Path("/dev/full")
    with pytest.raises(DownloadError, match="No space left"), part.appending() as write:
        write(BODY)


def test_what_does_not_fit_is_not_begun(hub, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    seen = []
    with pytest.raises(DownloadError, match=f"takes {len(BODY)} bytes, and there is room for 1000"):
        fetch(f"{hub.url}/good", tmp_path / "file", progress=lambda *step: seen.append(step))
    assert not seen
    assert files_in(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_one_short_line(hub, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="cannot be written"):
        fetch(f"{hub.url}/good", tmp_path / "file" / "below")


# --------------------------------------------------------------------- the token


def test_the_token_goes_to_the_first_host_only(hub, tmp_path):
    with HubServer() as other:
        other.files["/store"] = Served(BODY, etag=None)
        hub.files["/x"] = Served(BODY, linked=True, redirect="/again")
        hub.files["/again"] = Served(BODY, etag=None, redirect=f"{other.url}/store")
        fetch(f"{hub.url}/x", tmp_path / "file", token="hf_secret")
        assert hub.asked("/x")[0]["Authorization"] == "Bearer hf_secret"
        assert "Authorization" not in hub.asked("/again")[0]
        assert "Authorization" not in other.asked("/store")[0]


def test_no_password_of_the_users_is_sent(hub, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fetch(f"{hub.url}/good", tmp_path / "file")
    assert "Authorization" not in hub.asked("/good")[0]


@pytest.mark.parametrize("token", ["hf_secret", "hf_sec\nret", "hf_secrét\u2028"])
def test_the_token_is_in_no_message(hub, tmp_path, token):
    hub.files["/x"] = Served(status=403)
    with pytest.raises(DownloadError) as caught:
        fetch(f"{hub.url}/x", tmp_path / "file", token=token)
    assert "hf_sec" not in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)


def test_what_is_secret_in_an_address_is_in_no_message(tmp_path, hub):
    url = hub.url.replace("//", "//me:password@")
    with pytest.raises(DownloadError, match=f"{hub.url}/nowhere answers") as caught:
        fetch(f"{url}/nowhere?signature=secret", tmp_path / "file")
    assert "password" not in str(caught.value)
    assert "secret" not in str(caught.value)


# --------------------------------------------------------------------- kill -9


FETCH = """
import sys
from pathlib import Path
from mingpt.loading.download import fetch
fetch(sys.argv[1], Path(sys.argv[2]))
"""


def killed_half_way(url, path) -> None:
    process = subprocess.Popen([sys.executable, "-c", FETCH, url, str(path)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        while not any(part.stat().st_size for part in path.parent.glob(".*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def test_after_kill_9_the_next_run_goes_on(hub, tmp_path):
    path = tmp_path / "file"
    body = BODY[: 32 << 16]
    hub.files["/x"] = Served(body, drip=0.05, piece=1 << 16)
    killed_half_way(f"{hub.url}/x", path)
    (part,) = files_in(tmp_path)
    left = (tmp_path / part).stat().st_size
    assert 0 < left < len(body)
    hub.files["/x"].drip = 0.0
    hub.requests.clear()
    fetch(f"{hub.url}/x", path)
    assert path.read_bytes() == body
    assert files_in(tmp_path) == ["file"]
    assert hub.asked("/x")[-1]["Range"] == f"bytes={left}-"


def test_a_run_that_was_killed_after_the_last_byte_has_nothing_to_fetch(hub, tmp_path):
    (tmp_path / f".file.{sha256(BODY)[:16]}.part").write_bytes(BODY)
    assert fetch(f"{hub.url}/good", tmp_path / "file").size == len(BODY)
    assert (tmp_path / "file").read_bytes() == BODY
    assert len(hub.requests) == 1


@pytest.mark.parametrize("left", [b"b" * 100, b"b" * 1000, b"b" * 2000])
def test_what_a_killed_run_left_wrong_does_no_harm(hub, tmp_path, left):
    hub.files["/x"] = Served(b"a" * 1000)
    (tmp_path / f".file.{sha256(b'a' * 1000)[:16]}.part").write_bytes(left)
    fetch(f"{hub.url}/x", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"a" * 1000
    assert files_in(tmp_path) == ["file"]


def test_what_was_left_of_another_version_is_removed(hub, tmp_path):
    (tmp_path / ".file.0123456789abcdef.part").write_bytes(b"old")
    (tmp_path / ".file.x.part").write_bytes(b"old")
    (tmp_path / ".other.0123456789abcdef.part").write_bytes(b"not ours")
    fetch(f"{hub.url}/good", tmp_path / "file")
    assert files_in(tmp_path) == [".other.0123456789abcdef.part", "file"]
    assert (tmp_path / "file").read_bytes() == BODY


def test_without_a_hash_nothing_is_gone_on_with(hub, tmp_path):
    hub.files["/x"] = Served(BODY, etag=None)
    (tmp_path / ".file.x.part").write_bytes(b"old")
    fetch(f"{hub.url}/x", tmp_path / "file", verify=False)
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_link_in_place_of_the_part_is_not_written_through(hub, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"a")
    (tmp_path / f".file.{sha256(BODY)[:16]}.part").symlink_to(victim)
    fetch(f"{hub.url}/good", tmp_path / "file")
    assert victim.read_bytes() == b"a"


def test_git_names_a_file_so():
    assert git_sha1(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git hash-object /dev/null


def test_the_hash_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(BODY)
    assert download.file_hash(tmp_path / "x", 64) == sha256(BODY)
    assert download.file_hash(tmp_path / "x", 40) == git_sha1(BODY)
