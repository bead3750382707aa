"""The live page's server: what it answers, to whom, and that it never falls over."""

import io
import itertools
import random
import shlex
import socket
import subprocess
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import requests
from helpers import last
from pages import STATE
from test_page import data_of

from mingpt import GPT
from patching import PromptPair, patch_sweep
from patching.cli.patch import main as patch_main
from patching.errors import LiveError
from patching.page.live import server
from patching.page.live.gallery import EXAMPLES, sensible
from patching.page.live.jobs import MOST_WAITING, Job, Worker
from patching.page.live.prompts import Loaded, check_prompts
from patching.page.live.request import LiveRequest


def page_of(lines: list[dict]) -> dict:
    (found,) = [line["page"] for line in lines if "page" in line]
    return found


# --------------------------------------------------------------------- requests


def test_a_request_is_checked_field_by_field():
    request = LiveRequest.parse({**STATE, "temperature": 1, "models": [1], "heads": "0,2-3"}, 2)
    assert (request.temperature, request.models) == (1.0, (1,))
    assert LiveRequest(target="Jones, Davis").targets == ("Jones", "Davis")
    assert LiveRequest(target=",").targets == (",",)
    for wrong in (
        [], "x", None, 1, {"x": 1}, {"clean": 1}, {"mode": "x"}, {"models": []}, {"models": [2]},
        {"models": [0, 0]}, {"models": [True]}, {"window": 0}, {"window": True}, {"window": 1.5},
        {"clean": "x" * 20_001}, {"tab": "<b>"}, {"heads": "x"}, {"seed": -1}, {"top_p": "1"},
        {"temperature": 10**400}, {"temperature": float("nan")},
        {"temperature": 1e300}, {"site": "__class__"}, {"metric": ["kl"]}, {"format": "exe"},
    ):  # fmt: skip
        with pytest.raises(LiveError):
            LiveRequest.parse(wrong, 2)
    with pytest.raises(LiveError, match="top_k must be a whole number, or nothing"):
        LiveRequest.parse({"top_k": 1.5}, 2)


# --------------------------------------------------------------------- answers


def test_a_sweep_is_that_of_the_command(served, builtin):
    model, tokenizer = builtin
    lines = served.ask(site="z", metric="kl")
    assert lines[-1] == {"done": True}
    page = page_of(lines)
    pair = PromptPair.from_text(tokenizer, *STATE.values())
    result = patch_sweep(model, pair, site="z", metric="kl")
    (chart,) = page["views"][0]["charts"]
    values = np.array([row[2] for row in chart["rows"]]).reshape(result.values.shape)
    assert np.allclose(values, result.values, atol=1e-5)
    assert lines[0]["said"][0]["prompts"][0]["marked"] == [1]


def test_every_view_answers(served):
    for mode, kinds in (
        ("explain", ["charts"] * 4 + ["tables"]), ("attention", ["attention", "charts"]),
        ("next", ["next"]), ("tokens", ["tables"]),
    ):  # fmt: skip
        page = page_of(served.ask(mode=mode))
        assert [view["kind"] for view in page["views"]] == kinds
    both = served.ask(models=[0, 1])
    assert [line["model"] for line in both if "page" in line] == [0, 1]


def test_the_command_and_the_python_do_the_same(served, tmp_path, monkeypatch):
    fields = {"site": "v", "by_position": True, "heads": "0,2", "direction": "noise"}
    page = page_of(served.ask(**fields))
    command, *arguments = shlex.split(page["command"])
    assert command == "mingpt-patch"
    assert patch_main([*arguments, "--out", f"{tmp_path}/x.png", "--quiet"]) == 0
    from patching import SweepResult

    known = {}
    exec(page["python"], known)
    both = known["result"], SweepResult.load(tmp_path / "x")
    for result in both:
        assert np.allclose(result.values, both[0].values, equal_nan=True)
        assert (result.site, result.heads, result.direction) == ("v", (0, 2), "noise")
    rows = page["views"][0]["charts"][0]["rows"]
    shown = [both[0].values[row, group, column] for row, column, group, *_ in rows]
    assert np.allclose([row[3] for row in rows], shown, atol=1e-5)
    for mode in ("explain", "attention", "next", "tokens"):
        exec(page_of(served.ask(mode=mode))["python"], {})


