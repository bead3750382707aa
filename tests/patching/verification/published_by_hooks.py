"""Published figures of a random GPT-2, in the layout of patching/verification/published."""

import hooked_gpt2 as hooks
import numpy as np
import torch
from hooked_gpt2 import BOS, H, L

PAIRS = {
    "one": {"clean": [BOS, 3, 14, 15, 9, 2], "corrupt": [BOS, 3, 26, 15, 9, 2],
            "target": 7, "foil": 31},
    "two": {"clean": [BOS, 8, 11, 40, 5, 1], "corrupt": [BOS, 8, 12, 41, 5, 1],
            "target": 20, "foil": 33},
}  # fmt: skip
REPEATED = [[4, 9, 33, 2, 50], [12, 13, 1, 0, 7]]
T = 6
TOLERANCE = {"printed": 1e-6, "float32": 1e-4}


def grid(model, pair, site, by_position=None):
    """Return target - foil of every cell of an exact sweep, as the sources arrange them."""
    heads = site in ("z", "q", "k", "v", "pattern")
    axes = [range(L)] + [range(H)] * heads + [range(T)] * (not heads or by_position)
    values = np.zeros([len(axis) for axis in axes])
    for index in np.ndindex(values.shape):
        layer, head = index[0], index[1] if heads else None
        position = index[-1] if not heads or by_position else None
        values[index] = hooks.patched(model, pair, site, layer, position, head)
    return values


def ratio_of_means(patched, ends):
    """Recovery of a set: the mean over the pairs is taken of each before they are divided."""
    clean, corrupt = np.mean(ends, axis=0)
    return (np.mean(patched, axis=0) - corrupt) / (clean - corrupt)


def mean_of_recoveries(patched, ends):
    each = [(p - corrupt) / (clean - corrupt)
            for p, (clean, corrupt) in zip(patched, ends, strict=True)]  # fmt: skip
    return np.mean(each, axis=0)


def recovery(
    model, site, *, by_position=False, attribution=False, rules=(), average=ratio_of_means
):
    pairs = PAIRS.values()
    ends = [[float(v) for v in hooks.unpatched(model, pair)] for pair in pairs]
    if attribution:  # an estimate stands for base + effect
        effects = [hooks.attribution(model, pair, site, rules).numpy() for pair in pairs]
        if site in ("z", "q", "k", "v", "pattern") and not by_position:
            effects = [one.sum(-1) for one in effects]
        patched = [corrupt + effect for effect, (_, corrupt) in zip(effects, ends, strict=True)]
    else:
        patched = [grid(model, pair, site, by_position) for pair in pairs]
    return average(patched, ends)


def top(model, ids, what):
    """Return the ids and numbers of the 5 likeliest next tokens."""
    with torch.no_grad():
        logits = hooks.run(model, ids)
    numbers = {
        "logits": logits, "probabilities": logits.softmax(-1),
        "centred_logits": logits - logits.mean(),
    }[what]  # fmt: skip
    best = logits.topk(5).indices
    return {"prompt": ids, "ids": best.tolist(), what: numbers[best].tolist()}


