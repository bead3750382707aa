"""The logit lens, computed for a few vectors at a time."""

import numpy as np
import pytest
import torch
from explanation_definition import ask

from patching import (
    explain,
)
from patching.explanation import logit_lens


@pytest.mark.parametrize("most", [1, 5, 10**6])
def test_the_lens_looks_at_some_vectors_at_a_time(model, monkeypatch, most):
    ids = torch.randint(40, (2, 7), generator=torch.Generator().manual_seed(0))
    questions = [ask(row) for row in ids]
    whole = explain(model, questions)
    monkeypatch.setattr(logit_lens, "MOST_AT_ONCE", most)
    for some, expected in zip(explain(model, questions), whole, strict=True):
        np.testing.assert_array_equal(some.lens_ids, expected.lens_ids)
        np.testing.assert_allclose(some.lens_probabilities, expected.lens_probabilities, rtol=1e-5)
