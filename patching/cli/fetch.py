"""mingpt-fetch: fetch models ahead of time; list, verify or remove those on this machine.

mingpt/loading/ fetches (sources.py) and lists the cache (listing.py); this file has
the options and the text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from click import Argument, Option

from mingpt.errors import CheckpointError
from patching.cli.common.command import Command, UsageError, print_line, run_command
from patching.cli.common.models import import_libraries
from patching.cli.common.options import models
from patching.progress import bar, steps
from patching.text import escaped

if TYPE_CHECKING:
    from mingpt.loading.listing import Entry
    from mingpt.loading.sources import HubSource

COMMAND = "mingpt-fetch"

DESCRIPTION = """\
Put models into the Hugging Face hub's cache, so that every other command finds them there.

A name is gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2, or owner/name of
any GPT-2 on the Hugging Face hub. Weights, configuration and tokenizer are
fetched, checked against the hashes that the hub states (GPT-2 124M's are built
in), and loaded once to check that the model works here.
"""
EPILOG = """\
examples:
  mingpt-fetch gpt2 distilgpt2       fetch two models
  mingpt-fetch --list                list what is cached, where, and its size
  mingpt-fetch --verify              hash every file again
  mingpt-fetch --remove distilgpt2   delete one from the cache

the cache is the hub's own, which transformers and others share: HF_HUB_CACHE, else
HF_HOME/hub, by default ~/.cache/huggingface/hub. HF_ENDPOINT is the hub's address;
HF_TOKEN gives access to gated models.

a machine without a network: fetch here, copy the cache's folder there, and use
--offline (or HF_HUB_OFFLINE=1) there:
  tar -C ~/.cache/huggingface -cf hub.tar hub
and there:
  tar -C ~/.cache/huggingface -xf hub.tar

exit codes: 0 done; 2 bad input, or a file that is damaged or cannot be fetched, with
one line on stderr; 130 interrupted.
"""


OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "options": [
        Option(["--list"], is_flag=True, help="list cached models, folders and sizes"),
        Option(["--verify"], is_flag=True,
               help="hash the files of the named models (or all) again"),
        Option(["--remove"], is_flag=True,
               help="delete the named models, also for transformers"),
        Option(["--quiet"], is_flag=True, help="no progress bar"),
    ],
}, Argument(["names"], nargs=-1, metavar="[NAME]...", shell_complete=models))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """List, verify, remove or fetch."""
    asked = [name for name in ("list", "verify", "remove") if vars(arguments)[name]]
    if len(asked) > 1:
        both = " and ".join(f"--{name}" for name in asked)
        raise UsageError(f"{both} do not go together (see --help)")
    if not (arguments.names or arguments.list or arguments.verify):
        raise UsageError("no model: give its name, or --list (see --help)")
    import_libraries(drawing=False)
    if arguments.list:
        _list(arguments.names)
    elif arguments.verify:
        _verify(arguments.names, arguments.quiet)
    elif arguments.remove:
        _remove(arguments.names)
    else:
        _fetch(arguments)


def _fetch(arguments: SimpleNamespace) -> None:
    from mingpt.loading.model_files import load
    from mingpt.loading.sources import HubSource, resolve

    sources: list[HubSource] = []
    for name in arguments.names:
        source = resolve(name)
        if not isinstance(source, HubSource):
            raise UsageError(f"{source.name} is on this machine: there is nothing to fetch")
        sources.append(source)
    for source in sources:
        was_here = source.is_here
        with bar(f"fetching {source.name}", quiet=arguments.quiet, in_bytes=True) as progress:
            model, _ = load(source, progress=progress)
        parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        snapshot = source.snapshot
        if snapshot is None:
            raise CheckpointError(f"{source.name}: another process has just removed its files")
        nbytes = sum(path.stat().st_size for path in snapshot.iterdir())
        words = "was already in" if was_here else "is now in"
        _say(f"{source.name}: {parameters:.1f}M parameters, {_size(nbytes)}, {words} {snapshot}")


def _list(names: Sequence[str]) -> None:
    from mingpt.loading import cache
    from patching.cli.common.tables import table

    chosen, warnings = _entries(names)
    rows = [("name", "size", "", "folder")]
    for entry in chosen:
        state = "" if entry.is_complete else "incomplete"
        rows.append((escaped(entry.name), _size(entry.nbytes), state, escaped(str(entry.snapshot))))
    print_line(table(rows, right=(1,)), sys.stdout)
    for warning in warnings:
        _say(f"not listed: {warning}")
    _say(f"{cache.directory()}, {_size(sum(entry.nbytes for entry in chosen))}")


def _verify(names: Sequence[str], quiet: bool) -> None:
    from mingpt.loading import listing

    entries, warnings = _entries(names)
    if not (entries or warnings):
        _say("the cache holds no GPT-2: there is nothing to verify")
    with bar("hashing", quiet=quiet, in_bytes=True) as progress:
        step = steps(progress, sum(entry.nbytes for entry in entries))
        found = [listing.verify(entry, step) for entry in entries]
    files = {path: state for one in found for path, state in one.items()}
    for path, state in files.items():
        _say(f"{path}: {state}")
    wrong = [str(path) for path, state in files.items() if state != listing.INTACT]
    if wrong := wrong + warnings:
        raise CheckpointError(
            f"not intact: {', '.join(wrong)}; remove the model and fetch it again"
        )


def _remove(names: Sequence[str]) -> None:
    from mingpt.loading import listing, repositories

    found = [repositories.repository(name) for name in names]
    parts = {
        name for name, one in zip(names, found, strict=True) if one and listing.remove_parts(one)
    }
    for name in parts:
        _say(f"removed what an interrupted fetch left of {name}")
    others = [name for name in names if name not in parts]
    chosen = _entries(others)[0] if others else []
    listing.remove(chosen)
    for entry in chosen:
        _say(f"removed {entry.name}, {_size(entry.nbytes)}, from {entry.snapshot}")


def _entries(names: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """Return the cached entries of the named models, or all of them and what cannot be read.

    Raises:
        UsageError: a named model is not in the cache.
    """
    from mingpt.loading import listing, repositories

    entries, warnings = listing.entries()
    chosen: list[Entry] = []
    for name in names:
        repository = repositories.repository(name)
        found = [entry for entry in entries if entry.repository == repository]
        if not found:
            there = ", ".join(dict.fromkeys(entry.name for entry in entries)) or "nothing"
            raise UsageError(f"{name!r} is not in the cache; there is: {there}")
        chosen += [entry for entry in found if entry not in chosen]
    return (chosen, []) if names else (entries, warnings)


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def _say(text: str) -> None:
    print_line(escaped(text), sys.stdout)
