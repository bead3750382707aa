"""Prepare a run: read its texts, make or load its model, choose its precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from mingpt.bpe import BPETokenizer
from mingpt.config import GPTConfig
from mingpt.errors import TrainingError
from mingpt.loading.model_files import load
from mingpt.memory import lack
from mingpt.model import GPT
from mingpt.trainer import TrainerConfig
from mingpt.training.data import (
    PairSequences,
    Parts,
    Sequences,
    TextSequences,
    read_pairs,
    read_texts,
)
from mingpt.training.request import DROPOUTS, TrainingRequest
from mingpt.training.vocabulary import SEPARATOR, make_vocabulary

STATES = 4  # numbers for each parameter: weight, gradient and AdamW's two moments
OBJECTS = 100_000  # bytes of the Python objects of a block


def read_parts(request: TrainingRequest) -> Parts:
    """Return the texts, or the lines of pairs, that a request names.

    Raises:
        TrainingError: a file cannot be read, or holds too little.
    """
    if request.pairs is not None:
        return read_pairs(request.pairs, request.val_fraction, request.test_fraction, request.seed)
    return read_texts(request.texts, request.val_fraction, request.test_fraction)


def make_model(
    request: TrainingRequest, parts: Parts, device: torch.device | str
) -> tuple[GPT, BPETokenizer]:
    """Return a fresh model with its vocabulary, or the one to go on from, on the device.

    Raises:
        TrainingError: the model would not fit into the memory, or the one to go on from has no
            separator for pairs.
        CheckpointError, DownloadError, TokenizerError: see mingpt.load.
    """
    if request.start is not None:
        model, tokenizer = load(request.start)
        if request.pairs is not None and SEPARATOR not in tokenizer.vocab:
            raise TrainingError(f"{request.start} has no token {SEPARATOR}, which pairs need")
        fresh = GPT(_with_dropout(model.config, request))
        fresh.load_state_dict(model.state_dict())
        return fresh.to(device), tokenizer
    texts = [line.replace("\t", "\n ") for line in parts.train] if request.pairs else parts.train
    tokenizer = make_vocabulary(request.vocab, texts, separator=request.pairs is not None)
    config = request.config(tokenizer.vocab_size)
    _check_memory(config, torch.device(device))
    torch.manual_seed(request.seed)
    return GPT(config).to(device), tokenizer


def _check_memory(config: GPTConfig, device: torch.device) -> None:
    """Raise TrainingError if the training state needs more memory than is free.

    That is weights, gradients and AdamW's two moments in float32. It comes before the model
    is made, which would take for ever with millions of layers.
    """
    C, rows = config.n_embd, config.vocab_size + config.block_size
    kv_size = config.kv_heads * config.head_size
    block = 2 * C * (C + kv_size) + 2 * C * config.inner_size  # matrices alone
    count = rows * C + config.n_layer * block
    missing = lack(STATES * 4 * count + OBJECTS * config.n_layer, device)
    if missing is not None:
        raise TrainingError(f"training {count / 1e6:,.1f}M parameters {missing}")


def precision_on(request: TrainingRequest, device: torch.device) -> str:
    """Return the request's precision; of "auto", what the device multiplies fastest."""
    if request.precision != "auto":
        return request.precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    find = getattr(torch.cpu, "get_capabilities", None)  # not in older versions of PyTorch
    found = find() if find is not None and device.type == "cpu" else {}
    has_it = found.get("avx512_bf16") or found.get("amx_bf16")
    return "bfloat16" if has_it else "float32"


def _with_dropout(config: GPTConfig, request: TrainingRequest) -> GPTConfig:
    """Return a model's configuration with the request's dropout, the only knobs it may turn."""
    if other := [name for name in request.knobs if name not in DROPOUTS]:
        raise TrainingError(f"{other[0]} is the model's, which {request.start} has already")
    return replace(config, **request.knobs)


def make_sequences(
    request: TrainingRequest,
    parts: Parts,
    tokenizer: BPETokenizer,
    config: GPTConfig,
    progress: Callable[[int, int], None] | None = None,
) -> list[Sequences]:
    """Return the tokens of the three parts.

    Args:
        progress: called with (characters tokenized, characters in all).

    Raises:
        TrainingError: a text is too short for one context, or a pair too long.
    """
    T = config.block_size
    total, done = sum(len(text) for texts in parts for text in texts), 0

    def step(characters: int) -> None:
        nonlocal done
        done += characters
        if progress is not None:
            progress(done, total)

    if request.pairs is not None:
        return [PairSequences(lines, tokenizer, T, step) for lines in parts]
    names = ("training", "validation", "test")
    return [
        TextSequences(texts, tokenizer, T, name, step)
        for texts, name in zip(parts, names, strict=True)
    ]


def trainer_config(request: TrainingRequest) -> TrainerConfig:
    """Return the constants of the training loop."""
    return TrainerConfig(
        steps=request.step_count,
        learning_rate=request.highest_rate,
        final_learning_rate=request.highest_rate / 10,
        warmup_steps=request.warmup,
        weight_decay=request.weight_decay,
        grad_norm_clip=request.grad_norm_clip,
        accumulate=request.accumulate,
        seed=request.seed,
    )
