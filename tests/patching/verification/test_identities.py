"""Identities of a model: they hold, and a fault in the code is named."""

import math

import numpy as np
import pytest
import torch

from mingpt import GPT, GPTConfig
from mingpt.kvcache import KVCache
from patching.errors import VerificationError
from patching.explanation import run as explanation_run
from patching.sweep.run import patch_sweep
from patching.verification import identities
from patching.verification.request import Request
from patching.verification.result import Row, Verification
from patching.verification.run import run_verification

QUICK = Request(samples=4)


def made(**changes):
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 40}
    return GPT(GPTConfig(**shape | {"initializer_range": 0.2} | changes)).eval()


def verified(model):
    return run_verification(model, QUICK, progress=False)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_head": 4, "n_kv_head": 2},
        {"n_layer": 1, "n_head": 1, "block_size": 2, "vocab_size": 4},
        {"bias": False, "tie_word_embeddings": False},
    ],
)
def test_they_hold_on_any_shape(changes):
    found = verified(made(**changes))
    assert found.off == ()
    assert len(found.rows) >= 24
    ours_alone = "n_kv_head" in changes or "bias" in changes
    assert bool(found.notes) == ours_alone  # transformers has no such model


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_they_hold_in_other_dtypes(dtype):
    found = verified(made().to(dtype))
    assert found.off == ()


def broken_engine(monkeypatch):
    def off(model, pair, **how):
        found = patch_sweep(model, pair, **how)
        if how.get("method") == "fast" and how.get("site") == "mlp_out":
            found.values[...] += 1e-3
        return found

    monkeypatch.setattr(identities, "patch_sweep", off)


def broken_cache(monkeypatch):
    after = KVCache.after

    def shifted(self, tap):
        inner = after(self, tap)
        return lambda layer, site, x: inner(layer, site, x) * (1.001 if site == "k" else 1)

    monkeypatch.setattr(KVCache, "after", shifted)


def broken_terms(monkeypatch):
    explain = explanation_run.explain

    def without_bias(*arguments, **how):
        found = explain(*arguments, **how)
        found.bias[...] = 0
        return found

    monkeypatch.setattr(identities, "explain", without_bias)


def broken_batch(monkeypatch):
    def off(model, pair, **how):
        found = patch_sweep(model, pair, **how)
        if isinstance(found, list):
            found[1].values[-1, -1] += 1e-3
        return found

    monkeypatch.setattr(identities, "patch_sweep", off)


def broken_copy(monkeypatch):
    class Changed:
        def __init__(self, model):
            self.model = model

        def to(self, dtype):
            wide = identities_deepcopy(self.model).to(dtype)
            wide.transformer.ln_f.weight.data[0] += 1e-2
            return wide

    identities_deepcopy = identities.deepcopy
    monkeypatch.setattr(identities, "deepcopy", Changed)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (broken_engine, "cells of mlp_out"),
        (broken_cache, "cached keys and values"),
        (broken_terms, "terms add up"),
        (broken_batch, "equals one by one"),
        (broken_copy, "float64"),
    ],
)
def test_a_fault_is_named(monkeypatch, fault, named):
    model = made()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    fault(monkeypatch)
    off = verified(model).off
    assert [row.what for row in off if named not in row.what] == []
    assert off


def test_a_row_is_off_at_nan_and_beyond_what_is_allowed():
    assert Row.compare("a", "b", 1.0, 1.5, 0.5, "c").ok
    assert not Row.compare("a", "b", 1.0, 1.51, 0.5, "c").ok
    row = Row.compare("a", "b", np.zeros((2, 2)), np.array([[0, 9], [math.nan, 0]]), 10, "c")
    assert row.place == (1, 0)
    assert not row.ok
    with pytest.raises(VerificationError, match=r"published array is \(2,\), ours \(3,\)"):
        Row.compare("a", "b", np.zeros(2), np.zeros(3), 1, "c")


def test_a_verification_reloads(tmp_path):
    found = verified(made())
    again = Verification.load(found.save(tmp_path / "table"))
    assert again == found
    assert len(found.to_frame()) == len(found.rows)
    assert f"{len(found.rows)} of {len(found.rows)} rows hold" in repr(again)


def test_a_model_too_small():
    with pytest.raises(VerificationError, match="at least 4 tokens that reads at least 2"):
        verified(made(block_size=1))
