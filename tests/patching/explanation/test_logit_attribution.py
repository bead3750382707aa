"""The terms of the logits: that they add up, and how far they may be off."""

import dataclasses

import numpy as np
import pytest
import torch
from explanation_definition import ask, cases
from helpers import make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from patching import ExplanationError, draw_explanation, explain
from patching.explanation import logit_attribution
from patching.explanation.request import figures_of


@settings(max_examples=20)
@given(case=cases(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_the_terms_add_up_in_every_precision(case, dtype):
    model, question = case
    found = explain(model.to(dtype), question)
    assert found.logit.dtype == found.rollout.dtype == np.float32
    if dtype == torch.float32:
        total = found.logit[:2].sum(-1) + found.initial + found.mlp.sum(0)
        total = total + found.bias.sum(0) + found.final_bias
        np.testing.assert_allclose(total, found.logits, rtol=1e-4, atol=1e-4)
    else:
        assert np.isinf(found.tolerance).all()
        np.testing.assert_allclose(found.rollout.sum(-1), 1, atol=1e-5)
        difference = found.logits[0] - found.logits[1]
        assert sum(found.parts().values()) == pytest.approx(difference, abs=1e-5)
        seen = (
            model.to(dtype)(torch.tensor([question.ids]))[0].float().softmax(-1)[0]
        )  # widened before
        likeliest = torch.from_numpy(found.lens_probabilities[-1])
        torch.testing.assert_close(likeliest, seen.amax(-1).detach(), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "share", "beside"), [(torch.float32, 1e-6, 1e-6), (torch.float64, 1e-13, 1e-12)]
)
def test_how_far_the_terms_may_be_off(model, dtype, share, beside):
    found = explain(model.to(dtype), ask(range(6)))
    terms = [np.abs(found.logit_layers[:2]).sum((1, 2)), np.abs(found.initial)]
    terms += [np.abs(found.mlp).sum(0), np.abs(found.bias).sum(0), np.abs(found.final_bias)]
    norm, answers = model.transformer.ln_f, [found.target, found.foil]
    model(torch.arange(6)[None], record={"resid_post"})
    last = norm(model.recording["resid_post"][-1, 0, -1])
    unembedding = model.lm_head.weight[answers].abs()  # (2, C)
    products = unembedding @ (last - norm.bias).abs() + unembedding @ norm.bias.abs()
    terms.append(products.detach().numpy())
    np.testing.assert_allclose(found.tolerance, share * sum(terms) + beside, rtol=1e-5)


def test_terms_that_do_not_add_up_are_an_error(model, monkeypatch):
    right = logit_attribution.logit_terms

    def wrong(*arguments):
        found = right(*arguments)
        return dataclasses.replace(found, mlp=found.mlp + 1e-3)

    monkeypatch.setattr(logit_attribution, "logit_terms", wrong)
    with pytest.raises(ExplanationError, match=r"do not add up .* they differ by 0\.00"):
        explain(model, ask(range(5)))
    explain(model.bfloat16(), ask(range(5)))  # half precision has no limit


def test_large_values_that_cancel_are_no_error():
    """As in GPT-2: one block writes very large values, a later one subtracts them again."""
    for seed in range(20):
        model = make_model(seed, n_layer=4)
        with torch.no_grad():
            for layer, sign in ((0, 1), (3, -1)):
                model.transformer.h[layer].mlp.c_proj.bias[3] += sign * 3000.0
        found = explain(model, ask(range(6)))
        assert (found.error <= 0.7 * found.tolerance).all()


@pytest.mark.parametrize("large", ["wte", "ln_f.bias"])
def test_large_products_that_cancel_are_no_error(large):
    """The unembedding is far larger than GPT-2's: a logit of 0 can be a sum of thousands."""
    for seed in range(5):
        model = make_model(seed, n_layer=2, n_head=4, n_embd=256, vocab_size=199)
        with torch.no_grad():
            if large == "wte":
                model.transformer.wte.weight.normal_(0, 30)
            else:
                model.transformer.ln_f.bias.normal_(0, 30)
        found = explain(model, ask(range(6)))
        assert (found.error <= 0.7 * found.tolerance).all()


def test_logits_near_the_end_of_floats_are_drawn_or_refused(model):
    """Nothing overflows on the way, which would be a warning, and so fail the test."""
    norm = model.transformer.ln_f
    with torch.no_grad():
        norm.weight *= 1e35
        norm.bias *= 1e35
    outcomes, drawn = [], None
    for _ in range(14):
        try:
            drawn = explain(model, ask(range(5)))
        except ExplanationError as error:
            outcomes.append(str(error))
        with torch.no_grad():
            norm.weight *= 2
            norm.bias *= 2
    assert np.abs(drawn.logits).max() > 1e36
    for figure in figures_of(drawn.methods):
        draw_explanation(drawn, figure=figure).canvas.draw()
    assert any("not finite in torch.float32, or nearly so" in one for one in outcomes)
    assert any("logits are not finite" in one for one in outcomes)