def test_it_says_what_is_in_the_way_and_what_would_help(served):
    def said(**fields) -> dict:
        lines = served.ask(**fields)
        assert not any("page" in line for line in lines)
        return lines[0]["said"][0]

    found = said(corrupt="Michelle Abernathy was a top-notch student. Michelle")
    assert "same number of tokens" in found["problems"][0]
    words = [one["word"] for one in found["words"]]
    assert len(words) == 12 and "Smith" in words
    assert STATE["corrupt"] in [one["prompt"] for one in found["words"]]
    found = said(target="Jonesville")
    assert not found["answers"][0]["is_token"] and " + " in found["answers"][0]["text"]
    assert said(target="")["problems"][0].startswith("target and foil: give")
    assert "longer" not in said(clean="", corrupt="")["problems"][0]
    assert "reads at most" in said(clean="a " * 2000)["problems"][0]
    assert said(mode="explain", target="Jones, Davis")["problems"]
    for fields, words in (
        ({"window": 2}, "a window is for"), ({"heads": "0"}, "resid_post has no heads"),
        ({"site": "z", "heads": "3-1"}, "runs backwards"), ({"site": "z", "heads": "9"}, "head 9"),
    ):  # fmt: skip
        (error,) = [line["error"] for line in served.ask(**fields) if "error" in line]
        assert words in error


def test_commands_are_whole_words_for_a_shell(served):
    def words(**fields) -> list[str]:
        command = page_of(served.ask(**fields))["command"]
        printed = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True
        ).stdout
        return printed.decode().split("\0")[:-1]

    assert "--top-k 1" in " ".join(words(mode="next", top_k=1, temperature=2))
    assert "0.123456789" in words(mode="next", top_p=0.123456789)
    hostile = "a\nb\t'c'\\ \x1b $x `y`"
    assert hostile in words(mode="next", clean=hostile)
    assert words(mode="tokens", clean="-foo", corrupt="--bar")[-3:] == ["--", "-foo", "--bar"]


def test_a_saved_page_is_the_one_that_is_shown(served):
    shown = page_of(served.ask(mode="attention"))
    saved = data_of(served.post("/api/save", {**STATE, "mode": "attention"}).text)
    assert saved["title"] == shown["title"] == "What each head reads"
    assert saved["views"] == shown["views"]


def test_files_are_saved(served):
    page, figure, numbers = (
        served.post("/api/save", {**STATE, "format": kind}) for kind in ("html", "png", "npz")
    )
    assert page.headers["content-disposition"] == 'attachment; filename="patch.html"'
    assert "<!DOCTYPE html>" in page.text and figure.content.startswith(b"\x89PNG")
    with np.load(io.BytesIO(numbers.content)) as arrays:
        assert str(arrays["site"]) == "resid_post"
    explained = served.post("/api/save", {**STATE, "mode": "attention", "format": "png"})
    assert explained.content.startswith(b"\x89PNG")
    refused = served.post("/api/save", {**STATE, "target": "", "format": "png"})
    assert refused.status_code == 400 and "nothing to save" in refused.json()["error"]


def test_the_gallery_holds_what_the_model_answers_rightly(builtin):
    found = sensible(Loaded("builtin", *builtin))
    assert 3 <= len(found) < len(EXAMPLES)
    for one in found:
        request = LiveRequest(**{name: one[name] for name in STATE})
        assert check_prompts(Loaded("builtin", *builtin), request).is_ready


