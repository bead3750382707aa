"""A server of the live page in a thread of this process."""

import json
import socket
import threading
import time

import pytest
import requests
from live_state import STATE

from patching.cli.live import own_hosts
from patching.page.live.jobs import Worker
from patching.page.live.prompts import Loaded
from patching.page.live.server import Live, make_app


class Served:
    """A running server, and the page's way to ask it."""

    def __init__(self, models: list[Loaded]) -> None:
        uvicorn = pytest.importorskip("uvicorn")
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.live = Live(models, own_hosts("127.0.0.1", self.port), Worker())
        config = uvicorn.Config(
            make_app(self.live), log_config=None, log_level="critical", access_log=False,
            lifespan="off", ws="none", http="h11", timeout_graceful_shutdown=1,
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def post(self, path: str, data: object, **more) -> requests.Response:
        headers = {"Origin": self.origin, **more.pop("headers", {})}
        return requests.post(self.origin + path, json=data, headers=headers, timeout=20, **more)

    def ask(self, **fields) -> list[dict]:
        """Return the lines of an answer to the example with other fields."""
        response = self.post("/api/run", {**STATE, **fields})
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]

    def close(self) -> None:
        self.live.worker.close()
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


@pytest.fixture(scope="session")
def served():
    from mingpt import load

    model, tokenizer = load("builtin")
    one = Served([Loaded("builtin", model, tokenizer), Loaded("again", model, tokenizer)])
    yield one
    one.close()
