"""The figures of continuations: what they show, and what cannot be drawn."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.legend import Legend

from mingpt import Decoding
from mingpt.generation.sampling import Choice
from patching.continuation.counts import Count, wilson
from patching.continuation.figures import draw_choice, draw_counts, draw_paths
from patching.continuation.request import GenerationSettings
from patching.continuation.result import Continuations
from patching.continuation.run import continue_prompts
from patching.continuation.step_candidates import Candidate, step_candidates
from patching.drawing import style
from patching.drawing.continuation import CUT, KEPT
from patching.errors import DrawingError

KEYS = "The keys to the cabinet"
DRAWN = GenerationSettings(8, Decoding(1.3, 20, 0.95, 1.1), stop=("dust",))
LOGITS = torch.tensor([0.0625, 0.5, 0.125, 0.25, 0.0625]).log() + 3
AWKWARD = ["$x$", "_a", "\n", "中", "\x1b[31m", " " * 30, "a" * 99]


@pytest.fixture(scope="module")
def result(builtin) -> Continuations:
    return continue_prompts(*builtin, [KEYS], DRAWN, num_samples=6, seed=3)


@pytest.fixture(scope="module")
def samples(result):
    return result[0]


def step(token: int, decoding: Decoding, *, greedy: bool = False) -> list[Candidate]:
    choice = Choice(0, 0, 0, LOGITS, torch.tensor([0]), token, 0.0, None)
    return step_candidates(choice, decoding, 5, "abcde".__getitem__, greedy=greedy)


def texts_of(figure: Figure) -> str:
    """Return every text in a figure and its panels."""
    return "\n".join(text.get_text() for text in figure.findobj(match=_is_text))


def _is_text(artist) -> bool:
    return hasattr(artist, "get_text") and isinstance(artist.get_text(), str)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_choice_is_drawn(samples, tmp_path, suffix):
    found = step(3, Decoding(top_k=3))
    path = tmp_path / f"x.{suffix}"
    figure = draw_choice(found, path, samples=samples, notes=["in place of gpt2"])
    assert isinstance(figure, Figure)
    assert path.stat().st_size > 5000
    if suffix == "png":
        assert imread(path).shape[1] > 900
    if suffix == "svg":
        assert "the first 5 of 6 samples" in " ".join(
            line.strip(" <!->") for line in path.read_text().splitlines()
        )
    assert "in place of gpt2" in texts_of(figure)


def draws(samples, result) -> dict[str, Callable[..., Figure]]:
    found, counts = step(3, Decoding()), [Count("p", "a", 1, 4)]
    return {
        "choice": lambda *path: draw_choice(found, *path, samples=samples),
        "paths": lambda *path: draw_paths(result, *path),
        "counts": lambda *path: draw_counts([("m", counts)], *path, title="t"),
    }


@pytest.mark.parametrize("kind", ["choice", "paths", "counts"])
def test_without_a_path_nothing_is_written(samples, result, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    draw = draws(samples, result)[kind]
    assert isinstance(draw(), Figure)
    assert not [*tmp_path.iterdir()]
    assert isinstance(draw(tmp_path / "x.png"), Figure)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_figure_gives_the_same_bytes(samples, result, tmp_path, suffix):
    for kind, draw in draws(samples, result).items():
        paths = [tmp_path / f"{kind}-{n}.{suffix}" for n in range(2)]
        for path in paths:
            draw(path)
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_awkward_texts_are_drawn_without_a_warning(samples, tmp_path):
    odd = dataclasses.replace(
        samples[0],
        prompt=" ".join(AWKWARD),
        tokens=tuple(AWKWARD) * 30,
        sample=dataclasses.replace(samples[0].sample, log_probs=(-1.0,) * (30 * len(AWKWARD))),
    )
    named = [dataclasses.replace(step(3, Decoding())[0], token=text) for text in AWKWARD]
    draw_choice(named, tmp_path / "choice.png", samples=[odd])
    assert imread(tmp_path / "choice.png").shape[1] < 150 * 20  # pixels: at most 20 inches wide
    counts = [Count(prompt, pattern, 3, 7) for prompt in AWKWARD for pattern in AWKWARD]
    draw_counts([("a", counts), ("$b$" * 99, counts)], tmp_path / "c.png", title="$t$")
    assert imread(tmp_path / "c.png").shape[1] == 1200


def test_bars_are_as_long_as_their_shares():
    counts = [Count("p", "a", 1, 4), Count("p", "b", 3, 4), Count("q", "a", 0, 4)]
    figure = draw_counts([("m", counts)], title="t", notes=["a note"])
    bars = [patch.get_width() for patch in figure.axes[0].patches]
    assert sorted(bars) == [0, 0.25, 0.75]
    ends = [
        tuple(segment[:, 0]) for line in figure.axes[0].collections
        for segment in line.get_segments()
    ]  # fmt: skip
    expected = [wilson(0, 4), wilson(1, 4), wilson(3, 4)]
    assert [*sum(sorted(ends), ())] == pytest.approx([*sum(expected, ())])
    words = texts_of(figure)
    assert all(part in words for part in ("t\na note", "“a”", "“b”", "p", "q", "Wilson"))


def test_a_choice_shows_its_numbers(samples):
    found = step(3, Decoding(top_k=3, top_p=0.8))
    figure = draw_choice(found, samples=samples[:2])
    left, *paths = figure.axes
    bars = left.patches
    widths = [bar.get_width() for bar in bars]
    assert widths[:5] == pytest.approx([one.probability for one in found])
    assert widths[5:] == pytest.approx([one.drawn_with for one in found])
    kept, cut = (to_rgba(colour) for colour in (KEPT, CUT))
    assert [bar.get_facecolor() for bar in bars[:5]] == [kept, kept, cut, cut, cut]
    for axes, sample in zip(paths, samples[:2], strict=True):
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == pytest.approx([*sample.sample.log_probs])
        names = [label.get_text() for label in axes.get_xticklabels()]
        assert names == [style.token_label(token, 16) for token in sample.tokens]


def test_the_first_tokens_of_all_samples_are_counted(samples):
    taken = samples[0].sample.ids[0]
    found = [dataclasses.replace(step(3, Decoding())[0], id=taken)]
    times = sum(one.sample.ids[0] == taken for one in samples)
    (text,) = draw_choice(found, samples=samples).axes[0].texts
    assert text.get_text() == f" \u00d7{times}"


def legend_of(figure):
    """Return the lines of the only legend, which is below its axes."""
    (legend,) = [one for one in figure.findobj(Legend) if one.get_visible()]
    figure.canvas.draw()
    assert legend.get_window_extent().y1 < figure.axes[0].get_window_extent().y0
    return [text.get_text() for text in legend.get_texts()]


def test_what_is_not_drawn_has_no_bars_of_it(builtin):
    settings = GenerationSettings(2, Decoding(top_k=3), greedy=True)  # which cuts nothing
    (samples,) = continue_prompts(*builtin, [KEYS], settings)
    figure = draw_choice(step(1, Decoding(), greedy=True), samples=samples)
    assert len(figure.axes[0].patches) == 5
    assert legend_of(figure) == ["at temperature 1"]


def test_the_legend_says_what_the_bars_are(samples):
    def legend(decoding: Decoding) -> list[str]:
        settings = dataclasses.replace(DRAWN, decoding=decoding)
        of_it = [dataclasses.replace(one, settings=settings) for one in samples]
        return legend_of(draw_choice(step(1, decoding), samples=of_it))

    assert legend(Decoding(0.5)) == ["at temperature 0.5"]
    assert legend(Decoding(0.5, top_k=9)) == ["at temperature 0.5", "after the cuts"]
    assert legend(Decoding(0.5, top_p=1)) == ["at temperature 0.5", "after the cuts"]
    assert legend(Decoding(2, top_k=2, repetition_penalty=1.5)) == [
        "at temperature 2, penalised, kept",
        "at temperature 2, penalised, cut",
        "after the cuts",
    ]


def test_the_paths_alone_are_of_one_prompt(builtin):
    beams = GenerationSettings(4, num_beams=2)
    result = continue_prompts(*builtin, [KEYS, "A"], beams, num_samples=2)
    figure = draw_paths(result, prompt=1)
    words = texts_of(figure)
    assert "prompt 2 of 2: A" in words
    assert "Continuations by builtin; 2 beams, length penalty 1" in words
    for axes, one in zip(figure.axes, result[1], strict=True):
        assert [bar.get_height() for bar in axes.patches] == [*one.sample.log_probs]
    second = result[1][1].sample
    line = f"beam 2: ln p = -{-second.log_prob:.2f}, score = -{-second.score:.3f}"
    assert line in words.replace("\N{MINUS SIGN}", "-")


def test_nothing_is_not_drawn(samples, tmp_path):
    with pytest.raises(DrawingError, match="no choice to draw"):
        draw_choice([], tmp_path / "x.png", samples=samples)
    with pytest.raises(DrawingError, match="no choice to draw"):
        draw_choice(step(3, Decoding()), tmp_path / "x.png", samples=[])
    for panels in ([], [("m", [])]):
        with pytest.raises(DrawingError, match="no counts to draw"):
            draw_counts(panels, tmp_path / "x.png", title="")
    with pytest.raises(DrawingError, match="no figure format"):
        draw_choice(step(3, Decoding()), tmp_path / "x.gif", samples=samples)
    assert not [*tmp_path.iterdir()]


def test_many_candidates_and_tokens_are_cut_and_the_figure_says_so(samples):
    found = step(3, Decoding()) * 1000
    long = dataclasses.replace(
        samples[0],
        tokens=("a",) * 3000,
        sample=dataclasses.replace(samples[0].sample, log_probs=(-math.inf, *(-1.0,) * 2999)),
    )
    figure = draw_choice(found, samples=[long])
    assert max(figure.get_size_inches()) < 40
    words = texts_of(figure)
    assert "the likeliest 100 of the 5000 listed" in words
    assert "the first 2000 of at most 3000 tokens" in words


def test_a_chart_of_very_many_counts_is_refused():
    counts = [Count("p", f"w{number}", 1, 2) for number in range(1001)]
    with pytest.raises(DrawingError, match="would have 1001 bars; at most 1000 are drawn"):
        draw_counts([("m", counts)], title="t")
