"""Where models and tokenizers come from: a name or a directory -> files on disk.

Everything cached lies under one directory, MINGPT_CACHE or ~/.cache/mingpt:
GPT-2's two tokenizer files at its top, weights in <owner>--<name>/. Files that
are there are used without any network, and hashed only when they arrive.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mingpt import checkpoint
from mingpt.config import PRESETS, GPTConfig
from mingpt.download import Progress, fetch
from mingpt.errors import CheckpointError, DownloadError, TokenizerError
from mingpt.files import expanded

BUILTIN = "builtin"
BUILTIN_DIRECTORY = Path(__file__).with_name("builtin")
# Vocabulary and merges, under the two pairs of names in use.
TOKENIZER_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))

_TOKENIZER_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models/124M"
_TOKENIZER_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


@dataclass(frozen=True)
class HubModel:
    """A published checkpoint on the Hugging Face hub."""

    owner: str
    revision: str = "main"  # a commit, where the hash below belongs to one
    sha256: str | None = None  # of model.safetensors; None where it is not known to us
    megabytes: int | None = None  # to tell a user before fetching


HUB_MODELS = {
    "gpt2": HubModel(
        "openai-community",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
        548,
    ),
    "gpt2-medium": HubModel("openai-community"),
    "gpt2-large": HubModel("openai-community"),
    "gpt2-xl": HubModel("openai-community"),
    "distilgpt2": HubModel("distilbert"),
}


@dataclass(frozen=True)
class Source:
    """A model that can be loaded: what it is called and where its files are, or go."""

    name: str
    directory: Path
    hub: HubModel | None = None  # None: the files are already in `directory`

    def config(self) -> GPTConfig:
        """The model's shape: the preset of a hub model, else config.json.

        Raises:
            CheckpointError: as `checkpoint.read_config`.
        """
        if self.hub is not None:
            return PRESETS[self.name]
        return checkpoint.read_config(self.directory)

    def weights(self, progress: Progress | None = None) -> Path:
        """The path of model.safetensors, fetched first if it has to be.

        Raises:
            DownloadError: not in the cache, and not to be had.
        """
        path = self.directory / checkpoint.WEIGHTS_FILE
        if self.hub is not None and not self.has_weights:
            endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
            url = f"{endpoint}/{self.hub.owner}/{self.name}/resolve/{self.hub.revision}/{path.name}"
            _fetch(url, path, self.hub.sha256, progress, check=checkpoint.check_file)
        return path

    def tokenizer_files(self, progress: Progress | None = None) -> tuple[Path, Path]:
        """Vocabulary and merges: the directory's own, or GPT-2's.

        A directory without its own has GPT-2's if its vocabulary has GPT-2's
        size, as transformers' `model.save_pretrained` leaves it.

        Raises:
            TokenizerError: a directory without its own and with another size.
            DownloadError: GPT-2's are neither in the cache nor to be had.
        """
        if self.hub is None:
            try:
                return tokenizer_files_in(self.directory)
            except TokenizerError:
                if self.config().vocab_size != PRESETS["gpt2"].vocab_size:
                    raise
        return gpt2_tokenizer_files(progress)

    @property
    def has_weights(self) -> bool:
        """Whether the weights are already on this machine."""
        return (self.directory / checkpoint.WEIGHTS_FILE).is_file()


def resolve(name_or_directory: str | Path) -> Source:
    """What a user's name for a model stands for. Touches no network.

    Raises:
        CheckpointError: neither a known name nor a directory with a model.
    """
    name = str(name_or_directory)
    if name == BUILTIN:
        return Source(BUILTIN, BUILTIN_DIRECTORY)
    if name in HUB_MODELS:
        hub = HUB_MODELS[name]
        return Source(name, cache_directory() / f"{hub.owner}--{name}", hub)
    directory = expanded(name)
    if not directory.is_dir():
        known = ", ".join([BUILTIN, *HUB_MODELS])
        raise CheckpointError(
            f"no model {name!r}: it is no directory, and the names there are: {known}"
        )
    for needed in (checkpoint.CONFIG_FILE, checkpoint.WEIGHTS_FILE):
        if not (directory / needed).is_file():
            raise CheckpointError(
                f"{directory} is no model directory: it holds no {needed}"
                f" (needed: {checkpoint.CONFIG_FILE} and {checkpoint.WEIGHTS_FILE})"
            )
    return Source(name, directory)


def tokenizer_files_in(directory: Path) -> tuple[Path, Path]:
    """The vocabulary and the merges that lie in `directory`, under either pair of names.

    Raises:
        TokenizerError: neither pair is there.
    """
    for names in TOKENIZER_FILES:
        vocab, merges = (directory / name for name in names)
        if vocab.is_file() and merges.is_file():
            return vocab, merges
    pairs = " or ".join(" + ".join(names) for names in TOKENIZER_FILES)
    raise TokenizerError(f"{directory} holds no tokenizer: {pairs}")


def gpt2_tokenizer_files(progress: Progress | None = None) -> tuple[Path, Path]:
    """GPT-2's encoder.json and vocab.bpe in the cache, fetched first if they have to be.

    Raises:
        DownloadError: not in the cache, and not to be had.
    """
    paths = tuple(cache_directory() / name for name in _TOKENIZER_SHA256)
    for path in paths:
        if not path.is_file():
            url = f"{_TOKENIZER_URL}/{path.name}"
            _fetch(url, path, _TOKENIZER_SHA256[path.name], progress)
    return paths


def cache_directory() -> Path:
    """MINGPT_CACHE, or ~/.cache/mingpt."""
    return expanded(os.environ.get("MINGPT_CACHE") or "~/.cache/mingpt")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no", "off")


def _fetch(url: str, path: Path, sha256: str | None, progress: Progress | None, **more) -> None:
    try:
        if is_offline():
            raise DownloadError("HF_HUB_OFFLINE is set")
        fetch(url, path, sha256=sha256, progress=progress, **more)
    except (DownloadError, CheckpointError) as error:
        raise DownloadError(
            f"{path.name} is not in {path.parent} and could not be fetched: {error};"
            f" put the file there by hand, or use the model {BUILTIN!r}, which needs no network"
        ) from None
