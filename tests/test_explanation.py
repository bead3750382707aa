"""ALTI and ALTI-Logit against a slow reference, and the identities that they must keep."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mingpt.config import FLAGS
from patching import Explanation, ExplanationError, alti, explain
from patching.errors import ResultError

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


def reference(model, ids, answers) -> dict[str, np.ndarray]:
    """The definition, line by line, in float64 NumPy; nothing of the model's code is used."""
    config, w = model.config, {k: v.double().numpy() for k, v in model.state_dict().items()}
    T, L, H, D = len(ids), config.n_layer, config.n_head, config.n_embd
    hs, eps = D // H, config.layer_norm_epsilon

    def bias(name):
        return w.get(f"{name}.bias", 0.0)

    def norm(u, name):
        statistics = u.mean(-1, keepdims=True), u.var(-1, keepdims=True)
        return (u - statistics[0]) / np.sqrt(statistics[1] + eps) * w[f"{name}.weight"] + bias(name)

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][:T]
    initial_x, C, M, rows = x, [], [], []
    for layer in range(L):
        name = f"transformer.h.{layer}"
        qkv = norm(x, f"{name}.ln_1") @ w[f"{name}.attn.c_attn.weight"].T
        qkv = qkv + bias(f"{name}.attn.c_attn")
        q, k, v = (part.reshape(T, H, hs) for part in np.split(qkv, 3, axis=-1))
        W_O = w[f"{name}.attn.c_proj.weight"].T.reshape(H, hs, D)
        b_O = bias(f"{name}.attn.c_proj") + np.zeros(D)
        divisor = np.sqrt(hs) if config.scale_attn_weights else 1.0
        divisor *= layer + 1 if config.scale_attn_by_inverse_layer_idx else 1
        T_h = np.zeros((H, T, T, D))
        for h in range(H):
            for t in range(T):
                scores = np.array([q[t, h] @ k[s, h] / divisor for s in range(t + 1)])
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                for s in range(t + 1):
                    T_h[h, t, s] = weights[s] * (v[s, h] @ W_O[h])
        T_a = T_h.sum(0)
        R = T_a.copy()
        for t in range(T):
            R[t, t] += x[t]
        y = R.sum(1) + b_O
        mixing = np.zeros((T, T))
        for t in range(T):
            for s in range(t + 1):
                mixing[t, s] = max(0.0, np.abs(y[t]).sum() - np.abs(R[t, s] - y[t]).sum())
            total = mixing[t].sum()
            mixing[t] = mixing[t] / total if total > 0 else np.eye(T)[t]
        hidden = norm(y, f"{name}.ln_2") @ w[f"{name}.mlp.c_fc.weight"].T + bias(f"{name}.mlp.c_fc")
        m = ACTIVATIONS[config.activation](hidden) @ w[f"{name}.mlp.c_proj.weight"].T
        m = m + bias(f"{name}.mlp.c_proj")
        C.append(mixing)
        M.append(mixing @ M[-1] if M else mixing)
        rows.append((T_h[:, -1], m[-1], b_O))
        x = y + m
    f, g = x[-1], w["transformer.ln_f.weight"]
    found = {"contributions": np.array(C), "rollout": np.array(M)}
    columns = []
    for answer in answers:
        U = w["lm_head.weight"][answer]
        G = (U * g - (U * g).mean()) / np.sqrt(f.var() + eps)
        aff = np.array([T_h.sum(0) @ G for T_h, _, _ in rows])  # (L, T)
        columns.append(
            {
                "logit_layers": aff,
                "alti_logit_layers": np.array([aff[0], *(aff[n] @ M[n - 1] for n in range(1, L))]),
                "heads": np.array([T_h.sum(1) @ G for T_h, _, _ in rows]),
                "initial": G @ initial_x[-1],
                "mlp": np.array([G @ m for _, m, _ in rows]),
                "bias": np.array([G @ b for _, _, b in rows]),
                "final_bias": np.sum(U * bias("transformer.ln_f")),
                "logits": norm(f, "transformer.ln_f") @ U,
            }
        )
    target, foil = columns
    for name in ("logit_layers", "alti_logit_layers"):
        found[name] = np.array([target[name], foil[name], target[name] - foil[name]])
        found[name.removesuffix("_layers")] = found[name].sum(1)
    for name in ("heads", "initial", "final_bias", "logits"):
        found[name] = np.array([target[name], foil[name]])
    for name in ("mlp", "bias"):
        found[name] = np.stack([target[name], foil[name]], axis=-1)
    return found


