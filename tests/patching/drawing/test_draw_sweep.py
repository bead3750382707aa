"""The heatmap: its formats, what it says, and texts that would break a figure."""

import dataclasses

import numpy as np
import pytest
from matplotlib.image import imread

from patching import METRICS, DrawingError, PromptPair, SweepResult, draw_heatmap, patch_sweep
from patching.drawing.colours import Scale
from patching.drawing.style import has_glyph
from patching.drawing.sweep import Comparison, Heatmaps, draw_comparison, draw_heatmaps
from patching.sweep.figures import heatmaps
from patching.sweep.result import MetricValues
from patching.text import escaped, shortened, visible


def result_for(
    clean: list[str], corrupt: list[str], n_layer: int = 4, n_head: int = 0, **fields
) -> SweepResult:
    """Return a made-up sweep over the given tokens; with `heads`, of z by position."""
    texts = sorted({*clean, *corrupt, " Jones", " Smith"})
    index = {text: number for number, text in enumerate(texts)}
    pair = PromptPair.from_ids(
        [index[text] for text in clean],
        [index[text] for text in corrupt],
        index[" Jones"],
        index[" Smith"],
        tokens=texts,
    )
    shape = (n_layer, n_head, len(clean)) if n_head else (n_layer, len(clean))
    values = np.linspace(-2, 3, np.prod(shape), dtype=np.float32).reshape(shape)
    settings = {
        "site": "z" if n_head else "resid_post",
        "direction": "denoise",
        "metrics": {"logit_diff": MetricValues(values, clean=-2.0, corrupt=3.0)},
        **fields,
    }
    names = [*settings["metrics"]]
    settings["captions"] = {name: METRICS[name].describe(pair) for name in names}
    settings["diverging"] = tuple(name for name in names if METRICS[name].diverging)
    base = {"denoise": "corrupt", "noise": "clean"}[settings["direction"]]
    settings["neutral"] = {
        name: getattr(settings["metrics"][name], base) for name in settings["diverging"]
    } | {name: METRICS[name].neutral for name in names if METRICS[name].neutral is not None}
    made_up = {"model_name": "made-up", "layers": tuple(range(n_layer))}
    return SweepResult(pair=pair, **{**made_up, **settings})


def drawn_bytes(result: SweepResult, path, **how) -> bytes:
    draw_heatmap(result, path, **how)
    return path.read_bytes()


def drawn(result: SweepResult, head: int | None = None):
    return draw_heatmap(result, head=head)


MICHELLE = ["Michelle", " Jones", " was", " a", " student", ".", " Michelle"]
MICHELLE_SMITH = ["Michelle", " Smith", *MICHELLE[2:]]
AWKWARD = [
    ["$x^2$ and ", "$", "\\alpha", "\n\n", "\t", " \x1b[31m"],
    ["\u202eabc", "שלום", " مرحبا", "e\u0301", "\u200d"],
    ["東京", " 🙂", "\ud83d"[:0] + "\ufffd", "\\xe6", "   ", "%s{}"],
]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "PNG"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    draw_heatmap(result_for(MICHELLE, MICHELLE_SMITH), path)
    head = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix.lower()]
    assert path.read_bytes().startswith(head)
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("T", [1, 5, 11, 60])
def test_png_is_wide_enough_to_read(tmp_path, T):
    words = [f" word{n}" for n in range(T)]
    draw_heatmap(result_for(words, [" other", *words[1:]], n_layer=12), tmp_path / "x.png")
    image = imread(tmp_path / "x.png")
    assert image.shape[1] >= 800
    assert image[..., :3].std() > 0.05


def test_what_the_figure_says():
    result = result_for(MICHELLE, MICHELLE_SMITH)
    figure = drawn(result)
    axes, bar = figure.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    tokens = ["Michelle", "␣Jones / ␣Smith", "␣was", "␣a", "␣student", ".", "␣Michelle"]
    assert labels == [f"{token} ({position})" for position, token in enumerate(tokens)]
    assert [label.get_fontweight() for label in axes.get_xticklabels()].index("bold") == 1
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "3"]
    assert axes.get_ylabel() == "layer"
    assert axes.yaxis_inverted()  # layer 0 on top
    assert bar.get_ylabel() == "logit(␣Smith) - logit(␣Jones) [denoise]"
    title = axes.get_title(loc="left")
    assert "made-up" in title
    assert "clean: Michelle Jones was a student. Michelle" in title
    assert "corrupt: Michelle Smith was" in title


def test_notes_are_in_the_title():
    result = result_for(MICHELLE, MICHELLE_SMITH, notes=("builtin in place of gpt2",))
    assert "builtin in place of gpt2" in drawn(result).axes[0].get_title(loc="left")


def test_an_approximation_says_so():
    exact, near = (
        drawn(result_for(MICHELLE, MICHELLE_SMITH, method=method))
        for method in ("loop", "attribution")
    )
    for figure, how in ((exact, "Activation patching of"), (near, "Attribution patching (approx")):
        assert figure.axes[0].get_title(loc="left").startswith(how)
    bars = [figure.axes[1].get_ylabel().replace("\n", " ") for figure in (exact, near)]
    assert bars[1] == f"{bars[0]}, approximate"


