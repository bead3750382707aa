"""Find out which published model a model is.

A file of weights is known by its SHA-256. For models whose hash is not built in, the name of
the repository is all there is; the hub states the hash of its file, which loading has checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mingpt.loading import cache, checkpoint, repositories
from mingpt.loading.download import file_hash
from mingpt.loading.sources import DirectorySource, HubSource, Source

WEIGHTS = "model.safetensors"
PUBLISHED = ("gpt2", "gpt2-xl")  # models of which figures are published


@dataclass(frozen=True)
class Identity:
    """The answer of `identify`: a published model or none, and how that is known."""

    model: str | None  # a name in PUBLISHED; None for any other model
    words: str


OTHER = Identity(None, "not a model of which figures are published: identities only")


def identify(source: Source) -> Identity:
    """Return which published model a source's weights are. They must be on this machine."""
    weights = _weights(source)
    if weights is None:
        return OTHER
    if weights.name == WEIGHTS:
        found = file_hash(weights, 64)
        for name in PUBLISHED:
            if repositories.KNOWN[name].sha256.get(WEIGHTS) == found:
                return Identity(name, f"{name}, by the SHA-256 of {WEIGHTS}")
    if isinstance(source, HubSource):
        for name in PUBLISHED:
            known = repositories.KNOWN[name]
            # A file whose hash is built in was compared above, and is another.
            if source.repository == known and weights.name not in known.sha256:
                return Identity(
                    name,
                    f"{name}, identity by name: {known}, whose {weights.name} has the hash that"
                    " the hub states",
                )
    return OTHER


def _weights(source: Source) -> Path | None:
    """Return the file of a source's weights; None for a .pt file, whose hash nobody states."""
    if isinstance(source, DirectorySource):
        return checkpoint.weights_in(source.directory)
    if isinstance(source, HubSource) and source.snapshot is not None:
        return checkpoint.weights_in(source.snapshot, cache.directory())
    return None
