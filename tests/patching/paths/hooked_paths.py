"""Path patching on transformers' GPT-2 by PyTorch's own hooks: the oracle of the wing.

Nothing of this project is used here. Run C freezes what enters each c_proj, run D replaces
what leaves c_attn or enters an MLP, as one would write it with hooks.
"""

from contextlib import ExitStack

import torch
from hooked_gpt2 import H, L, columns, hooked, keeping, make_model


def oracle_model():
    """Return transformers' GPT-2 in float64, with biases and norms that are not 0 and 1."""
    model = make_model()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".ln_" in name:
                parameter += 0.2 * torch.randn_like(parameter)
    return model.double()  # the values stay those of float32, which files hold


def places(model, layer):
    """Return the modules of one block by the name of what goes through them."""
    block = model.transformer.h[layer]
    return {
        "stream": (block, "in"), "z": (block.attn.c_proj, "in"), "mlp_out": (block.mlp, "out"),
        "qkv": (block.attn.c_attn, "out"), "mlp_in": (block.mlp, "in"),
    }  # fmt: skip


def run(model, ids, changes):
    """Return the last logits (V,); changes are (name, layer, function of x)."""
    with ExitStack() as stack:
        for name, layer, change in changes:
            place = (
                (model.transformer.ln_f, "in") if name == "final" else places(model, layer)[name]
            )
            stack.enter_context(hooked(*place, change))
        return model(torch.tensor([ids])).logits[0, -1]


def recorded(model, ids, names, changes=()):
    """Return {(name, layer): activation} of a run, read after the changes."""
    kept = {}
    watch = [(name, layer, keeping(kept, (name, layer))) for layer in range(L) for name in names]
    run(model, ids, [*changes, *watch, ("final", 0, keeping(kept, "final"))])
    return kept


def putting(value, positions, chosen=slice(None)):
    def change(x):
        x = x.clone()
        x[:, positions, chosen] = value[:, positions, chosen]
        return x

    return change


@torch.no_grad()
def value_of(model, pair, sender, receivers, mlps, direction, sent, read):
    """Return logit(foil) - logit(target) of run D.

    Args:
        pair: "clean", "corrupt": ids; "target", "foil": an id each.
        sender: "input", ("a", layer, head) or ("m", layer).
        receivers: "logits", or a list of (kind, layer, head), of an MLP ("mlp", layer, None).
        sent, read: positions of sender and receivers.
    """
    base, source = ("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt")
    names = ("stream", "z", "mlp_out")
    ours, theirs = (recorded(model, pair[run_], names) for run_ in (base, source))
    every = list(range(len(pair["clean"])))
    frozen = [("z", layer, putting(ours["z", layer], every)) for layer in range(L)]
    if mlps == "frozen":
        frozen += [("mlp_out", layer, putting(ours["mlp_out", layer], every)) for layer in range(L)]
    if sender == "input":
        message = ("stream", 0, putting(theirs["stream", 0], sent))
    elif sender[0] == "m":
        message = ("mlp_out", sender[1], putting(theirs["mlp_out", sender[1]], sent))
    else:
        _, layer, head = sender
        message = ("z", layer, putting(theirs["z", layer], sent, columns("z", head)))
    c = recorded(model, pair[base], ("qkv", "mlp_in"), [*frozen, message])
    if receivers == "logits":
        changes = [("final", 0, putting(c["final"], [every[-1]]))]
    else:
        changes = [
            ("mlp_in", layer, putting(c["mlp_in", layer], read)) if kind == "mlp"
            else ("qkv", layer, putting(c["qkv", layer], read, columns(kind, head)))
            for kind, layer, head in receivers
        ]  # fmt: skip
    logits = run(model, pair[base], changes)
    return float(logits[pair["foil"]] - logits[pair["target"]])


def all_senders():
    found = ["input"]
    for layer in range(L):
        found += [("a", layer, head) for head in range(H)] + [("m", layer)]
    return found


def edge_estimate(model, pair, sender, receiver, direction, steps=None):
    """Return EAP's effect of one edge: (source - base output) . gradient at the input.

    The receiver's input is made a tensor of its own, so that autograd gives its gradient.
    """
    base, source = ("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt")
    with torch.no_grad():
        ours, theirs = (recorded(model, pair[one], ("stream", "z", "mlp_out"))
                        for one in (base, source))  # fmt: skip
    if sender == "input":
        difference = (theirs["stream", 0] - ours["stream", 0])[0]
    elif sender[0] == "m":
        difference = (theirs["mlp_out", sender[1]] - ours["mlp_out", sender[1]])[0]
    else:
        _, layer, head = sender
        z = (theirs["z", layer] - ours["z", layer])[0, :, columns("z", head)]
        difference = z @ model.transformer.h[layer].attn.c_proj.weight[columns("z", head)]
    slopes = []
    for share in [0.0] if steps is None else [k / steps for k in range(1, steps + 1)]:
        start = ours["stream", 0] + share * (theirs["stream", 0] - ours["stream", 0])
        slopes.append(_slope(model, pair, base, start, receiver))
    return float((difference.detach() * torch.stack(slopes).mean(0)).sum())


def _slope(model, pair, base, start, receiver):
    kept = {}

    def shifted(x):
        kept["added"] = torch.zeros_like(x, requires_grad=True)  # at the receiver's input alone
        return x + kept["added"]

    first = ("stream", 0, lambda x: start)
    if receiver == "logits":
        changes = [("final", 0, shifted)]
    else:
        kind, layer, head = receiver
        block = model.transformer.h[layer]

        def q_k_v(x):
            added = kept["added"] = torch.zeros_like(kept["stream"], requires_grad=True)
            own = block.attn.c_attn(block.ln_1(kept["stream"] + added))
            mask = torch.zeros(x.size(-1), dtype=x.dtype)
            mask[columns(kind, head)] = 1
            return x * (1 - mask) + own * mask

        def mlp(x):
            added = kept["added"] = torch.zeros_like(x, requires_grad=True)
            return block.ln_2(kept["mid"] + added)

        if kind == "mlp":
            with hooked(block.ln_2, "in", keeping(kept, "mid")):
                return _gradient(model, pair, base, [first, ("mlp_in", layer, mlp)], kept)
        changes = [("stream", layer, keeping(kept, "stream"))] if layer else []
        changes.append(("qkv", layer, _once(q_k_v, kept, start if layer == 0 else None)))
    return _gradient(model, pair, base, [first, *changes], kept)


def _once(change, kept, stream):
    """Call `change` for the block's own c_attn, and not for the one inside `change`."""

    def guarded(x):
        if kept.get("inside"):
            return x
        kept["inside"] = True
        if stream is not None:
            kept["stream"] = stream
        found = change(x)
        kept["inside"] = False
        return found

    return guarded


def _gradient(model, pair, base, changes, kept):
    logits = run(model, pair[base], changes)
    value = logits[pair["foil"]] - logits[pair["target"]]
    (slope,) = torch.autograd.grad(value, kept["added"])
    return slope[0]
