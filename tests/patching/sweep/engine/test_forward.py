"""The pass through the blocks: which rows it multiplies, how often, and in which parts."""

import numpy as np
import pytest
import torch
from engine_cases import several_pairs
from helpers import make_model

from patching import PromptPair, patch_sweep
from patching.sweep.engine.forward import run_packed
from patching.sweep.engine.packing import Job


@pytest.fixture
def several() -> list[PromptPair]:
    return several_pairs()


def test_a_job_without_experiments_is_two_forward_passes(several):
    model = make_model().double()
    jobs = [Job(pair.corrupt_ids, pair.clean_ids, pair.differing[0], ()) for pair in several]
    results = run_packed(model, jobs, "resid_post")
    for pair, result in zip(several, results, strict=True):
        for final, run in ((result.base, "corrupt"), (result.source, "clean")):
            with torch.no_grad():
                expected = model(torch.tensor([pair.ids(run)]))[0][0, -1]
                logits = model.lm_head(final)
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
        assert not result.experiments
        assert result.finals.shape == (0, model.config.n_embd)


def test_every_block_sees_only_the_rows_that_are_somebodys(model, pair, monkeypatch):
    """Block 0 gets 7 rows of the base run and 5 of the source run; each layer adds 5+4+3+2+1.

    Of the rows that have just been added, only the 5 patched ones need queries, keys and
    values of their own. In the last block, only last positions need an MLP.
    """
    rows = {"c_attn": [], "c_fc": []}
    for block in model.transformer.h:
        for name, module in (("c_attn", block.attn.c_attn), ("c_fc", block.mlp.c_fc)):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: rows[name].append(len(inputs[0]))
            )
    patch_sweep(model, pair)
    assert rows["c_attn"] == [12, 12 + 5]  # the last block computes q and k, v separately
    assert rows["c_fc"] == [12, 12 + 15, 2 + 2 * 5]


def test_pairs_in_one_call_go_through_the_blocks_together(model, several):
    passes = []
    model.transformer.h[0].ln_1.register_forward_hook(lambda *_: passes.append(1))
    patch_sweep(model, several)
    assert len(passes) == 1


def test_attention_in_parts(several, monkeypatch):
    """Attention takes as many runs at a time as fit, at least one."""
    model = make_model().double()
    expected = patch_sweep(model, several)
    for rows in (1, 20, 50):
        monkeypatch.setattr("patching.sweep.engine.packing.ATTENTION_ROWS", rows)
        monkeypatch.setattr("patching.sweep.engine.packing.MLP_ROWS", rows)
        for a, b in zip(expected, patch_sweep(model, several), strict=True):
            np.testing.assert_allclose(a.values, b.values, rtol=0, atol=1e-9)
