"""The calls that scripts and notebooks use: a model with its tokenizer, or the tokenizer alone."""

from __future__ import annotations

from pathlib import Path

import torch

from mingpt.bpe import BPETokenizer
from mingpt.errors import TokenizerError
from mingpt.loading.download import Progress
from mingpt.loading.sources import Source, as_source
from mingpt.model import GPT


def load(
    name_or_path: str | Path | Source,
    *,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
    n_head: int | None = None,
    offline: bool = False,
) -> tuple[GPT, BPETokenizer]:
    """A model in eval mode, and the tokenizer that goes with it.

    Args: as `GPT.from_pretrained`.

    Raises:
        CheckpointError, DownloadError: as `GPT.from_pretrained`.
        TokenizerError: no tokenizer, one that cannot be read, or one with more
            tokens than the model's embedding has rows.
    """
    source = as_source(name_or_path, n_head=n_head, offline=offline)
    # The largest file last: what else may be wrong is found before it is fetched.
    tokenizer = _tokenizer(source, source.config(progress).vocab_size, progress)
    return GPT.from_pretrained(source, dtype=dtype, progress=progress), tokenizer


def load_tokenizer(
    name_or_path: str | Path | Source,
    *,
    n_head: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> BPETokenizer:
    """The tokenizer that goes with a model; the model's weights are neither fetched nor needed.

    Args: as `GPT.from_pretrained`.

    Raises:
        CheckpointError, DownloadError: as `GPT.from_pretrained`.
        TokenizerError: as `load`.
    """
    source = as_source(name_or_path, n_head=n_head, offline=offline)
    return _tokenizer(source, source.rows(progress), progress)


def _tokenizer(source: Source, rows: int, progress: Progress | None) -> BPETokenizer:
    files = source.tokenizer_files(progress)
    try:
        return BPETokenizer.from_files(*files, rows=rows)
    except TokenizerError as error:
        raise TokenizerError(f"{source.name}: {error}") from None
