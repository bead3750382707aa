"""The one call that scripts and notebooks use."""

from __future__ import annotations

from pathlib import Path

import torch

from mingpt.bpe import BPETokenizer
from mingpt.download import Progress
from mingpt.errors import TokenizerError
from mingpt.model import GPT
from mingpt.pretrained import resolve


def load(
    name_or_directory: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> tuple[GPT, BPETokenizer]:
    """A model in eval mode, and the tokenizer that goes with it.

    Args: as `GPT.from_pretrained`.

    Raises:
        CheckpointError, DownloadError: as `GPT.from_pretrained`.
        TokenizerError: no tokenizer, one that cannot be read, or one with more
            tokens than the model's embedding has rows.
    """
    source = resolve(name_or_directory)
    # The tokenizer first: where both have to be fetched, it is the quick one.
    tokenizer = BPETokenizer.from_files(*source.tokenizer_files(progress))
    model = GPT.from_pretrained(name_or_directory, dtype=dtype, progress=progress)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise TokenizerError(
            f"{source.directory}: the tokenizer has {tokenizer.vocab_size} tokens,"
            f" the model's embedding only {model.config.vocab_size} rows"
        )
    return model, tokenizer