@st.composite
def cases(draw):
    n_head = draw(st.sampled_from([1, 2, 3]))
    shape = {
        "seed": draw(st.integers(0, 99)),
        "n_layer": draw(st.integers(1, 4)),
        "n_head": n_head,
        "n_embd": n_head * draw(st.sampled_from([4, 6])),
        "activation": draw(st.sampled_from([*ACTIVATIONS])),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 0.3])),
        **{flag: draw(st.booleans()) for flag in FLAGS},
    }
    ids = draw(st.lists(st.integers(0, 39), min_size=1, max_size=9))
    answers = draw(st.permutations(range(40)))[:2]
    return make_model(**shape).double(), ids, answers


@settings(max_examples=40)
@given(case=cases())
def test_it_is_the_definition(case):
    model, ids, answers = case
    found = explain(model, torch.tensor(ids), *answers)
    for name, expected in reference(model, ids, answers).items():
        np.testing.assert_allclose(
            getattr(found, name), expected, rtol=1e-9, atol=1e-10, err_msg=name
        )
    assert (found.error <= found.tolerance).all()
    assert (found.tolerance < 1e-9).all()


@settings(max_examples=20)
@given(case=cases(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_the_terms_add_up_in_every_precision(case, dtype):
    model, ids, answers = case
    found = explain(model.to(dtype), torch.tensor(ids), *answers)
    assert found.logit.dtype == found.rollout.dtype == np.float32
    if dtype == torch.float32:
        total = found.logit[:2].sum(-1) + found.initial + found.mlp.sum(0)
        total = total + found.bias.sum(0) + found.final_bias
        np.testing.assert_allclose(total, found.logits, rtol=1e-4, atol=1e-4)
    else:
        assert np.isinf(found.tolerance).all()


def test_terms_that_do_not_add_up_are_an_error(model, monkeypatch):
    right = alti.terms

    def wrong(*arguments):
        found = right(*arguments)
        return dataclasses.replace(found, mlp=found.mlp + 1e-3)

    monkeypatch.setattr(alti, "terms", wrong)
    with pytest.raises(ExplanationError, match=r"do not add up .* they differ by 0\.00"):
        explain(model, torch.arange(5), 1, 2)
    explain(model.bfloat16(), torch.arange(5), 1, 2)  # where nobody can judge


def test_a_prefix_is_explained_as_its_row_says(model):
    ids = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    whole = explain(model, ids, 1, 2)
    for t in range(len(ids)):
        part = explain(model, ids[: t + 1], 1, 2)
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
    with torch.no_grad():  # now y is nearly nothing at the last position, and all terms are far
        block.attn.c_proj.bias -= model.recording["resid_mid"][0, 0, -1] * 0.999
    found = explain(model, ids, 1, 2)
    assert found.contributions[0, -1].tolist() == [0, 0, 1]
    assert np.isfinite(found.rollout).all()
    np.testing.assert_allclose(found.rollout, reference(model, ids.tolist(), (1, 2))["rollout"])


def test_a_batch_is_its_prompts(model):
    ids = torch.randint(40, (3, 7), generator=torch.Generator().manual_seed(0))
    together = explain(model, ids, [1, 2, 3], 9)
    assert together.logit.shape == (3, 3, 7)
    for number, row in enumerate(ids):
        alone = explain(model, row, number + 1, 9)
        for f in dataclasses.fields(Explanation):
            value = getattr(alone, f.name)
            if isinstance(value, np.ndarray) and f.name not in ("error", "tolerance"):
                got = getattr(together, f.name)[number]
                assert got.shape == value.shape
                np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5, err_msg=f.name)


@pytest.mark.parametrize(("most", "count"), [(1, 9), (16 * 9 * 2, 5), (10**9, 1)])
def test_the_positions_are_done_in_parts(model, monkeypatch, most, count):
    ids, pad, padded = torch.arange(9), F.pad, []
    whole = explain(model, ids, 1, 2)
    monkeypatch.setattr(alti, "MOST_VALUES", most)
    monkeypatch.setattr(alti.F, "pad", lambda x, sizes: padded.append(x.shape) or pad(x, sizes))
    parts = explain(model, ids, 1, 2)
    assert len(padded) == count * model.config.n_layer
    np.testing.assert_allclose(parts.contributions, whole.contributions, rtol=0, atol=1e-6)


def test_the_model_stays_as_it_was(model):
    model(torch.arange(4)[None], record="z")
    recording, logits = model.recording, model.last_logits
    model.train()
    explain(model, torch.arange(5), 1, 2)
    assert model.recording is recording
    assert model.last_logits is logits
    assert model.training
    assert explain(model, torch.arange(5), 1, 2).logits.tolist() == (
        model.eval()(torch.arange(5)[None])[0][0, -1, [1, 2]].tolist()
    )


def test_saved_and_loaded(model, tmp_path):
    found = explain(model, torch.arange(5), 1, 2)
    npz, readable = found.save(tmp_path / "x")
    assert (npz.name, readable.name) == ("x.npz", "x.json")
    again = Explanation.load(tmp_path / "x")
    for f in dataclasses.fields(Explanation):
        before, after = getattr(found, f.name), getattr(again, f.name)
        assert type(before) is type(after)
        assert np.array_equal(before, after) if isinstance(before, np.ndarray) else before == after
    (tmp_path / "y.npz").write_bytes(b"no")
    for name in ("y", "z"):
        with pytest.raises(ResultError, match="no saved explanation"):
            Explanation.load(tmp_path / name)


@pytest.mark.parametrize(
    ("ids", "target", "foil", "message"),
    [
        (torch.empty(0, dtype=torch.long), 1, 2, "ids must be token ids"),
        (torch.ones(3), 1, 2, "ids must be token ids"),
        (torch.ones(1, 1, 1).long(), 1, 2, "ids must be token ids"),
        (torch.arange(13), 1, 2, "13 tokens, the model reads at most 12"),
        (torch.tensor([40]), 1, 2, "ids must be from 0 to 39"),
        (torch.tensor([-1]), 1, 2, "ids must be from 0 to 39"),
        (torch.arange(3), 40, 2, "target and foil must be from 0 to 39"),
        (torch.arange(3), 1, -1, "target and foil must be from 0 to 39"),
        (torch.arange(3), 1, 1, "the same token"),
        (torch.arange(3), [1, 2], 3, "must be one token id each, or 1"),
    ],
)
def test_bad_input(model, ids, target, foil, message):
    with pytest.raises(ExplanationError, match=message):
        explain(model, ids, target, foil)


def test_logits_that_overflow_are_an_error(model):
    with torch.no_grad():
        model.transformer.ln_f.weight *= 1e38
    with pytest.raises(ExplanationError, match="not finite"):
        explain(model, torch.arange(3), 1, 2)


@pytest.mark.gpt2
def test_the_figures_of_the_authors_notebook(gpt2):
    model, tokenizer = gpt2
    text = "a 12th-century commentary on periegetes by eustathius of thessalonica also"
    ids, foil = tokenizer.encode(text), tokenizer.encode(" compare")[0]
    assert len(ids) == 22
    found = explain(model, torch.tensor(ids), tokenizer.encode(" compares")[0], foil)
    got = [
        *found.logits, found.initial[0], found.bias[:, 0].sum(), found.mlp[:, 0].sum(),
        found.logit[0].sum(), found.final_bias[0],
    ]  # fmt: skip
    expected = [-103.9822, -107.001, 0.9604, -1.72398, -46.90461, -46.2542, -10.0599]
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-3)
