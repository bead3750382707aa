"""What each patched run would say next: the fast engine against the loop, files, refusals."""

import dataclasses

import numpy as np
import pytest
import torch

from patching import SweepError, SweepResult, patch_sweep
from patching.errors import ResultError

VARIANTS = [
    {"site": "resid_post"},
    {"site": "resid_post", "direction": "noise", "layers": [0, 2], "positions": [1, 3, -1]},
    {"site": "z"},
    {"site": "v", "by_position": True},
    {"site": "mlp_out", "window": 2, "metric": "kl,logit_diff"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v)))
def test_the_fast_engine_keeps_the_tokens_of_the_loop(model, pair, variant):
    model = model.double()
    quick, slow = (patch_sweep(model, pair, next_tokens=4, method=m, **variant)
                   for m in ("fast", "loop"))  # fmt: skip
    assert quick.next_ids.shape == (*quick.values.shape, 4)
    np.testing.assert_allclose(quick.next_logits, slow.next_logits, atol=1e-9)
    np.testing.assert_allclose(quick.next_probabilities, slow.next_probabilities, atol=1e-9)
    assert (quick.next_ids == slow.next_ids).mean() > 0.99  # equal logits may change places
    assert ((quick.next_ids >= 0).all(-1) == np.isfinite(quick.values)).all()


def test_a_cell_says_what_its_run_says(model, pair):
    result = patch_sweep(model, pair, next_tokens=3)
    model(torch.tensor([pair.clean_ids]), record=True)
    logits, _ = model(torch.tensor([pair.corrupt_ids]), patch=(1, 4))
    top = logits[0, -1].softmax(-1).topk(3)
    found = result.next_of(1, 4)
    assert [one.id for one in found] == top.indices.tolist()
    assert [one.probability for one in found] == pytest.approx(top.values.tolist(), abs=1e-6)
    assert [one.rank for one in found] == [1, 2, 3]
    assert found[0].token == f"id:{found[0].id}"
    clean = patch_sweep(model, pair, rows=3).clean_next.top
    assert [one.id for one in result.next_of(2, 6)] == [one.id for one in clean]


def test_they_are_saved_and_loaded(model, pair, tmp_path):
    result = patch_sweep(model, pair, next_tokens=2, layers=[1])
    result.save(tmp_path / "run")
    again = SweepResult.load(tmp_path / "run")
    assert again.next_of(1, 3) == result.next_of(1, 3)
    assert again.to_dict() == result.to_dict()
    with pytest.raises(ResultError, match="no cell that was patched"):
        again.next_of(0, 3)
    with pytest.raises(ResultError, match="no cell that was patched"):
        again.next_of(1)
    with pytest.raises(ResultError, match="next_tokens=10"):
        patch_sweep(model, pair).next_of(0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"next_ids": None},
        {"next_texts": {}},
        {"next_logits": np.zeros((3, 7, 3))},
        {"next_ids": np.zeros((3, 7, 2), dtype=np.int32)},
        {"next_probabilities": np.full((3, 7, 2), 2.0)},
    ],
    ids=str,
)
def test_files_that_do_not_agree_are_refused(model, pair, tmp_path, change):
    result = patch_sweep(model, pair, next_tokens=2, layers=[1])
    dataclasses.replace(result, **change).save(tmp_path / "run")
    with pytest.raises(ResultError):
        SweepResult.load(tmp_path / "run")


@pytest.mark.parametrize("how", [{"next_tokens": -1}, {"next_tokens": 1.5},
                                 {"next_tokens": 2, "method": "attribution"}])  # fmt: skip
def test_requests_that_cannot_be_met_are_refused(model, pair, how):
    with pytest.raises(SweepError, match="next_tokens"):
        patch_sweep(model, pair, **how)


def test_more_tokens_than_there_are_is_all_of_them(model, pair):
    result = patch_sweep(model, pair, next_tokens=10**6, layers=[0])
    assert result.next_ids.shape[-1] == model.config.vocab_size
