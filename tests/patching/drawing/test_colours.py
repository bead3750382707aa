"""The colours of a heatmap: what they span, what stands at the colour bar, numbers in the cells."""

import math

import numpy as np
import pytest
from test_draw_sweep import MICHELLE, MICHELLE_SMITH, drawn_bytes, result_for

from patching import DrawingError, draw_heatmap
from patching.drawing.colours import Scale, ink, is_diverging
from patching.sweep.result import MetricValues


def small(metric: str = "logit_diff", spread: float = 0.1, clean: float = -2.0, corrupt: float = 3):
    """Return a sweep whose cells differ by a fraction of the gap between the two runs."""
    values = np.linspace(corrupt - spread, corrupt, 28, dtype=np.float32).reshape(4, 7)
    metrics = {metric: MetricValues(values, clean=clean, corrupt=corrupt)}
    return result_for(MICHELLE, MICHELLE_SMITH, metrics=metrics)


def norm_of(result, **how):
    return draw_heatmap(result, **how).axes[0].images[0].norm


def test_one_per_cent_of_the_gap_looks_like_one_per_cent():
    result = small(spread=0.05)  # of a gap of 5
    norm = norm_of(result)
    assert (norm.vmin, norm.vmax) == (-2, 3)
    first, last = norm(result.values[0, 0]), norm(result.values[-1, -1])
    assert last - first == pytest.approx(0.01, abs=1e-6)


def test_cells_beyond_the_runs_widen_the_range():
    result = small(spread=8)
    assert (norm_of(result).vmin, norm_of(result).vmax) == (-5, 3)


def test_stretched_colours_say_so():
    figure = draw_heatmap(small(spread=0.5), scale="data")
    norm = figure.axes[0].images[0].norm
    assert (norm.vmin, norm.vmax) == (2.5, 3)
    assert "colours: stretched to the cells" in figure.axes[1].get_ylabel()
    assert "stretched" not in draw_heatmap(small()).axes[1].get_ylabel()


def test_a_range_of_ones_own():
    figure = draw_heatmap(small(spread=4), vmin=0.0, vmax=2.0)
    norm = figure.axes[0].images[0].norm
    assert (norm.vmin, norm.vmax) == (0, 2)
    assert "the range that was asked for" in figure.axes[1].get_ylabel()
    assert norm_of(small(), vmax=10.0).vmax == 10


def test_the_unpatched_runs_stand_at_the_colour_bar():
    figure = draw_heatmap(small())
    (beside,) = figure.axes[1].child_axes
    names = [label.get_text() for label in beside.get_yticklabels()]
    assert dict(zip(names, beside.get_yticks(), strict=True)) == {"clean": -2, "corrupt": 3}
    # One that has no place on the bar is left out; two that are close share a place.
    (beside,) = draw_heatmap(small(), scale="data").axes[1].child_axes
    assert [label.get_text() for label in beside.get_yticklabels()] == ["corrupt"]
    (beside,) = draw_heatmap(small(spread=50)).axes[1].child_axes
    assert len(beside.get_yticks()) == 2
    (beside,) = draw_heatmap(small(spread=900)).axes[1].child_axes
    assert [label.get_text() for label in beside.get_yticklabels()] == ["corrupt\nclean"]


@pytest.mark.parametrize(
    ("metric", "centre"),
    [("logit_diff", 0), ("target_logit", 0), ("prob_diff", 0), ("recovery", 3), ("kl", None)],
)
def test_a_diverging_map_is_centred_on_the_neutral_value(metric, centre):
    """Recovery's is the base run's value, here 3; kl has none."""
    norm = norm_of(small(metric), cmap="RdBu_r")
    if centre is None:
        assert (norm.vmin, norm.vmax) == (-2, 3)
    else:
        assert norm(centre) == pytest.approx(0.5)
        assert norm.vmax - centre == pytest.approx(max(abs(3 - centre), abs(-2 - centre)))


def test_viridis_is_not_centred_and_stays_the_default():
    assert draw_heatmap(small()).axes[0].images[0].get_cmap().name == "viridis"
    assert draw_heatmap(small("recovery")).axes[0].images[0].get_cmap().name == "RdBu"
    assert not is_diverging("viridis")
    assert is_diverging("coolwarm_r")


def test_few_cells_show_their_numbers():
    few = draw_heatmap(small(spread=0.5)).axes[0].texts
    assert len(few) == 28
    assert few[0].get_text() == "2.50"
    many = result_for(MICHELLE, MICHELLE_SMITH, n_layer=12)
    assert len(draw_heatmap(many).axes[0].texts) == 0
    assert len(draw_heatmap(many, values=True).axes[0].texts) == 84
    assert len(draw_heatmap(small(), values=False).axes[0].texts) == 0


def test_numbers_can_be_read_on_their_colours():
    assert [ink("viridis", 0.0), ink("viridis", 1.0)] == ["white", "black"]
    texts = draw_heatmap(small(spread=5)).axes[0].texts
    assert [texts[0].get_color(), texts[-1].get_color()] == ["white", "black"]


def test_cells_that_were_not_patched_have_no_number():
    result = small()
    result.values[:, 2] = math.nan
    assert len(draw_heatmap(result).axes[0].texts) == 24


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"scale": "wide"}, "no scale 'wide'; there are runs, data"),
        ({"vmin": 2.0, "vmax": 1.0}, r"vmin \(2\) must be below vmax \(1\)"),
        ({"vmin": math.nan}, "vmin must be a finite number"),
        ({"vmin": 9.0}, r"vmin \(9\) lies beyond all values, -2 to 3"),
        ({"vmax": -9.0}, r"vmax \(-9\) lies beyond all values"),
    ],
)
def test_bad_ranges_are_refused(tmp_path, how, message):
    with pytest.raises(DrawingError, match=message):
        draw_heatmap(small(), tmp_path / "x.png", **how)
    assert not [*tmp_path.iterdir()]


def test_too_many_columns_for_numbers():
    words = [f"w{n}" for n in range(300)]
    result = result_for(words, ["x", *words[1:]])
    with pytest.raises(DrawingError, match="300 columns are too many to write a number"):
        draw_heatmap(result, values=True)


def test_a_title_of_ones_own_keeps_the_notes(tmp_path):
    result = result_for(MICHELLE, MICHELLE_SMITH, notes=("builtin in place of gpt2",))
    title = draw_heatmap(result, title="Mine").axes[0].get_title(loc="left")
    assert title == "Mine\nbuiltin in place of gpt2"


def test_values_beyond_the_range_are_told_by_the_bars_ends():
    grid = [np.array([[0.0, 5.0]])]
    assert Scale(0, 5).extended(grid) == "neither"
    assert Scale(1, 5).extended(grid) == "min"
    assert Scale(0, 4).extended(grid) == "max"
    assert Scale(1, 4).extended(grid) == "both"


def test_every_format_takes_marks_and_numbers(tmp_path):
    for suffix in ("png", "svg", "pdf"):
        first, second = (drawn_bytes(small(), tmp_path / f"{n}.{suffix}") for n in range(2))
        assert first == second
