"""Decide where a command's figures and result go, and name them after the run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from mingpt.files import expanded
from patching.cli.common.command import UsageError, print_line
from patching.cli.common.options import DEFAULT_OUT
from patching.errors import DrawingError
from patching.text import escaped, shortened

if TYPE_CHECKING:
    from mingpt.model import GPT

LONGEST_NAME = 255  # bytes, on every file system in use
BOTH = (".npz", ".json")  # the two files of a result: arrays to compute with, text to read
MODEL_ARGUMENTS = ("model", "n_head", "device", "dtype", "seed")


def make_say(arguments: SimpleNamespace) -> Callable[..., None]:
    """Return `say(text, *, always=False)`, which prints text for a person.

    It prints on stdout, or with --json on stderr. With --quiet it prints only if `always`.
    """
    out = sys.stderr if arguments.json else sys.stdout

    def say(text: str, *, always: bool = False) -> None:
        if always or not arguments.quiet:
            print_line(text, out)

    return say


@dataclass(frozen=True)
class OutputPlace:
    """The place for a command's files: a file, or a folder where names are made from the run."""

    path: Path
    is_folder: bool
    format: str
    figures: tuple[str, ...]  # for each figure, the end of its name before the suffix
    results: tuple[str, ...]  # for each result, the end of its name before the suffix
    kinds: tuple[str, ...]  # the suffixes of a result's files

    @classmethod
    def of(
        cls,
        arguments: SimpleNamespace,
        figures: Sequence[str],
        results: Sequence[str] = ("",),
        kinds: tuple[str, ...] = BOTH,
    ) -> OutputPlace:
        """Return the place that --out and --format name.

        Args:
            arguments: the parsed options.
            figures, results: the ends of their names. If --out is a file and there is
                a single figure, the figure gets exactly that name.
            kinds: the suffixes of a result's files.

        Raises:
            UsageError: the format is unknown, --out and --format contradict each
                other, or a file cannot be written.
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
            if figures or is_folder:  # without figures, the suffix is the result's
                check_format(chosen)
        except DrawingError as error:
            hint = "" if is_folder else f" (for a folder, write --out {path}/)"
            raise UsageError(f"{error}{hint}") from None
        if arguments.format is not None and arguments.format.lower() != chosen.lower():
            raise UsageError(f"--out {path} and --format {arguments.format} contradict each other")
        place = cls(path, is_folder, chosen, tuple(figures), tuple(results), kinds)
        for file in place.files("figure"):
            check_writable(file)
        return place

    def stem(self, run_name: str, end: str = "") -> Path:
        """Return the path of one of the run's files, without its suffix."""
        stem = self.path / run_name if self.is_folder else self.path.with_suffix("")
        return stem.with_name(stem.name + end)

    def files(self, run_name: str) -> list[Path]:
        """Return the paths of all figures, then of all results."""
        from patching.result_files import result_paths

        stems = [self.stem(run_name, end) for end in self.figures]
        files = [stem.with_name(f"{stem.name}.{self.format}") for stem in stems]
        for end in self.results:
            files += [
                path for path in result_paths(self.stem(run_name, end)) if path.suffix in self.kinds
            ]
        return files


def run_name(text: str, *parts: str, defining: object) -> str:
    """Return a file name: the prompt's first words, `parts`, and a hash of `defining`.

    Only a-z and 0-9 of the prompt get into it.

    Args:
        text: the prompt.
        parts: words to add, safe in file names.
        defining: all values that distinguish the run from others, as JSON values.
    """
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()
    return "-".join((slug(text), *parts, digest[:12]))


def model_identity(model: GPT, checksum: str | None, *, is_fallback: bool) -> list[object]:
    """Return the values that identify the model, as a part of run_name's `defining`.

    Args:
        is_fallback: True if it replaces GPT-2; then the figures say so.
    """
    # The configuration too: equal weights can have another number of heads, for example.
    return [model.name, checksum, is_fallback, dataclasses.asdict(model.config)]


def fallback_notes(fallback: str | None) -> tuple[str, ...]:
    """Return a note that the shipped model replaces GPT-2; no note if it does not."""
    return () if fallback is None else (f"builtin in place of gpt2: {fallback}",)


def say_written(say: Callable[..., None], existed: dict[Path, bool]) -> None:
    """Print each path that was written, and say if an older file was overwritten."""
    for path, did in existed.items():
        say(f"{'overwrote' if did else 'wrote'} {escaped(str(path))}", always=True)


# --------------------------------------------------------------------- paths


def check_name(path: Path, option: str = "--out") -> None:
    """Raise UsageError if the name is too long for any file system, or is only a suffix."""
    if path.name != ".." and path.stem == ".":  # "..png", to which pathlib gives no other suffix
        raise UsageError(f"{option} {path}: the file has no name before its suffix")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UsageError(f"{option} {shortened(str(path), 80)}: the name is too long for a file")


def check_writable(path: Path, option: str = "--out") -> None:
    """Check that a file can be written at `path`; nothing is left behind.

    Raises:
        UsageError: `path` is a folder, its name is too long, or its folder
            cannot be made or written.
    """
    check_name(path, option)
    if path.is_dir():
        raise UsageError(f"{option} {path}: a folder has this name")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        if folder.is_symlink():
            raise UsageError(f"{option} {path}: the link {folder} leads nowhere")
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"{option} {path}: {folder} is not a folder")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(
            f"{option} {path}: no file can be made in {folder}: {error.strerror}"
        ) from None


def slug(text: str, most: int = 40) -> str:
    """Return the first words of `text` in characters that are safe in any file name."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return "-".join(words)[:most].strip("-") or "prompt"
