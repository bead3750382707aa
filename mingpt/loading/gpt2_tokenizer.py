"""Find the files of GPT-2's own tokenizer, for models that come without one.

The hub's vocab.json and merges.txt are OpenAI's encoder.json and vocab.bpe, byte for
byte. They are kept where the hub's library keeps those of openai-community/gpt2.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mingpt.errors import CheckpointError, DownloadError, TokenizerError
from mingpt.files import contained, expanded
from mingpt.loading import cache, hub, repositories
from mingpt.loading.download import Progress, fetch, file_hash, wrong_hash


def gpt2_tokenizer_files(
    progress: Progress | None = None, *, offline: bool = False
) -> tuple[Path, ...]:
    """Return the files of GPT-2's own tokenizer; fetch them into the cache if need be.

    They are looked for in MINGPT_GPT2_TOKENIZER, a folder with OpenAI's encoder.json and
    vocab.bpe for tests; then in the cache; then at OpenAI's storage.

    Raises:
        DownloadError: they are not on this machine and cannot be fetched.
        TokenizerError: MINGPT_GPT2_TOKENIZER holds other files.
        CheckpointError: a link leads out of the cache.
    """
    if files := files_here():
        return files
    gpt2 = repositories.KNOWN["gpt2"]
    place = cache.folder(gpt2)
    try:
        if offline or hub.is_offline():
            raise DownloadError(hub.OFFLINE)
        found = []
        for name, file in repositories.TOKENIZER_FILES.items():
            sha256 = repositories.TOKENIZER_SHA256[file]
            path = place / "snapshots" / gpt2.revision / name
            with cache.locked(contained(place, cache.directory()), sha256, progress):
                if not path.is_file():
                    url = f"{repositories.TOKENIZER_URL}/{file}"
                    whole = place / "blobs" / sha256
                    fetch(url, whole, hashes=[sha256], progress=progress)
                    # The hub names small files by git's hash.
                    cache.link(whole.replace(whole.with_name(file_hash(whole, 40))), path)
            found.append(path)
    except OSError as error:
        raise DownloadError(f"{place} cannot be written: {error.strerror or error}") from None
    except (DownloadError, CheckpointError) as error:
        wanted = " + ".join(repositories.TOKENIZER_FILES)
        raise DownloadError(
            f"{place} has no {wanted}, and fetching failed: {error}; {hub.BY_HAND}"
        ) from None
    return tuple(found)


def files_here() -> tuple[Path, ...] | None:
    """Return the files of GPT-2's tokenizer: MINGPT_GPT2_TOKENIZER's, or cached; or None."""
    if given := os.environ.get("MINGPT_GPT2_TOKENIZER"):
        paths = [expanded(given) / name for name in repositories.TOKENIZER_SHA256]
        for path, sha256 in zip(paths, repositories.TOKENIZER_SHA256.values(), strict=True):
            if not path.is_file():
                raise TokenizerError(f"MINGPT_GPT2_TOKENIZER: there is no {path}")
            if wrong := wrong_hash(path, [sha256]):
                raise TokenizerError(f"MINGPT_GPT2_TOKENIZER: {path} is not GPT-2's: {wrong}")
        return tuple(paths)
    for known in repositories.KNOWN.values():
        with contextlib.suppress(CheckpointError):  # a link leads out of the cache: try the next
            for snapshot in cache.snapshots(known):
                cached = [snapshot / name for name in repositories.TOKENIZER_FILES]
                if all(path.is_file() and _is_gpt2s(path) for path in cached):
                    return tuple(cached)
    return None


def _is_gpt2s(path: Path) -> bool:
    """Return True if a cached file is GPT-2's, by the built-in hash; a mirror may state another."""
    sha256 = repositories.TOKENIZER_SHA256[repositories.TOKENIZER_FILES[path.name]]
    return wrong_hash(contained(path, cache.directory()), [sha256]) is None
