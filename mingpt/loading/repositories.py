"""Name repositories on the Hugging Face hub, and the hashes of GPT-2's own files.

Nothing here uses the network or the disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mingpt.config import PRESETS, GPTConfig


@dataclass(frozen=True)
class Repository:
    """One repository on the hub."""

    id: str  # "owner/name"
    revision: str = "main"  # a branch or commit; the hashes below belong to it
    sha256: Mapping[str, str] = field(default_factory=dict)  # file -> hash, where known beforehand
    megabytes: int | None = None  # size of the download, to tell the user
    preset: GPTConfig | None = None  # the configuration, for models that have a short name
    former_id: str | None = None  # the hub's earlier name of it, under which caches hold it too

    def __str__(self) -> str:
        return self.id


# GPT-2's tokenizer at OpenAI's own storage, which states no hash. The hub's vocab.json and
# merges.txt are the same bytes under other names.
TOKENIZER_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models/124M"
TOKENIZER_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
_GPT2_SHA256 = {
    "model.safetensors": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    "config.json": "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4",
    "vocab.json": TOKENIZER_SHA256["encoder.json"],
    "merges.txt": TOKENIZER_SHA256["vocab.bpe"],
}
# The hub's name of a file of GPT-2's tokenizer -> OpenAI's name.
TOKENIZER_FILES = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"}
KNOWN = {
    "gpt2": Repository(
        "openai-community/gpt2",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        _GPT2_SHA256,
        megabytes=548,
        preset=PRESETS["gpt2"],
        former_id="gpt2",
    ),
    **{
        name: Repository(f"{owner}/{name}", preset=PRESETS[name], former_id=name)
        for name, owner in {
            "gpt2-medium": "openai-community",
            "gpt2-large": "openai-community",
            "gpt2-xl": "openai-community",
            "distilgpt2": "distilbert",
        }.items()
    },
}

_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?", re.ASCII)
_LONGEST_PART = 96


def repository(name: str) -> Repository | None:
    """Return the repository that a short name or "owner/name" stands for.

    Return None if the hub allows no such name. Owner and name hold no "--" and no
    "/", so that the folder "models--owner--name" of the hub's cache names one
    repository only.
    """
    if name in KNOWN:
        return KNOWN[name]
    parts = name.split("/")
    if len(parts) != 2 or not all(_is_part(part) for part in parts):
        return None
    return next((known for known in KNOWN.values() if known.id == name), Repository(name))


def _is_part(text: str) -> bool:
    is_plain = _PART.fullmatch(text) is not None and len(text) <= _LONGEST_PART
    return is_plain and "--" not in text and ".." not in text
