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


def test_the_changes_of_all_parts_add_up_to_the_change_of_the_difference(ablation):
    before, after = ablation.before, ablation.after
    assert ablation.total == pytest.approx(
        float(target_minus_foil(after.logits) - target_minus_foil(before.logits))
    )
    own = before.heads[0, 1, 0] - before.heads[1, 1, 0]
    assert ablation.direct == pytest.approx(-own)
    beside = sum(
        float(
            (
                target_minus_foil(getattr(after, name)) - target_minus_foil(getattr(before, name))
            ).sum()
        )
        for name in ("initial", "bias", "final_bias")
    )
    parts = ablation.parts()
    assert sum(part.change for part in parts) + beside == pytest.approx(ablation.made_up, abs=1e-6)
    changes = [abs(part.change) for part in parts]
    assert changes == sorted(changes, reverse=True)
    assert {part.name for part in parts} == {
        "0.0", "0.1", "1.1", "2.0", "2.1", "MLP 0", "MLP 1", "MLP 2",
    }  # fmt: skip
    assert ablation.head == (1, 0)


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
