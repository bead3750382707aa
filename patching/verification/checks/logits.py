"""Figures read off the last position's logits of unpatched runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mingpt.checks import widened
from mingpt.model import GPT
from patching.verification.published import Figure

PROMPTS_AT_ONCE = 50


def last_logits(model: GPT, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return the last position's logits (B, V) of prompts of one length, in float32 or wider."""
    with torch.no_grad():
        out, _ = model(torch.tensor(prompts, device=model.device))
    return widened(out[:, -1])


def next_tokens(figure: Figure, model: GPT) -> tuple[np.ndarray, np.ndarray]:
    """Compare the likeliest next tokens: (2, k), at the published ids and in our own order.

    The second row finds a token of ours that is likelier than a published one.

    Fields: prompt, ids, and one of logits, centred_logits (minus the mean over the vocabulary,
    as TransformerLens centres its unembedding) and probabilities.
    """
    fields = figure.fields
    logits = last_logits(model, [fields["prompt"]])[0].double()  # (V,)
    if "probabilities" in fields:
        published, ours = fields["probabilities"], logits.softmax(-1)
    elif "centred_logits" in fields:
        published, ours = fields["centred_logits"], logits - logits.mean()
    else:
        published, ours = fields["logits"], logits
    likeliest = ours.topk(len(fields["ids"])).values
    both = torch.stack((ours[fields["ids"]], likeliest)).cpu().numpy()
    return np.array([published, published]), both


def mean(figure: Figure, model: GPT) -> tuple[np.ndarray, np.ndarray]:
    """Compare greater-than's mean over its prompts (Hanna et al. 2023, arXiv 2305.00586).

    A prompt is "The NOUN lasted from the year CCYY to the year CC". Its number is the sum of
    p(year) over the years after YY, minus the sum over the others. The corrupt prompt has 01
    for YY, and keeps the clean prompt's YY as its label.

    Fields: values (clean, corrupt). The file's "prompts" holds the template's ids.
    """
    made = figure.shared["prompts"]
    years = torch.tensor(made["two_digits"])  # (100,) the ids of 00 to 99
    means = []
    for run in ("clean", "corrupt"):
        numbers = []
        for prompts, labels in prompt_batches(made, run):
            p = last_logits(model, prompts).softmax(-1)[:, years.to(model.device)]  # (B, 100)
            after = torch.arange(100) > torch.tensor(labels)[:, None]
            signs = (2.0 * after - 1).to(p.device)
            numbers.append((p * signs).sum(-1).double().cpu())
        means.append(torch.cat(numbers).mean().item())
    return np.array(figure.fields["values"]), np.array(means)


def prompt_batches(made: dict, run: str) -> Iterator[tuple[list[list[int]], list[int]]]:
    """Yield prompts and their labels YY, some at a time."""
    prompts, labels = [], []
    for noun, year in made["data"]:  # year is CCYY
        century, label = divmod(year, 100)
        shown = label if run == "clean" else 1
        cc = made["centuries"][str(century)]
        begin = [*made["start"], made["nouns"][noun], *made["middle"]]
        prompts.append([*begin, cc, made["two_digits"][shown], *made["end"], cc])
        labels.append(label)
    for first in range(0, len(prompts), PROMPTS_AT_ONCE):
        part = slice(first, first + PROMPTS_AT_ONCE)
        yield prompts[part], labels[part]
