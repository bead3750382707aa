"""Figures of direct logit attribution: what each part of the model adds to a logit by itself.

TransformerLens folds the value biases b_V into the output's bias, so that its heads lack the
part b_V W_O; the layers have it. Ours have it in the heads, from which it is subtracted here.
The final layer norm's bias is in none of these terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mingpt.model import GPT
from mingpt.sites import Patch
from patching.attention import of_each_query, output_heads, split
from patching.explanation.logit_attribution import through_fixed_norm
from patching.explanation.result import Explanation
from patching.explanation.run import explain
from patching.prompts import Question
from patching.verification.published import Figure


def direct(figure: Figure, model: GPT) -> tuple[np.ndarray, np.ndarray]:
    """Compare terms of logit(target) - logit(foil), averaged over the clean prompts.

    Fields: pairs, values, part: "stream" (the stream before each attention and MLP, and at the
    end), "attention" and "mlp" by layer, "heads" (layer x head), "embeddings", "embed",
    "pos_embed", and, with a head to set to zero, "zeroed" (the logit difference itself) and
    "zeroed_heads". With `at`, only these heads.
    """
    fields, part = figure.fields, figure.fields["part"]
    questions = figure.questions()
    if part in ("zeroed", "zeroed_heads"):
        ours = [_with_zero_head(model, one, *fields["zero"])[part] for one in questions]
    elif part in ("stream", "embed", "pos_embed"):
        ours = [_of_stream(model, one)[part] for one in questions]
    else:
        found = explain(model, questions, methods="direct", progress=False)
        ours = [_of_terms(model, one, part) for one in found]
    mean = np.mean(ours, axis=0)
    if "at" in fields:
        mean = mean[tuple(np.transpose(fields["at"]))]
    return np.array(fields["values"]), mean


def terms(figure: Figure, model: GPT) -> tuple[np.ndarray, np.ndarray]:
    """Compare the logits of target and foil, and the terms of the target's, summed over layers.

    Fields: prompt, target, foil, values by name.
    """
    fields = figure.fields
    question = Question.from_ids(fields["prompt"], fields["target"], fields["foil"])
    found = explain(model, question, methods="direct", progress=False)
    ours = {
        "target logit": found.logits[0],
        "foil logit": found.logits[1],
        "embeddings": found.initial[0],
        "attention's biases": found.bias[:, 0].sum(),
        "MLPs": found.mlp[:, 0].sum(),
        "attention": found.heads[0].sum(),
        "final layer norm's bias": found.final_bias[0],
    }
    return np.array([*fields["values"].values()]), np.array([ours[k] for k in fields["values"]])


def _of_terms(model: GPT, found: Explanation, part: str) -> np.ndarray:
    """Return a part of an explanation's terms, target minus foil."""
    if part == "embeddings":
        return found.initial[0] - found.initial[1]
    if part == "mlp":
        return found.mlp[:, 0] - found.mlp[:, 1]
    heads = found.heads[0] - found.heads[1]  # (L, nh)
    if part == "attention":
        return heads.sum(1) + found.bias[:, 0] - found.bias[:, 1]
    question = Question.from_ids(found.ids.tolist(), found.target, found.foil)
    return heads - _value_biases(model, _towards(model, question)[0])


@torch.no_grad()
def _of_stream(model: GPT, question: Question) -> dict[str, np.ndarray]:
    """Return what the stream adds at each stage (2L + 1,), and the two embeddings alone."""
    towards, recorded = _towards(model, question)
    before, middle = (recorded[site][:, 0, -1] for site in ("resid_pre", "resid_mid"))  # (L, C)
    stages = torch.stack((before, middle), dim=1).flatten(0, 1)  # (2L, C)
    stages = torch.cat((stages, recorded["resid_post"][-1:, 0, -1]))
    tokens, positions = model.transformer.wte.weight, model.transformer.wpe.weight
    return {
        "stream": (stages.double() @ towards).cpu().numpy(),
        "embed": (tokens[question.ids[-1]].double() @ towards).cpu().numpy(),
        "pos_embed": (positions[len(question.ids) - 1].double() @ towards).cpu().numpy(),
    }


@torch.no_grad()
def _with_zero_head(model: GPT, question: Question, layer: int, head: int) -> dict[str, np.ndarray]:
    """Return the logit difference and the heads' terms with a head at zero at the last token.

    In TransformerLens's folded weights a head's z is ours minus b_V. So zero there is b_V here.
    """
    value = _b_v(model, layer)[head]
    patch = Patch("z", layer, position=-1, head=head, value=value)
    towards, recorded = _towards(model, question, [patch])
    logits = model.lm_head(model.transformer.ln_f(recorded["resid_post"][-1, 0, -1]))  # (V,)
    terms = []
    for number, block in enumerate(model.transformer.h):
        z = recorded["z"][number, 0, :, -1] - _b_v(model, number)  # (nh, hs)
        written = torch.einsum("hd,hdc->hc", z, output_heads(block.attn))
        terms.append(written.double() @ towards)
    return {
        "zeroed": (logits[question.target_id] - logits[question.foil_id]).cpu().numpy(),
        "zeroed_heads": torch.stack(terms).cpu().numpy(),
    }


@torch.no_grad()
def _towards(
    model: GPT, question: Question, patch: Sequence[Patch] = ()
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the direction (C,) of target minus foil through ln_f, and the run's recording.

    The final layer norm's statistics are those of the run itself.
    """
    ids = torch.tensor([question.ids], device=model.device)
    model(ids, record=["resid_pre", "resid_mid", "resid_post", "z"], patch=list(patch))
    final = model.recording["resid_post"][-1, :, -1].double()  # (1, C)
    answers = model.lm_head.weight[[question.target_id, question.foil_id]].double()
    rows = through_fixed_norm(model.transformer.ln_f, answers[None], final)[0]  # (2, C)
    return rows[0] - rows[1], model.recording


def _b_v(model: GPT, layer: int) -> Tensor:
    """Return the value biases of a layer's heads (nh, hs)."""
    attention = model.transformer.h[layer].attn
    if attention.c_attn.bias is None:
        return model.transformer.wte.weight.new_zeros(attention.n_head, attention.head_size)
    _, _, bias = split(attention, attention.c_attn.bias)
    by_head = bias.view(attention.kv_heads, 1, attention.head_size)  # (nkv, 1, hs)
    return of_each_query(attention, by_head)[:, 0]


def _value_biases(model: GPT, towards: Tensor) -> np.ndarray:
    """Return what each head's value bias adds through c_proj (L, nh): a pattern sums to 1."""
    added = [
        torch.einsum("hd,hdc->hc", _b_v(model, layer), output_heads(block.attn)).double() @ towards
        for layer, block in enumerate(model.transformer.h)
    ]
    return torch.stack(added).detach().cpu().numpy()
