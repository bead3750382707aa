"""Where a command's figures and result go, and how they are named after the run."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mingpt.files import expanded
from patching.cli.common.command import UsageError, tell
from patching.errors import DrawingError
from patching.text import shortened

if TYPE_CHECKING:
    from mingpt.model import GPT

LONGEST_NAME = 255  # bytes, on every file system in use
DEFAULT_OUT = "figures/"
BOTH = (".npz", ".json")  # a result to compute with, and the same to read
MODEL_ARGUMENTS = ("model", "n_head", "device", "dtype", "seed")


def add_output_arguments(parser: argparse.ArgumentParser, *, top_k: int) -> None:
    """--top-k, --out, --format, --cmap, --json, --quiet: the same words in every command."""
    output = parser.add_argument_group("output")
    output.add_argument(
        "--top-k", type=int, default=top_k, metavar="K",
        help=f"rows of the table of next tokens; default: {top_k}",
    )  # fmt: skip
    add_place_arguments(output)
    output.add_argument("--cmap", metavar="NAME", help="a matplotlib colour map, e.g. magma")
    output.add_argument(
        "--json", action="store_true", help="the result as JSON on stdout, all else on stderr"
    )
    output.add_argument(
        "--quiet", action="store_true", help="only the model's line and the paths written; no bar"
    )


def check_output(arguments: argparse.Namespace) -> None:
    """Whether --top-k and --cmap say something.

    Raises:
        UsageError: no row in the table.
        DrawingError: no such colour map.
    """
    from patching.drawing.style import check_cmap

    if arguments.top_k < 1:
        raise UsageError(f"--top-k must be at least 1, not {arguments.top_k}")
    check_cmap(arguments.cmap)


def add_place_arguments(
    output: argparse._ArgumentGroup, kinds: str = ".npz and .json", *, note: str = ""
) -> None:
    """--out and --format.

    Args:
        kinds: of files that the result is written as.
        note: on the default, which then is None.
    """
    output.add_argument(
        "--out",
        default=None if note else DEFAULT_OUT,
        metavar="FILE|DIR",
        help="the figure's file, or a folder in which it is named after the prompt and a hash of"
        " the run; of several figures, each one's name comes before the suffix; the result goes"
        f" beside them as {kinds}; default: {DEFAULT_OUT}{note}",
    )
    output.add_argument(
        "--format", metavar="NAME", help="of figures in a folder: png (default), svg or pdf"
    )


def speaker(arguments: argparse.Namespace) -> Callable[..., None]:
    """Prints what a person reads, as --json and --quiet have it; `always=True` even then."""
    out = sys.stderr if arguments.json else sys.stdout

    def say(text: str, *, always: bool = False) -> None:
        if always or not arguments.quiet:
            tell(text, out)

    return say


@dataclass(frozen=True)
class Place:
    """Where the figures go: a file, or a folder in which they are named after the run."""

    path: Path
    is_folder: bool
    format: str
    figures: tuple[str, ...]  # what the name of each ends in
    results: tuple[str, ...]  # likewise
    kinds: tuple[str, ...]  # of files that a result is

    @classmethod
    def of(
        cls,
        arguments: argparse.Namespace,
        figures: Sequence[str],
        results: Sequence[str] = ("",),
        kinds: tuple[str, ...] = BOTH,
    ) -> Place:
        """What --out and --format say.

        Args:
            figures, results: what their names end in; a figure alone that is
                to be a file of a certain name has that name.
            kinds: of files that a result is.

        Raises:
            UsageError: no such format, the two contradict each other, or it
                cannot be written.
        """
        from patching.drawing.style import check_format

        if arguments.out == "":
            raise UsageError("--out is empty: name a file or a folder, or leave it out")
        out = arguments.out or DEFAULT_OUT
        path = expanded(out)
        check_name(path)
        suffix = path.suffix.removeprefix(".")
        is_folder = out.endswith(("/", os.sep)) or path.is_dir() or not suffix
        if not is_folder and len(figures) == 1:
            figures = ("",)
        asked = "png" if arguments.format is None else arguments.format
        chosen = asked if is_folder else suffix
        try:
            if figures or is_folder:  # a result alone has a suffix of its own
                check_format(chosen)
        except DrawingError as error:
            hint = "" if is_folder else f" (--out {path}/ with a slash would be a folder)"
            raise UsageError(f"{error}{hint}") from None
        if arguments.format is not None and arguments.format.lower() != chosen.lower():
            raise UsageError(f"--out {path} and --format {arguments.format} contradict each other")
        place = cls(path, is_folder, chosen, tuple(figures), tuple(results), kinds)
        for file in place.files("figure"):
            check_writable(file)
        return place

    def stem(self, run_name: str, end: str = "") -> Path:
        """The run's files without their suffixes."""
        stem = self.path / run_name if self.is_folder else self.path.with_suffix("")
        return stem.with_name(stem.name + end)

    def files(self, run_name: str) -> list[Path]:
        """Each figure, and then each result's files."""
        from patching.result_files import result_paths

        stems = [self.stem(run_name, end) for end in self.figures]
        files = [stem.with_name(f"{stem.name}.{self.format}") for stem in stems]
        for end in self.results:
            files += [
                path for path in result_paths(self.stem(run_name, end)) if path.suffix in self.kinds
            ]
        return files


def run_name(text: str, *parts: str, defining: object) -> str:
    """A file name from the prompt's first words, `parts`, and a hash of all that defines the run.

    Nothing of the prompt but a-z and 0-9 gets into it.
    """
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()
    return "-".join((slug(text), *parts, digest[:12]))


def of_model(model: GPT, checksum: str | None, notes: Sequence[str]) -> list[object]:
    """What of a model defines a run."""
    # Not all of the configuration shows in the weights.
    return [model.name, checksum, bool(notes), dataclasses.asdict(model.config)]


def fallback_notes(fallback: str | None) -> tuple[str, ...]:
    """What figures and result must say where the model is not the one that was hoped for."""
    return () if fallback is None else (f"builtin in place of gpt2: {fallback}",)


def tell_written(say: Callable[..., None], existed: dict[Path, bool]) -> None:
    """The paths, and whether something was there before."""
    for path, did in existed.items():
        say(f"{'overwrote' if did else 'wrote'} {path}", always=True)


# --------------------------------------------------------------------- paths


def check_name(path: Path) -> None:
    """Raises UsageError if no file system has room for the name's bytes."""
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UsageError(f"--out {shortened(str(path), 80)}: the name is too long for a file")


def check_writable(path: Path) -> None:
    """Whether a file can be written at `path`, found out without creating anything.

    Raises:
        UsageError: it is a folder, its name is too long, or its folder cannot
            be made or written.
    """
    check_name(path)
    if path.is_dir():
        raise UsageError(f"--out {path}: there is a folder of that name")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"--out {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--out {path}: no permission to write in {folder}")


def slug(text: str, most: int = 40) -> str:
    """The first words of `text` in letters that are safe in any file name."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return "-".join(words)[:most].strip("-") or "prompt"
