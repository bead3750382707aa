"""Serve the live page: one page, two addresses to ask, answers to its own page alone.

    GET  /           the page
    POST /api/run    a request (request.LiveRequest) -> lines of JSON, as they come:
                     {"said": ...}, {"waiting": n}, {"progress": share}, {"model", "page"}
                     or {"model", "error"}, and at the end {"done": true}
    POST /api/save   a request -> a file to save

A request must name this server in Host and, where it is a POST, its own page in Origin. So
neither a page of another site nor a name that was made to point here (DNS rebinding) can ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mingpt.errors import MinGPTError
from mingpt.sites import SITES
from patching.errors import LiveError
from patching.page.charts import JSON
from patching.page.live.answers import answer, file_of
from patching.page.live.gallery import sensible
from patching.page.live.jobs import Job, Say, Worker
from patching.page.live.prompts import Loaded, check_prompts
from patching.page.live.request import MODES, LiveRequest
from patching.page.report import html_of
from patching.progress import Progress
from patching.sweep.metrics import METRICS
from patching.sweep.request import DIRECTIONS
from patching.text import escaped

MOST_BYTES = 200_000  # of a request's body
SECONDS_TO_READ = 10.0  # in which the body must come
TYPES = {"html": "text/html", "png": "image/png", "npz": "application/octet-stream"}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass
class Live:
    """The server's state: its models, who may ask, and the thread that works."""

    models: list[Loaded]
    hosts: frozenset[str]  # values of Host that are answered
    worker: Worker
    takes_addresses: bool = False  # any address of a machine is answered too: no name is
    notes: tuple[str, ...] = ()
    html: str = field(init=False)

    def __post_init__(self) -> None:
        self.html = html_of(
            {
                "title": "mingpt-live",
                "live": True,
                "models": [escaped(one.name) for one in self.models],
                "notes": [escaped(note) for note in self.notes],
                "modes": MODES,
                "sites": [*SITES],
                "directions": [*DIRECTIONS],
                "metrics": [*METRICS],
                "examples": [sensible(one) for one in self.models],
            },
            connects="'self'",
        )

    def is_own(self, host: str) -> bool:
        """Return True if a value of Host names this server."""
        if host in self.hosts:
            return True
        name, _, port = host.rpartition(":")
        ports = {known.rpartition(":")[2] for known in self.hosts}
        return self.takes_addresses and port in ports and _is_address(name.strip("[]"))


def make_app(live: Live) -> ASGIApp:
    """Return the server's application."""

    async def show(request: Request) -> Response:
        return Response(live.html, media_type="text/html")

    async def run(request: Request) -> Response:
        asked = await _read(request, live)
        return StreamingResponse(_lines(live, asked), media_type="application/x-ndjson")

    async def save(request: Request) -> Response:
        asked = await _read(request, live)
        return await _saved(live, asked)

    app = Starlette(
        routes=[
            Route("/", show, methods=["GET"]),
            Route("/api/run", run, methods=["POST"]),
            Route("/api/save", save, methods=["POST"]),
        ],
        exception_handlers={LiveError: _refused, ClientDisconnect: _refused},
    )
    return _Guard(app, live)


class _Guard:
    """Answers only requests of the server's own page, and puts headers on every answer."""

    def __init__(self, app: ASGIApp, live: Live) -> None:
        self.app, self.live = app, live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, with_headers)
        else:
            await JSONResponse({"error": refusal}, 403)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> str | None:
        """Return why a request is refused; None if it is not."""

        def values(name: bytes) -> list[str]:
            return [value.decode("latin-1") for key, value in scope["headers"] if key == name]

        hosts, origins = values(b"host"), values(b"origin")
        if len(hosts) != 1 or not self.live.is_own(hosts[0]):
            return "another Host than this server's"
        if scope["method"] == "GET" and not origins:
            return None
        if origins != [f"http://{hosts[0]}"]:
            return "another Origin than this server's page"
        return None


async def _read(request: Request, live: Live) -> LiveRequest:
    """Return what a request's body asks for.

    Raises:
        LiveError: it is too long, comes too slowly, or is not as LiveRequest.parse wants it.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise LiveError("a request is JSON: Content-Type is application/json")
    body = bytearray()

    async def read() -> None:
        async for part in request.stream():
            body.extend(part)
            if len(body) > MOST_BYTES:
                raise LiveError(f"a request has at most {MOST_BYTES:,} bytes")

    try:
        await asyncio.wait_for(read(), SECONDS_TO_READ)
        data = json.loads(bytes(body))
    except TimeoutError:
        raise LiveError("the request came too slowly") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, LiveError):
            raise
        raise LiveError("the request is not JSON") from None
    return LiveRequest.parse(data, len(live.models))


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": escaped(str(error))}, 400)


class _Running:
    """A job as an asynchronous source of what it says."""

    def __init__(self, live: Live, tab: str, work: Callable[[Say, Progress], None]) -> None:
        """Queue the job.

        Raises:
            LiveError: too many wait.
        """
        loop = asyncio.get_running_loop()
        self._said: asyncio.Queue[JSON | None] = asyncio.Queue()

        def put(message: JSON | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
                loop.call_soon_threadsafe(self._said.put_nowait, message)

        self._job = Job(tab, work, put, lambda: put(None))
        self._worker = live.worker
        self.before = live.worker.submit(self._job)

    async def messages(self) -> AsyncGenerator[JSON]:
        """Yield what the job says; end it if nobody listens any more."""
        try:
            while (message := await self._said.get()) is not None:
                yield message
        finally:
            self._worker.cancel(self._job)


async def _lines(live: Live, asked: LiveRequest) -> AsyncIterator[bytes]:
    """Yield the answer's lines."""
    try:
        checked = [
            await run_in_threadpool(check_prompts, live.models[number], asked)
            for number in asked.models
        ]
        yield _line({"said": [one.said for one in checked]})
        if any(one.is_ready for one in checked):

            def work(say: Say, progress: Progress) -> None:
                answer(live.models, checked, asked, say, progress)

            running = _Running(live, asked.tab, work)
            if running.before:
                yield _line({"waiting": running.before})
            messages = running.messages()
            async with contextlib.aclosing(messages):
                async for message in messages:
                    yield _line(message)
    except MinGPTError as error:
        yield _line({"error": escaped(str(error))})
    yield _line({"done": True})


def _line(message: JSON) -> bytes:
    return json.dumps(message, allow_nan=False).encode() + b"\n"


async def _saved(live: Live, asked: LiveRequest) -> Response:
    """Return the file that is asked for, or what is in the way."""
    made: list[tuple[str, bytes]] = []

    def work(say: Say, progress: Progress) -> None:
        try:
            made.append(file_of(live.models, asked, progress))
        except MinGPTError as error:
            say({"error": escaped(str(error))})

    error: Any = "the request was given up"
    async for message in _Running(live, f"{asked.tab}save", work).messages():
        error = message.get("error", error)
    if not made:
        return JSONResponse({"error": error}, 400)
    name, content = made[0]
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, headers=headers, media_type=TYPES[asked.format])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