def test_an_example_that_a_model_answers_wrongly_is_not_offered(builtin):
    tokenizer = builtin[1]
    random_model = GPT(replace(builtin[0].config, n_layer=1)).eval()

    def prefers_target(ids: tuple[int, ...], pair: PromptPair) -> bool:
        logits = last(random_model, ids)
        return bool(logits[pair.target_ids[0]] > logits[pair.foil_ids[0]])

    fitting = [vars(one) for one in EXAMPLES if vars(one) in sensible(Loaded("x", *builtin))]
    expected = []
    for one in fitting:
        pair = PromptPair.from_text(tokenizer, *(one[name] for name in STATE))
        if prefers_target(pair.clean_ids, pair) and not prefers_target(pair.corrupt_ids, pair):
            expected.append(one["title"])
    found = [one["title"] for one in sensible(Loaded("x", random_model, tokenizer))]
    assert [title for title in found if title in [one["title"] for one in fitting]] == expected
    assert len(expected) < len(fitting)


def test_an_error_in_the_model_is_said_on_the_page(served, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("</script>\x1b[31m broken")

    monkeypatch.setattr(server, "answer", broken)
    lines = served.ask()
    error = "an error in the model: RuntimeError: </script>\\x1b[31m broken"
    assert lines[1:] == [{"error": error}, {"done": True}]
    assert capsys.readouterr().err == f"mingpt-live: {error}\n"
    monkeypatch.undo()
    assert page_of(served.ask())


# --------------------------------------------------------------------- who may ask


def test_only_its_own_page_is_answered(served):
    def status(path="/", method="GET", **headers) -> int:
        return requests.request(
            method, served.origin + path, headers=headers, json=STATE, timeout=20
        ).status_code

    own = served.origin
    assert status() == 200
    assert status(Host=f"localhost:{served.port}") == 200
    assert status(Host="evil.example") == 403  # a name that was made to point here
    assert status(Host=f"evil.example:{served.port}") == 403
    assert status(Host="127.0.0.1:1") == 403
    assert status("/api/run", "POST") == 403  # no Origin
    assert status("/api/run", "POST", Origin="http://evil.example") == 403
    assert status("/api/run", "POST", Origin="null") == 403
    assert status("/api/run", "POST", Origin=f"http://localhost:{served.port}") == 403
    assert status("/api/run", "POST", Origin=own) == 200
    assert status("/api/run", "GET") == 405
    assert status("/api/run", "OPTIONS", Origin=own) == 405  # no other site is let in
    assert status("/../../etc/passwd") == 404
    headers = {"Origin": own, "Content-Type": "text/plain"}
    wrong = requests.post(f"{own}/api/run", data="{}", headers=headers, timeout=9)
    assert wrong.status_code == 400 and "application/json" in wrong.json()["error"]
    page = requests.get(own, timeout=9)
    assert page.headers["X-Frame-Options"] == "DENY"
    assert "access-control-allow-origin" not in page.headers
    assert "connect-src 'self'" in page.text and "unsafe-eval" not in page.text.split("<style>")[0]


def test_a_server_for_all_addresses_takes_addresses_and_no_names(served):
    live = served.live
    assert not live.is_own(f"192.168.1.5:{served.port}")
    live.takes_addresses = True
    try:
        assert live.is_own(f"192.168.1.5:{served.port}") and live.is_own(f"[::2]:{served.port}")
        assert not live.is_own(f"evil.example:{served.port}") and not live.is_own("192.168.1.5:1")
    finally:
        live.takes_addresses = False


def request_of(served, body: str, length: int | None = None) -> bytes:
    """Return the bytes of a request of the server's own page."""
    lines = (
        "POST /api/run HTTP/1.1",
        f"Host: 127.0.0.1:{served.port}",
        f"Origin: {served.origin}",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
    )
    return ("\r\n".join(lines) + f"\r\n\r\n{body}").encode()


def test_bodies_are_bounded(served, monkeypatch):
    big = served.post("/api/run", {"clean": "x" * 300_000})
    assert big.status_code == 400 and "at most 200,000 bytes" in big.json()["error"]
    monkeypatch.setattr(server, "SECONDS_TO_READ", 0.2)
    with socket.create_connection(("127.0.0.1", served.port)) as slow:
        slow.sendall(request_of(served, "{", length=50))
        slow.settimeout(5)
        answer = slow.recv(4000)
        answer += b"" if b"slowly" in answer else slow.recv(4000)
        assert b"came too slowly" in answer


@pytest.mark.slow
def test_a_thousand_malformed_requests_leave_no_trace(served, capfd):
    draw = random.Random(0)
    good = request_of(served, '{"clean": "x"}')
    bodies = ["[" * 5000, '{"clean":', "NaN", '{"seed":1e999}', '{"clean":"\\ud800"}',
              '{"models":[99]}', '{"mode":"\\u0000"}', "null", "{}" * 100]  # fmt: skip
    for number in range(1000):
        if number % 3 == 0:  # bytes are changed, or the request is cut
            request = bytearray(good)
            for _ in range(draw.randrange(1, 8)):
                request[draw.randrange(len(request))] = draw.randrange(256)
            request = request[: draw.randrange(len(request))] if draw.random() < 0.3 else request
        elif number % 3 == 1:
            request = request_of(served, draw.choice(bodies))
        else:
            request = draw.randbytes(draw.randrange(200))
        with socket.create_connection(("127.0.0.1", served.port)) as one:
            one.settimeout(0.02)
            one.sendall(request)
            try:
                answer = one.recv(4000)
            except (TimeoutError, ConnectionError):
                continue
            assert b"Traceback" not in answer and b" 500 " not in answer.partition(b"\r\n")[0]
    assert page_of(served.ask())
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


# --------------------------------------------------------------------- jobs


class Held:
    """Answers that take until they are let go or cancelled."""

    def __init__(self, monkeypatch) -> None:
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.cancelled = 0
        monkeypatch.setattr(server, "answer", self.answer)

    def answer(self, models, checked, request, say, progress) -> None:
        self.begun.release()
        try:
            for at in itertools.count():
                progress(at % 100, 100)
                if self.let_go.wait(0.01):
                    say({"model": 0, "page": {"views": []}})
                    return
        except Exception:
            self.cancelled += 1
            raise


def in_thread(work) -> tuple[threading.Thread, list]:
    found: list = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def test_a_newer_request_of_a_tab_ends_the_older_one(served, monkeypatch):
    held = Held(monkeypatch)
    first, said = in_thread(lambda: served.ask(tab="a"))
    held.begun.acquire()
    second, answered = in_thread(lambda: served.ask(tab="a"))
    first.join(timeout=10)
    assert held.cancelled == 1
    assert not any("page" in line for line in said[0])
    held.begun.acquire()
    held.let_go.set()
    second.join(timeout=10)
    assert page_of(answered[0])


def test_a_second_tab_waits_and_a_closed_one_is_given_up(served, monkeypatch):
    held = Held(monkeypatch)
    response = served.post("/api/run", {**STATE, "tab": "a"}, stream=True)
    held.begun.acquire()
    second, answered = in_thread(lambda: served.ask(tab="b"))
    time.sleep(0.2)
    assert not answered
    response.close()  # the tab is closed
    held.begun.acquire(timeout=10)
    assert held.cancelled == 1
    held.let_go.set()
    second.join(timeout=10)
    assert {"waiting": 1} in answered[0] and page_of(answered[0])
    assert any("progress" in line for line in answered[0])


def test_the_queue_is_bounded():
    let_go = threading.Event()
    worker = Worker()
    jobs = [
        Job(str(number), lambda say, progress: let_go.wait(10), lambda said: None, lambda: None)
        for number in range(MOST_WAITING + 2)
    ]
    worker.submit(jobs[0])
    while worker._waiting:
        time.sleep(0.001)
    for job in jobs[1:-1]:
        worker.submit(job)
    with pytest.raises(LiveError, match="wait already"):
        worker.submit(jobs[-1])
    for job in jobs[1:-1]:
        worker.cancel(job)
    assert worker.submit(jobs[-1]) == 1  # those that are given up do not count
    let_go.set()
    worker.close()
