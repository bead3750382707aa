"""Patching transformers' GPT-2 by PyTorch's own hooks: the oracle of published figures.

Nothing of this project is used here. The figures are made as TransformerLens, nnsight and the
course's notebooks make theirs.
"""

from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from transformers import GPT2Config, GPT2LMHeadModel

BOS = 59
L, H, HS = 3, 2, 8


def make_model(**fields):
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=L, n_head=H, n_embd=H * HS, vocab_size=60, n_positions=12,
        bos_token_id=BOS, eos_token_id=BOS, initializer_range=0.3, attn_implementation="eager",
        **fields,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # transformers starts them at 0, which would hide b_V and b_O
            parameter.data.normal_(std=0.3)
    return model


def module_of(model, site, layer):
    """Return the module that a site is an output of (or an input), and the columns."""
    block = model.transformer.h[layer]
    return {
        "resid_pre": (block, "in"), "resid_post": (block, "out"),
        "attn_out": (block.attn, "out"), "mlp_out": (block.mlp, "out"),
        "z": (block.attn.c_proj, "in"),
        "q": (block.attn.c_attn, "out"), "k": (block.attn.c_attn, "out"),
        "v": (block.attn.c_attn, "out"), "resid_mid": (block.ln_2, "in"),
    }[site]  # fmt: skip


def columns(site, head):
    if site not in ("z", "q", "k", "v"):
        return slice(None)
    first = {"z": 0, "q": 0, "k": H * HS, "v": 2 * H * HS}[site]
    heads = slice(0, H) if head is None else slice(head, head + 1)
    return slice(first + heads.start * HS, first + heads.stop * HS)


@contextmanager
def hooked(module, where, change):
    """Let `change(x)` return what goes on in place of a module's input or first output."""

    def before(module, inputs):
        return (change(inputs[0]), *inputs[1:])

    def after(module, inputs, output):
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    if where == "in":
        handle = module.register_forward_pre_hook(before)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def run(model, ids, changes=()):
    """Return the last position's logits (V,); changes are (site, layer, function of x)."""
    with ExitStack() as stack:
        for site, layer, change in changes:
            stack.enter_context(hooked(*module_of(model, site, layer), change))
        return model(torch.tensor([ids])).logits[0, -1]


def keeping(kept, key):
    """Return a change that changes nothing, and keeps the activation under a key."""

    def change(x):
        kept[key] = x
        return x

    return change


def record(model, ids, site):
    """Return a site's activation of every layer, as modules have them: L times (1, T, columns)."""
    kept = {}
    run(model, ids, [(site, layer, keeping(kept, layer)) for layer in range(L)])
    return [kept[layer] for layer in range(L)]


def attentions(model, ids):
    return model(torch.tensor([ids]), output_attentions=True).attentions  # L times (1, H, T, T)


def difference(logits, pair):
    """Return target - foil, the published sign."""
    return logits[pair["target"]] - logits[pair["foil"]]


@torch.no_grad()
def patched(model, pair, site, layer, position=None, head=None):
    """Return target - foil of the corrupt run with the clean run's activation put in."""
    if site == "pattern":
        return _patched_pattern(model, pair, layer, position, head)
    source = record(model, pair["clean"], site)[layer]
    rows = slice(None) if position is None else slice(position, position + 1)

    def put(x):
        x = x.clone()
        x[:, rows, columns(site, head)] = source[:, rows, columns(site, head)]
        return x

    return difference(run(model, pair["corrupt"], [(site, layer, put)]), pair)


def _patched_pattern(model, pair, layer, position, head):
    """Put the clean pattern's rows in: z becomes pattern @ v, with the corrupt run's v."""
    pattern = attentions(model, pair["clean"])[layer][0, head]  # (T, T)
    v = record(model, pair["corrupt"], "v")[layer][0, :, columns("v", head)]  # (T, HS)
    z = pattern @ v
    rows = slice(None) if position is None else slice(position, position + 1)

    def put(x):
        x = x.clone()
        x[0, rows, columns("z", head)] = z[rows]
        return x

    return difference(run(model, pair["corrupt"], [("z", layer, put)]), pair)


def unpatched(model, pair):
    with torch.no_grad():
        return [difference(run(model, pair[name]), pair) for name in ("clean", "corrupt")]


@contextmanager
def with_rules(model, rules):
    """Give the model the backward pass of RelP's rules, by hooks and in place of the softmax."""

    def norm(module, inputs, output):
        x = inputs[0]
        centred = x - x.sum(-1, keepdim=True) / x.shape[-1]
        divisor = torch.sqrt(centred.pow(2).sum(-1, keepdim=True) / x.shape[-1] + module.eps)
        return centred / divisor.data * module.weight + module.bias

    def activation(module, inputs, output):
        x = inputs[0]
        coefficient = torch.full_like(x, 0.5)
        coefficient[x != 0] = (output / x).data[x != 0]
        return x * coefficient

    def constant(*inputs, **how):
        return softmax(*inputs, **how).data.requires_grad_()

    softmax = torch.nn.functional.softmax  # which only attention calls
    with ExitStack() as stack:
        if "pattern" in rules:
            stack.enter_context(mock.patch("torch.nn.functional.softmax", constant))
        for module in model.modules():
            if "ln" in rules and isinstance(module, torch.nn.LayerNorm):
                stack.enter_context(module.register_forward_hook(norm))
        for block in model.transformer.h:
            if "gelu" in rules:
                stack.enter_context(block.mlp.act.register_forward_hook(activation))
        yield


