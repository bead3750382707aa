"""The one call that scripts and notebooks use."""

from __future__ import annotations

from pathlib import Path

import torch

from mingpt.bpe import BPETokenizer
from mingpt.download import Progress
from mingpt.errors import TokenizerError
from mingpt.model import GPT
from mingpt.pretrained import Source, as_source


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
    rows = source.config(progress).vocab_size
    files = source.tokenizer_files(progress)
    try:
        tokenizer = BPETokenizer.from_files(*files, rows=rows)
    except TokenizerError as error:
        raise TokenizerError(f"{source.name}: {error}") from None
    return GPT.from_pretrained(source, dtype=dtype, progress=progress), tokenizer
