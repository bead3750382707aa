"""Path patching: the engine against the loop, requests, results, commands."""

import json

import numpy as np
import pytest
import torch
from helpers import make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt import GPTConfig
from patching import (
    EdgeResult,
    PathError,
    PathResult,
    PromptPair,
    Receiver,
    compare_edges,
    patch_edges,
    patch_paths,
    patch_sweep,
)
from patching.cli.paths import main
from patching.errors import ResultError, SweepError
from patching.page.paths_page import edges_page, paths_page
from patching.paths.figures import circuit, edge_matrix, experiment_words, sender_map
from patching.paths.graph import parse_receivers, text_of
from patching.paths.mib import read_mib, write_mib
from patching.paths.nodes import node_effects
from patching.paths.request import EdgeRequest, PathRequest
from patching.paths.saved import check_edges
from patching.result_checks import FieldError

WHERE = {"clean_ids": [5, 9, 11, 3, 7, 30, 5], "corrupt_ids": [5, 9, 22, 3, 7, 31, 5]}


def in_order(result):
    return np.concatenate((result.values.ravel(), result.mlp_values, [result.embedding_value]))


# --------------------------------------------------------------------- the engine is the loop


@settings(max_examples=12)
@given(data=st.data())
def test_the_engine_is_the_loop(data):
    kv = data.draw(st.sampled_from([None, 1]))
    activation = data.draw(st.sampled_from(["gelu_new", "relu"]))
    model = make_model(data.draw(st.integers(0, 5)), n_kv_head=kv, activation=activation).double()
    heads = st.tuples(
        st.sampled_from("qkv"), st.integers(0, 2), st.integers(0, 1 if kv is None else 0)
    )
    mlps = st.tuples(st.just("mlp"), st.integers(0, 2), st.none())
    receivers = data.draw(st.lists(heads | mlps, max_size=4, unique=True))
    positions = st.none() | st.just("end") | st.lists(st.integers(0, 6), min_size=1, max_size=7)
    how = {
        "receiver": [Receiver(*one) for one in receivers] or "logits",
        "mlps": data.draw(st.sampled_from(["recomputed", "frozen"])),
        "direction": data.draw(st.sampled_from(["denoise", "noise"])),
        "metric": "logit_diff,kl",
        "sender_positions": data.draw(positions),
        "receiver_positions": data.draw(positions) if receivers else None,
    }
    pair = PromptPair.from_ids(**WHERE, target_id=11, foil_id=22)
    try:
        loop = patch_paths(model, pair, method="loop", **how)
    except PathError as error:
        assert "no path" in str(error)
        return
    fast = patch_paths(model, pair, **how)
    for name, found in fast.metrics.items():
        for ours, theirs in zip(found, loop.metrics[name], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("shared", [None, 1])
def test_edges_are_the_loop_s(shared):
    model = make_model(n_layer=2, n_kv_head=shared).double()
    pair = PromptPair.from_ids([5, 9, 11, 3], [5, 9, 22, 3], 11, 22)
    for how in (
        {},
        {"positions": "end"},
        {"receivers": "q,mlp", "direction": "noise", "positions": [0, 2]},
        {"positions": [0, 3]},
    ):
        fast = patch_edges(model, pair, metric="logit_diff,kl", **how)
        loop = patch_edges(model, pair, metric="logit_diff,kl", method="loop", **how)
        for name in fast.metrics:
            np.testing.assert_allclose(
                fast.metrics[name].edges, loop.metrics[name].edges, atol=1e-9
            )


def test_little_memory_gives_the_same_numbers(model, pair):
    wide = patch_paths(model, pair, receiver="q:2.0,k:1.1")
    with pytest.raises(PathError, match=r"too little for one sender: \d+M are needed"):
        patch_paths(model, pair, receiver="q:2.0,k:1.1", max_memory=1000)
    narrow = patch_paths(model, pair, receiver="q:2.0,k:1.1", max_memory=60_000)
    np.testing.assert_allclose(in_order(wide), in_order(narrow), atol=1e-5)


def test_the_model_stays_as_it_was(model, pair):
    model.train()
    model(torch.tensor([[1, 2]]), record="z")
    recording, logits = model.recording["z"].clone(), model.last_logits.clone()
    patch_paths(model, pair, receiver="v:1.0")
    patch_edges(model, pair, method="eap")
    assert model.training
    assert torch.equal(model.recording["z"], recording)
    assert torch.equal(model.last_logits, logits)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_equal_runs_change_nothing_and_are_the_base_run_bit_for_bit(model):
    """At positions before the first differing token both runs are the same."""
    pair = PromptPair.from_ids([5, 9, 11, 3, 7], [5, 9, 22, 3, 7], 11, 22)
    found = patch_paths(model, pair, receiver="q:2.0,mlp:2", sender_positions=[0, 1])
    values = in_order(found)
    assert {*values[np.isfinite(values)]} == {found.corrupt_value}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_edges_are_estimated_in_half_precision(model, pair, dtype):
    exact = patch_edges(model, pair, method="eap").effects()
    found = patch_edges(model.to(dtype), pair, method="eap").effects()
    there = np.isfinite(exact)
    assert np.corrcoef(found[there], exact[there])[0, 1] > 0.97


@pytest.mark.parametrize("function", [patch_paths, patch_edges])
def test_progress_ends_where_it_should(model, pair, function):
    said = []
    how = {"receiver": "q:1.0"} if function is patch_paths else {}
    function(model, pair, progress=lambda *at: said.append(at), **how)
    assert said[-1][0] == said[-1][1] > 0


# --------------------------------------------------------------------- who hears whom


def test_a_sender_that_writes_too_late_has_no_path(model, pair):
    found = patch_paths(model, pair, receiver="q:1.0")
    assert np.isfinite(found.values).all(1).tolist() == [True, False, False]
    assert np.isfinite(found.mlp_values).tolist() == [True, False, False]
    found = patch_paths(model, pair, receiver="mlp:1")  # heads of the same block write before
    assert np.isfinite(found.values).all(1).tolist() == [True, True, False]
    assert np.isfinite(found.mlp_values).tolist() == [True, False, False]
    assert np.isfinite(patch_paths(model, pair, receiver="k:0.0").embedding_value)


def test_gpt2_has_the_published_number_of_edges():
    assert EdgeRequest().paths(GPTConfig(), 5).count == 32_491


def test_receivers_are_read_as_text_and_written_as_text():
    found = parse_receivers("q:9.9,9.10,mlp:8,v:7.3,-1.0")
    assert [one.name for one in found] == ["a9.h9<q>", "a9.h10<q>", "m8", "a7.h3<v>", "a-1.h0<v>"]
    assert text_of(found) == "q:9.9,9.10,mlp:8,v:7.3,-1.0"
    assert parse_receivers(text_of(found)) == found
    assert text_of(parse_receivers("logits")) == "logits"


@pytest.mark.parametrize(
    ("receiver", "words"),
    [
        ("", "write logits"),
        ("9.9", "write logits"),
        ("q:9", "write logits"),
        ("q:9.1.2", "write logits"),
        ("q:9.9.", "write logits"),
        ("q:\u00b2.1", "write logits"),
        ("mlp:8.1", "write logits"),
        ("logits:1", "write logits"),
        ("z:1.1", "write logits"),
        ("q:1.1,1.1", "a1.h1<q> is given twice"),
        ("q:1.1,logits", "logits is the only receiver"),
        (9.10, "a receiver is a text"),
        (None, "a receiver is a text"),
        ("q:" + "9" * 5000 + ".1", "write logits"),
        ([("q", 1, 1)], "a receiver is a text"),
        ([], "no receiver"),
    ],
)
def test_other_receivers_are_refused(receiver, words):
    with pytest.raises(PathError, match=words):
        PathRequest(receiver)


def test_what_does_not_fit_is_refused_in_one_line(model, pair):
    shared = make_model(n_kv_head=1)
    for one, how, words in (
        (model, {"receiver": "q:3.0"}, "layer 3 is out of range"),
        (model, {"receiver": "q:1.2"}, "q head 2 is out of range"),
        (shared, {"receiver": "k:1.1"}, "k head 1 is out of range: there are 1"),
        (model, {"receiver": "q:2.0,-1.0"}, "a2.h0<q> is given twice"),
        (model, {"receiver_positions": [1]}, "logits are read at the last position"),
        (model, {"sender_positions": [1]}, "no path: senders write at positions 1"),
        (model, {"sender_positions": [9]}, "position 9 is out of range"),
        (model, {"sender_positions": "first"}, "sender_positions is a list"),
        (model, {"mlps": "thawed"}, "no mlps 'thawed'"),
        (model, {"method": "attribution"}, "no method"),
        (model, {"direction": "up"}, "no direction"),
        (model, {"max_memory": -1}, "max_memory is a number of bytes"),
    ):
        with pytest.raises(PathError, match=words):
            patch_paths(one, pair, **how)
    alone = PromptPair.from_ids(WHERE["clean_ids"], None, 11, 22)
    for function in (patch_paths, patch_edges):
        with pytest.raises(PathError, match="no corrupt prompt"):
            function(model, alone)
    for how, words in (
        ({"receivers": "q,z"}, "no kind of receiver 'z'"),
        ({"receivers": "q,q"}, "given twice"),
        ({"receivers": 5}, "receivers are some of"),
        ({"positions": [0, 1]}, "logits are read at the last position, 6"),
        ({"rows": 0}, "rows is a number of tokens"),
        ({"method": "eap", "max_memory": 10**9}, "max_memory is for the method fast"),
        ({"method": "eap-ig", "steps": 0}, "steps is a number"),
        ({"method": "eap", "metric": "kl", "direction": "noise"}, "kl is at its minimum"),
    ):
        with pytest.raises((PathError, SweepError), match=words):
            patch_edges(model, pair, **how)


def test_queries_that_share_a_key_are_said(pair):
    found = patch_paths(make_model(n_kv_head=1), pair, receiver="k:1.0")
    assert "each k and v head read by 2 query heads" in experiment_words(found)


# --------------------------------------------------------------------- results


def test_percent_change_is_of_the_base_run(model, pair):
    found = patch_paths(model, pair)
    percent = found.percent_change()
    expected = 100 * (found.values - found.corrupt_value) / found.corrupt_value
    np.testing.assert_allclose(percent.heads, expected)
    assert percent.corrupt == 0


def test_results_are_read_back(model, pair, tmp_path):
    paths = patch_paths(model, pair, receiver="q:2.0,v:1.1", metric="logit_diff,kl")
    edges = patch_edges(model, pair, metric="logit_diff,kl", method="eap-ig", steps=3)
    for found in (paths, edges):
        found.save(tmp_path / found.KIND)
        again = type(found).load(tmp_path / found.KIND)
        assert repr(again) == repr(found)
        assert again.to_dict() == found.to_dict()
    assert len(paths.to_frame()) == len(paths.by_sender()) == 7
    assert len(edges.to_frame()) == edges.count
    with pytest.raises(ResultError, match="no saved edges"):
        EdgeResult.load(tmp_path / "paths")
    with pytest.raises(ResultError, match="no saved paths"):
        PathResult.load(tmp_path / "edges")


def test_names_and_positions_of_saved_edges_must_be_the_model_s(model, pair):
    edges = patch_edges(model, pair, receivers="q,logits")
    arrays = {"edges_logit_diff": edges.values}
    fields = json.loads(json.dumps(edges.to_dict()))
    check_edges(fields, arrays)
    for name, value in (
        ("receivers", ["a9.h0<q>", *fields["receivers"][1:]]),
        ("senders", ["input", *fields["senders"][:-1]]),
        ("senders", ["<b>", *fields["senders"][1:]]),
        ("positions", [0, 7]),
        ("n_layer", 10**6),
    ):
        with pytest.raises(FieldError):
            check_edges({**fields, name: value}, arrays)


def test_estimates_are_marked_and_compared(model, pair):
    exact = patch_edges(model, pair)
    ours = patch_edges(model, pair, method="eap-ig", steps=4)
    assert ours.is_approximate and not exact.is_approximate
    assert "approximate" in repr(ours) and "approximate" in experiment_words(ours)
    assert "approximate" in edge_matrix(ours).caption
    agreement = compare_edges(ours, exact)["logit_diff"]
    x, y = (one.effects()[np.isfinite(exact.values)] for one in (ours, exact))
    assert agreement.pearson == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert agreement.edges == exact.count
    with pytest.raises(PathError, match="second map of edges must be the exact one"):
        compare_edges(exact, ours)
    with pytest.raises(PathError, match="differ in receivers"):
        compare_edges(ours, patch_edges(model, pair, receivers="q"))


def test_edges_go_to_mib_s_format_and_back(model, pair, tmp_path):
    edges = patch_edges(model, pair, direction="noise", metric="logit_diff,log_prob")
    read = read_mib(write_mib(edges, tmp_path / "edges.json"))
    fields = json.loads((tmp_path / "edges.json").read_text())
    assert fields["cfg"] == {"n_layers": 3, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 16}
    assert fields["nodes"]["a2.h1"] == {"in_graph": True}
    assert fields["made"]["score"] == "(patched - unpatched logit_diff)"
    assert not fields["made"]["is_approximate"]
    assert len(read["edges"]) == edges.count and not read["nodes"]
    for sender, receiver, effect in edges.strongest(edges.count):
        assert read["edges"][f"{sender}->{receiver}"] == pytest.approx(effect)
    fallen = read_mib(write_mib(edges, tmp_path / "x.json", "log_prob"))["edges"]
    assert fallen["m2->logits"] == pytest.approx(-edges.effects("log_prob")[-1, -1])
    other = patch_edges(model, pair, method="eap")  # denoise: what helps lowers the difference
    assert read_mib(write_mib(other, tmp_path / "y.json"))["edges"]["m2->logits"] == pytest.approx(
        -other.effects()[-1, -1]
    )
    assert json.loads((tmp_path / "y.json").read_text())["made"]["is_approximate"]
    for text in ("", "[]", '{"cfg": {}, "nodes": {}, "edges": {}}', '{"nodes": 1}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ResultError, match="no scores in MIB's format"):
            read_mib(tmp_path / "bad.json")
    for result, words in (
        (patch_edges(model, pair, receivers="q"), "only q were measured"),
        (patch_paths(model, pair), "give nodes=node_effects"),
    ):
        with pytest.raises(PathError, match=words):
            write_mib(result, tmp_path / "z.json")


def test_a_node_s_score_is_its_total_effect(model, pair, tmp_path):
    found = node_effects(model, pair, direction="noise", metric="logit_diff", progress=False)
    z = patch_sweep(model, pair, site="z", direction="noise", metric="logit_diff")
    for layer, head in np.ndindex(z.values.shape):
        expected = z.values[layer, head] - z.clean_value
        assert found[f"a{layer}.h{head}"] == pytest.approx(expected, abs=1e-5)
    assert found["input"] == pytest.approx(z.corrupt_value - z.clean_value, abs=1e-5)
    result = patch_paths(model, pair, direction="noise", metric="logit_diff")
    read = read_mib(write_mib(result, tmp_path / "nodes.json", nodes=found))["nodes"]
    assert read == pytest.approx(found) and [*read] == [name for name, _ in result.by_sender()]


# --------------------------------------------------------------------- figures, the command


def test_figures_say_what_was_done(model, pair):
    found = sender_map(patch_paths(model, pair, receiver="q:2.1", direction="noise"))
    assert found.title[0].startswith(
        "Path patching, senders to q:2.1, MLPs recomputed, corrupt into clean (noise); model"
    )
    assert found.receivers == ((2, 1),)
    assert any("embeddings:" in line for line in found.title)
    edges = patch_edges(model, pair)
    drawn = circuit(edges, edges=4)
    assert [one[0] for one in drawn.edges] == [one[0] for one in edges.strongest(4)]
    assert {one[0] for one in drawn.edges} <= {node.name for node in drawn.nodes}


def test_what_shares_keys_is_framed_and_drawn_apart(pair):
    shared = make_model(n_kv_head=1)
    assert sender_map(patch_paths(shared, pair, receiver="k:1.0")).receivers == ((1, 0), (1, 1))
    edges = patch_edges(shared, pair, receivers="k")
    assert "each k and v head read by 2 query heads" in experiment_words(edges)
    drawn = circuit(edges, edges=9)
    assert {name for _, name, _, _ in drawn.edges} <= {"a0.kv0", "a1.kv0", "a2.kv0"}


def test_edges_say_to_what_and_where(model, pair, tmp_path):
    edges = patch_edges(model, pair, receivers="v,q", positions=[2, 4])
    assert experiment_words(edges).startswith(
        "Path patching of every edge to q, v, MLPs frozen, received at 2, 4, clean into corrupt"
    )
    assert edge_matrix(edges).within == "q, v"
    with pytest.raises(PathError, match="differ in positions"):
        compare_edges(patch_edges(model, pair, receivers="v,q", method="eap"), edges)


def test_pages_mark_estimates_and_name_senders(model, pair):
    (view, table, *_) = edges_page(patch_edges(model, pair, method="eap"))["views"]
    said = [view["charts"][0]["shows"][0]["caption"], table["tables"][0]["caption"]]
    assert all("approximate" in one for one in said)
    view = paths_page(patch_paths(model, pair, receiver="q:1.0"))["views"][0]
    assert view["charts"][0]["labels"]["sender"] == ["a0.h0", "a0.h1", "m0", "input"]


BUILTIN = ["--model", "builtin", "--quiet"]


def test_the_command_writes_maps_and_edges(tmp_path, capsys):
    out = ["--out", f"{tmp_path}/"]
    assert main([*BUILTIN, *out, "--receiver", "q:3.1", "--metric", "logit_diff,kl"]) == 0
    (path,) = tmp_path.glob("*paths*.npz")
    assert PathResult.load(path).receiver == "q:3.1"
    assert len([*tmp_path.glob("*.png")]) == 2
    edges = [*BUILTIN, *out, "--edges", "--kinds", "q,logits", "--receiver-positions", "end"]
    assert main([*edges, "--method", "eap", "--compare-exact", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["agreement"]["logit_diff"]["edges"] == len([*read_edges(said)])
    assert {path.split("-")[-1] for path in said["paths"] if path.endswith("png")} == {
        "matrix.png", "circuit.png", "compared.png"
    }  # fmt: skip


def read_edges(said):
    return (one for row in said["metrics"]["logit_diff"]["edges"] for one in row if one is not None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--receiver", "q:9.9"], "layer 9 is out of range"),
        (["--receiver", "nine"], "no receiver 'nine'"),
        (["--edges", "--receiver", "logits"], "--receiver is not for --edges"),
        (["--edges", "--mlps", "recomputed"], "--mlps is not for --edges"),
        (["--kinds", "q"], "--kinds is for --edges"),
        (["--method", "eap"], "add --edges"),
        (["--edges", "--steps", "3"], "--steps is for --method eap-ig"),
        (["--edges", "--compare-exact"], "--compare-exact needs --method eap"),
        (["--mib", "--receiver", "mlp:1"], "--mib needs --edges"),
        (["--mib", "--edges", "--kinds", "q"], "leave --kinds out"),
        (["--sender-positions", "x"], "neither a number nor a range"),
        (["--sender-positions", "99"], "position 99 is out of range"),
        (
            ["--receiver", "q:1.1", "--sender-positions", "1", "--receiver-positions", "2"],
            "no path",
        ),
        (["--cmap", "none"], "no colour map"),
    ],
)
def test_the_command_refuses_in_one_line(options, words, tmp_path, capsys):
    assert main([*BUILTIN, "--out", f"{tmp_path}/", *options]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "error" in one]
    assert words in line
    assert not [*tmp_path.iterdir()]
