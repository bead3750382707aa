"""Find the files of a model and its tokenizer, by name or path.

A name is looked up in this order: `builtin` and the short names; a directory or
a file; a repository on the hub. A repository's files are taken from our cache,
else from the hub library's, else they are fetched into ours. Cached files are
used without the network; their hashes are checked only when they are fetched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from mingpt.config import PRESETS, GPTConfig
from mingpt.errors import CheckpointError, DownloadError, TokenizerError
from mingpt.files import contained, expanded, replacing
from mingpt.loading import cache, checkpoint, config_json, hub, tensor_files, tokenizer_files
from mingpt.loading.cache import Place
from mingpt.loading.checkpoint import Checkpoint
from mingpt.loading.download import NotFoundError, Progress, fetch, file_hash
from mingpt.loading.hub import Repository

BUILTIN = "builtin"
BUILTIN_DIRECTORY = Path(__file__).resolve().parent.parent / "builtin"

BY_HAND = f"put it there by hand, or use the model {BUILTIN!r}, which needs no network"
OFFLINE = "the network is not to be used (--offline, or HF_HUB_OFFLINE)"
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
    """A repository on the hub."""

    name: str
    repository: Repository
    offline: bool = False
    verify: bool = True  # refuse files for which no hash is known

    @property
    def place(self) -> Place | None:
        """The directory with configuration and weights, if they are on this machine."""
        return cache.find(self.repository)

    @property
    def is_here(self) -> bool:
        """True if configuration and weights are in a cache."""
        return self.place is not None

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
        preset, place = self.repository.preset, self.place
        if place is not None:
            return checkpoint.config_in(place.directory, preset=preset, root=place.root)
        if self._is_offline:  # the message names the weights, which the user must provide
            weights = f"{checkpoint.WEIGHTS_FILES[0]}, or not all of it"
            wanted = f"{weights}, nor has {cache.hub_directory()} {self.repository}"
            raise _refusal(wanted, self._ours.directory, OFFLINE, self._hint)
        return self._shape(progress)

    def rows(self, progress: Progress | None = None) -> int:
        """Return the number of rows of the model's embedding; needs config.json only."""
        preset = self.repository.preset
        for place in (*cache.complete(self.repository), *cache.places(self.repository)):
            if (place.directory / config_json.NAME).is_file():
                config = checkpoint.config_in(place.directory, preset=preset, root=place.root)
                return config.vocab_size
        return self._shape(progress).vocab_size

    def tokenizer_files(self, progress: Progress | None = None) -> tuple[Path, ...]:
        """Return the tokenizer's files: cached, GPT-2's for a short name, or fetched."""
        for place in (*cache.complete(self.repository), *cache.places(self.repository)):
            with contextlib.suppress(TokenizerError):
                return place.tokenizer_files()
        if self.repository.preset is not None and (files := _gpt2s_here()):
            # The model is in our cache, or will be once its weights are fetched.
            is_ours = (
                not self._is_offline if self.place is None else self.place.root == cache.directory()
            )
            is_elsewhere = files[0].parent != cache.directory()
            return self._adopted(files) if is_ours and is_elsewhere else files
        try:
            return self._fetched_tokenizer(progress)
        except NotFoundError as error:
            has_own = tokenizer_files.has_any(self._ours.directory)
            if has_own or self.config(progress).vocab_size not in GPT2_ROWS:
                raise TokenizerError(str(error)) from None
        # Copied beside the model, so that the hub is not asked again.
        return self._adopted(gpt2_tokenizer_files(progress, offline=self.offline))

    def checkpoint(self, progress: Progress | None = None) -> Checkpoint:
        """Return the configuration and the tensors, which are read later."""
        preset, place = self.repository.preset, self.place
        if place is None:
            self.config(progress)  # raises before weights that are not supported are fetched
            self._fetch_weights(progress)
            place = self._ours
        return checkpoint.of_directory(place.directory, preset=preset, root=place.root)

    def _shape(self, progress: Progress | None) -> GPTConfig:
        if self.repository.preset is not None:
            return self.repository.preset
        (path,) = self._obtain([(config_json.NAME,)], progress, self._hint)
        return config_json.read(path)

    @property
    def _is_offline(self) -> bool:
        return self.offline or hub.is_offline()

    @property
    def _ours(self) -> Place:
        return Place(cache.folder(self.repository), cache.directory())

    def _fetch_weights(self, progress: Progress | None) -> None:
        choices = [(name,) for name in checkpoint.WEIGHTS_FILES]
        (path,) = self._obtain(choices[:1] if self.repository.preset else choices, progress)
        if path.suffix == ".json":
            self._obtain([tuple(tensor_files.shard_names(path))], progress)

    def _fetched_tokenizer(self, progress: Progress | None) -> tuple[Path, ...]:
        if not self._is_offline:
            # Ask for added_tokens.json first: once vocab.json and merges.txt are
            # cached, we never ask the hub again.
            with contextlib.suppress(NotFoundError):
                self._obtain([(tokenizer_files.ADDED,)], progress)
        self._obtain(tokenizer_files.FILES, progress)
        return self._ours.tokenizer_files()

    def _adopted(self, paths: Sequence[Path]) -> tuple[Path, ...]:
        """Copy a tokenizer into the repository's folder, after checking its hashes.

        The model then still works when its folder is copied elsewhere, or when
        other models are deleted.
        """
        with cache.adding_to(self._ours.directory):
            for path in paths:
                expected = cache.expected_hash(path, None)
                if expected is not None and file_hash(path, len(expected)) != expected:
                    raise CheckpointError(f"{path} is damaged: remove it, to have it fetched again")
                target = self._ours.directory / path.name
                with replacing(target) as temporary:
                    shutil.copyfile(path, temporary)
                cache.record(target, file_hash(target, 64))
        return self._ours.tokenizer_files()

    def _obtain(
        self, choices: Sequence[tuple[str, ...]], progress: Progress | None, hint: str = BY_HAND
    ) -> tuple[Path, ...]:
        """Return the files of one choice in our cache; fetch them if they are not there.

        Args:
            choices: tuples of file names; the first that is complete is taken.
            hint: advice to the user, for the error's message.
        """
        here = self._ours
        for names in choices:
            paths = [here.directory / name for name in names]
            if all(path.is_file() for path in paths):
                return tuple(contained(path, here.root) for path in paths)
        wanted = " or ".join(" + ".join(names) for names in choices)
        with _explained(wanted, here.directory, self.offline, hint):
            with cache.adding_to(here.directory, progress):
                for names in choices:
                    with contextlib.suppress(NotFoundError):
                        return tuple(self._file(name, progress) for name in names)
            raise NotFoundError("the repository has no such file")

    @property
    def _hint(self) -> str:
        is_known = self.repository.preset is not None
        return BY_HAND if is_known else f"nor is there a directory or file {self.name!r} here"

    def _file(self, name: str, progress: Progress | None) -> Path:
        """Return the path of one file in our cache; fetch it if it is not there."""
        folder = self._ours.directory
        path, commit = folder / name, cache.commit_in(folder)
        if path.is_file():  # fetched by another process since the last look
            return contained(path, self._ours.root)
        fetched = fetch(
            self.repository.url(name, commit),  # all files from the same commit
            path,
            token=hub.token(),
            sha256=self.repository.sha256.get(name),
            verify=self.verify,
            check=_CHECKS.get(path.suffix),
            progress=progress,
        )
        if fetched.commit and not commit:
            cache.note_commit(folder, fetched.commit)
        cache.record(path, fetched.sha256)
        return path


