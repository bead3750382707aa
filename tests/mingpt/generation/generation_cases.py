"""Prompts of random tokens, and a model in transformers, for the tests of generation."""

from pathlib import Path

import torch
from transformers import GPT2LMHeadModel

from mingpt import GPT
from mingpt.loading.model_files import save


def prompt(T: int, seed: int = 0) -> list[int]:
    return torch.randint(40, (T,), generator=torch.Generator().manual_seed(seed)).tolist()


def in_transformers(model: GPT, directory: Path) -> GPT2LMHeadModel:
    """Return the same model in transformers."""
    save(model, directory)
    return GPT2LMHeadModel.from_pretrained(directory).eval()
