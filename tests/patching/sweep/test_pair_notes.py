"""Remarks on pairs that are hardly pairs: runs without a gap, cells far away, answers exchanged."""

import numpy as np
import pytest
import torch

from mingpt import Patch
from patching import PromptPair, patch_sweep
from patching.next_tokens import NextTokens, TokenScore
from patching.sweep.pair_notes import pair_notes
from patching.sweep.result import MetricValues


def sweep(model, clean, corrupt, **settings):
    """Sweep with the answers that the clean and the corrupt run prefer among tokens 5 and 6."""
    logits = model(torch.tensor([clean]))[0][0, -1]
    target, foil = (5, 6) if logits[5] > logits[6] else (6, 5)
    return patch_sweep(model, PromptPair.from_ids(clean, corrupt, target, foil), **settings)


def test_a_pair_with_a_gap_has_no_remark(model):
    result = sweep(model, [1, 2, 3, 4], [1, 9, 3, 7])
    assert result.clean_value < 0
    assert result.notes == ()


def test_exchanged_answers_are_named(model):
    found = sweep(model, [1, 2, 3, 4], [1, 9, 3, 7])
    pair = found.pair
    swapped = PromptPair.from_ids(pair.clean_ids, pair.corrupt_ids, pair.foil_ids, pair.target_ids)
    (note,) = patch_sweep(model, swapped).notes
    assert note.startswith(f"the clean run prefers the foil id:{pair.target_ids[0]} to the target")
    asks = found.corrupt_value > found.clean_value
    assert note.endswith("are target and foil exchanged?") is asks


def test_runs_that_are_the_same_up_to_rounding(model):
    """Token 9 is made a copy of token 2 but for a little: far below what 1000 roundings are."""
    with torch.no_grad():
        wte = model.transformer.wte.weight
        wte[9] = wte[2] * (1 + 1e-6)
    result = sweep(model, [1, 2, 3, 4], [1, 9, 3, 4])
    assert result.notes[0].startswith("hardly a pair: the logit differences of the clean (")
    assert "roundings of the model's numbers" in result.notes[0]


def test_a_cell_far_beyond_both_runs(model):
    with torch.no_grad():
        wte = model.transformer.wte.weight
        wte[9] = wte[2] + 0.003 * wte[11]
    clean, corrupt = [1, 2, 3, 4], [1, 9, 3, 4]
    result = sweep(model, clean, corrupt)
    gap = abs(result.corrupt_value - result.clean_value)
    assert result.notes == ()
    # The same pair, with a value put in that neither run has: not remarked on, because the
    # caller chose it.
    patched = sweep(
        model, clean, corrupt, method="loop",
        patches=lambda cell: [Patch("resid_pre", cell.layer, cell.position,
                                    value=torch.full((model.config.n_embd,), 50.0))],
    )  # fmt: skip
    assert abs(patched.values - patched.corrupt_value).max() > 4 * gap
    assert patched.notes == ()


@pytest.mark.parametrize(("worst", "times"), [(3.9, None), (-2.9, None), (4.5, "3.5"), (-6, "6")])
def test_the_remark_counts_the_gaps_of_the_furthest_cell(worst, times):
    """The runs are at 0 and 1, so a cell at 4.5 lies three and a half gaps beyond them."""

    def run(target):
        answers = (TokenScore(1, 5, "a", target, 0.5),), (TokenScore(2, 6, "b", 0.0, 0.5),)
        return NextTokens((), *answers)

    pair = PromptPair.from_ids([1, 2], [1, 3], 5, 6)
    values = MetricValues(np.array([[0.0, worst]]), clean=0.0, corrupt=1.0)
    notes = pair_notes(pair, run(1.0), run(0.0), {"recovery": values}, 1e-7)
    expected = f"hardly a pair: a patch moves the logit difference {times} times as far"
    assert [note[: len(expected)] for note in notes] == ([expected] if times else [])
    assert not pair_notes(pair, run(1.0), run(0.0), {"kl": values}, 1e-7)