def make_figures(model):
    """Return the figures of every kind, with the source's conventions turned into ours."""
    both, one = ["one", "two"], PAIRS["one"]
    ends = np.array([[float(v) for v in hooks.unpatched(model, p)] for p in PAIRS.values()])
    ours = -ends  # our logit_diff is foil - target
    figures = [
        {"kind": "unpatched", "what": "ends", "pairs": both, "clean": ours[:, 0].tolist(),
         "corrupt": ours[:, 1].tolist()},
        {"kind": "unpatched", "what": "mean ends", "pairs": both, "mean": True,
         "clean": ours[:, 0].mean(), "corrupt": ours[:, 1].mean()},
        {"kind": "sweep", "what": "resid_post of one pair", "pairs": ["one"],
         "site": "resid_post", "unit": "logit_diff",
         "values": (-grid(model, one, "resid_post")).tolist()},
    ]  # fmt: skip

    def sweep(site, what="", **how):
        values = recovery(model, site, by_position=how.get("by_position", False),
                          attribution="method" in how, rules=how.get("relp_rules", ()))  # fmt: skip
        named = {"kind": "sweep", "what": f"{site} {what}".strip(), "pairs": both, "site": site}
        figures.append({**named, "unit": "recovery", **how, "values": values.tolist()})

    for site in ("resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern"):
        sweep(site)
        sweep(site, "by attribution", method="attribution")
    sweep("resid_mid", "by attribution", method="attribution")
    for site in ("resid_pre", "attn_out", "mlp_out"):
        sweep(site, "by RelP", method="relp", relp_rules=["ln"])
    for site in ("z", "q", "k", "v", "pattern"):
        sweep(site, "by position, by attribution", by_position=True, method="attribution")
    sweep("z", "by position", by_position=True)
    sweep("pattern", "by position", by_position=True)
    by_position = recovery(model, "z", by_position=True, attribution=True)
    attribution = {"kind": "sweep", "pairs": both, "site": "z", "by_position": True,
                   "method": "attribution", "unit": "recovery"}  # fmt: skip
    figures += [
        {**attribution, "what": "z at the last token", "position": -1,
         "values": by_position[..., -1].tolist()},
        {**attribution, "what": "z summed over heads", "sum_heads": True,
         "values": by_position.sum(1).tolist()},
    ]  # fmt: skip
    figures += [*_single_cells(model, one), *_direct(model, both), *_readings(model, both)]
    return [{**TOLERANCE, **figure} for figure in figures]


def _single_cells(model, one):
    ends = [-float(v) for v in hooks.unpatched(model, one)]
    cells = [[0, 2], [1, 3], [2, 5]]
    patched = [-float(hooks.patched(model, one, "resid_post", *cell)) for cell in cells]
    recoveries = [(ends[1] - p) / (ends[1] - ends[0]) for p in patched]
    yield {"kind": "cells", "what": "three cells", "pairs": ["one"], "site": "resid_post",
           "cells": [cells], "recoveries": [recoveries], "clean": ends[:1],
           "corrupt": ends[1:]}  # fmt: skip
    with torch.no_grad():
        clean, corrupt = (
            hooks.record(model, one[name], "resid_post") for name in ("clean", "corrupt")
        )
    put_in, values = [[0, 2, 0, 2, 0.25], [1, 4, 2, 5, 1.0], [2, 5, 0, 2, 0.5]], []
    for layer, position, from_layer, from_position, alpha in put_in:
        mixed = alpha * clean[from_layer][0, from_position]
        mixed = mixed + (1 - alpha) * corrupt[layer][0, position]

        def put(x, position=position, mixed=mixed):
            x = x.clone()
            x[0, position] = mixed
            return x

        with torch.no_grad():
            logits = hooks.run(model, one["corrupt"], [("resid_post", layer, put)])
        values.append(-float(hooks.difference(logits, one)))
    yield {"kind": "put_in", "what": "mixtures", "pair": "one", "site": "resid_post",
           "cells": put_in, "values": values}  # fmt: skip


