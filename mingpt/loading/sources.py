"""Find the files of a model and its tokenizer, by name or path.

A name is looked up in this order: `builtin` and the short names; a directory or
a file; a repository on the hub. A repository's files are taken from the hub's cache,
which transformers shares (cache.py), or fetched into it (hub.py). Cached files are used
without the network.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from mingpt.config import PRESETS, GPTConfig
from mingpt.errors import CheckpointError, DownloadError, TokenizerError
from mingpt.files import expanded
from mingpt.loading import (
    cache,
    checkpoint,
    config_json,
    gpt2_tokenizer,
    hub,
    repositories,
    tensor_files,
    tokenizer_files,
)
from mingpt.loading.checkpoint import Checkpoint
from mingpt.loading.download import NotFoundError, Progress
from mingpt.loading.repositories import Repository

BUILTIN = "builtin"
BUILTIN_DIRECTORY = Path(__file__).resolve().parent.parent / "builtin"

# A model without a tokenizer gets GPT-2's if its embedding has one of these numbers of
# rows: GPT-2's number of tokens, 50257, or nanoGPT's next multiple of 64.
GPT2_ROWS = (PRESETS["gpt2"].vocab_size, 50304)


class Source(Protocol):
    """A model that can be loaded. Each method fetches the files it needs.

    Raises:
        CheckpointError: files are missing, damaged, or not supported.
        TokenizerError: there is no tokenizer.
        DownloadError: files are not on this machine and cannot be fetched.
    """

    @property
    def name(self) -> str:
        """The name as the user wrote it."""

    @property
    def offline(self) -> bool:
        """True if the network must not be used."""

    @property
    def is_here(self) -> bool:
        """True if configuration and weights are on this machine."""

    def config(self, progress: Progress | None = None) -> GPTConfig:
        """Return the model's configuration."""

    def rows(self, progress: Progress | None = None) -> int:
        """Return the number of rows of the model's embedding; needs no weights."""

    def tokenizer_files(self, progress: Progress | None = None) -> tuple[Path, ...]:
        """Return the tokenizer's files: the model's own, else GPT-2's if the rows fit."""

    def checkpoint(self, progress: Progress | None = None) -> Checkpoint:
        """Return the configuration and the tensors, which are read later."""


@dataclass(frozen=True)
class DirectorySource:
    """A directory that the user names."""

    name: str
    directory: Path
    offline: bool = False
    is_here = True

    def config(self, progress: Progress | None = None) -> GPTConfig:
        """Return the model's configuration."""
        return checkpoint.config_in(self.directory)

    def rows(self, progress: Progress | None = None) -> int:
        """Return the number of rows of the model's embedding."""
        return self.config(progress).vocab_size

    def tokenizer_files(self, progress: Progress | None = None) -> tuple[Path, ...]:
        """Return the tokenizer's files: those in the same folder, else GPT-2's if the rows fit."""
        return _own_or_gpt2s(self, self.directory, progress)

    def checkpoint(self, progress: Progress | None = None) -> Checkpoint:
        """Return the configuration and the tensors, which are read later."""
        return checkpoint.of_directory(self.directory)


@dataclass
class FileSource:
    """A .pt file that the user names; a tokenizer may be in the same folder."""

    name: str
    path: Path
    n_head: int | None = None
    offline: bool = False
    is_here = True

    def config(self, progress: Progress | None = None) -> GPTConfig:
        """Return the model's configuration."""
        return self._checkpoint.config

    def rows(self, progress: Progress | None = None) -> int:
        """Return the number of rows of the model's embedding."""
        return self.config(progress).vocab_size

    def tokenizer_files(self, progress: Progress | None = None) -> tuple[Path, ...]:
        """Return the tokenizer's files: those in the same folder, else GPT-2's if the rows fit."""
        return _own_or_gpt2s(self, self.path.parent, progress)

    def checkpoint(self, progress: Progress | None = None) -> Checkpoint:
        """Return the configuration and the tensors, which are read later."""
        return self._checkpoint

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        # Cached: opening a file of PyTorch's format before 1.6 reads all of it.
        return checkpoint.of_file(self.path, self.n_head)


