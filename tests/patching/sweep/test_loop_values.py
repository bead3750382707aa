"""Patches with values of their own, in the loop: ablations and noise, against forward hooks."""

import itertools

import numpy as np
import pytest
import torch
from helpers import last, make_model

from mingpt import Patch
from patching import PromptPair, patch_sweep

HEAD_SIZE = 8  # of make_model()


def margin(logits):
    """Return the foil's logit minus the target's, as logit_diff does."""
    return (logits[22] - logits[11]).item()


def hooked(module, change, model, ids, *, before=False):
    """Return the logits (V,) of a run in which a hook changes a module's output or input."""

    def after(module, inputs, output):
        return change(output.clone())

    def ahead(module, inputs):
        return (change(inputs[0].clone()), *inputs[1:])

    register = module.register_forward_pre_hook if before else module.register_forward_hook
    handle = register(ahead if before else after)
    try:
        return last(model, ids)
    finally:
        handle.remove()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@torch.no_grad()
def test_zero_ablation_of_heads(model, pair, direction):
    """A head's output is the input of c_proj; its columns are set to 0 there."""

    def zero(cell):
        return [Patch("z", cell.layer, head=cell.head, value=torch.zeros(HEAD_SIZE))]

    found = patch_sweep(
        model, pair, site="z", direction=direction, patches=zero, method="loop"
    ).values
    ids = pair.ids({"denoise": "corrupt", "noise": "clean"}[direction])
    for layer, head in itertools.product(range(3), range(2)):

        def without(z, head=head):
            z[..., head * HEAD_SIZE : (head + 1) * HEAD_SIZE] = 0
            return z

        projection = model.transformer.h[layer].attn.c_proj
        expected = margin(hooked(projection, without, model, ids, before=True))
        assert found[layer, head] == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_mean_ablation_of_mlps(model, pair):
    """An MLP's output at one position is set to its mean over other prompts."""
    others = torch.randint(40, (5, len(pair)), generator=torch.Generator().manual_seed(0))
    means = []  # of each layer (C,)
    for block in model.transformer.h:
        kept = []
        handle = block.mlp.register_forward_hook(lambda m, i, out, kept=kept: kept.append(out))
        model(others)
        handle.remove()
        means.append(kept[0].mean((0, 1)))

    def mean(cell):
        return [Patch("mlp_out", cell.layer, cell.position, value=means[cell.layer])]

    found = patch_sweep(model, pair, site="mlp_out", patches=mean, method="loop").values
    for layer, position in itertools.product(range(3), range(len(pair))):

        def put_in(out, layer=layer, position=position):
            out[0, position] = means[layer]
            return out

        mlp = model.transformer.h[layer].mlp
        expected = margin(hooked(mlp, put_in, model, pair.corrupt_ids))
        assert found[layer, position] == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_gaussian_noise_on_the_embedding_and_one_restored_vector(model, pair):
    """Causal tracing: noise on the differing token, and one vector of the clean run put back."""
    generator = torch.Generator().manual_seed(0)
    model(torch.tensor([pair.clean_ids]), record=["resid_pre", "resid_post"])
    embedded, clean = model.recording["resid_pre"][0, 0], model.recording["resid_post"][:, 0]
    noisy = embedded[2] + 0.5 * torch.randn(16, generator=generator)  # (C,)
    noise = Patch("resid_pre", 0, 2, value=noisy)

    def restored(cell):
        value = clean[cell.layer, cell.position]
        return [noise, Patch("resid_post", cell.layer, cell.position, value=value)]

    same = PromptPair.from_ids(pair.corrupt_ids, pair.clean_ids, 11, 22)  # base: the clean prompt
    found = patch_sweep(model, same, patches=restored, method="loop").values
    alone = patch_sweep(model, same, patches=lambda cell: [noise], method="loop").values

    def add_noise(x):
        x[0, 2] = noisy
        return x

    first = model.transformer.h[0]
    without = margin(hooked(first, add_noise, model, pair.clean_ids, before=True))
    np.testing.assert_allclose(alone, np.full((3, 7), without), atol=1e-5)
    handle = first.register_forward_pre_hook(
        lambda module, inputs: (add_noise(inputs[0].clone()), *inputs[1:])
    )
    for layer, position in itertools.product(range(3), range(7)):

        def restore(out, layer=layer, position=position):
            out[0, position] = clean[layer, position]
            return out

        expected = margin(hooked(model.transformer.h[layer], restore, model, pair.clean_ids))
        assert found[layer, position] == pytest.approx(expected, abs=1e-5)
    handle.remove()
    assert found[2, 6] == pytest.approx(margin(last(model, pair.clean_ids)), abs=1e-5)


@torch.no_grad()
def test_patches_with_and_without_values_together(pair):
    """A value of one's own for attention, the source run's activation for the MLP."""
    model = make_model(n_layer=2)

    def both(cell):
        zero = Patch("attn_out", cell.layer, cell.position, value=torch.zeros(16))
        return [zero, Patch("mlp_out", cell.layer, cell.position)]

    found = patch_sweep(model, pair, patches=both, method="loop").values
    kept = {}
    handles = [
        block.mlp.register_forward_hook(lambda m, i, out, n=n: kept.update({n: out.clone()}))
        for n, block in enumerate(model.transformer.h)
    ]
    last(model, pair.clean_ids)
    for handle in handles:
        handle.remove()
    clean = dict(kept)
    for layer, position in itertools.product(range(2), range(7)):
        block = model.transformer.h[layer]

        def put_in(out, layer=layer, position=position):
            out[0, position] = clean[layer][0, position]
            return out

        def zero(out, position=position):
            out[0, position] = 0
            return out

        handle = block.attn.register_forward_hook(lambda m, i, out, zero=zero: zero(out.clone()))
        expected = margin(hooked(block.mlp, put_in, model, pair.corrupt_ids))
        handle.remove()
        assert found[layer, position] == pytest.approx(expected, abs=1e-5)
