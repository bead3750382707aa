"""record and patch: the identities that must hold bit for bit, and the errors."""

import itertools

import pytest
import torch
from helpers import make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt import GPT, PatchError

N_LAYER, T = 3, 7  # of `model` and of the prompts below
CLEAN = torch.tensor([[5, 9, 11, 3, 7, 30, 5]])
CORRUPT = torch.tensor([[5, 9, 22, 3, 7, 30, 5]])  # differs at position 2


def logits_of(model: GPT, ids: torch.Tensor, **flags) -> torch.Tensor:
    return model(ids, **flags)[0]


@pytest.fixture
def recorded(model):
    """`model`, which has recorded the clean run, and the run's logits."""
    return model, logits_of(model, CLEAN, record=True)


def test_recording_changes_no_logit(model):
    assert torch.equal(logits_of(model, CLEAN), logits_of(model, CLEAN, record=True))


def test_the_recording_is_the_stream_after_each_block(recorded):
    model, _ = recorded
    seen = []
    hooks = [
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
        for block in model.transformer.h
    ]
    model(CLEAN)
    for hook in hooks:
        hook.remove()
    assert torch.equal(model.activations, torch.stack(seen))
    assert model.activations.shape == (N_LAYER, 1, T, 16)


def test_the_recording_is_a_detached_copy(recorded):
    model, _ = recorded
    before = model.activations.clone()
    assert not model.activations.requires_grad
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    model(CORRUPT)
    model(CORRUPT, patch=(0, 2))
    assert torch.equal(model.activations, before)


def test_a_forward_without_record_keeps_the_recording(recorded):
    model, _ = recorded
    kept = model.activations
    model(CORRUPT)
    model(torch.zeros(2, 4, dtype=torch.long))
    assert model.activations is kept


def test_last_logits_are_a_detached_copy(recorded):
    model, logits = recorded
    assert torch.equal(model.last_logits, logits[:, -1])
    assert not model.last_logits.requires_grad
    with torch.no_grad():
        logits.zero_()
    assert model.last_logits.any()


@pytest.mark.parametrize(("layer", "position"), [*itertools.product(range(N_LAYER), range(T))])
def test_clean_into_clean_changes_nothing(recorded, layer, position):
    model, logits = recorded
    assert torch.equal(logits_of(model, CLEAN, patch=(layer, position)), logits)


@pytest.mark.parametrize("patch", [(N_LAYER - 1, T - 1), (-1, -1)])
def test_last_layer_and_position_give_the_clean_logits(recorded, patch):
    model, logits = recorded
    assert torch.equal(logits_of(model, CORRUPT, patch=patch)[:, -1], logits[:, -1])


@pytest.mark.parametrize(("layer", "position"), [*itertools.product(range(N_LAYER), (0, 1))])
def test_before_the_first_difference_nothing_changes(recorded, layer, position):
    model, _ = recorded
    expected = logits_of(model, CORRUPT)
    assert torch.equal(logits_of(model, CORRUPT, patch=(layer, position)), expected)


@pytest.mark.parametrize("position", range(T - 1))
def test_last_layer_before_the_last_position_changes_no_last_logit(recorded, position):
    model, _ = recorded
    expected = logits_of(model, CORRUPT)[:, -1]
    patched = logits_of(model, CORRUPT, patch=(N_LAYER - 1, position))
    assert torch.equal(patched[:, -1], expected)


@pytest.mark.parametrize("layer", range(N_LAYER))
def test_positions_differ_where_they_should(recorded, layer):
    """From the first difference on, patching each position gives different logits."""
    model, _ = recorded
    unpatched = logits_of(model, CORRUPT)[0, -1]
    last = [logits_of(model, CORRUPT, patch=(layer, position))[0, -1] for position in range(2, T)]
    read = last if layer < N_LAYER - 1 else last[-1:]
    for a, b in itertools.combinations([unpatched, *read], 2):
        assert not torch.equal(a, b)


def test_only_that_vector_is_replaced(recorded):
    model, _ = recorded
    clean = model.activations
    model(CORRUPT, record=True)
    corrupt = model.activations
    model.activations = clean
    model(CORRUPT, record=True, patch=(1, 3))  # both: the patched run replaces the recording
    patched = model.activations
    assert torch.equal(patched[0], corrupt[0])
    assert torch.equal(patched[1, :, 3], clean[1, :, 3])
    others = [p for p in range(T) if p != 3]
    assert torch.equal(patched[1, :, others], corrupt[1, :, others])
    assert torch.equal(patched[2, :, :3], corrupt[2, :, :3])
    assert (patched[2, :, 3:] != corrupt[2, :, 3:]).any(-1).all()