def resolve(
    name_or_path: str | Path,
    *,
    n_head: int | None = None,
    offline: bool = False,
    verify: bool = True,
) -> Source:
    """Return the Source for a model's name or path. Uses no network.

    Args:
        name_or_path: "builtin"; "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl",
            "distilgpt2"; a directory; a .pt file; or "owner/name" on the hub. A
            Path is always a directory or a file.
        n_head: the number of attention heads, for a .pt file that does not say.
        offline: never use the network, as with HF_HUB_OFFLINE=1.
        verify: False accepts files for which the hub states no hash.

    Raises:
        CheckpointError: the name is none of these, or n_head is given for a
            model that is not a .pt file.
    """
    name = str(name_or_path)
    path, is_path = expanded(name), isinstance(name_or_path, Path)
    if not name:
        raise CheckpointError("no model '': an empty name")
    if not _can_be_path(path):
        raise CheckpointError(f"no model {name[:80]!r}...: no file can have such a name")
    if path.is_file() and name not in (BUILTIN, *hub.KNOWN):
        if path.suffix not in checkpoint.TORCH_SUFFIXES:
            kinds = ", ".join(checkpoint.TORCH_SUFFIXES)
            raise CheckpointError(f"{path} is no model: of single files only {kinds}")
        return FileSource(name, path, n_head, offline)
    if n_head is not None:
        raise CheckpointError(f"{name!r} says how many heads it has: n_head is for a .pt file")
    if name == BUILTIN and not is_path:
        return DirectorySource(BUILTIN, BUILTIN_DIRECTORY, offline)
    if name in hub.KNOWN and not is_path:
        return HubSource(name, hub.KNOWN[name], offline, verify)
    if path.is_dir():
        checkpoint.check_directory(path)
        return DirectorySource(name, path, offline)
    repository = None if is_path else hub.repository(name)
    if repository is None:
        known = ", ".join([BUILTIN, *hub.KNOWN])
        raise CheckpointError(
            f"no model {name!r}: it is no directory and no file, and the names there are:"
            f" {known}, and owner/name for a repository of the hub"
        )
    return HubSource(name, repository, offline, verify)


