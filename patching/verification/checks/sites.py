"""Figures of single activations: vectors of one's own put in, attention patterns, head scores."""

from __future__ import annotations

import numpy as np
import torch

from mingpt.checks import widened
from mingpt.model import GPT
from mingpt.sites import Patch
from patching.head_scores import score_heads
from patching.verification.published import Figure


@torch.no_grad()
def put_in(figure: Figure, model: GPT) -> tuple[np.ndarray, np.ndarray]:
    """Compare the logit difference of the corrupt run with a vector of one's own put in.

    The vector at (layer, position) becomes a mixture, alpha times the clean run's vector at
    (source layer, source position) plus 1 - alpha times the corrupt run's own.

    Fields: pair, site, cells (layer, position, source layer, source position, alpha), values.
    """
    fields = figure.fields
    pair = figure.pair(fields["pair"])
    ids, recorded = {}, {}
    for run in ("clean", "corrupt"):
        ids[run] = torch.tensor([pair.ids(run)], device=model.device)  # (1, T)
        model(ids[run], record=fields["site"])
        recorded[run] = model.recording[fields["site"]]  # (L, 1, T, C)
    ours = []
    for layer, position, from_layer, from_position, alpha in fields["cells"]:
        there = recorded["corrupt"][layer, :, position]  # (1, C)
        value = alpha * recorded["clean"][from_layer, :, from_position] + (1 - alpha) * there
        out, _ = model(ids["corrupt"], patch=Patch(fields["site"], layer, position, value=value))
        last = widened(out[0, -1])
        ours.append((last[pair.foil_ids[0]] - last[pair.target_ids[0]]).item())
    return np.array(fields["values"]), np.array(ours)


@torch.no_grad()
def pattern(figure: Figure, model: GPT) -> tuple[np.ndarray, np.ndarray]:
    """Compare one head's attention weights in the clean prompts.

    Fields: pairs, head (layer, head), values: for each prompt and query, the weights on the keys
    up to the query.
    """
    fields = figure.fields
    layer, head = fields["head"]
    prompts = [pair.clean_ids for pair in figure.prompt_pairs()]
    model(torch.tensor(prompts, device=model.device), record="pattern")
    weights = widened(model.recording["pattern"][layer, :, head]).cpu().numpy()  # (B, T, T)
    published = [w for prompt in fields["values"] for query in prompt for w in query]
    B, T, _ = weights.shape
    rows, columns = np.tril_indices(T)
    return np.array(published), weights[:, rows, columns].reshape(B * len(rows))


def head_scores(figure: Figure, model: GPT) -> tuple[np.ndarray, np.ndarray]:
    """Compare a score of every head.

    Fields: score (a name in patching.head_scores.SCORES), values. The file's "repeated_ids" are
    the sequences, each of which is to be followed by itself.
    """
    ids = torch.tensor(figure.shared["repeated_ids"])
    scores = score_heads(model, torch.cat((ids, ids), dim=1))
    return np.array(figure.fields["values"]), scores[figure.fields["score"]]
