"""Name repositories on the Hugging Face hub, and read the user's settings for it.

Nothing here uses the network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mingpt.config import PRESETS, GPTConfig
from mingpt.errors import DownloadError


@dataclass(frozen=True)
class Repository:
    """One repository on the hub."""

    owner: str
    name: str
    revision: str = "main"  # a branch or commit; the hashes below belong to it
    sha256: Mapping[str, str] = field(default_factory=dict)  # file -> hash, where known beforehand
    megabytes: int | None = None  # size of the download, to tell the user
    preset: GPTConfig | None = None  # the configuration, for models that have a short name

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"

    def url(self, file: str, revision: str | None = None) -> str:
        """Return the address of a file.

        Args:
            revision: a commit to use in place of the repository's own.

        Raises:
            DownloadError: HF_ENDPOINT is not an address.
        """
        return f"{endpoint()}/{self}/resolve/{revision or self.revision}/{file}"


KNOWN = {
    "gpt2": Repository(
        "openai-community",
        "gpt2",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        {"model.safetensors": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"},
        megabytes=548,
        preset=PRESETS["gpt2"],
    ),
    **{
        name: Repository(owner, name, preset=PRESETS[name])
        for name, owner in {
            "gpt2-medium": "openai-community",
            "gpt2-large": "openai-community",
            "gpt2-xl": "openai-community",
            "distilgpt2": "distilbert",
        }.items()
    },
}
# GPT-2's tokenizer comes from OpenAI's own storage, which states no hash.
TOKENIZER_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models/124M"
TOKENIZER_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}

_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?", re.ASCII)
_LONGEST_PART = 96


def repository(name: str) -> Repository | None:
    """Return the repository that a short name or "owner/name" stands for.

    Return None if the hub allows no such name. Owner and name hold no "--" and no
    "/", so "owner--name" is a safe folder name and names one repository only.
    """
    if name in KNOWN:
        return KNOWN[name]
    parts = name.split("/")
    if len(parts) != 2 or not all(_is_part(part) for part in parts):
        return None
    found = Repository(parts[0], parts[1])
    return next((known for known in KNOWN.values() if str(known) == str(found)), found)


def endpoint() -> str:
    """Return HF_ENDPOINT if it is set, else the hub's own address.

    Raises:
        DownloadError: HF_ENDPOINT is not an address.
    """
    address = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        parts = urlsplit(address)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise DownloadError(
            "HF_ENDPOINT is no address of the form https://host (a token belongs in HF_TOKEN)"
        )
    return address


def token() -> str | None:
    """Return HF_TOKEN, or None if it is not set."""
    return os.environ.get("HF_TOKEN", "").strip() or None


def is_offline() -> bool:
    """Return True if HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no", "off")


def _is_part(text: str) -> bool:
    is_plain = _PART.fullmatch(text) is not None and len(text) <= _LONGEST_PART
    return is_plain and "--" not in text and ".." not in text