@pytest.mark.parametrize("tokens", AWKWARD)
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_awkward_tokens_draw_without_a_warning(tmp_path, tokens, suffix):
    result = result_for([" Jones", *tokens], [" Smith", *tokens])
    draw_heatmap(result, tmp_path / f"x.{suffix}")  # pytest turns every warning into an error


def test_dollars_are_dollars(tmp_path):
    """Drawn as formulas, the first text would be a square and the second an error."""
    for text in ("$x^2$", "$\\nonsense{$"):
        plain, marked = (
            drawn_bytes(result_for([" Jones", end], [" Smith", end]), tmp_path / f"{n}.svg")
            for n, end in enumerate((text, text.replace("$", "S")))
        )
        # As many glyphs as characters: the same number as with a letter instead of the dollar.
        count = [drawn.count(b"<use ") for drawn in (plain, marked)]
        assert count[0] == count[1]


def test_missing_glyphs_are_shown_by_their_escape():
    assert visible(" 東京", has_glyph) == "␣\\u6771\\u4eac"
    assert visible("🙃\U0001fae0"[1:], has_glyph) == "\\U0001fae0"
    assert visible(" Jones", has_glyph) == "␣Jones"


def test_text_for_people():
    assert escaped("a\nb\x1b[0m\u200f é") == "a\\nb\\x1b[0m\\u200f é"
    assert visible("  x y") == "␣␣x y"
    assert visible(" ") == "␣"
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("abcd", 4) == "abcd"


def test_cells_that_were_not_run_are_hatched():
    result = result_for(MICHELLE, MICHELLE_SMITH)
    result.values[1, 2:] = np.nan
    axes = drawn(result).axes[0]
    assert axes.patch.get_hatch()
    assert axes.get_xlabel().endswith("hatched: not patched")
    assert axes.images[0].get_array().mask[1].tolist() == [False] * 2 + [True] * 5


@pytest.mark.parametrize(("direction", "unchanged"), [("denoise", 0.0), ("noise", 1.0)])
def test_recovery_is_centred_where_nothing_is_changed(direction, unchanged):
    values = np.linspace(-1, 2, 28).reshape(4, 7)
    metrics = {"recovery": MetricValues(values, clean=1.0, corrupt=0.0)}
    result = result_for(MICHELLE, MICHELLE_SMITH, metrics=metrics, direction=direction)
    image = drawn(result).axes[0].images[0]
    assert image.norm(unchanged) == 0.5
    assert image.cmap.name == "RdBu"
    assert image.norm.vmax - unchanged == unchanged - image.norm.vmin == 2


def test_title_and_colour_bar_say_site_direction_and_window():
    result = result_for(MICHELLE, MICHELLE_SMITH, site="mlp_out", direction="noise", window=5)
    axes, bar = drawn(result).axes
    title = axes.get_title(loc="left").replace("\n", " ")
    assert "mlp_out, 5 layers at once, corrupt into clean (noise); model made-up" in title
    assert bar.get_ylabel().endswith("[noise]")


def test_layer_by_head():
    values = np.arange(12.0).reshape(4, 3)
    metrics = {"kl": MetricValues(values, 0.0, 1.0)}
    result = result_for(MICHELLE, MICHELLE_SMITH, site="q", metrics=metrics)
    axes, bar = drawn(result).axes
    assert axes.get_xlabel() == "head"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"]
    assert np.array_equal(axes.images[0].get_array(), values)
    assert "q of a head, all positions at once" in axes.get_title(loc="left").replace("\n", " ")
    assert bar.get_ylabel().startswith("KL(clean || patched)")


def test_heads_by_position_are_small_multiples_in_the_same_colours():
    result = result_for(MICHELLE, MICHELLE_SMITH, n_head=5)
    *panels, bar = drawn(result).axes
    panels = [axes for axes in panels if axes.images]
    assert [axes.get_title() for axes in panels] == [f"head {n}" for n in range(5)]
    for head, axes in enumerate(panels):
        assert np.array_equal(axes.images[0].get_array(), result.values[:, head])
        assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == (-2, 3)
    labels = [label.get_text() for label in panels[-1].get_xticklabels()]
    assert labels[1] == "␣Jones / ␣Smith (1)"
    assert bar.get_ylabel().startswith("logit(␣Smith)")


def test_one_head_alone(tmp_path):
    result = result_for(MICHELLE, MICHELLE_SMITH, n_head=3)
    axes, _ = drawn(result, head=2).axes
    assert np.array_equal(axes.images[0].get_array(), result.values[:, 2])
    assert "z of head 2" in axes.get_title(loc="left")
    result.values[:, :2] = np.nan  # only one was swept
    axes, _ = drawn(result).axes
    assert "z of head 2" in axes.get_title(loc="left")
    assert "hatched" not in axes.get_xlabel()
    with pytest.raises(DrawingError, match="no head 0 in it; there are 2"):
        draw_heatmap(result, tmp_path / "x.png", head=0)


