"""Every site, recorded and patched, against a GPT-2 written out a second time."""

import itertools
import math

import pytest
import torch
from helpers import make_model
from torch.nn.functional import gelu, layer_norm

from mingpt import Patch, PatchError
from mingpt.sites import HEAD_SITES, RESIDUAL_SITES, SITES, recorded_shape

CLEAN = torch.tensor([[5, 9, 11, 3, 7], [1, 2, 3, 4, 5]])
CORRUPT = torch.tensor([[5, 9, 22, 3, 7], [6, 2, 3, 4, 8]])
N_LAYER, N_HEAD, T = 3, 2, 5


def reference(model, ids, replace=None):
    """Return the logits and every activation (n_layer, B, ...), in plain einsums.

    `replace(site, layer, x)` returns the tensor to use in place of x.
    """
    replace = replace or (lambda site, layer, x: x)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    nh, C = model.config.n_head, model.config.n_embd
    seen = {site: [] for site in SITES}

    def at(site, layer, x):
        seen[site].append(replace(site, layer, x))
        return seen[site][-1]

    def norm(x, name):
        return layer_norm(x, (C,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    x = state["transformer.wte.weight"][ids] + state["transformer.wpe.weight"][: ids.size(1)]
    for layer in range(model.config.n_layer):
        block = f"transformer.h.{layer}"
        x = at("resid_pre", layer, x)
        weight = state[f"{block}.attn.c_attn.weight"].view(3, nh, C // nh, C)
        bias = state[f"{block}.attn.c_attn.bias"].view(3, nh, 1, C // nh)
        qkv = torch.einsum("btc,xhsc->xbhts", norm(x, f"{block}.ln_1"), weight) + bias[:, None]
        q, k, v = (at(name, layer, part) for name, part in zip("qkv", qkv, strict=True))
        scores = torch.einsum("bhqs,bhks->bhqk", q, k) / math.sqrt(C // nh)
        scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
        z = torch.einsum("bhqk,bhks->bhqs", at("pattern", layer, scores.softmax(-1)), v)
        weight = state[f"{block}.attn.c_proj.weight"].view(C, nh, C // nh)
        out = torch.einsum("bhts,chs->btc", at("z", layer, z), weight)
        x = x + at("attn_out", layer, out + state[f"{block}.attn.c_proj.bias"])
        x = at("resid_mid", layer, x)
        hidden = norm(x, f"{block}.ln_2") @ state[f"{block}.mlp.c_fc.weight"].T
        hidden = gelu(hidden + state[f"{block}.mlp.c_fc.bias"], approximate="tanh")
        out = hidden @ state[f"{block}.mlp.c_proj.weight"].T + state[f"{block}.mlp.c_proj.bias"]
        x = at("resid_post", layer, x + at("mlp_out", layer, out))
    logits = norm(x, "transformer.ln_f") @ state["transformer.wte.weight"].T
    return logits, {site: torch.stack(parts) for site, parts in seen.items()}


@pytest.fixture
def recorded():
    """A float64 model with every site of the clean run recorded."""
    model = make_model().double()
    model(CLEAN, record=SITES)
    return model


def test_every_site_is_recorded_as_it_is(recorded):
    _, expected = reference(recorded, CLEAN)
    assert recorded.recording.keys() == SITES.keys()
    for site, activation in recorded.recording.items():
        torch.testing.assert_close(activation, expected[site], rtol=0, atol=1e-12)
        assert not activation.requires_grad


def test_a_recording_holds_what_was_asked_for_and_nothing_else(recorded):
    model = recorded
    assert model.activations is model.recording["resid_post"]
    model(CLEAN, record="z")
    assert [*model.recording] == ["z"]
    assert model.activations is None
    model(CLEAN, record=["q", "z", "q"])
    assert [*model.recording] == ["z", "q"]  # in the order of SITES, each once
    model(CLEAN, record=True)
    assert [*model.recording] == ["resid_post"]
    kept = model.recording
    model(CLEAN, record=())
    model(CLEAN)
    assert model.recording is kept


@pytest.mark.parametrize("site", SITES)
def test_a_patch_replaces_that_and_nothing_else(recorded, site):
    heads = (None, 0, 1) if site in HEAD_SITES else (None,)
    for layer, head, position in itertools.product(range(N_LAYER), heads, (None, 0, 2, 4)):
        clean = recorded.recording[site][layer]
        where = [slice(None)] * clean.dim()
        where[-2] = slice(None) if position is None else position
        if head is not None:
            where[-3] = head

        def replace(name, number, x, layer=layer, clean=clean, where=tuple(where)):
            if (name, number) == (site, layer):
                x = x.clone()
                x[where] = clean[where]
            return x

        expected, _ = reference(recorded, CORRUPT, replace)
        logits, _ = recorded(CORRUPT, patch=Patch(site, layer, position, head))
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
        from_the_end = Patch(
            site,
            layer - N_LAYER,
            None if position is None else position - T,
            None if head is None else head - N_HEAD,
        )
        assert torch.equal(recorded(CORRUPT, patch=from_the_end)[0], logits)


def test_a_pair_is_a_patch_of_resid_post(recorded):
    plain, _ = recorded(CORRUPT, patch=(1, 2))
    assert torch.equal(plain, recorded(CORRUPT, patch=Patch("resid_post", 1, 2))[0])
    assert torch.equal(plain, recorded(CORRUPT, patch=[Patch("resid_post", 1, 2)])[0])


def test_several_patches_at_once(recorded):
    patches = [Patch("mlp_out", 0, 2), Patch("z", 1, None, 1), Patch("mlp_out", 0, 4)]
    clean = recorded.recording

    def replace(site, layer, x):
        x = x.clone()
        if (site, layer) == ("mlp_out", 0):
            x[:, [2, 4]] = clean[site][0][:, [2, 4]]
        if (site, layer) == ("z", 1):
            x[:, 1] = clean[site][1][:, 1]
        return x

    expected, _ = reference(recorded, CORRUPT, replace)
    logits, _ = recorded(CORRUPT, patch=patches)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    assert torch.equal(recorded(CORRUPT, patch=patches[::-1])[0], logits)


def test_all_of_a_run_put_into_another_makes_it_that_run(recorded):
    clean, _ = recorded(CLEAN)
    for site in ("resid_pre", "resid_mid", "resid_post"):
        for layer in range(N_LAYER):
            assert torch.equal(recorded(CORRUPT, patch=Patch(site, layer))[0], clean)


@pytest.mark.parametrize("site", SITES)
def test_a_run_patched_from_itself_is_unchanged_bit_for_bit(site):
    model = make_model()
    logits, _ = model(CLEAN, record=site)
    for layer in range(N_LAYER):
        assert torch.equal(model(CLEAN, patch=Patch(site, layer))[0], logits)
        assert torch.equal(model(CLEAN, patch=Patch(site, layer, 3))[0], logits)


# --------------------------------------------------------------------- values of one's own


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("whole", [True, False])
def test_a_value_of_ones_own_is_put_in(site, whole):
    """Every site, whole and at one position (of one head), against the second GPT-2."""
    model = make_model()
    shape = tuple(recorded_shape(site, model.config, *CORRUPT.shape).values())[1:]
    where = (slice(None),) if whole else (slice(None), *[1] * (site in HEAD_SITES), 2)
    value = torch.randn(shape, generator=torch.Generator().manual_seed(1))[where]
    if site == "pattern":
        value = value.softmax(-1)

    def replace(name, layer, x):
        if (name, layer) == (site, 1):
            x = x.clone()
            x[where] = value
        return x

    expected, _ = reference(model, CORRUPT, replace)
    patch = Patch(site, 1, value=value)
    if not whole:
        patch = Patch(site, 1, position=2, head=1 if site in HEAD_SITES else None, value=value)
    assert not model.recording  # no recording is needed
    logits, _ = model(CORRUPT, patch=patch)
    torch.testing.assert_close(logits, expected)
    assert (logits - model(CORRUPT)[0]).abs().max() > 1e-3


def test_a_value_is_spread_over_the_axes_that_it_lacks(model):
    zeros = model(CORRUPT, patch=Patch("mlp_out", 0, value=torch.zeros(16)))[0]
    whole = torch.zeros(*CORRUPT.shape, 16)
    assert torch.equal(zeros, model(CORRUPT, patch=Patch("mlp_out", 0, value=whole))[0])


def test_a_value_is_copied_when_it_is_taken(model):
    value = torch.zeros(16)
    patch = Patch("mlp_out", 0, value=value)
    expected = model(CORRUPT, patch=patch)[0]
    (resolved,) = model.resolve(CORRUPT, patch)
    value += 1
    assert torch.equal(resolved.value, torch.zeros(16))
    assert not torch.equal(model(CORRUPT, patch=patch)[0], expected)


def test_patches_are_equal_if_their_values_are_the_same_tensor():
    value = torch.zeros(16)
    assert Patch("z", 0, value=value) == Patch("z", 0, value=value)
    assert Patch("z", 0, value=value) != Patch("z", 0, value=torch.zeros(16))
    assert Patch("z", 0) == Patch("z", 0)
    assert Patch("z", 0) != Patch("z", 1)
    assert len({Patch("z", 0, value=value), Patch("z", 0, value=value), Patch("z", 0)}) == 2


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (Patch("mlp_out", 0, value=torch.zeros(3)),
         r"value is \(3,\), which does not broadcast to \(B, T, C\) = \(2, 5, 16\)"),
        (Patch("z", 0, 1, 0, torch.zeros(1, 1, 8)),
         r"value is \(1, 1, 8\), which does not broadcast to \(B, hs\) = \(2, 8\)"),
        (Patch("z", 0, value=torch.zeros(8).double()), "value is torch.float64 on cpu, the model"),
        (Patch("z", 0, value=0.0), "a patch's value is a tensor, not 0.0"),
        (Patch("z", 3, value=torch.zeros(8)), "layer 3 is out of range"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(model, patch, message):
    with pytest.raises(PatchError, match=message):
        model(CORRUPT, patch=patch)


@pytest.mark.parametrize("site", SITES)
def test_a_patched_run_can_be_differentiated(site):
    model = make_model()
    model(CLEAN, record=SITES)
    _, loss = model(CORRUPT, CLEAN, patch=Patch(site, 1, 2), record=SITES)
    loss.backward()
    assert model.transformer.h[0].mlp.c_fc.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("site", SITES)
def test_generation_is_patched_while_the_prompt_is_whole(site):
    """Compare each step with a forward over all tokens so far, with the same patch."""
    model = make_model(block_size=8)
    model(CLEAN, record=site)
    patch = Patch(site, 1, None if site in HEAD_SITES else 2)
    value = model.recording[site][1]
    out = model.generate(CORRUPT, 3, patch=patch)
    ids = CORRUPT
    for _ in range(3):

        def replace(name, layer, x):
            if (name, layer) == (site, 1):
                x = x.clone()
                if site in HEAD_SITES:
                    x[:, :, :T, : value.size(-1)] = value
                else:
                    x[:, 2] = value[:, 2]
            return x

        logits, _ = reference(model, ids, replace)
        ids = torch.cat((ids, logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(out, ids)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (Patch("resid", 0, 0), "no site 'resid'; there are resid_pre, "),
        (Patch("z", 3, 0), "layer 3 is out of range"),
        (Patch("z", 0, 5), "position 5 is out of range"),
        (Patch("z", 0, 0, 2), "head 2 is out of range"),
        (Patch("z", 0, 0, -3), "head -3 is out of range"),
        (Patch("mlp_out", 0, 0, 0), "mlp_out has no heads"),
        (Patch("z", 0.5, 0), "layer is a whole number, not 0.5"),
        (Patch("z", 0, "last"), "position is a whole number, not 'last'"),
        ([Patch("z", 0), (0, 1)], r"a patch is \(layer, position\), a Patch, or a list"),
        ([0], r"a patch is \(layer, position\), a Patch, or a list"),
        ("z", r"a patch is \(layer, position\), a Patch, or a list"),
    ],
)
def test_bad_patches_are_refused(recorded, patch, message):
    with pytest.raises(PatchError, match=message):
        recorded(CORRUPT, patch=patch)


def test_an_empty_list_patches_nothing(recorded):
    unpatched, _ = recorded(CORRUPT)
    assert torch.equal(recorded(CORRUPT, patch=[])[0], unpatched)


def test_a_site_that_is_not_recorded_is_refused(recorded):
    recorded(CLEAN, record=["z", "q"])
    with pytest.raises(PatchError, match=r"mlp_out is not recorded, only .*record='mlp_out'"):
        recorded(CORRUPT, patch=Patch("mlp_out", 0, 0))


@pytest.mark.parametrize("site", SITES)
def test_a_recording_of_another_length_is_refused(recorded, site):
    axes = "n_layer, B, T, C" if site in RESIDUAL_SITES else "n_layer, B, nh, T, "
    with pytest.raises(PatchError, match=rf"another shape \({axes}"):
        recorded(CORRUPT[:, :4], patch=Patch(site, 0, 0))


@pytest.mark.parametrize("record", ["resid", ["z", "y"], [3]])
def test_unknown_sites_are_not_recorded(recorded, record):
    kept = recorded.recording
    with pytest.raises(PatchError, match="no site"):
        recorded(CLEAN, record=record)
    assert recorded.recording is kept
