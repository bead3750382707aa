"""The figures of an explanation: what they say, and that it is legible."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import make_model
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from patching import (
    DrawingError,
    Explanation,
    ExplanationError,
    Question,
    draw_explanation,
    explain,
)
from patching.drawing.explanation import MOST_LENS_TOKENS
from patching.drawing.style import FONT, fitted, new_figure
from patching.explanation.request import DEFAULT, METHODS, figures_of

FIGURES = figures_of(METHODS)
WORDS = ["The", " keys", " $x^2$", "\n\n", "東京", "\ufffd", "antidisestablishmentarianism", "i"]


def word(number: int) -> str:
    """Return the text of a token; many are hard to draw."""
    return WORDS[number % len(WORDS)]


def explained(T: int, seed: int = 0, **shape) -> Explanation:
    model = make_model(seed, **{"block_size": 300, **shape})
    ids = torch.randint(40, (T,), generator=torch.Generator().manual_seed(seed)).tolist()
    question = Question("".join(map(word, ids)), tuple(ids), 1, 8, word)
    return explain(model, question, methods=[*METHODS])


def figure_of(found: Explanation, name: str):
    return draw_explanation(found, figure=name)


def written(path, found: Explanation, name: str, **settings) -> bytes:
    draw_explanation(found, path, figure=name, **settings)
    return path.read_bytes()


@pytest.mark.parametrize("name", [name for name in FIGURES if "-" not in name])
def test_every_figure_of_one_token(tmp_path, name):
    path = tmp_path / "x.png"
    draw_explanation(explained(1), path, figure=name)  # pytest turns a warning into an error
    assert imread(path).shape[1] >= 800


@pytest.mark.parametrize(("suffix", "head"), [("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_other_formats(tmp_path, suffix, head):
    path = tmp_path / f"x.{suffix}"
    assert written(path, explained(4), "lens").startswith(head)
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def boxes(texts, renderer):
    found = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    return [box for box in found if box.width > 0]


@pytest.mark.parametrize(("T", "n_layer"), [(5, 12), (60, 12)])
@pytest.mark.parametrize("name", figures_of(DEFAULT))  # logit has the same code
def test_nothing_is_clipped_or_overlaps(T, n_layer, name):
    figure = figure_of(explained(T, n_layer=n_layer), name)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    sheet = figure.bbox
    labels = [figure._supxlabel] if figure._supxlabel else []
    ticks = []
    for axes in figure.axes:
        labels += [axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            inside = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            ticks += [text for t in inside for text in (t.label1, t.label2) if text.get_visible()]
    labels, ticks = boxes(labels, renderer), boxes(ticks, renderer)
    for box in (*labels, *ticks):
        assert sheet.padded(1).contains(box.x0, box.y0), box
        assert sheet.padded(1).contains(box.x1, box.y1), box
    for number, label in enumerate(labels):
        assert not any(label.overlaps(other) for other in (*labels[number + 1 :], *ticks))
    if name == "lens":  # the tokens in the cells
        cells = boxes(figure.axes[0].texts, renderer)
        assert len(cells) == T * n_layer
        for n, one in enumerate(cells):
            assert not any(one.overlaps(other) for other in cells[n + 1 : n + 2 * T])


def texts_of(figure) -> str:
    texts = [text.get_text() for axes in figure.axes for text in axes.findobj(Text)]
    texts += [text.get_text() for text in figure.texts]  # the title and the caption of all axes
    return " ".join(" ".join(texts).split())


def test_the_bars_are_the_method_that_is_named_with_the_embeddings_on_the_last_token():
    found = explained(6)
    for name, raw, title in (
        ("alti-logit", found.alti_logit, "ALTI-Logit: "),
        ("logit", found.logit, "Logit: "),
    ):
        expected = raw[0] - raw[1]
        expected[-1] += found.initial[0] - found.initial[1]
        np.testing.assert_allclose(found.bars(name), expected, rtol=1e-5)
        figure = figure_of(found, name)
        heights = [bar.get_height() for bar in figure.axes[0].patches]
        np.testing.assert_allclose(heights, expected / np.abs(expected).sum(), rtol=1e-5)
        text = texts_of(figure)
        assert (
            text.startswith(f"logit( keys) - logit(The) = {found.logits[0] - found.logits[1]:.4g}")
            or title in text
        )
        assert figure.axes[0].get_title(loc="left").startswith(title)
        for part in found.parts().values():
            assert f"{part:.4g}" in text
        rest = found.logits[0] - found.logits[1] - expected.sum()
        assert f"MLPs and biases, {rest:.4g} in all, have no bars" in text
        assert f"they sum to {expected.sum():.4g}" in text
        other = np.sign(expected.sum()) != np.sign(found.logits[0] - found.logits[1])
        assert ("(the opposite sign)" in text) == other


def test_both_signs_are_drawn_in_their_colours():
    found = explained(6, n_layer=6)
    upright = [(bar, bar.get_height()) for bar in figure_of(found, "alti-logit").axes[0].patches]
    lying = [(bar, bar.get_width()) for bar in figure_of(found, "direct").axes[1].patches]
    for bars in (upright, lying):
        assert {length > 0 for _, length in bars} == {True, False}
        for bar, length in bars:
            red, _, blue, _ = bar.get_facecolor()
            assert (blue > red) == (length >= 0)
    values = figure_of(found, "alti-logit-layers").axes[0].images[0]
    np.testing.assert_array_equal(values.get_array(), found.alti_logit_layers[2])
    for image in (values, figure_of(found, "direct").axes[0].images[0]):
        assert (image.norm.vcenter, image.cmap.name) == (0, "RdBu")  # RdBu is blue above 0


def test_the_heatmap_of_alti_is_the_last_rollout_and_hides_what_is_not_read():
    found = explained(6)
    shown = figure_of(found, "alti").axes[0].images[0].get_array()
    assert np.array_equal(shown.mask, np.triu(np.ones((6, 6), dtype=bool), 1))
    np.testing.assert_array_equal(shown.compressed(), found.rollout[-1][np.tril_indices(6)])


def test_in_the_heatmap_of_alti_darker_is_more_and_no_row_is_off_the_scale():
    image = figure_of(explained(6), "alti").axes[0].images[0]
    shares = image.get_array()
    darkness = 1 - image.to_rgba(shares)[..., :3].mean(-1)
    read = ~shares.mask
    order = np.argsort(shares.data[read])
    assert (np.diff(darkness[read][order]) >= -1e-9).all()
    assert (image.norm.vmin, image.norm.vmax) == (0, 1)
    assert darkness[0, 0] > darkness[1, :2].max()  # row 0 is all its own token, row 1 is not


def test_all_heads_are_small_panels_and_one_is_large():
    found = explained(6, n_layer=3, n_head=2, n_embd=8)
    *panels, _ = figure_of(found, "attention").axes
    assert [axes.get_title() for axes in panels] == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]
    for number, axes in enumerate(panels):
        drawn = axes.images[0].get_array()
        assert np.array_equal(drawn.data, found.pattern[divmod(number, 2)])
        assert drawn.mask[0].tolist() == [False, *[True] * 5]  # what comes later is not read
    axes, _ = draw_explanation(found, figure="attention", head=(2, 1)).axes
    assert np.array_equal(axes.images[0].get_array().data, found.pattern[2, 1])
    assert len(axes.get_xticklabels()) == len(axes.get_yticklabels()) == 6
    with pytest.raises(DrawingError, match=r"no head 3\.0: there are 3 layers of 2 heads"):
        draw_explanation(found, figure="attention", head=(3, 0))


def test_of_a_pair_the_target_reads_the_source():
    found = explained(6)
    tokens = {**found.tokens, int(found.ids[3]): "<|sep|>"}
    pair = dataclasses.replace(found, tokens=tokens, ids=np.array([1, 2, 4, 9, 5, 6]))
    names = {1: "The", 2: " red", 4: " cars", 9: "<|sep|>", 5: " Los", 6: " coches", 8: "x"}
    pair = dataclasses.replace(pair, tokens=names, target=1, foil=8, top_ids=np.array([1]))
    axes, _ = draw_explanation(pair, figure="attention", head=(0, 0)).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["The", "␣red", "␣cars"]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["<|sep|>", "␣Los", "␣coches"]
    drawn = axes.images[0].get_array()
    assert np.array_equal(np.ma.getdata(drawn), found.pattern[0, 0][3:, :3])
    assert not np.ma.getmaskarray(drawn).any()


def test_scores_of_heads_are_panels_with_their_numbers():
    found = explained(4)
    *panels, _ = figure_of(found, "head-scores").axes
    names = ["previous token", "duplicate token", "induction"]
    assert [axes.get_title() for axes in panels] == names
    for axes, scores in zip(panels, found.head_scores, strict=True):
        assert np.array_equal(axes.images[0].get_array(), scores)
        assert [text.get_text() for text in axes.texts] == [f"{one:.2f}" for one in scores.ravel()]


def test_the_lens_shows_its_tokens_and_the_way_of_the_choice():
    found = explained(4, n_layer=2)
    upper, lower = figure_of(found, "lens").axes[:2]
    labels = {(round(t.get_position()[1]), round(t.get_position()[0])): t for t in upper.texts}
    for (layer, position), number in np.ndenumerate(found.lens_ids):
        expected = {"The": "The", " keys": "␣keys", "i": "i"}.get(found.text_of(number))
        if expected is not None:
            assert labels[layer, position].get_text() == expected
    np.testing.assert_array_equal(upper.images[0].get_array(), found.lens_probabilities)
    sure = dataclasses.replace(found, lens_probabilities=np.array([[0.0, 1, 0, 1]] * 2))
    inks = [text.get_color() for text in figure_of(sure, "lens").axes[0].texts]
    assert upper.images[0].get_clim() == (0, 1)
    assert inks == ["white", "black"] * 4  # viridis goes from dark to light
    line = lower.lines[0].get_ydata()
    np.testing.assert_allclose(line, found.trajectory[:, 0] - found.trajectory[:, 1])
    attention, mlp = ([bar.get_height() for bar in group] for group in lower.containers)
    written = found.logit_layers[2].sum(-1) + found.bias[:, 0] - found.bias[:, 1]
    np.testing.assert_allclose(attention, written, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mlp, found.mlp[:, 0] - found.mlp[:, 1])
    assert line[-1] == pytest.approx(found.logits[0] - found.logits[1], abs=1e-5)
    assert "the bars do not add up to the steps of the line" in texts_of(figure_of(found, "lens"))


def test_more_tokens_than_can_be_read_are_left_out_of_the_cells():
    figure = figure_of(explained(MOST_LENS_TOKENS + 1), "lens")
    assert not figure.axes[0].texts
    assert "There are too many cells to write their tokens; the result has them." in texts_of(
        figure
    )


def test_direct_attribution_shows_every_head_and_mlp():
    found = explained(5, n_layer=3, n_head=4)
    figure = figure_of(found, "direct")
    left, right = figure.axes[:2]
    np.testing.assert_array_equal(left.images[0].get_array(), found.heads[0] - found.heads[1])
    lengths = [bar.get_width() for bar in right.patches]
    np.testing.assert_array_equal(lengths, found.mlp[:, 0] - found.mlp[:, 1])
    assert left.yaxis_inverted()  # layer 0 is on top in both panels
    assert left.get_ylim() == right.get_ylim()
    wrong = dataclasses.replace(found, error=np.array([1.0, 2.0]), tolerance=np.array([2.5, 6.0]))
    text = texts_of(figure_of(wrong, "direct"))
    assert "add up to the model's logits to within 1 (allowed: 2.5)" in text
    half = dataclasses.replace(found, tolerance=np.full(2, np.inf))
    assert "not checked in half precision" in texts_of(figure_of(half, "direct"))


def test_notes_titles_and_colour_maps(tmp_path):
    found = dataclasses.replace(explained(4), notes=("builtin in place of gpt2: no network",))
    assert "in place of gpt2" in texts_of(figure_of(found, "direct"))
    for name in FIGURES:
        text = texts_of(figure_of(found, name))
        assert f"model {found.model_name}; prompt: " in text
        if name not in ("alti", "lens", "attention", "head-scores"):
            assert "> 0 favours ␣keys" in text
            assert "< 0 favours The" in text
    plain = written(tmp_path / "a.png", found, "alti")
    assert written(tmp_path / "b.png", found, "alti") == plain
    assert written(tmp_path / "c.png", found, "alti", cmap="magma") != plain
    assert written(tmp_path / "d.png", found, "alti", title="Mine") != plain
    assert "Mine" in texts_of(draw_explanation(found, figure="lens", title="Mine"))


def test_a_title_of_ones_own_keeps_the_notes():
    found = dataclasses.replace(explained(3), notes=("builtin in place of gpt2",))
    for name in FIGURES:
        texts = texts_of(draw_explanation(found, figure=name, title="Mine"))
        assert "Mine builtin in place of gpt2" in texts
        assert "prompt: " not in texts


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = explained(4)
    for name in FIGURES:
        assert isinstance(draw_explanation(found, figure=name), Figure)
    assert texts_of(draw_explanation(found)) == texts_of(figure_of(found, "alti-logit"))
    assert not [*tmp_path.iterdir()]


def test_a_loaded_explanation_draws_the_same(tmp_path):
    found = explained(5)
    found.save(tmp_path / "x")
    again = Explanation.load(tmp_path / "x")
    for name in ("alti-logit", "lens"):
        pictures = [
            written(tmp_path / f"{n}.png", one, name) for n, one in enumerate((found, again))
        ]
        assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("figure", "name", "settings", "message"),
    [
        ("lense", "x.png", {}, "no figure 'lense'; there are alti, alti-logit, alti-logit-layers"),
        ("lens", "x.gif", {}, "no figure format 'gif'"),
        ("lens", "x.png", {"cmap": "nope"}, "no colour map 'nope'"),
        ("alti", "x.png", {}, "the explanation has no figure alti; it has lens"),
    ],
)
def test_bad_input(tmp_path, model, figure, name, settings, message):
    found = explain(model, Question.from_ids(range(4), 1, 2), methods="lens")
    with pytest.raises(DrawingError, match=message):
        draw_explanation(found, tmp_path / name, figure=figure, **settings)
    assert not [*tmp_path.iterdir()]


def test_an_array_that_is_missing_is_named(model):
    found = explain(model, Question.from_ids(range(4), 1, 2), methods="lens")
    edited = dataclasses.replace(found, lens_ids=None)
    with pytest.raises(DrawingError, match="the explanation has no lens_ids"):
        draw_explanation(edited, figure="lens")


def test_bars_that_there_are_not(model):
    found = explain(model, Question.from_ids(range(4), 1, 2), methods="direct")
    with pytest.raises(ExplanationError, match="no bars by 'alti-logit'; there is logit"):
        found.bars()


@pytest.mark.parametrize("text", ["", "i", "␣antidisestablishmentarianism", "WWWWWWWWWWWWWWW"])
@pytest.mark.parametrize("most", [0.5, 3.0, 8.0])
def test_a_text_that_is_made_to_fit_fits(text, most):
    size = 40
    figure = new_figure(5, 5)
    made = fitted(text, most)
    drawn = figure.text(0, 0, made, fontsize=size, family=FONT)
    box = drawn.get_window_extent(figure.canvas.get_renderer())
    ems = box.width / (size * figure.dpi / 72) if made else 0
    assert ems <= max(most, 1) + 0.2  # an ellipsis is one em wide
    assert made == text or made.endswith("…")
    if most == 8.0 and len(text) < 5:
        assert made == text
