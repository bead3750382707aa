"""Paths against hooks on transformers' GPT-2, in float64."""

import numpy as np
import pytest
import torch
from hooked_paths import all_senders, edge_estimate, oracle_model, value_of

from mingpt import GPT
from patching import PromptPair, patch_edges, patch_paths
from patching.paths.loop import frozen_patches, run_path, sender_patches
from patching.paths.request import PathRequest
from patching.sweep.request import DIRECTIONS

PAIR = {"clean": [5, 9, 11, 3, 7, 30], "corrupt": [5, 9, 22, 3, 40, 30], "target": 11, "foil": 22}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    theirs = oracle_model()
    folder = tmp_path_factory.mktemp("oracle")
    theirs.save_pretrained(folder)
    return theirs, GPT.from_pretrained(folder).double().eval()


@pytest.fixture
def pair():
    return PromptPair.from_ids(PAIR["clean"], PAIR["corrupt"], PAIR["target"], PAIR["foil"])


def in_order(result):
    """Return a result's values in the order of the senders."""
    rows = np.column_stack((result.values, result.mlp_values)).ravel()
    return np.concatenate(([result.embedding_value], rows))


def has_path(sender, receivers):
    """Return True if a sender writes before some receiver reads, by layers and halves of them."""
    wrote = -1 if sender == "input" else sender[1] + (0.6 if sender[0] == "m" else 0.1)
    if receivers == "logits":
        return True
    return any(wrote < layer + (0.5 if kind == "mlp" else 0) for kind, layer, _ in receivers)


# receiver as text -> as the oracle has it, and what the two take as positions
CASES = [
    ("logits", "logits", None, None),
    ("logits", "logits", [2, 5], None),
    ("q:2.1", [("q", 2, 1)], None, None),
    ("q:1.0,2.1,k:2.0,v:1.1,mlp:1", [("q", 1, 0), ("q", 2, 1), ("k", 2, 0), ("v", 1, 1),
                                     ("mlp", 1, None)], None, None),
    ("v:1.0,1.1,2.0", [("v", 1, 0), ("v", 1, 1), ("v", 2, 0)], [2, 4], [1, 3, 4, 5]),
    ("mlp:0,2", [("mlp", 0, None), ("mlp", 2, None)], None, "end"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "receivers", "sent", "read"), CASES)
@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_map_is_that_of_hooks(models, pair, text, receivers, sent, read, mlps, direction):
    theirs, ours = models
    found = patch_paths(
        ours, pair, receiver=text, mlps=mlps, direction=direction,
        sender_positions=sent, receiver_positions=read,
    )  # fmt: skip
    every = [*range(6)]
    at = [5] if read == "end" else read or every
    for sender, value in zip(all_senders(), in_order(found), strict=True):
        assert np.isfinite(value) == has_path(sender, receivers), sender
        if np.isfinite(value):
            expected = value_of(theirs, PAIR, sender, receivers, mlps, direction, sent or every, at)
            assert value == pytest.approx(expected, abs=1e-9), sender


def test_every_edge_is_that_of_hooks(models, pair):
    theirs, ours = models
    found = patch_edges(ours, pair, direction="noise")
    # Before layer l, 1 + 3 l parts write: 6 heads' inputs and, with 2 more, the MLP hear them.
    assert found.count == sum(6 * (1 + 3 * layer) + 3 + 3 * layer for layer in range(3)) + 10
    for r, name in enumerate(found.receivers):
        receiver = parsed(name)
        for s, sender in enumerate(all_senders()):
            if not np.isfinite(found.values[s, r]):
                continue
            if (s + r) % 3:  # a third of them, for time
                continue
            wanted = receiver if receiver == "logits" else [receiver]
            every = [*range(6)]
            expected = value_of(theirs, PAIR, sender, wanted, "frozen", "noise", every, every)
            assert found.values[s, r] == pytest.approx(expected, abs=1e-9), (sender, name)


def parsed(name):
    """Return the oracle's receiver of "a1.h0<q>", "m1" or "logits"."""
    if name == "logits":
        return name
    if name[0] == "m":
        return ("mlp", int(name[1:]), None)
    place, kind = name[1:].rstrip(">").split("<")
    layer, head = place.split(".h")
    return (kind, int(layer), int(head))


@pytest.mark.parametrize(("method", "steps"), [("eap", None), ("eap-ig", 3)])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_estimates_are_autograd_s(models, pair, method, steps, direction):
    theirs, ours = models
    found = patch_edges(ours, pair, direction=direction, method=method, steps=steps or 1)
    effects = found.effects()
    checked = 0
    for r, name in enumerate(found.receivers):
        for s, sender in enumerate(all_senders()):
            if np.isfinite(effects[s, r]) and (s + 2 * r) % 5 == 0:
                expected = edge_estimate(theirs, PAIR, sender, parsed(name), direction, steps)
                assert effects[s, r] == pytest.approx(expected, abs=1e-9), (sender, name)
                checked += 1
    assert checked > 15


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_all_senders_to_the_logits_past_frozen_mlps_are_the_other_run(models, pair, direction):
    _, ours = models
    paths = PathRequest(mlps="frozen").paths(ours.config, len(pair))
    base, source = DIRECTIONS[direction]
    recordings = {}
    for run in (base, source):
        ids = torch.tensor([pair.ids(run)])
        logits, _ = ours(ids, record=["z", "mlp_out", "resid_pre"])
        recordings[run] = ours.recording
    sent = [
        patch
        for sender in paths.senders
        for patch in sender_patches(sender, recordings[source], paths.sender_positions)
    ]
    frozen = frozen_patches(recordings[base], paths)
    found = run_path(ours, torch.tensor([pair.ids(base)]), [*frozen, *sent], paths)
    assert torch.allclose(found[0], logits[0, -1], atol=1e-9)


def test_frozen_to_the_logits_is_direct_attribution_with_ln_f_worked_out_again(models, pair):
    theirs, ours = models
    found = patch_paths(ours, pair, mlps="frozen")
    with torch.no_grad():
        z, streams = {}, {}
        for run in ("clean", "corrupt"):
            ours(torch.tensor([pair.ids(run)]), record=["z", "resid_post"])
            z[run], streams[run] = ours.recording["z"], ours.recording["resid_post"][-1, 0, -1]
        written = z["clean"][1, 0, 0, -1] - z["corrupt"][1, 0, 0, -1]  # of head 1.0, at the end
        written = written @ theirs.transformer.h[1].attn.c_proj.weight[:8]
        logits = ours.lm_head(ours.transformer.ln_f(streams["corrupt"] + written))
    assert found.values[1, 0] == pytest.approx(float(logits[22] - logits[11]), abs=1e-9)