@dataclass
class HubSource:
    """A repository on the hub, whose files are in the hub's cache or fetched into it."""

    name: str
    repository: Repository
    offline: bool = False

    @property
    def snapshot(self) -> Path | None:
        """The folder with configuration and weights, if they are on this machine."""
        return cache.find(self.repository)

    @property
    def is_here(self) -> bool:
        """True if configuration and weights are in the cache."""
        return self.snapshot is not None

    @property
    def has_tokenizer(self) -> bool:
        """True if a tokenizer is on this machine, with or without the weights."""
        try:
            dataclasses.replace(self, offline=True).tokenizer_files()
        except (DownloadError, TokenizerError):
            return False
        return True

    def config(self, progress: Progress | None = None) -> GPTConfig:
        """Return the model's configuration; for models with a short name nothing is fetched."""
        snapshot, preset = self.snapshot, self.repository.preset
        if snapshot is not None:
            return self._config_in(snapshot)
        if self._is_offline:  # the message names the weights, which the user must provide
            raise self._refusal(f"{checkpoint.WEIGHTS_FILES[0]}, or not all of it", hub.OFFLINE)
        return self._shape(progress) if preset is None else preset

    def rows(self, progress: Progress | None = None) -> int:
        """Return the number of rows of the model's embedding; needs config.json only."""
        for snapshot in self._snapshots:
            if (snapshot / config_json.NAME).is_file():
                return self._config_in(snapshot).vocab_size
        preset = self.repository.preset
        return (self._shape(progress) if preset is None else preset).vocab_size

    def tokenizer_files(self, progress: Progress | None = None) -> tuple[Path, ...]:
        """Return the tokenizer's files: cached, GPT-2's for a short name, or fetched."""
        for snapshot in self._snapshots:
            with contextlib.suppress(TokenizerError):
                return self._checked(tokenizer_files.files_in(snapshot))
        if self.repository.preset is not None and (files := gpt2_tokenizer.files_here()):
            return files
        try:
            return self._fetched_tokenizer(progress)
        except NotFoundError as error:
            if self._has_own_tokenizer or self.rows(progress) not in GPT2_ROWS:
                raise TokenizerError(str(error)) from None
        return gpt2_tokenizer.gpt2_tokenizer_files(progress, offline=self.offline)

    def checkpoint(self, progress: Progress | None = None) -> Checkpoint:
        """Return the configuration and the tensors, which are read later."""
        snapshot, preset = self.snapshot, self.repository.preset
        if snapshot is None:
            self.config(progress)  # raises before weights that are not supported are fetched
            snapshot = self._fetch_weights(progress).parent
        weights = checkpoint.weights_in(snapshot, cache.directory())
        self._checked([snapshot / config_json.NAME, *checkpoint.files_of(weights)], progress)
        return checkpoint.of_directory(snapshot, preset=preset, root=cache.directory())

    def _shape(self, progress: Progress | None) -> GPTConfig:
        (path,) = self._obtain([(config_json.NAME,)], progress)
        return config_json.read(path)

    def _config_in(self, snapshot: Path) -> GPTConfig:
        self._checked([snapshot / config_json.NAME])
        return checkpoint.config_in(snapshot, preset=self.repository.preset, root=cache.directory())

    def _checked(self, paths: Sequence[Path], progress: Progress | None = None) -> tuple[Path, ...]:
        """Return the paths, after a check of the hash of each that exists."""
        for path in paths:
            if path.is_file():
                cache.check(self.repository, path, progress)
        return tuple(paths)

    @property
    def _snapshots(self) -> list[Path]:
        """The cached commits, first the one that the weights are taken from."""
        weights = self.snapshot
        return [*filter(None, [weights]), *cache.snapshots(self.repository)]

    @property
    def _is_offline(self) -> bool:
        return self.offline or hub.is_offline()

    @property
    def _has_own_tokenizer(self) -> bool:
        return any(tokenizer_files.has_any(path) for path in cache.snapshots(self.repository))

    def _fetch_weights(self, progress: Progress | None) -> Path:
        choices = [(name,) for name in checkpoint.WEIGHTS_FILES]
        (path,) = self._obtain(choices[:1] if self.repository.preset else choices, progress)
        if path.suffix == ".json":
            self._obtain([tuple(tensor_files.shard_names(path))], progress)
        return path

    def _fetched_tokenizer(self, progress: Progress | None) -> tuple[Path, ...]:
        added: tuple[Path, ...] = ()
        if not self._is_offline:
            # Ask for added_tokens.json first: once vocab.json and merges.txt are
            # cached, we never ask the hub again.
            with contextlib.suppress(NotFoundError):
                added = self._obtain([(tokenizer_files.ADDED,)], progress)
        files = self._obtain(tokenizer_files.FILES, progress)
        return (*files, *added) if len(files) == 2 else files

    def _obtain(
        self, choices: Sequence[tuple[str, ...]], progress: Progress | None
    ) -> tuple[Path, ...]:
        """Return the files of one choice in the cache; fetch them if they are not there.

        Args:
            choices: tuples of file names; the first that is complete is taken.
        """
        wanted = " or ".join(" + ".join(names) for names in choices)
        obtain = partial(hub.obtain, self.repository, progress=progress, offline=self.offline)
        try:
            for names in choices:
                with contextlib.suppress(NotFoundError):
                    return tuple(map(obtain, names))
            raise NotFoundError(hub.NOT_THERE)
        except (DownloadError, CheckpointError) as error:
            raise self._refusal(wanted, error) from None

    def _refusal(self, what: str, error: Exception | str) -> DownloadError:
        kind = NotFoundError if isinstance(error, NotFoundError) else DownloadError
        is_known = self.repository.preset is not None
        hint = hub.BY_HAND if is_known else f"nor is there a directory or file {self.name!r} here"
        return kind(
            f"{cache.folder(self.repository)} has no {what}, and fetching failed: {error}; {hint}"
        )


