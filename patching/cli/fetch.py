"""mingpt-fetch: fetch models ahead of time; list, verify or remove those on this machine.

mingpt/loading/ fetches (sources.py) and manages the cache (cache.py); this file has
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
    from mingpt.loading.cache import Entry
    from mingpt.loading.sources import HubSource

COMMAND = "mingpt-fetch"

DESCRIPTION = """\
Put models into the cache, so that every other command finds them there.

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
  mingpt-fetch --remove distilgpt2   delete one from our cache

where models are looked for, in this order:
  our cache          MINGPT_CACHE, by default ~/.cache/mingpt
  the hub's cache    HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub, where
                     transformers and others put theirs; it is only read
  the network        HF_ENDPOINT is the hub's address; HF_TOKEN gives access to gated models

a machine without a network: fetch here, copy the cache's folder there, and use
--offline (or HF_HUB_OFFLINE=1) there:
  tar -C ~/.cache -cf mingpt.tar mingpt        and there: tar -C ~/.cache -xf mingpt.tar

exit codes: 0 done; 2 bad input, or a file that is damaged or cannot be fetched, with
one line on stderr; 130 interrupted.
"""


OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "options": [
        Option(["--list"], is_flag=True, help="list cached models, folders and sizes"),
        Option(["--verify"], is_flag=True,
               help="hash the files of the named models (or all) again"),
        Option(["--remove"], is_flag=True, help="delete the named models"),
        Option(["--no-verify"], is_flag=True,
               help="fetch files even if the hub states no hash to check them against"),
        Option(["--quiet"], is_flag=True, help="no bar"),
    ],
}, Argument(["names"], nargs=-1, metavar="[NAME]...", shell_complete=models))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """List, verify, remove or fetch."""
    asked = [name for name in ("list", "verify", "remove", "no_verify") if vars(arguments)[name]]
    if len(asked) > 1:
        both = " and ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise UsageError(f"{both} do not go together (see --help)")
    if not (arguments.names or arguments.list or arguments.verify):
        raise UsageError("no model: give its name, or --list (see --help)")
    if arguments.list:
        _list(arguments.names)
    elif arguments.verify:
        _verify(arguments.names, arguments.quiet)
    elif arguments.remove:
        _remove(arguments.names)
    else:
        _fetch(arguments)


def _fetch(arguments: SimpleNamespace) -> None:
    import_libraries(drawing=False)
    from mingpt.loading import cache
    from mingpt.loading.model_files import load
    from mingpt.loading.sources import HubSource, resolve

    sources: list[HubSource] = []
    for name in arguments.names:
        source = resolve(name, verify=not arguments.no_verify)
        if not isinstance(source, HubSource):
            raise UsageError(f"{source.name} is on this machine: there is nothing to fetch")
        sources.append(source)
    for source in sources:
        was_here = source.is_here
        with bar(f"fetching {source.name}", quiet=arguments.quiet, in_bytes=True) as progress:
            model, _ = load(source, progress=progress)
        parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        place = source.place
        if place is None:
            raise CheckpointError(f"{source.name}: another process has just removed its files")
        entry = cache.entry(source.name, place)
        words = "was already in" if was_here else "is now in"
        _say(
            f"{source.name}: {parameters:.1f}M parameters, {_size(entry.nbytes)},"
            f" {words} {entry.place.directory}"
        )


def _list(names: Sequence[str]) -> None:
    from mingpt.loading import cache
    from patching.cli.common.tables import table

    entries = _entries(names)
    rows = [("name", "size", "cache", "folder")]
    for entry in entries:
        whose = "ours" if entry.is_ours else "the hub's"
        whose += "" if entry.is_complete else ", incomplete"
        folder = escaped(str(entry.place.directory))
        rows.append((entry.name, _size(entry.nbytes), whose, folder))
    print_line(table(rows, right=(1,)), sys.stdout)
    total = sum(entry.nbytes for entry in entries if entry.is_ours)
    _say(f"our cache: {cache.directory()}, {_size(total)}")
    _say(f"the hub's: {cache.hub_directory()}")


def _verify(names: Sequence[str], quiet: bool) -> None:
    from mingpt.loading import cache

    entries = _entries(names)
    wrong = []
    with bar("hashing", quiet=quiet, in_bytes=True) as progress:
        step = steps(progress, sum(entry.nbytes for entry in entries))
        found = [(entry, cache.verify(entry, step)) for entry in entries]
    for entry, files in found:
        for name, state in files.items():
            _say(f"{entry.place.directory / name}: {state}")
            if state in (cache.WRONG, cache.MISSING):
                wrong.append(str(entry.place.directory / name))
    if wrong:
        raise CheckpointError(
            f"damaged or missing: {', '.join(wrong)}; remove the model and fetch it again"
        )


def _remove(names: Sequence[str]) -> None:
    from mingpt.loading import cache

    chosen = _entries(names)
    ours = [entry for entry in chosen if entry.is_ours]
    for entry in chosen:
        if entry.name not in {one.name for one in ours}:
            cache.remove(entry)  # raises an error: it is in the hub's cache only
    for entry in ours:
        cache.remove(entry)
        _say(f"removed {entry.name}, {_size(entry.nbytes)}, from {entry.place.directory}")


def _entries(names: Sequence[str]) -> list[Entry]:
    """Return the cached entries of the named models, or of all if no name is given.

    Raises:
        UsageError: a named model is in no cache.
    """
    from mingpt.loading import cache, hub

    entries = cache.entries()
    chosen: list[Entry] = []
    for name in names:
        repository = hub.repository(name)
        full = name if repository is None else str(repository)
        found = [entry for entry in entries if entry.name == full and entry not in chosen]
        if not found and full not in {entry.name for entry in chosen}:
            there = ", ".join(dict.fromkeys(entry.name for entry in entries)) or "nothing"
            raise UsageError(f"{name!r} is in no cache; there is: {there}")
        chosen += found
    return chosen if names else entries


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def _say(text: str) -> None:
    print_line(escaped(text), sys.stdout)