def _direct(model, both):
    pairs = [*PAIRS.values()]

    def figure(what, part, values, **more):
        values = np.asarray(values, dtype=float)
        return {"kind": "direct", "what": what, "pairs": both, "part": part,
                "values": values.tolist(), **more}  # fmt: skip

    stages = np.mean([hooks.streams(model, pair).numpy() for pair in pairs], axis=0)
    steps = np.diff(stages)
    yield figure("stream", "stream", stages)
    yield figure("attention by layer", "attention", steps[0::2])
    yield figure("MLPs by layer", "mlp", steps[1::2])
    yield figure("embeddings", "embeddings", stages[0])
    embedded = []
    with torch.no_grad():
        for pair in pairs:
            end = hooks.record(model, pair["clean"], "resid_post")[-1][0, -1]
            word = model.transformer.wte.weight[pair["clean"][-1]]
            place = model.transformer.wpe.weight[len(pair["clean"]) - 1]
            embedded.append([float(hooks.read(model, pair, part, end)) for part in (word, place)])
    word, place = np.mean(embedded, axis=0)
    yield figure("token embedding", "embed", word)
    yield figure("position embedding", "pos_embed", place)
    terms = np.mean([hooks.head_terms(model, pair)[0].numpy() for pair in pairs], axis=0)
    yield figure("heads", "heads", terms)
    yield figure("two heads", "heads", [terms[2, 0], terms[1, 1]], at=[[2, 0], [1, 1]])
    blank = [hooks.head_terms(model, pair, zero=(1, 0)) for pair in pairs]
    yield figure("zeroed", "zeroed", np.mean([float(b[1]) for b in blank]), zero=[1, 0])
    zeroed = np.mean([b[0].numpy() for b in blank], axis=0)
    yield figure("heads, one zeroed", "zeroed_heads", zeroed, zero=[1, 0])


def _readings(model, both):
    for what in ("logits", "probabilities", "centred_logits"):
        yield {"kind": "next_tokens", "what": what, **top(model, PAIRS["one"]["clean"], what)}
    ids = torch.tensor(REPEATED).repeat(1, 2)
    n = len(REPEATED[0])
    with torch.no_grad():
        weights = model(ids, output_attentions=True).attentions
    for score, back in (("previous_token", 1), ("duplicate_token", n), ("induction", n - 1)):
        values = [[float(np.mean([w[b, h, t, t - back] for b in range(len(ids))
                                  for t in range(back, 2 * n)])) for h in range(H)]
                  for w in weights]  # fmt: skip
        yield {"kind": "head_scores", "what": score, "score": score, "values": values}
    patterns = []
    with torch.no_grad():
        for pair in PAIRS.values():
            head = hooks.attentions(model, pair["clean"])[1][0, 1]
            patterns.append([head[query, : query + 1].tolist() for query in range(T)])
    yield {"kind": "pattern", "what": "pattern of head 1.1", "pairs": both, "head": [1, 1],
           "values": patterns}  # fmt: skip
    one = PAIRS["one"]
    with torch.no_grad():
        logits = hooks.run(model, one["clean"])
    yield {"kind": "terms", "what": "terms", "prompt": one["clean"], "target": one["target"],
           "foil": one["foil"], "values": {"target logit": float(logits[one["target"]]),
                                           "foil logit": float(logits[one["foil"]])}}  # fmt: skip
    yield from _greater(model)


def _greater(model):
    made = greater_prompts()
    means = []
    for run in ("clean", "corrupt"):
        numbers = []
        for noun, year in made["data"]:
            label = year % 100
            shown = made["two_digits"][label if run == "clean" else 1]
            cc = made["centuries"][str(year // 100)]
            prompt = [BOS, made["nouns"][noun], cc, shown, cc]
            with torch.no_grad():
                p = hooks.run(model, prompt).softmax(-1)
            above = sum(float(p[made["two_digits"][y]]) for y in range(label + 1, 100))
            below = sum(float(p[made["two_digits"][y]]) for y in range(label + 1))
            numbers.append(above - below)
        means.append(float(np.mean(numbers)))
    yield {"kind": "mean", "what": "greater-than", "long": True, "values": means}


def greater_prompts():
    return {"start": [BOS], "nouns": [5, 6], "middle": [], "centuries": {"17": 50, "18": 51},
            "two_digits": [(7 * y) % 45 for y in range(100)], "end": [],
            "data": [[0, 1740], [1, 1811], [0, 1899], [1, 1702]]}  # fmt: skip


def make_file(model):
    return {"model": "gpt2", "source": "hooks", "where": {}, "pairs": PAIRS,
            "repeated_ids": REPEATED, "prompts": greater_prompts(),
            "figures": make_figures(model)}  # fmt: skip
