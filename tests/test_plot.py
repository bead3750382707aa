"""The heatmap: its formats, what it says, and texts that would break a figure."""

import numpy as np
import pytest
from matplotlib.image import imread

from patching import DrawingError, PromptPair, SweepResult, heatmap
from patching.plot import _draw, _has_glyph
from patching.text import escaped, shortened, visible


def result_for(clean: list[str], corrupt: list[str], n_layer: int = 4, **fields) -> SweepResult:
    """A made-up sweep over the given tokens."""
    texts = sorted({*clean, *corrupt, " Jones", " Smith"})
    index = {text: number for number, text in enumerate(texts)}
    pair = PromptPair.from_ids(
        [index[text] for text in clean],
        [index[text] for text in corrupt],
        index[" Jones"],
        index[" Smith"],
        tokens=texts,
    )
    values = np.linspace(-2, 3, n_layer * len(clean), dtype=np.float32).reshape(n_layer, -1)
    settings = {"metric": "logit_diff", "clean_value": -2.0, "corrupt_value": 3.0, **fields}
    made_up = {"model_name": "made-up", "arguments": {}, "versions": {}, "seconds": 0.0}
    return SweepResult(values=values, pair=pair, **made_up, **settings)


MICHELLE = ["Michelle", " Jones", " was", " a", " student", ".", " Michelle"]
MICHELLE_SMITH = ["Michelle", " Smith", *MICHELLE[2:]]
AWKWARD = [
    ["$x^2$ and ", "$", "\\alpha", "\n\n", "\t", " \x1b[31m"],
    ["\u202eabc", "שלום", " مرحبا", "e\u0301", "\u200d"],
    ["東京", " 🙂", "\ud83d"[:0] + "\ufffd", "\\xe6", "   ", "%s{}"],
]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "PNG"])
def test_formats(tmp_path, suffix):
    path = heatmap(result_for(MICHELLE, MICHELLE_SMITH), tmp_path / f"x.{suffix}")
    head = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix.lower()]
    assert path.read_bytes().startswith(head)
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("T", [1, 5, 11, 60])
def test_png_is_wide_enough_to_read(tmp_path, T):
    words = [f" word{n}" for n in range(T)]
    path = heatmap(result_for(words, [" other", *words[1:]], n_layer=12), tmp_path / "x.png")
    image = imread(path)
    assert image.shape[1] >= 800
    assert image[..., :3].std() > 0.05


def test_what_the_figure_says():
    result = result_for(MICHELLE, MICHELLE_SMITH)
    figure = _draw(result, None, None)
    axes, bar = figure.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["Michelle", "␣Jones / ␣Smith", "␣was", "␣a", "␣student", ".", "␣Michelle"]
    assert [label.get_fontweight() for label in axes.get_xticklabels()].index("bold") == 1
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "3"]
    assert axes.get_ylabel() == "layer"
    assert axes.yaxis_inverted()  # layer 0 on top
    assert bar.get_ylabel() == "logit( Smith) - logit( Jones)"
    title = axes.get_title(loc="left")
    assert "made-up" in title
    assert "clean: Michelle Jones was a student. Michelle" in title
    assert "corrupt: Michelle Smith was" in title


def test_notes_are_in_the_title():
    result = result_for(MICHELLE, MICHELLE_SMITH, notes=("builtin in place of gpt2",))
    assert "builtin in place of gpt2" in _draw(result, None, None).axes[0].get_title(loc="left")


@pytest.mark.parametrize("tokens", AWKWARD)
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_awkward_tokens_draw_without_a_warning(tmp_path, tokens, suffix):
    result = result_for([" Jones", *tokens], [" Smith", *tokens])
    heatmap(result, tmp_path / f"x.{suffix}")  # pytest turns every warning into an error


def test_dollars_are_dollars(tmp_path):
    """Drawn as formulas, these would be a square and an error."""
    for text in ("$x^2$", "$\\nonsense{$"):
        plain, marked = (
            heatmap(result_for([" Jones", end], [" Smith", end]), tmp_path / f"{n}.svg")
            for n, end in enumerate((text, text.replace("$", "S")))
        )
        # As many glyphs as characters, as with an ordinary letter in the dollar's place.
        count = [path.read_text(encoding="utf-8").count("<use ") for path in (plain, marked)]
        assert count[0] == count[1]


def test_missing_glyphs_are_shown_by_their_escape():
    assert visible(" 東京", _has_glyph) == "␣\\u6771\\u4eac"
    assert visible("🙃\U0001fae0"[1:], _has_glyph) == "\\U0001fae0"
    assert visible(" Jones", _has_glyph) == "␣Jones"


def test_text_for_people():
    assert escaped("a\nb\x1b[0m\u200f é") == "a\\nb\\x1b[0m\\u200f é"
    assert visible("  x y") == "␣␣x y"
    assert visible(" ") == "␣"
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("abcd", 4) == "abcd"


def test_cells_that_were_not_run_are_hatched():
    result = result_for(MICHELLE, MICHELLE_SMITH)
    result.values[1, 2:] = np.nan
    axes = _draw(result, None, None).axes[0]
    assert axes.patch.get_hatch()
    assert axes.get_xlabel().endswith("hatched: not patched")
    assert axes.images[0].get_array().mask[1].tolist() == [False] * 2 + [True] * 5


def test_recovery_is_centred_on_nothing_restored():
    image = (
        _draw(result_for(MICHELLE, MICHELLE_SMITH, metric="recovery"), None, None).axes[0].images[0]
    )
    assert image.norm(0.0) == 0.5
    assert image.cmap.name == "RdBu"
    assert image.norm.vmax == -image.norm.vmin == 3


def test_the_same_result_gives_the_same_bytes(tmp_path):
    for suffix in ("png", "svg", "pdf"):
        first, second = (
            heatmap(result_for(MICHELLE, MICHELLE_SMITH), tmp_path / f"{n}.{suffix}").read_bytes()
            for n in range(2)
        )
        assert first == second


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("x.jpg", {}, "no figure format 'jpg'; there are png, svg, pdf"),
        ("x", {}, "no figure format ''"),
        ("x.png", {"cmap": "sunset"}, "no colour map 'sunset'"),
    ],
)
def test_bad_requests_are_refused(tmp_path, name, settings, message):
    with pytest.raises(DrawingError, match=message):
        heatmap(result_for(MICHELLE, MICHELLE_SMITH), tmp_path / name, **settings)
    assert not [*tmp_path.iterdir()]
