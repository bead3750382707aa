"""ALTI and ALTI-Logit against a slow reference, and the identities that they must keep."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mingpt.config import FLAGS
from patching import Explanation, ExplanationError, SweepResult, explain, patch_sweep
from patching.errors import ResultError
from patching.explanation import alti, logit_attribution, logit_lens

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
    initial_x, C, M, rows, streams = x, [], [], [], []
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
        streams.append(x)
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
    unembedding = w["lm_head.weight"].T
    says = np.array([norm(x, "transformer.ln_f") @ unembedding for x in streams])  # (L, T, V)
    found["lens_ids"] = says.argmax(-1)
    odds = np.exp(says - says.max(-1, keepdims=True))
    found["lens_probabilities"] = (odds / odds.sum(-1, keepdims=True)).max(-1)
    before = norm(initial_x[-1], "transformer.ln_f") @ unembedding
    found["trajectory"] = np.array([before, *says[:, -1]])[:, [*answers]]
    order = (-says[-1, -1]).argsort()
    likely = odds[-1, -1] / odds[-1, -1].sum()
    found |= {"top_ids": order[:5], "top_logits": says[-1, -1][order[:5]]}
    found |= {"top_probabilities": likely[order[:5]], "probabilities": likely[[*answers]]}
    found["ranks"] = 1 + order.argsort()[[*answers]]
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
    found = explain(model, torch.tensor(ids), *answers, top_k=5)
    for name, expected in reference(model, ids, answers).items():
        np.testing.assert_allclose(
            getattr(found, name), expected, rtol=1e-9, atol=1e-10, err_msg=name
        )
    assert (found.error <= found.tolerance).all()
    assert (found.tolerance < 1e-9).all()


def test_only_what_is_asked_for_is_worked_out(model, monkeypatch):
    whole = explain(model, torch.arange(5), 1, 2)
    monkeypatch.setattr(alti, "contributions", None)
    found = explain(model, torch.arange(5), 1, 2, methods=["direct", "lens"])
    assert found.methods == ("lens", "direct")
    assert found.alti_logit is found.alti_logit_layers is found.contributions is None
    assert found.rollout is found.alti is None
    np.testing.assert_array_equal(found.lens_ids, whole.lens_ids)
    monkeypatch.undo()
    monkeypatch.setattr(logit_lens, "look", None)
    found = explain(model, torch.arange(5), 1, 2, methods="alti, direct")
    assert found.methods == ("alti", "direct")
    assert found.lens_ids is found.lens_probabilities is found.trajectory is None
    for method in ("alti", "alti-logit"):
        found = explain(model, torch.arange(5), 1, 2, methods=method)
        np.testing.assert_array_equal(found.alti_logit, whole.alti_logit)
    np.testing.assert_array_equal(found.alti, whole.rollout[-1])


@pytest.mark.parametrize("most", [1, 5, 10**6])
def test_the_lens_looks_at_some_vectors_at_a_time(model, monkeypatch, most):
    ids = torch.randint(40, (2, 7), generator=torch.Generator().manual_seed(0))
    whole = explain(model, ids, 1, 2)
    monkeypatch.setattr(logit_lens, "MOST_AT_ONCE", most)
    some = explain(model, ids, 1, 2)
    np.testing.assert_array_equal(some.lens_ids, whole.lens_ids)
    np.testing.assert_allclose(some.lens_probabilities, whole.lens_probabilities, rtol=1e-5)


def test_progress_adds_up(model):
    for methods, total in (("direct", 30), ("lens,alti", 60)):
        seen = []
        ids = torch.arange(10).view(2, 5)
        explain(model, ids, 1, 2, methods=methods, progress=lambda *x, seen=seen: seen.append(x))
        assert seen == sorted(seen)
        assert (seen[0], seen[-1]) == ((0, total), (total, total))


def test_the_text_of_tokens(builtin):
    model, tokenizer = builtin
    text = "The keys to the cabinet"
    ids, are, is_ = (torch.tensor(tokenizer.encode(part)) for part in (text, " are", " is"))
    found = explain(model, ids, are, is_, tokenizer=tokenizer)
    assert found.texts == (text,)
    assert found.text_of(found.target) == " are"
    assert [found.text_of(number) for number in found.ids] == tokenizer.tokens(text)
    assert found.next.top[0].token == " are"
    assert {*found.lens_ids.ravel().tolist()} <= {*found.tokens}
    bare = explain(model, ids, are, is_)
    assert bare.text_of(found.target) == f"id:{int(are)}"
    assert bare.texts[0].startswith(f"id:{int(ids[0])} id:")


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
        np.testing.assert_allclose(found.rollout.sum(-1), 1, atol=1e-5)
        difference = found.logits[0] - found.logits[1]
        assert sum(found.parts().values()) == pytest.approx(difference, abs=1e-5)
        seen = model.to(dtype)(torch.tensor([ids]))[0].float().softmax(-1)[0]  # widened before
        likeliest = torch.from_numpy(found.lens_probabilities[-1])
        torch.testing.assert_close(likeliest, seen.amax(-1).detach(), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "share", "beside"), [(torch.float32, 1e-6, 1e-6), (torch.float64, 1e-13, 1e-12)]
)
def test_how_far_the_terms_may_be_off(model, dtype, share, beside):
    found = explain(model.to(dtype), torch.arange(6), 1, 2)
    terms = [np.abs(found.logit_layers[:2]).sum((1, 2)), np.abs(found.initial)]
    terms += [np.abs(found.mlp).sum(0), np.abs(found.bias).sum(0), np.abs(found.final_bias)]
    np.testing.assert_allclose(found.tolerance, share * sum(terms) + beside, rtol=1e-5)


def test_the_parts_of_the_difference(model):
    found = explain(model, torch.arange(6), 1, 2)
    assert found.parts() == pytest.approx(
        {
            "attention": found.logit[2].sum(),
            "embeddings": found.initial[0] - found.initial[1],
            "MLPs": (found.mlp[:, 0] - found.mlp[:, 1]).sum(),
            "attention's biases": (found.bias[:, 0] - found.bias[:, 1]).sum(),
            "the final layer norm's bias": found.final_bias[0] - found.final_bias[1],
        },
        rel=1e-5,
    )
    assert sum(found.parts().values()) == pytest.approx(found.logits[0] - found.logits[1], abs=1e-5)
    for scores in (found.next.top, (found.next.target, found.next.foil)):
        for score in scores:
            logits = model(torch.arange(6)[None])[0][0, -1]
            assert score.logit == pytest.approx(logits[score.id].item(), abs=1e-5)
            expected = logits.softmax(-1)[score.id].item()
            assert score.probability == pytest.approx(expected, rel=1e-4)
            assert score.rank == 1 + (logits > logits[score.id]).sum()


def test_terms_that_do_not_add_up_are_an_error(model, monkeypatch):
    right = logit_attribution.terms

    def wrong(*arguments):
        found = right(*arguments)
        return dataclasses.replace(found, mlp=found.mlp + 1e-3)

    monkeypatch.setattr(logit_attribution, "terms", wrong)
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
        part = together.prompt(number - 3)
        assert part.is_single
        assert part.texts == alone.texts
        assert part.next.top[0].id == alone.next.top[0].id
    assert "next" not in together.to_dict()
    for whole, number, message in (
        (together, 3, "prompt 3 is out of range"),
        (together, "0", "whole number, not '0'"),
        (part, 0, "of a single prompt already"),
    ):
        with pytest.raises(ExplanationError, match=message):
            whole.prompt(number)
    for act in (together.bars, together.parts, lambda: together.next):
        with pytest.raises(ExplanationError, match=r"take explanation\.prompt\(0\)"):
            act()


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
    expected = model.eval()(torch.arange(5)[None])[0][0, -1, [1, 2]].detach()
    np.testing.assert_allclose(explain(model, torch.arange(5), 1, 2).logits, expected, rtol=1e-5)


@pytest.mark.parametrize("methods", ["alti,lens", "direct"])
def test_saved_and_loaded(model, tmp_path, methods):
    found = explain(model, torch.arange(5), 1, 2, methods=methods, top_k=3)
    found = dataclasses.replace(found, notes=("a",), arguments={"seed": 1}, checksum="0")
    npz, readable = found.save(tmp_path / "x")
    assert (npz.name, readable.name) == ("x.npz", "x.json")
    again = Explanation.load(tmp_path / "x")
    for f in dataclasses.fields(Explanation):
        before, after = getattr(found, f.name), getattr(again, f.name)
        assert type(before) is type(after)
        assert np.array_equal(before, after) if isinstance(before, np.ndarray) else before == after
    saved = json.loads(readable.read_text("utf-8"))
    assert [row["id"] for row in saved["next"]["top"]] == found.top_ids.tolist()
    assert saved["next"]["target"]["logit"] == found.logits[0]
    assert saved["tokens"] == {str(k): v for k, v in found.tokens.items()}
    assert "rollout" not in saved
    for method, bars in saved["bars"].items():
        np.testing.assert_array_equal(np.float32(bars), found.bars(method))
    assert len(saved["bars"]) == (2 if "alti" in methods else 1)
    np.testing.assert_array_equal(saved["alti"], found.alti)


def test_what_is_no_saved_explanation(model, pair, tmp_path):
    (tmp_path / "junk.npz").write_bytes(b"no")
    (tmp_path / "folder.npz").mkdir()
    np.savez_compressed(tmp_path / "damaged.npz", methods=np.arange(999))
    content = bytearray((tmp_path / "damaged.npz").read_bytes())
    content[200:240] = b"\xff" * 40
    (tmp_path / "damaged.npz").write_bytes(content)
    patch_sweep(model, pair).save(tmp_path / "sweep")
    explain(model, torch.arange(3), 1, 2).save(tmp_path / "whole")
    for name, message in (
        ("junk", "it is no .npz file"),
        ("damaged", "Bad CRC-32|Error -3"),
        ("none", "No such file"),
        ("folder", "Is a directory"),
        ("sweep", "it has no field methods"),
    ):
        with pytest.raises(ResultError, match=f"is no saved explanation: .*{message}"):
            Explanation.load(tmp_path / name)
    with pytest.raises(ResultError, match="is no saved sweep: it has no field site"):
        SweepResult.load(tmp_path / "whole")
    with pytest.raises(ResultError, match="is no saved explanation"):
        Explanation.load(".")


@pytest.mark.parametrize(
    ("ids", "target", "foil", "message"),
    [
        (torch.empty(0, dtype=torch.long), 1, 2, r"ids must be token ids \(T,\) or"),
        (torch.ones(3), 1, 2, "ids must be token ids, whole numbers, not torch.float32"),
        ("the keys", 1, 2, "ids must be token ids, whole numbers, not 'the keys'"),
        (torch.ones(3).bool(), 1, 2, "ids must be token ids, whole numbers, not torch.bool"),
        (torch.arange(3), " are", 2, "target must be token ids, whole numbers, not ' are'"),
        (torch.arange(3), 1, 1.7, "foil must be token ids, whole numbers, not torch.float32"),
        (torch.arange(3), 10**30, 2, "target must be token ids, whole numbers, not 10000"),
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": "alti,lense"}, "no method 'lense'; there are alti, alti-logit, logit, lens,"),
        ({"methods": ""}, "no method ''"),
        ({"methods": []}, "no method; there are"),
        ({"methods": None}, "methods are names, not None"),
        ({"methods": [1]}, "no method 1; there are"),
        ({"top_k": 0}, "top_k is a whole number from 1 on, not 0"),
        ({"top_k": "x"}, "top_k is a whole number from 1 on, not 'x'"),
    ],
)
def test_bad_settings(model, settings, message):
    with pytest.raises(ExplanationError, match=message):
        explain(model, torch.arange(3), 1, 2, **settings)


def test_too_little_memory_is_an_error_with_advice_that_helps(model, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(alti, "contributions", fail)
    with pytest.raises(ExplanationError, match="ask for fewer methods"):
        explain(model, torch.arange(3), 1, 2)


def test_another_tokens_logit_that_overflows_is_an_error_too():
    model = make_model(tie_word_embeddings=False).half()
    with torch.no_grad():
        x = model.stream(torch.arange(3)[None], lambda layer, site, x: x)
        model.lm_head.weight[7] = 6e4 * model.transformer.ln_f(x[0, -1]).sign()
    with pytest.raises(ExplanationError, match=r"not finite in torch\.float16; use a wider dtype"):
        explain(model, torch.arange(3), 1, 2)


def test_large_values_that_cancel_are_no_error():
    """As GPT-2 has them: one block writes what is far larger than all else, another takes it."""
    for seed in range(20):
        model = make_model(seed, n_layer=4)
        with torch.no_grad():
            for layer, sign in ((0, 1), (3, -1)):
                model.transformer.h[layer].mlp.c_proj.bias[3] += sign * 3000.0
        found = explain(model, torch.arange(6), 1, 2)
        assert (found.error <= 0.7 * found.tolerance).all()


def test_half_precision_is_that_of_the_run_alone():
    """What is worked out of a bfloat16 run is not rounded again."""
    model = make_model(block_size=64).bfloat16()
    ids = torch.randint(40, (64,), generator=torch.Generator().manual_seed(0))
    half, wide = explain(model, ids, 1, 2), explain(model.float(), ids, 1, 2)
    assert np.abs(half.rollout - wide.rollout).max() < 0.05
    assert np.corrcoef(half.alti_logit[2], wide.alti_logit[2])[0, 1] > 0.99


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
