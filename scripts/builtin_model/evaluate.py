"""Measure the shipped model on held-out sentences.

Run: python scripts/train_builtin.py --evaluate
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from builtin_model import grammar
from mingpt.bpe import BPETokenizer
from mingpt.model import GPT


@torch.no_grad()
def accuracy(model: GPT, tokenizer: BPETokenizer, family: str, count: int = 500) -> float:
    """Return the share of a family's held-out prompts whose likeliest next token is the answer."""
    right = 0
    for example in grammar.test_examples(family, count, seed=1):
        logits, _ = model(tokenizer(example.prompt))
        right += tokenizer.token(int(logits[0, -1].argmax())) == example.answer
    return right / count


@torch.no_grad()
def recovery(
    model: GPT, tokenizer: BPETokenizer, *, second_person: bool = False, count: int = 200
) -> Tensor:
    """Return the mean recovery (n_layer, T) over held-out name pairs in the README's form.

    All pairs have the same length, so one batch patches them all at once.

    Args:
        second_person: introduce another person before the name is repeated.
        count: number of pairs.
    """
    prompts = grammar.name_pair_prompts(count, seed=2, second_person=second_person)
    clean, corrupt = (torch.cat([tokenizer(prompt[side]) for prompt in prompts]) for side in (0, 1))
    answers = torch.tensor([[tokenizer.encode(f" {word}")[0] for word in p[2:]] for p in prompts])

    def difference(ids: Tensor, **flags: Any) -> Tensor:  # (count,)
        logits, _ = model(ids, **flags)
        target, foil = logits[:, -1].gather(1, answers).T
        return foil - target

    at_corrupt = difference(corrupt)
    at_clean = difference(clean, record=True)
    grid = torch.empty(model.config.n_layer, clean.size(1))
    for layer in range(grid.size(0)):
        for position in range(grid.size(1)):
            patched = difference(corrupt, patch=(layer, position))
            grid[layer, position] = ((at_corrupt - patched) / (at_corrupt - at_clean)).mean()
    return grid


def evaluate(model: GPT, tokenizer: BPETokenizer) -> str:
    """Return all measurements as the Markdown of the model card."""
    lines = ["| family | top-1 on 500 held-out prompts |", "|---|---|"]
    lines += [
        f"| {family} | {100 * accuracy(model, tokenizer, family):.1f} % |"
        for family in grammar.FAMILIES
    ]
    for second_person in (False, True):
        grid = recovery(model, tokenizer, second_person=second_person)
        between = grid[:, 2:-1]
        lines += [
            "",
            "Mean recovery over 200 held-out name pairs"
            + (", a second person in between:" if second_person else ":"),
            "",
            "| layer | differing token | largest between, either sign | last position |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {layer} | {row[1]:.3f} | {between[layer].abs().max():.3f} | {row[-1]:.3f} |"
            for layer, row in enumerate(grid)
        ]
    return "\n".join(lines)
