"""Make the vocabulary of a run: the 256 bytes, byte-pair merges of a text, or GPT-2's."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mingpt.bpe import END_OF_TEXT, BPETokenizer, byte_symbols
from mingpt.errors import TrainingError
from mingpt.training.request import merges_asked

SEPARATOR = "<|sep|>"  # between the source and the target of a pair


def make_vocabulary(vocab: str, texts: Sequence[str], *, separator: bool = False) -> BPETokenizer:
    """Return the tokenizer that a request names.

    Args:
        vocab: "bytes"; "bpe:N", at most N tokens, fewer if the texts have no more merges; or
            "gpt2".
        texts: the training part, for the merges.
        separator: add SEPARATOR as a token.

    Raises:
        TrainingError: no such vocabulary, or the package `tokenizers` is missing.
        DownloadError: GPT-2's vocabulary is in no cache and cannot be fetched.
    """
    size = merges_asked(vocab)
    merges: list[tuple[str, str]] = []
    if vocab == "gpt2":
        from mingpt.loading.model_files import gpt2_tokenizer

        plain = gpt2_tokenizer()
        symbols, merges = dict(plain.vocab), [(first, second) for first, second in plain.merges]
    elif size is None:
        symbols = {symbol: number for number, symbol in enumerate(byte_symbols())}
    else:
        symbols, merges = train_merges(texts, size - 1 - separator)
    added = set()
    for text in (END_OF_TEXT, *([SEPARATOR] if separator else [])):
        if text not in symbols:
            symbols[text] = len(symbols)
        added.add(text)
    return BPETokenizer(symbols, merges, added=added)


def train_merges(
    texts: Sequence[str], size: int, *, min_frequency: int = 2
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return symbols with their ids, and merges, trained on texts.

    Args:
        size: symbols, at most.
        min_frequency: a pair that occurs less often is not merged.

    Raises:
        TrainingError: the package `tokenizers` is missing.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise TrainingError(
            "a bpe vocabulary needs the package tokenizers: pip install tokenizers, or use"
            " --vocab bytes"
        ) from None
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.train_from_iterator(texts, trainer)
    trained = json.loads(core.to_str())["model"]
    return dict(trained["vocab"]), [(first, second) for first, second in trained["merges"]]