def gradients(model, ids, pair, site, rules=(), embedded=None):
    """Return the gradient of target - foil at a site: L times (1, T, columns), or the patterns'.

    embedded: the sums of both embeddings (1, T, C), in place of those of `ids`.
    """
    kept = {}
    # The middle stream is the stream before plus attn_out, so its gradient is attn_out's.
    leaf = "attn_out" if site == "resid_mid" else site
    changes = [] if site == "pattern" else [
        (leaf, layer, keeping(kept, layer)) for layer in range(L)]  # fmt: skip
    if embedded is not None:
        changes.insert(0, ("resid_pre", 0, lambda x: embedded))
    with ExitStack() as stack:
        stack.enter_context(with_rules(model, rules))
        for name, layer, change in changes:
            stack.enter_context(hooked(*module_of(model, name, layer), change))
        out = model(torch.tensor([ids]), output_attentions=True)
    there = out.attentions if site == "pattern" else [kept[layer] for layer in range(L)]
    return torch.autograd.grad(difference(out.logits[0, -1], pair), there)


def embeddings(model, ids):
    """Return the sum of both embeddings (1, T, C)."""
    positions = torch.arange(len(ids))
    return (model.transformer.wte(torch.tensor([ids])) + model.transformer.wpe(positions)).detach()


def attribution(model, pair, site, rules=(), steps=None, base="corrupt"):
    """Return gradient times (source - base): (L, [H,] T).

    The gradient is that at the base run; with steps, the mean of those of runs whose embeddings
    are 1/steps, 2/steps, ... of the way to the source run.
    """
    source = {"clean": "corrupt", "corrupt": "clean"}[base]
    if steps is None:
        mean = gradients(model, pair[base], pair, site, rules)
    else:
        old, new = (embeddings(model, pair[name]) for name in (base, source))
        found = []
        for k in range(1, steps + 1):
            embedded = ((1 - k / steps) * old + k / steps * new).requires_grad_()
            found.append(gradients(model, pair[base], pair, site, rules, embedded))
        mean = [sum(of_layer) / steps for of_layer in zip(*found, strict=True)]
    recorded = attentions if site == "pattern" else lambda model, ids: record(model, ids, site)
    with torch.no_grad():
        new, old = (recorded(model, pair[name]) for name in (source, base))
    effects = torch.stack([(g * (a - b))[0] for g, a, b in zip(mean, new, old, strict=True)])
    if site == "pattern":
        return effects.sum(-1).detach()  # (L, H, T)
    if site in ("q", "k", "v", "z"):
        effects = effects[..., columns(site, None)].unflatten(-1, (H, HS))  # (L, T, H, HS)
        return effects.sum(-1).transpose(1, 2).detach()  # (L, H, T)
    return effects.sum(-1).detach()  # (L, T)


@torch.no_grad()
def streams(model, pair):
    """Return target - foil of every stage of the stream through ln_f with its final statistics."""
    stages = []
    for layer in range(L):
        stages += [record(model, pair["clean"], site)[layer][0, -1]
                   for site in ("resid_pre", "resid_mid")]  # fmt: skip
    stages.append(record(model, pair["clean"], "resid_post")[-1][0, -1])
    return torch.stack([read(model, pair, stage, stages[-1]) for stage in stages])


def read(model, pair, part, final):
    """Return what a part of the final stream adds to target - foil, without ln_f's bias."""
    norm, unembedding = model.transformer.ln_f, model.lm_head.weight
    scale = (final.var(unbiased=False) + norm.eps).sqrt()
    normal = (part - part.mean()) / scale * norm.weight
    return normal @ (unembedding[pair["target"]] - unembedding[pair["foil"]])


@torch.no_grad()
def head_terms(model, pair, zero=None):
    """Return each head's direct contribution without b_V, as TransformerLens's weights give it."""
    changes = []
    if zero is not None:
        layer, head = zero

        def blank(x):
            x = x.clone()
            bias = model.transformer.h[layer].attn.c_attn.bias
            x[0, -1, columns("z", head)] = bias[columns("v", head)]
            return x

        changes = [("z", layer, blank)]
    kept = {}
    watch = [("z", layer, keeping(kept, layer)) for layer in range(L)]
    watch.append(("resid_post", L - 1, keeping(kept, "end")))
    logits = run(model, pair["clean"], [*changes, *watch])
    terms = torch.zeros(L, H)
    for layer in range(L):
        attention = model.transformer.h[layer].attn
        for head in range(H):
            z = kept[layer][0, -1, columns("z", head)]
            z = z - attention.c_attn.bias[columns("v", head)]
            written = z @ attention.c_proj.weight[columns("z", head)]  # Conv1D: (in, out)
            terms[layer, head] = read(model, pair, written, kept["end"][0, -1])
    return terms, difference(logits, pair)
