"""Load a model and its tokenizer by name or path, and save them.

sources.py finds the files; checkpoint.py and tokenizer_files.py read them.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mingpt.bpe import BPETokenizer
from mingpt.errors import TokenizerError
from mingpt.loading import checkpoint
from mingpt.loading.download import Progress
from mingpt.loading.gpt2_tokenizer import gpt2_tokenizer_files
from mingpt.loading.sources import HubSource, Source, as_source
from mingpt.loading.tokenizer_files import read_tokenizer, save_tokenizer
from mingpt.model import GPT


def load(
    name_or_path: str | Path | Source,
    *,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
    n_head: int | None = None,
    offline: bool = False,
) -> tuple[GPT, BPETokenizer]:
    """Return a model in eval mode, on the CPU, and its tokenizer.

    Args:
        name_or_path, dtype, progress, n_head, offline: see load_model.

    Raises:
        CheckpointError, DownloadError: see load_model.
        TokenizerError: there is no tokenizer, it cannot be read, or it has more
            tokens than the model's embedding has rows.
    """
    source = as_source(name_or_path, n_head=n_head, offline=offline)
    # The weights come last, so that other errors are found before the largest file is fetched.
    tokenizer = _tokenizer(source, source.config(progress).vocab_size, progress)
    return load_model(source, dtype=dtype, progress=progress), tokenizer


def load_model(
    name_or_path: str | Path | Source,
    *,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
    n_head: int | None = None,
    offline: bool = False,
    model_class: type[GPT] = GPT,
) -> GPT:
    """Return a model with trained weights, in eval mode, on the CPU.

    Where the file stores the weights in `dtype`, the parameters are the file itself,
    mapped into memory. Loading then takes no time. Changing the parameters does not
    change the file, but writing into the file changes the model.

    Args:
        name_or_path: a name that mingpt.loading.sources.resolve takes, or the
            Source that it returned.
        dtype: of the parameters; the file's may be another.
        progress: called with (bytes done, bytes in all) while fetching.
        n_head: the number of attention heads, for a .pt file that does not say.
        offline: never use the network.
        model_class: GPT, or a subclass with the same parameters.

    Raises:
        CheckpointError: the name is unknown, or files are missing, damaged, not
            finite, or do not fit the configuration key for key.
        DownloadError: the weights could not be fetched.
    """
    source = as_source(name_or_path, n_head=n_head, offline=offline)
    saved = source.checkpoint(progress)
    with torch.device("meta"):  # no storage: the file's tensors become the parameters
        model = model_class(saved.config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    state = saved.read(shapes, dtype)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    model.name = source.name
    return model.eval()


def load_tokenizer(
    name_or_path: str | Path | Source,
    *,
    n_head: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> BPETokenizer:
    """Return a model's tokenizer; its weights are neither needed nor fetched.

    Args:
        name_or_path, n_head, offline, progress: see load_model.

    Raises:
        CheckpointError, DownloadError: see load_model.
        TokenizerError: see load.
    """
    source = as_source(name_or_path, n_head=n_head, offline=offline)
    return _tokenizer(source, source.rows(progress), progress)


def gpt2_tokenizer(progress: Progress | None = None, *, offline: bool = False) -> BPETokenizer:
    """Return GPT-2's own tokenizer, without any model.

    Args:
        progress, offline: see load_model.

    Raises:
        DownloadError: its files are in no cache and cannot be fetched.
        TokenizerError: its files are damaged.
    """
    return read_tokenizer(*gpt2_tokenizer_files(progress, offline=offline))


def save(model: GPT, directory: str | Path, tokenizer: BPETokenizer | None = None) -> None:
    """Write config.json and model.safetensors, as transformers' GPT-2 reads them.

    Args:
        directory: created if it is not there.
        tokenizer: if given, its vocab.json and merges.txt are written too.
    """
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    checkpoint.write(directory, model.config, state)
    if tokenizer is not None:
        save_tokenizer(tokenizer, directory)


def _tokenizer(source: Source, rows: int, progress: Progress | None) -> BPETokenizer:
    files = source.tokenizer_files(progress)
    try:
        return read_tokenizer(*files, rows=rows)
    except TokenizerError as error:
        hint = f"; mingpt-fetch --remove {source.name} deletes it, to be fetched again"
        hint = hint if isinstance(source, HubSource) else ""
        raise TokenizerError(f"{source.name}: {error}{hint}") from None
