"""Look at a model's embeddings: similarity and principal components, neighbours of words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from patching.embeddings.request import EmbeddingsRequest
from patching.embeddings.result import Embeddings, Neighbour
from patching.next_tokens import text_or_id
from patching.prompts import answer_id
from patching.running import versions

if TYPE_CHECKING:
    from mingpt.bpe import BPETokenizer
    from mingpt.model import GPT


@torch.no_grad()
def look_at_embeddings(
    model: GPT, tokenizer: BPETokenizer, request: EmbeddingsRequest | None = None
) -> Embeddings:
    """Return how alike the position embeddings are, and which tokens are nearest to words.

    Args:
        request: the words; None looks at the positions alone.

    Raises:
        PromptError: a word is not one token of the tokenizer.
    """
    request = request or EmbeddingsRequest()
    ids = [answer_id(tokenizer, word, "word") for word in request.words]
    positions = model.transformer.wpe.weight.detach().cpu().double()  # (P, C)
    tokens = model.transformer.wte.weight.detach().cpu().double()  # (V, C)
    components, explained = principal_components(positions, request.components)
    chosen = tokens[ids] if ids else tokens[:0]
    flat, shares = principal_components(chosen, 2)
    return Embeddings(
        model_name=model.name,
        cosine=cosines(positions, positions).float().numpy(),
        components=components.float().numpy(),
        explained=tuple(explained.tolist()),
        ids=tuple(ids),
        tokens=tuple(text_or_id(tokenizer.token, number) for number in ids),
        neighbours=tuple(
            _neighbours(tokens, number, request.neighbours, tokenizer) for number in ids
        ),
        word_map=flat.float().numpy(),
        word_map_explained=tuple(shares.tolist()),
        versions=versions(model),
        checksum=model.checksum(),
    )


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine similarity of each row of a (m, C) to each row of b (n, C): (m, n)."""
    one, other = (x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12) for x in (a, b))
    return one @ other.T


def principal_components(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the rows of x (n, C) along their first principal components.

    The sign of a component is such that its largest coordinate, by absolute value, is positive.

    Returns:
        Coordinates (n, k), and the share of the variance that each explains (k,); k is `count`,
        or less where x has no more rows or columns.
    """
    centred = x - x.mean(0) if len(x) else x
    if not centred.numel():
        return x.new_zeros(len(x), 0), x.new_zeros(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    k = min(count, len(s))
    coordinates = u[:, :k] * s[:k]
    largest = coordinates.gather(0, coordinates.abs().argmax(0, keepdim=True))  # (1, k)
    total = (s**2).sum()
    shares = s[:k] ** 2 / total if total > 0 else torch.zeros(k, dtype=s.dtype)
    return coordinates * torch.where(largest < 0, -1.0, 1.0), shares


def _neighbours(
    tokens: Tensor, number: int, count: int, tokenizer: BPETokenizer
) -> tuple[Neighbour, ...]:
    """Return the tokens whose embeddings point most nearly in a token's direction."""
    found = cosines(tokens[number][None], tokens)[0]  # (V,)
    found[number] = -np.inf  # the word itself
    best = found.topk(min(count, len(found) - 1))
    return tuple(
        Neighbour(one, text_or_id(tokenizer.token, one), cosine)
        for one, cosine in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