def as_source(
    name_or_path: str | Path | Source, *, n_head: int | None = None, offline: bool = False
) -> Source:
    """Return the Source for a name or path; return a Source as it is."""
    if isinstance(name_or_path, str | Path):
        return resolve(name_or_path, n_head=n_head, offline=offline)
    return name_or_path


def _can_be_path(path: Path) -> bool:
    try:
        path.exists()
    except OSError:  # the name is too long, for example
        return False
    return True


def gpt2_tokenizer_files(
    progress: Progress | None = None, *, offline: bool = False
) -> tuple[Path, ...]:
    """Return the files of GPT-2's own tokenizer from a cache; fetch them into ours if need be.

    Raises:
        DownloadError: they are in no cache and cannot be fetched.
        CheckpointError: a link leads out of a cache.
    """
    if files := _gpt2s_here():
        return files
    root = cache.directory()
    paths = tuple(root / name for name in hub.TOKENIZER_SHA256)
    missing = " and ".join(path.name for path in paths if not path.is_file())
    with _explained(missing, root, offline, BY_HAND), cache.adding_to(root, progress):
        for path in paths:
            if not path.is_file():
                url = f"{hub.TOKENIZER_URL}/{path.name}"
                fetch(url, path, sha256=hub.TOKENIZER_SHA256[path.name], progress=progress)
    return tuple(contained(path, root) for path in paths)


def _gpt2s_here() -> tuple[Path, ...] | None:
    """Return the files of GPT-2's tokenizer, at our cache's top or beside a GPT-2; or None."""
    root = cache.directory()
    paths = tuple(root / name for name in hub.TOKENIZER_SHA256)
    if all(path.is_file() for path in paths):
        return tuple(contained(path, root) for path in paths)
    for repository in hub.KNOWN.values():
        with contextlib.suppress(CheckpointError):  # a link leads out of a cache: try the next
            for place in cache.places(repository):
                with contextlib.suppress(TokenizerError):
                    return place.tokenizer_files()
    return None


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
    return gpt2_tokenizer_files(progress, offline=source.offline)


def _read_json(path: Path) -> None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"it is no JSON: {error}") from None


# Suffix -> a check that every fetched file must pass, even where its hash is known.
_CHECKS = {
    ".json": _read_json,
    ".safetensors": lambda path: tensor_files.SafetensorsFile(path).headers(),
}


@contextlib.contextmanager
def _explained(what: str, place: Path, offline: bool, hint: str) -> Iterator[None]:
    """Add to the block's errors: the missing file, its place, and what to do."""
    try:
        if offline or hub.is_offline():
            raise DownloadError(OFFLINE)
        yield
    except (DownloadError, CheckpointError) as error:
        raise _refusal(what, place, error, hint) from None


def _refusal(what: str, place: Path, error: Exception | str, hint: str) -> DownloadError:
    kind = NotFoundError if isinstance(error, NotFoundError) else DownloadError
    return kind(f"{place} has no {what}, and fetching failed: {error}; {hint}")
