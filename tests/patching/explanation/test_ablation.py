"""A head that is switched off: against GPT.forward with a patch of zeros; parts and figure."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import make_model

from mingpt.sites import Patch
from patching import Question, explain
from patching.drawing.style import png_bytes
from patching.errors import ExplanationError
from patching.explanation.ablation import Ablation
from patching.explanation.figures import draw_ablation
from patching.explanation.result import Explanation, target_minus_foil

QUESTION = Question.from_ids([1, 5, 9, 2, 7], 3, 4)


def switched_off(model, head) -> torch.Tensor:
    """Return the logits (V,) with a head's z put to 0 at every position."""
    layer, number = head
    ids = torch.tensor([QUESTION.ids])
    zeros = torch.zeros(model.config.head_size)
    patches = [Patch("z", layer, t, number, value=zeros) for t in range(ids.size(1))]
    return model(ids, patch=patches)[0][0, -1]


@pytest.mark.parametrize("n_kv_head", [1, 2])
@pytest.mark.parametrize("head", [(0, 1), (2, 0)])
def test_the_run_is_that_of_a_patch_of_zeros(head, n_kv_head):
    model = make_model(n_kv_head=n_kv_head).eval()
    found = explain(model, QUESTION, methods="direct", ablate=head, progress=False)
    logits = switched_off(model, head)
    np.testing.assert_allclose(found.logits, logits[[3, 4]].detach(), atol=1e-5)
    assert (found.heads[:, head[0], head[1]] == 0).all()
    assert "head {}.{} off".format(*head) in repr(found)


@pytest.fixture
def ablation(model) -> Ablation:
    before = explain(model, QUESTION, methods="direct", progress=False)
    after = explain(model, QUESTION, methods="direct", ablate=(1, 0), progress=False)
    return Ablation(before, after)


def test_the_changes_are_those_of_the_vectors_that_the_parts_write():
    """By hand: two forwards, and the direction of the answers at the first run's final scale."""
    model, head = make_model(3).double(), (1, 0)
    before = explain(model, QUESTION, methods="direct", progress=False)
    after = explain(model, QUESTION, methods="direct", ablate=head, progress=False)
    found = Ablation(before, after)
    zeros = Patch("z", 1, head=0, value=torch.zeros(8, dtype=torch.float64))
    norm, written, scales = model.transformer.ln_f, [], []
    for patch in (None, zeros):
        model(torch.tensor([QUESTION.ids]), record=["z", "mlp_out", "resid_post"], patch=patch)
        sites = ("z", "mlp_out", "resid_post")
        z, mlp, stream = (model.recording[site][:, 0] for site in sites)
        weights = torch.stack([block.attn.c_proj.weight.T for block in model.transformer.h])
        heads = torch.einsum("lhd,lhdc->lhc", z[:, :, -1], weights.unflatten(1, (2, 8)))
        written.append((heads, mlp[:, -1]))
        scales.append((stream[-1, -1].var(unbiased=False) + norm.eps).sqrt())
    row = (model.lm_head.weight[3] - model.lm_head.weight[4]) * norm.weight
    towards = (row - row.mean()) / scales[0]
    for change, one, other in zip(found.changes(), *written, strict=True):
        np.testing.assert_allclose(change, ((other - one) @ towards).detach(), atol=1e-12)
    assert found.scale_ratio == pytest.approx((scales[1] / scales[0]).item())
    parts = found.parts()
    assert sum(part.change for part in parts) + found.by_scale == pytest.approx(found.made_up)
    assert found.direct == pytest.approx(-(written[0][0][head] @ towards).item())
    total = target_minus_foil(after.logits) - target_minus_foil(before.logits)
    assert found.total == pytest.approx(total)


def test_only_parts_behind_the_head_are_listed_and_those_that_change_most_come_first(ablation):
    parts = ablation.parts()
    assert {part.name for part in parts} == {"2.0", "2.1", "MLP 1", "MLP 2"}
    changes = [abs(part.change) for part in parts]
    assert changes == sorted(changes, reverse=True)
    heads, mlps = ablation.changes()
    assert not heads[0].any() and not heads[1, 1] and not mlps[0]
    assert heads[1, 0] == pytest.approx(ablation.direct)
    assert ablation.head == (1, 0)


def test_what_cannot_change_is_hatched(ablation):
    panel = draw_ablation(ablation).axes[2]
    np.testing.assert_allclose(panel.images[0].get_array(), np.column_stack(ablation.changes()))
    hatched = {
        (round(one.get_y() + 0.5) + row, round(one.get_x() + 0.5) + column)
        for one in panel.patches
        if one.get_hatch()
        for row in range(round(one.get_height()))
        for column in range(round(one.get_width()))
    }
    assert hatched == {(0, 0), (0, 1), (0, 2), (1, 1)}


def test_it_is_saved_and_drawn(ablation, tmp_path):
    ablation.after.save(tmp_path / "after")
    loaded = Explanation.load(tmp_path / "after")
    assert loaded.ablated == (1, 0)
    assert png_bytes(draw_ablation(Ablation(ablation.before, loaded))).startswith(b"\x89PNG")


def test_two_explanations_that_are_no_ablation_are_refused(ablation):
    before, after = ablation.before, ablation.after
    for one, other in ((before, before), (after, after), (before, replace(after, target=9))):
        with pytest.raises(ExplanationError, match="an ablation is two explanations"):
            Ablation(one, other)


@pytest.mark.parametrize("head", [(3, 0), (0, 2), (-1, 0), 3, (1,), (0.0, 1)])
def test_a_head_that_is_not_there_is_refused(model, head):
    with pytest.raises(ExplanationError, match=r"no head|ablate is \(layer, head\)"):
        explain(model, QUESTION, ablate=head, progress=False)