def test_what_a_hook_has_seen_is_not_patched_behind_its_back(recorded):
    model, _ = recorded
    seen = []
    block = model.transformer.h[1]
    hook = block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(CORRUPT)
    model(CORRUPT, patch=(1, 3))
    hook.remove()
    assert torch.equal(seen[0], seen[1])


def test_negative_indices_count_from_the_end(recorded):
    model, _ = recorded
    for layer, position in itertools.product(range(N_LAYER), range(T)):
        plain = logits_of(model, CORRUPT, patch=(layer, position))
        negative = logits_of(model, CORRUPT, patch=(layer - N_LAYER, position - T))
        assert torch.equal(plain, negative)


@settings(max_examples=20)
@given(layer=st.integers(0, 2), position=st.integers(0, 6), seed=st.integers(0, 9))
def test_batch_and_single_agree(layer, position, seed):
    model = make_model(seed)
    clean, corrupt = torch.randint(40, (2, 4, 7), generator=torch.Generator().manual_seed(seed))
    model(clean, record=True)
    together = logits_of(model, corrupt, patch=(layer, position))
    for row in range(4):
        model(clean[[row]], record=True)
        alone = logits_of(model, corrupt[[row]], patch=(layer, position))
        assert (alone - together[[row]]).abs().max() <= 1e-5 * together.abs().max()


def test_gradients_flow_through_a_patched_forward(recorded):
    """A patched forward can be trained or differentiated: nothing in it works in place."""
    model, _ = recorded
    _, loss = model(CORRUPT, CLEAN, patch=(1, 2), record=True)
    loss.backward()
    assert model.transformer.h[0].mlp.c_fc.weight.grad.abs().sum() > 0


def test_a_failed_forward_leaves_the_recording(recorded):
    model, _ = recorded
    kept, logits = model.activations, model.last_logits
    with pytest.raises(IndexError):
        model(torch.full((1, T), 10**6), record=True)
    assert model.activations is kept
    assert model.last_logits is logits


# --------------------------------------------------------------------- errors


def test_a_patch_needs_a_recording(model):
    with pytest.raises(PatchError, match="nothing is recorded"):
        model(CORRUPT, patch=(0, 0))


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ((3, 0), "layer 3 is out of range"),
        ((-4, 0), "layer -4 is out of range"),
        ((0, 7), "position 7 is out of range"),
        ((0, -8), "position -8 is out of range"),
        ((0,), r"\(layer, position\)"),
        ((0, 1, 2), r"\(layer, position\)"),
        ((0, 1.5), r"\(layer, position\)"),
        (3, r"\(layer, position\)"),
    ],
)
def test_bad_patches_are_refused(recorded, patch, message):
    model, _ = recorded
    with pytest.raises(PatchError, match=message):
        model(CORRUPT, patch=patch)


@pytest.mark.parametrize("ids", [CORRUPT[:, :-1], CORRUPT.repeat(2, 1)])
def test_another_shape_is_refused(recorded, ids):
    model, _ = recorded
    with pytest.raises(PatchError, match="another shape"):
        model(ids, patch=(0, 0))


def test_another_width_is_refused(recorded):
    model, _ = recorded
    wider = make_model(n_embd=20)
    wider.activations = model.activations
    with pytest.raises(PatchError, match="another shape"):
        wider(CORRUPT, patch=(0, 0))


def test_another_dtype_is_refused(recorded):
    model, _ = recorded
    model.double()
    with pytest.raises(PatchError, match=r"float32.*float64.*record again"):
        model(CORRUPT, patch=(0, 0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_identities_hold_in_every_dtype(dtype):
    model = make_model().to(dtype)
    logits = logits_of(model, CLEAN, record=True)
    unpatched = logits_of(model, CORRUPT)
    assert torch.equal(logits_of(model, CLEAN, patch=(1, 4)), logits)
    assert torch.equal(logits_of(model, CORRUPT, patch=(-1, -1))[:, -1], logits[:, -1])
    assert torch.equal(logits_of(model, CORRUPT, patch=(0, 1)), unpatched)
