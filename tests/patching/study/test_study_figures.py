"""The figures of a study: cells that are outlined, hatched and named; strips of single pairs."""

import numpy as np
import pytest
from matplotlib.image import imread
from study_cases import answered, some_pairs, with_roles

from patching.drawing.study import outline
from patching.errors import DrawingError, StudyError
from patching.study.comparison import compare_studies
from patching.study.figures import (
    comparison_map,
    draw_study,
    draw_study_pairs,
    heads_to_draw,
    study_map,
    study_strips,
)
from patching.study.labels import column_labels, find_cell
from patching.study.run import run_study


@pytest.fixture
def study(model):
    pairs = answered(model, some_pairs(8))
    return run_study(model, pairs, site="resid_post,z", metric="logit_diff,recovery",
                     progress=False)  # fmt: skip


def test_what_survives_is_outlined_and_what_cannot_change_is_hatched(study):
    table = study.summary(draws=100)
    drawn = study_map(study, table, "resid_post", "logit_diff")
    rows = table[(table["site"] == "resid_post") & (table["metric"] == "logit_diff")]
    shape = (3, 6)
    assert (drawn.mean == rows["mean"].to_numpy().reshape(shape)).all()
    assert (drawn.is_outlined == (rows["p_corrected"] < 0.05).to_numpy().reshape(shape)).all()
    assert drawn.is_outlined.any() and not drawn.is_outlined.all()
    expected = np.zeros(shape, dtype=bool)
    expected[:, :2] = True  # before the differing position
    expected[2, :5] = True  # in the last block only the last position is read
    assert (drawn.is_fixed == expected).all()
    half = (rows["high"] - rows["low"]).to_numpy().reshape(shape) / 2
    assert np.allclose(drawn.half, half)
    corrupt = study.unpatched("corrupt")["logit_diff"].mean()
    assert drawn.scale.marks[1] == ("corrupt", corrupt)
    assert "8 pairs" in drawn.title[1] and "max-t over 9 cells" in drawn.title[1]


def test_a_map_of_recovery_is_centred_on_the_unpatched_run(study):
    drawn = study_map(study, study.summary(draws=100), "resid_post", "recovery")
    assert (drawn.scale.centre, drawn.cmap) == (0.0, "RdBu")
    assert drawn.mean[2, 5] == pytest.approx(1)


def test_surviving_heads_are_named(study):
    drawn = study_map(study, study.summary(draws=100), "z", "logit_diff")
    assert drawn.columns == ("0", "1")
    assert drawn.names == {
        at: f"{at[0]}.{at[1]}" for at in map(tuple, np.argwhere(drawn.is_outlined))
    }


def test_an_outline_goes_round_cells_and_not_between_them():
    inside = np.array([[True, True], [False, True]])
    found = {tuple(sorted(ends)) for ends in outline(inside, 0)}
    sides = [  # clockwise from the top left corner
        ((-0.5, -0.5), (0.5, -0.5)), ((0.5, -0.5), (1.5, -0.5)), ((1.5, -0.5), (1.5, 0.5)),
        ((1.5, 0.5), (1.5, 1.5)), ((0.5, 1.5), (1.5, 1.5)), ((0.5, 0.5), (0.5, 1.5)),
        ((-0.5, 0.5), (0.5, 0.5)), ((-0.5, -0.5), (-0.5, 0.5)),
    ]  # fmt: skip
    assert found == {tuple(sorted(ends)) for ends in sides}


def test_an_outline_runs_within_its_cells():
    inside = np.array([[True, True], [False, True]])
    segments = outline(inside, 0.1)
    ends = [point for segment in segments for point in segment]
    assert len(segments) == 8
    assert sorted(ends[::2] + ends[1::2]) == sorted(2 * [*{*ends}])  # a closed line
    corners = {(-0.4, -0.4), (1.4, -0.4), (1.4, 1.4), (0.6, 1.4), (0.6, 0.4), (-0.4, 0.4)}
    found = {(round(x, 9), round(y, 9)) for x, y in ends}
    assert found == corners | {(0.5, -0.4), (1.4, 0.5)}  # where a side goes straight on
    assert outline(np.zeros((2, 2), dtype=bool)) == []