def resolve(
    name_or_path: str | Path,
    *,
    n_head: int | None = None,
    offline: bool = False,
) -> Source:
    """Return the Source for a model's name or path. Uses no network.

    Args:
        name_or_path: "builtin"; "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl",
            "distilgpt2"; a directory; a .pt file; or "owner/name" on the hub. A
            Path is always a directory or a file.
        n_head: the number of attention heads, for a .pt file that does not say.
        offline: never use the network, as with HF_HUB_OFFLINE=1.

    Raises:
        CheckpointError: the name is none of these, or n_head is given for a
            model that is not a .pt file.
    """
    name = str(name_or_path)
    path, is_path = expanded(name), isinstance(name_or_path, Path)
    if not name:
        raise CheckpointError("no model '': an empty name")
    _check_path(name, path)
    if path.is_file() and name not in (BUILTIN, *repositories.KNOWN):
        if path.suffix not in checkpoint.TORCH_SUFFIXES:
            kinds = ", ".join(checkpoint.TORCH_SUFFIXES)
            raise CheckpointError(f"{path} is no model: of single files only {kinds}")
        return FileSource(name, path, n_head, offline)
    if n_head is not None:
        raise CheckpointError(f"{name!r} says how many heads it has: n_head is for a .pt file")
    if name == BUILTIN and not is_path:
        return DirectorySource(BUILTIN, BUILTIN_DIRECTORY, offline)
    if name in repositories.KNOWN and not is_path:
        return HubSource(name, repositories.KNOWN[name], offline)
    if path.is_dir():
        checkpoint.check_directory(path)
        return DirectorySource(name, path, offline)
    repository = None if is_path else repositories.repository(name)
    if repository is None:
        known = ", ".join([BUILTIN, *repositories.KNOWN])
        raise CheckpointError(
            f"no model {name!r}: there is no such directory or file; the names are {known},"
            " and owner/name of a repository on the hub"
        )
    return HubSource(name, repository, offline)


def as_source(
    name_or_path: str | Path | Source, *, n_head: int | None = None, offline: bool = False
) -> Source:
    """Return the Source for a name or path; return a Source as it is."""
    if isinstance(name_or_path, str | Path):
        return resolve(name_or_path, n_head=n_head, offline=offline)
    return name_or_path


def _check_path(name: str, path: Path) -> None:
    """Raise CheckpointError if the system refuses to look for the path."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # too long, not allowed, a circle of links, a NUL
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise CheckpointError(f"no model {_shortened(name)}: {reason}") from None


def _shortened(name: str, most: int = 80) -> str:
    """Return a name in quotes, cut if it is longer than `most` characters."""
    return repr(name) if len(name) <= most else f"{name[:most]!r}..."


def _own_or_gpt2s(source: Source, directory: Path, progress: Progress | None) -> tuple[Path, ...]:
    try:
        return tokenizer_files.files_in(directory)
    except TokenizerError:
        # transformers' model.save_pretrained and nanoGPT write no tokenizer.
        if (
            tokenizer_files.has_any(directory)
            or source.config(progress).vocab_size not in GPT2_ROWS
        ):
            raise
    return gpt2_tokenizer.gpt2_tokenizer_files(progress, offline=source.offline)
