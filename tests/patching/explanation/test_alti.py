"""ALTI and ALTI-Logit: the identities that they must keep, and work done in parts."""

import numpy as np
import pytest
import torch
from explanation_definition import ask, reference
from helpers import make_model
from torch.nn import functional as F

from patching import (
    explain,
)
from patching.explanation import alti


def test_a_prefix_is_explained_as_its_row_says(model):
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    whole = explain(model, ask(ids))
    for t in range(len(ids)):
        part = explain(model, ask(ids[: t + 1]))
        np.testing.assert_allclose(
            whole.rollout[:, t, : t + 1], part.rollout[:, -1], rtol=0, atol=1e-6
        )
        assert (whole.rollout[:, t, t + 1 :] == 0).all()
    np.testing.assert_allclose(whole.contributions.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(whole.rollout.sum(-1), 1, atol=1e-6)


def test_a_row_in_which_everything_clips_is_the_tokens_own():
    model = make_model(n_layer=1).double()
    ids = torch.tensor([3, 1, 4])
    block = model.transformer.h[0]
    model(ids[None], record="resid_mid")
    with torch.no_grad():  # now y is nearly 0 at the last position, and every term is far from it
        block.attn.c_proj.bias -= model.recording["resid_mid"][0, 0, -1] * 0.999
    found = explain(model, ask(ids))
    assert found.contributions[0, -1].tolist() == [0, 0, 1]
    assert np.isfinite(found.rollout).all()
    np.testing.assert_allclose(found.rollout, reference(model, ask(ids.tolist()))["rollout"])


@pytest.mark.parametrize(("most", "count"), [(1, 9), (16 * 9 * 2, 5), (10**9, 1)])
def test_the_positions_are_done_in_parts(model, monkeypatch, most, count):
    ids, pad, padded = range(9), F.pad, []
    whole = explain(model, ask(ids))
    monkeypatch.setattr(alti, "MOST_VALUES", most)
    monkeypatch.setattr(alti.F, "pad", lambda x, sizes: padded.append(x.shape) or pad(x, sizes))
    parts = explain(model, ask(ids))
    assert len(padded) == count * model.config.n_layer
    np.testing.assert_allclose(parts.contributions, whole.contributions, rtol=0, atol=1e-6)


def test_half_precision_is_that_of_the_run_alone():
    """ALTI of a bfloat16 run is computed in float32, without further rounding."""
    model = make_model(block_size=64).bfloat16()
    ids = torch.randint(40, (64,), generator=torch.Generator().manual_seed(0))
    half, wide = explain(model, ask(ids)), explain(model.float(), ask(ids))
    assert np.abs(half.rollout - wide.rollout).max() < 0.05
    assert np.corrcoef(half.alti_logit[2], wide.alti_logit[2])[0, 1] > 0.99