def test_strips_show_the_largest_effects_or_the_cells_that_are_named(study):
    found = study.cells("resid_post", "logit_diff")
    strips = study_strips(study, "resid_post", "logit_diff", draws=100)
    order = np.argsort(-np.abs(found.effects.mean(0)), kind="stable")
    assert (strips.effects == found.effects[:, order[:6]]).all()
    assert (strips.low <= strips.mean).all() and (strips.mean <= strips.high).all()
    cell = find_cell(found.axes, "1:3")
    (only,) = study_strips(study, "resid_post", cells=[cell], draws=100).effects.T
    assert (only == found.effects[:, 6 + 3]).all()
    assert find_cell(study.cells("z", "logit_diff").axes, "2.1") == 5
    for wrong in ("9:3", "1", "1.1", "x"):
        with pytest.raises(StudyError, match="a cell is written as 2:5"):
            find_cell(found.axes, wrong)


def test_a_column_says_its_token_where_all_pairs_have_it(model):
    pairs = some_pairs(3)
    study = run_study(model, pairs, progress=False, align="end")
    labels = column_labels(study, [-6, -1])
    same = len({pair.clean_tokens[-1] for pair in pairs}) == 1
    assert labels[1] == (f"{pairs[0].clean_tokens[-1]} (-1)" if same else "-1")
    again = run_study(model, [pairs[0], pairs[0]], progress=False)
    assert column_labels(again, [0, 2]) == (f"{pairs[0].clean_tokens[0]} (0)", "2")
    roles = with_roles(pairs[:1] * 2, [{"S": (2,)}] * 2)
    named = run_study(model, roles, progress=False, align="roles")
    assert column_labels(named, ["S", "S+1"]) == ("S", f"S+1: {pairs[0].clean_tokens[3]}")


def test_heads_by_position_have_a_map_each_and_one_correction(model):
    study = run_study(model, some_pairs(6), site="z", by_position=True, progress=False)
    table = study.summary(draws=100)
    assert sorted(heads_to_draw(table, "z", "logit_diff")) == [0, 1]
    drawn = study_map(study, table, head=1)
    assert f"over {table['p_corrected'].notna().sum()} cells" in drawn.title[1]
    assert drawn.mean.shape == (3, 6)
    with pytest.raises(DrawingError, match="no head 2 in it; there are 0, 1"):
        study_map(study, table, head=2)


def test_a_difference_of_two_studies_is_a_map(model, tmp_path):
    pairs = some_pairs(8)
    a, b = (run_study(model, pairs, direction=d, progress=False) for d in ("denoise", "noise"))
    found = compare_studies(a, b, site="resid_post", metric="logit_diff", draws=100)
    drawn = comparison_map(a, b, found, "resid_post", "logit_diff")
    assert (drawn.mean.ravel() == found["difference"]).all()
    assert drawn.is_fixed[:, :2].all() and not drawn.is_fixed[0, 2:].any()
    assert drawn.title[1].startswith("8 pairs that A and B share")


def test_a_difference_says_which_pairs_it_compares(model):
    pairs, where = some_pairs(8), {"site": "resid_post", "metric": "logit_diff"}
    a, b, one = (run_study(model, p, progress=False) for p in (pairs, pairs[3:], pairs[7:] * 2))

    def said(*both) -> str:
        found = compare_studies(*both, **where, draws=100)
        return comparison_map(*both, found, "resid_post", "logit_diff").title[1]

    assert said(a, b).startswith("5 pairs that A and B share, compared pair by pair")
    assert said(a, a).startswith("8 pairs that A and B share")
    assert said(a, one) == "8 pairs in A and 2 in B, each resampled by itself: intervals and no p"


def test_figures_are_files(study, tmp_path):
    draw_study(study, tmp_path / "map.png", draws=100)
    draw_study_pairs(study, tmp_path / "pairs.png", draws=100)
    for name in ("map.png", "pairs.png"):
        assert imread(tmp_path / name).shape[1] > 900
    assert study._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(DrawingError, match="no map of q and logit_diff"):
        draw_study(study, site="q", draws=100)
