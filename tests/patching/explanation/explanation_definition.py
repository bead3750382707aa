"""The definition of an explanation, line by line in float64 NumPy, and random cases for it."""

import numpy as np
from helpers import make_model
from hypothesis import strategies as st

from mingpt.config import FLAGS
from patching import Question

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


def ask(ids, target: int = 1, foil: int = 2) -> Question:
    return Question.from_ids(ids, target, foil)


def reference(model, question) -> dict[str, np.ndarray]:
    """Return the arrays of an explanation, computed without any of the model's code."""
    ids, answers = list(question.ids), (question.target_id, question.foil_id)
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
    return make_model(**shape).double(), Question.from_ids(ids, *answers)