def test_a_chosen_metric_and_one_of_ones_own(tmp_path):
    result = result_for(MICHELLE, MICHELLE_SMITH)
    result.metrics["margin"] = MetricValues(-result.values, 0.0, 1.0)
    result.captions["margin"] = "how sure it is"
    bar = draw_heatmap(result, metric="margin").axes[1]
    assert bar.get_ylabel() == "how sure it is [denoise]"
    first, second = (
        drawn_bytes(result, tmp_path / f"{name}.png", metric=name)
        for name in ("logit_diff", "margin")
    )
    assert first != second


def test_many_heads_draw_without_a_warning(tmp_path, n_head=9):
    words = [f" word{n}" for n in range(30)]
    result = result_for(words, [" other", *words[1:]], n_layer=12, n_head=n_head)
    draw_heatmap(result, tmp_path / "x.png")
    image = imread(tmp_path / "x.png")
    assert image.shape[1] >= 1500


def test_the_same_result_gives_the_same_bytes(tmp_path):
    for suffix in ("png", "svg", "pdf"):
        first, second = (
            drawn_bytes(result_for(MICHELLE, MICHELLE_SMITH), tmp_path / f"{n}.{suffix}")
            for n in range(2)
        )
        assert first == second


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("x.jpg", {}, "no figure format 'jpg'; there are png, svg, pdf"),
        ("x", {}, "no figure format ''"),
        ("x.png", {"cmap": "sunset"}, "no colour map 'sunset'"),
        ("x.png", {"metric": "kl"}, "no metric 'kl' in it; there are logit_diff"),
        ("x.png", {"head": 0}, "alone only where heads are swept by position"),
    ],
)
def test_bad_requests_are_refused(tmp_path, name, settings, message):
    with pytest.raises(DrawingError, match=message):
        draw_heatmap(result_for(MICHELLE, MICHELLE_SMITH), tmp_path / name, **settings)
    assert not [*tmp_path.iterdir()]


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure = draw_heatmap(result_for(MICHELLE, MICHELLE_SMITH), title="a title")
    assert figure.axes[0].get_title(loc="left") == "a title"
    assert not [*tmp_path.iterdir()]


def test_plain_values_are_enough(tmp_path):
    """patching/drawing draws without a SweepResult."""
    values = np.arange(6.0).reshape(2, 3)
    plain = Heatmaps(
        panels=(("left", values), ("right", -values)),
        columns=("a", "b", "c"),
        bold=(1,),
        columns_are="letter",
        caption="how much",
        title=("a line", "and another"),
        scale=Scale(-5.0, 5.0, centre=1.0),
        cmap="RdBu",
    )
    figure = draw_heatmaps(plain, tmp_path / "x.svg")
    assert (tmp_path / "x.svg").exists()
    left, right, bar = figure.axes
    assert [axes.get_title() for axes in (left, right)] == ["left", "right"]
    assert (left.images[0].norm.vmin, left.images[0].norm.vmax) == (-5, 7)  # centred at 1
    assert bar.get_ylabel() == "how much"
    points = Comparison(
        exact=np.array([0.0, 1.0]), approximate=np.array([0.5, 1.0]), layer=np.array([0, 1]),
        n_layer=2, rank_correlation=None, caption="how much", title=("a line",),
    )  # fmt: skip
    axes = draw_comparison(points).axes[0]
    assert axes.get_title(loc="left") == "a line\nrank correlation (Spearman) undefined"


def test_patches_of_ones_own_are_in_the_title():
    result = result_for(MICHELLE, MICHELLE_SMITH, method="loop", patches="zero_ablation")
    title = drawn(result).axes[0].get_title(loc="left").replace("\n", " ")
    assert title.startswith("Patches of zero_ablation() for each cell of resid_post, into corrupt")


def test_a_sweep_of_many_positions_is_as_wide_as_a_figure_may_be():
    """Every n-th token has a label, and those where the prompts differ have one too."""
    columns = tuple(f"t{number}" for number in range(1024))
    panels = (("", np.zeros((48, 1024))),)
    figure = draw_heatmaps(
        Heatmaps(panels, columns, (500, 502), "token", "c", ("t",), Scale(0.0, 1.0))
    )
    assert max(figure.get_size_inches()) < 45
    labels = figure.axes[0].get_xticklabels()
    assert len(labels) < 300
    bold = [label.get_text() for label in labels if label.get_fontweight() == "bold"]
    assert bold == ["t500 (500)", "t502 (502)"]


def test_many_heads_are_cut_and_the_title_says_so(model, pair):
    result = patch_sweep(model, pair, site="z", by_position=True)
    (name, found), axis = next(iter(result.metrics.items())), 1
    values = np.repeat(found.values, 40, axis)  # 80 heads
    many = dataclasses.replace(result, metrics={name: found._replace(values=values)})
    drawn = heatmaps(many)
    assert len(drawn.panels) == 64
    assert "of the first 64 of 80 heads" in drawn.title[0]
    assert len(heatmaps(many, head=70).panels) == 1
