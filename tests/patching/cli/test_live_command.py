"""mingpt-live: it listens, answers, and ends well by Ctrl-C; one line for bad input."""

import signal
import socket
import subprocess
import sys
import time

import pytest
import requests
from helpers import ROOT

from patching.cli import live
from patching.cli.live import address_of, main, own_hosts


@pytest.mark.slow
def test_bad_input_gets_one_line(capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, words in (
            (["--model", "builtin", "--port", port], "cannot listen there"),
            (["--model", "builtin", "--host", "no.such.host.invalid"], "cannot listen there"),
            (["--model", "builtin", "--host", "192.0.2.1"], "cannot listen there"),
            (["--model", "no-such-model"], "no-such-model"),
            (["--model", "builtin", "--port", "70000"], "--port"),
        ):
            assert main(arguments) == 2
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) == 1 and words in lines[0]
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["--model", "builtin"]) == 2
    assert "pip install 'patched-mingpt[page]'" in capsys.readouterr().err


def test_the_hosts_that_are_answered():
    hosts = {"127.0.0.1:8000", "localhost:8000", "[::1]:8000"}
    assert own_hosts("127.0.0.1", 8000) == hosts
    assert own_hosts("127.0.0.1", 80) > {"127.0.0.1", "127.0.0.1:80"}  # browsers leave out :80
    assert "192.168.1.5:80" in own_hosts("192.168.1.5", 80)
    assert not any("0.0.0.0" in one for one in own_hosts("0.0.0.0", 80))
    assert own_hosts("Here.example", 8000) > {"here.example:8000", "127.0.0.1:8000"}
    assert address_of("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert address_of("::1", 80) == "http://[::1]:80"


def test_it_opens_the_browser_and_serves_until_a_signal(capsys, monkeypatch):
    opened = []

    def open_and_end(address: str) -> None:
        opened.append(address)

    def serve(server, sockets) -> None:
        time.sleep(0.05)  # the browser is opened by a thread
        assert [one.getsockname()[0] for one in sockets] == ["127.0.0.1"]

    monkeypatch.setattr(live.webbrowser, "open", open_and_end)
    monkeypatch.setattr(live, "_serve", serve)
    assert main(["--model", "builtin", "--port", "0"]) == 0
    assert f"{opened[0]}  (Ctrl-C ends it)" in capsys.readouterr().out
    assert main(["--model", "builtin", "--port", "0", "--no-browser"]) == 0
    assert len(opened) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_an_answer_under_way(number):
    command = [sys.executable, str(ROOT / "scripts/live.py"), "--model", "builtin", "--port", "0"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--no-browser"], **streams) as process:
        address = next(line.split()[0] for line in process.stdout if line.startswith("http"))
        state = {"clean": "a " * 200 + "a", "corrupt": "a " * 200 + "b", "target": "id:5",
                 "foil": "id:6", "site": "v", "by_position": True}  # fmt: skip
        with requests.post(f"{address}/api/run", json=state, headers={"Origin": address},
                           timeout=20, stream=True) as response:  # fmt: skip
            assert response.status_code == 200
            process.send_signal(number)
            assert process.wait(timeout=20) == 0
        assert process.stderr.read() == ""
