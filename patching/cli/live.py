"""mingpt-live: a page on this machine that sweeps while one types."""

from __future__ import annotations

import ipaddress
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from click import IntRange, Option

from patching.cli.common import output
from patching.cli.common.command import Command, UsageError, print_line, run_command
from patching.cli.common.models import import_libraries, load_model, model_names
from patching.cli.common.options import model_options
from patching.cli.common.page import check_html
from patching.text import escaped

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

COMMAND = "mingpt-live"
HOST, PORT = "127.0.0.1", 8000
HTTP_PORT = 80  # which browsers leave out in Host and Origin
MOST_CONNECTIONS = 1000  # among them those that never send a whole request
MOST_MODELS = 8
NEEDS = "mingpt-live needs starlette and uvicorn: pip install 'patched-mingpt[page]'"
DESCRIPTION = """\
A page in the browser that patches, explains and predicts while one types.

Two prompts, target and foil: their tokens appear as one types, and the map of all
patched runs follows. Nothing leaves this machine. Ctrl-C ends it.
"""
EPILOG = f"""\
the page:
  The address holds everything that is set: a link is an experiment. The page shows the
  command and the Python that do the same, and saves the report, the figure and the
  numbers.

who can reach it:
  It listens on 127.0.0.1, which only this machine reaches, and answers only its own page.
  With --host 0.0.0.0 everybody on the network can use the models, without a password.

examples:
  {COMMAND} --model builtin
  {COMMAND} --model gpt2 --port 8080 --no-browser
  {COMMAND} --model gpt2 --model distilgpt2
      two models side by side

exit codes: 0 ended by Ctrl-C; 2 bad input, with one line on stderr.
"""
OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "model": model_options(more=" Repeat it for several: two can be shown side by side.",
                           seed="accepted for scripts; the page has a seed of its own",
                           multiple=True),
    "server": [
        Option(["--host"], default=HOST, metavar="ADDRESS",
               help=f"the address to listen on  [default: {HOST}, which only this machine"
               " reaches]"),
        Option(["--port"], type=IntRange(0, 65535), default=PORT, metavar="N",
               help="0 takes a free one"),
        Option(["--no-browser"], is_flag=True, help="do not open the page in the browser"),
        Option(["--quiet"], is_flag=True, help="print only the models' lines and the address"),
    ],
})  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """Load the models and serve the page until Ctrl-C."""
    names = model_names(arguments)
    if len(names) > MOST_MODELS:
        raise UsageError(f"{len(names)} models; at most {MOST_MODELS} are loaded")
    check_html()
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UsageError(NEEDS) from None
    with _listening(arguments.host, arguments.port) as sockets:
        import_libraries(drawing=True)
        from patching.cli.common import tables
        from patching.page.live.jobs import Worker
        from patching.page.live.prompts import Loaded
        from patching.page.live.server import Live, make_app

        models, notes = [], list[str]()
        for name in names:
            loaded = load_model(arguments, name)
            print_line(tables.model_line(loaded.model, loaded.fallback), sys.stdout)
            notes += output.fallback_notes(loaded.fallback)
            shown = "builtin" if loaded.fallback is not None else name or "gpt2"
            models.append(Loaded(shown, loaded.model, loaded.tokenizer))
        port = sockets[0].getsockname()[1]
        worker = Worker(_same_threads())
        try:
            live = Live(models, own_hosts(arguments.host, port), worker,
                        _is_any(arguments.host), tuple(notes))  # fmt: skip
            server = make_server(make_app(live))
            address = address_of(arguments.host, port)
            print_line(f"{address}  (Ctrl-C ends it)", sys.stdout)
            if not arguments.no_browser:
                # A browser within the terminal would wait for the page before it is served.
                threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
            _serve(server, sockets)
        finally:
            worker.close()


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Return a server of an application, which prints nothing."""
    import uvicorn

    config = uvicorn.Config(
        app, log_config=None, log_level="critical", access_log=False, lifespan="off", ws="none",
        http="h11", limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=1,
    )  # fmt: skip
    return uvicorn.Server(config)


def _same_threads() -> Callable[[], None]:
    """Return a function that lets its thread compute with as many threads as this one does."""
    import torch

    threads = torch.get_num_threads()
    return lambda: torch.set_num_threads(threads)


@contextmanager
def _listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Listen on an address before anything is loaded.

    Raises:
        UsageError: it is no address of this machine, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"--host {escaped(host)} --port {port}: cannot listen there: {escaped(why)}; choose"
            " another port (0 takes a free one)"
        ) from None
    with listening:
        yield [listening]


def own_hosts(host: str, port: int) -> frozenset[str]:
    """Return the values of a request's Host that name this server."""
    names = {"127.0.0.1", "localhost", "[::1]"}
    if not _is_any(host):
        names.add((f"[{host}]" if ":" in host else host).lower())
    hosts = {f"{name}:{port}" for name in names}
    return frozenset(hosts | names if port == HTTP_PORT else hosts)


def address_of(host: str, port: int) -> str:
    """Return the page's address for this machine's browser."""
    name = HOST if _is_any(host) else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def _is_any(host: str) -> bool:
    """Return True if a host stands for all addresses of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _serve(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
    """Serve until a signal comes; a second one ends it at once."""
    import asyncio
    import contextlib

    # Uvicorn would raise the signal again at its end; here it is a way to end well.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]

    def end(number: int, frame: FrameType | None) -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    signals = [int(signal.SIGINT), int(signal.SIGTERM)]
    before: dict[int, Any] = {number: signal.getsignal(number) for number in signals}
    try:
        for number in signals:
            signal.signal(number, end)
        asyncio.run(server.serve(sockets))
    finally:
        for number, old in before.items():
            signal.signal(number, old)
