"""Studies of paths: the map of every pair's senders, with the statistics of all studies."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import make_model
from study_cases import some_pairs

from patching import patch_paths
from patching.cli.study import main
from patching.errors import StudyError
from patching.page.study_page import study_page
from patching.paths.request import PathRequest
from patching.study.comparison import compare_studies
from patching.study.figures import study_map, study_strips
from patching.study.labels import cell_name, find_cell
from patching.study.request import StudyRequest
from patching.study.result import Study
from patching.study.run import run_study
from patching.study.statistics import bootstrap


@pytest.mark.parametrize("how", [
    {"paths": "logits"},
    {"paths": PathRequest("q:2.0,v:1.1", "frozen"), "direction": "noise"},
    {"paths": PathRequest("mlp:2", receiver_positions="end", sender_positions="end")},
])  # fmt: skip
def test_cells_are_the_paths_of_each_pair(model, how):
    pairs = some_pairs(5)
    study = run_study(model, pairs, metric="logit_diff,kl", batch=2, progress=False, **how)
    cells = study.cells("paths", "kl")
    asked = {"direction": how.get("direction", "denoise")}
    for name in ("receiver", "mlps", "sender_positions", "receiver_positions"):
        default = how["paths"] if name == "receiver" else getattr(PathRequest, name)
        asked[name] = getattr(how["paths"], name, default)
    for pair, effects in zip(pairs, cells.effects, strict=True):
        one = patch_paths(model, pair, metric="kl", **asked)
        found = np.column_stack((one.values, one.mlp_values)) - one.base_value()
        np.testing.assert_allclose(effects, np.nan_to_num(found).ravel(), rtol=0, atol=1e-5)
    assert cells.axes["sender"].tolist() == ["0", "1", "MLP"] * 3


def test_cells_are_named_and_what_has_no_path_is_not_tested(model):
    study = run_study(model, some_pairs(8), paths="q:1.0", progress=False)
    table = study.summary(draws=50, flips=50)
    assert [*table.columns[:4]] == ["site", "metric", "layer", "sender"]
    assert table[table["layer"] > 0]["p"].isna().all()
    assert table[table["layer"] == 0]["p"].notna().any()
    axes = study.cells("paths", "logit_diff").axes
    for name in ("m1", "2.0"):
        assert cell_name(axes, find_cell(axes, name)) == name
    with pytest.raises(StudyError, match="no cell '1:MLP' in the map"):
        find_cell(axes, "1:MLP")
    frame = study.to_frame()
    assert [*frame.columns] == ["pair", "site", "metric", "layer", "sender", "value"]
    assert {*frame["sender"]} == {"0", "1", "MLP"}


def test_intervals_are_those_of_the_change(model):
    study = run_study(model, some_pairs(9), paths="logits", progress=False)
    cells = study.cells("paths", "logit_diff")
    found = study.summary(draws=200, flips=50)
    changes = bootstrap(cells.effects, draws=200)
    np.testing.assert_allclose(found["low"] - cells.base.mean(), changes.low, atol=1e-6)
    np.testing.assert_allclose(found["sd"], cells.effects.std(axis=0, ddof=1), atol=1e-9)


def test_figures_and_pages_say_which_paths(model, tmp_path):
    of = PathRequest("k:2.1", "frozen", receiver_positions="end")
    study = run_study(model, some_pairs(4), out=tmp_path / "a", paths=of, progress=False)
    table = study.summary(draws=50, flips=50)
    drawn = study_map(study, table)
    assert drawn.title[0].startswith(
        "Mean of path patching of senders to k:2.1, MLPs frozen, received at the last position,"
        " clean into corrupt (denoise); model"
    )
    assert drawn.columns == ("0", "1", "MLP") and drawn.cmap == "RdBu"
    assert "paths to k:2.1" in repr(study)
    for own in (study_map(study, table, title="Mine"), study_strips(study, title="Mine")):
        assert own.title[0] == "Mine" and "path patching of senders" in own.title[-1]
    assert study_page(study, table)["views"][0]["charts"][0]["columns_are"] == "sender"
    how = {"paths": replace(of, mlps="recomputed"), "progress": False}
    other = run_study(model, some_pairs(4), out=tmp_path / "b", **how)
    assert len(compare_studies(study, other, site="paths", metric="logit_diff")) == 9
    assert Study.load(tmp_path / "a").request == study.request
    with pytest.raises(StudyError, match="mlps: frozen there, recomputed asked for"):
        run_study(model, some_pairs(4), out=tmp_path / "a", **how)


def test_what_does_not_go_together_is_refused(model):
    for how, words in (
        ({"paths": "q:9.9"}, "layer 9 is out of range"),
        ({"paths": "nine"}, "no receiver 'nine'"),
        ({"paths": "logits", "site": "z"}, "leave site out"),
        ({"paths": "logits", "put": "zero"}, "neither with by_position nor with put"),
        ({"paths": PathRequest(sender_positions=[1])}, "positions are 'end' or left out"),
        ({"paths": 3}, "receivers as text, or a PathRequest"),
    ):
        with pytest.raises(StudyError, match=words):
            run_study(model, some_pairs(3), progress=False, **how)


def test_a_study_of_sweeps_is_saved_as_before():
    assert {"paths", "mlps", "sender_positions"}.isdisjoint(StudyRequest().to_dict())
    request = StudyRequest(paths="q:1.1,1.0", mlps="frozen")
    assert StudyRequest.from_dict(request.to_dict()) == request


def test_heads_that_share_keys_are_studied_too(model):
    study = run_study(make_model(n_kv_head=1), some_pairs(3), paths="k:2.0", progress=False)
    assert np.isfinite(study.cells("paths", "logit_diff").effects).all()


def test_the_command_studies_paths(tmp_path, capsys):
    base = ["run", "--model", "builtin", "--quiet", "--out", str(tmp_path / "x")]
    assert main([*base, "--mlps", "frozen"]) == 2
    assert "are for --paths" in capsys.readouterr().err
    assert main([*base, "--paths", "logits", "--site", "z"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main([*base, "--paths", "q:3.1", "--draws", "50", "--flips", "50"]) == 0
    assert (tmp_path / "x" / "figures" / "paths-logit_diff.png").exists()
    assert Study.load(tmp_path / "x").request.paths == "q:3.1"
