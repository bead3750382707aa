"""Continuations as text, the candidates of a step, counts with their intervals, and the figures."""

import dataclasses
import math

import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.image import imread

from mingpt import ConfigError, Decoding
from mingpt.generation.sampling import Choice
from patching.cli.common.tables import width
from patching.cli.generate_report import cell, side_by_side
from patching.continuation import run
from patching.continuation.counts import Count, Pattern, count, wilson
from patching.continuation.run import Continuation, Settings, continue_prompts
from patching.continuation.step_candidates import candidates
from patching.drawing import continuation
from patching.errors import DrawingError, ProbeError, PromptError, ResultError
from patching.text import squeezed

KEYS = "The keys to the cabinet"
DRAWN = Settings(8, Decoding(1.3, 20, 0.95, 1.1), stop=("dust",))


@pytest.fixture(scope="module")
def samples(builtin) -> list[Continuation]:
    return continue_prompts(*builtin, [KEYS], DRAWN, num_samples=6, seed=3)[0]


# --------------------------------------------------------------------- texts


def test_a_continuation_says_what_it_is(builtin, samples):
    _, tokenizer = builtin
    for number, one in enumerate(samples):
        assert (one.model, one.prompt, one.settings) == ("builtin", KEYS, DRAWN)
        assert one.sample.seed == 3 + number
        assert [*one.sample.prompt] == tokenizer.encode(KEYS)
        text = "".join(one.tokens)
        assert one.text == text.removesuffix("<|endoftext|>")
        assert (one.sample.ended == "end") == text.endswith("<|endoftext|>")
        assert (one.sample.ended == "stop") == ("dust" in text)
    assert {one.sample.ended for one in samples} >= {"end", "stop"}


def test_each_alone_is_as_in_the_batch(builtin, samples):
    prompts = [KEYS, "The capital of France is"]
    together = continue_prompts(*builtin, prompts, DRAWN, num_samples=2, seed=5)
    assert [one.text for one in together[0]] == [one.text for one in samples[2:4]]
    for number, prompt in enumerate(prompts):
        (alone,) = continue_prompts(*builtin, [prompt], DRAWN, seed=6)[0]
        assert alone.text == together[number][1].text


def test_greedy_and_beams_find_what_the_model_knows(builtin):
    prompt = "The capital of France is"
    for settings in (Settings(1, greedy=True), Settings(1, num_beams=3)):
        (one,) = continue_prompts(*builtin, [prompt], settings)[0]
        assert one.text == " Paris"
        assert one.sample.seed is None


def test_the_model_is_left_in_the_mode_it_was_in(builtin):
    model, tokenizer = builtin
    try:
        model.train()
        continue_prompts(model, tokenizer, [KEYS], Settings(2))
        assert model.training
    finally:
        model.eval()


def test_progress_ends_at_the_whole(builtin):
    for settings, wanted in ((DRAWN, 3), (Settings(8, num_beams=4), 3)):
        done = []
        continue_prompts(*builtin, [KEYS, "A"], settings, num_samples=wanted, step=done.append)
        assert sum(done) == 2 * wanted * 8


def test_they_are_saved_and_loaded(samples, tmp_path):
    beams = dataclasses.replace(samples[0], settings=Settings(num_beams=2, length_penalty=0.5))
    path = run.save(tmp_path / "x.json", [*samples, beams], versions={"a": "b"})
    assert run.load(path) == [*samples, beams]
    damaged = path.read_text().replace('"ids": [', '"ids": "abc", "was": [', 1)
    for text in ("", "[]", '{"values": [{}]}', '{"values": 3}', '{"values": {}}', damaged):
        path.write_text(text)
        with pytest.raises(ResultError, match="holds no saved continuations"):
            run.load(path)
    with pytest.raises(ResultError, match="No such file"):
        run.load(tmp_path / "y.json")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(), "temperature 1"),
        (Settings(decoding=Decoding(0.5, 3, 0.9)), "temperature 0.5, top-k 3, top-p 0.9"),
        (
            Settings(greedy=True, decoding=Decoding(repetition_penalty=1.2)),
            "greedy, repetition penalty 1.2",
        ),
        (Settings(num_beams=4, length_penalty=0.6), "4 beams, length penalty 0.6"),
    ],
)
def test_settings_in_words(settings, words):
    assert settings.describe() == words


def test_what_cannot_be_continued(builtin):
    for prompts, message in (
        ([""], "^the prompt is empty$"),
        ([KEYS, ""], "^prompt 2 is empty$"),
        (["\udc80"], "^the prompt: the text is not valid Unicode"),
    ):
        with pytest.raises(PromptError, match=message):
            continue_prompts(*builtin, prompts)
    for asked, message in (
        ({"prompts": [KEYS * 60]}, "the prompt has .* tokens, the model reads 1 to 128"),
        ({"settings": Settings(greedy=True), "num_samples": 2}, "greedy has one continuation"),
        ({"settings": Settings(num_beams=2), "num_samples": 3}, "2 beams cannot give 3"),
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            continue_prompts(*builtin, **{"prompts": [KEYS], **asked})
    with pytest.raises(PromptError, match="prompts are several, in a list, not 'The keys"):
        continue_prompts(*builtin, KEYS)
    with pytest.raises(ConfigError, match="several, in a tuple, not 'abc'"):
        Settings(stop="abc")
    with pytest.raises(ConfigError, match="num_beams must be a whole number"):
        Settings(num_beams=0)
    with pytest.raises(ConfigError, match="two ways; choose one"):
        Settings(greedy=True, num_beams=2)
    with pytest.raises(ConfigError, match="max_new_tokens must be a whole number of at least 1"):
        Settings(0)


# --------------------------------------------------------------------- one step

LOGITS = torch.tensor([0.0625, 0.5, 0.125, 0.25, 0.0625]).log() + 3


def step(token: int, decoding: Decoding, k: int = 5, greedy: bool = False, ids=(0,)):
    choice = Choice(0, 0, 0, LOGITS, torch.tensor(ids), token, 0.0, None)
    return candidates(choice, decoding, k, "abcde".__getitem__, greedy=greedy)


def test_the_candidates_of_a_step():
    found = step(3, Decoding(top_k=3, top_p=0.8))
    assert [one.token for one in found[:3]] == ["b", "d", "c"]
    assert [one.rank for one in found] == [1, 2, 3, 4, 5]
    assert [one.logit for one in found] == pytest.approx(
        [math.log(p) + 3 for p in (0.5, 0.25, 0.125, 0.0625, 0.0625)], abs=1e-6
    )
    assert [one.probability for one in found] == pytest.approx(
        [0.5, 0.25, 0.125, 0.0625, 0.0625], abs=1e-6
    )
    assert [one.cumulative for one in found] == pytest.approx(
        [0.5, 0.75, 0.875, 0.9375, 1], abs=1e-6
    )
    # Of what top-k leaves, b and d are 6/7: enough for 0.8.
    assert [one.cut for one in found] == [None, None, "top-p", "top-k", "top-k"]
    assert [one.drawn_with for one in found] == pytest.approx([2 / 3, 1 / 3, 0, 0, 0], abs=1e-6)
    assert [one.is_chosen for one in found] == [False, True, False, False, False]


def test_the_one_chosen_is_shown_wherever_it_ranks():
    found = step(2, Decoding(), k=1)
    assert [(one.rank, one.token, one.is_chosen) for one in found] == [
        (1, "b", False),
        (3, "c", True),
    ]


def test_probabilities_are_after_penalty_and_temperature():
    found = step(3, Decoding(0.5, repetition_penalty=2.0), ids=(1, 1))
    penalised = LOGITS.clone()
    penalised[1] /= 2
    expected = (penalised / 0.5).softmax(-1)
    for one in found:
        assert one.probability == pytest.approx(expected[one.id].item(), abs=1e-6)
        assert one.logit == pytest.approx(LOGITS[one.id].item())
    assert found[0].token == "d"


def test_greedy_cuts_nothing_and_takes_the_first():
    found = step(1, Decoding(), greedy=True)
    assert [one.cut for one in found] == [None] * 5
    assert [one.drawn_with for one in found] == [1, 0, 0, 0, 0]
    tied = Choice(0, 0, 0, torch.zeros(5), torch.tensor([0]), 0, 0.0, None)
    found = candidates(tied, Decoding(), 5, "abcde".__getitem__, greedy=True)
    assert sorted(one.drawn_with for one in found) == [0, 0, 0, 0, 1]


# --------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    ("found", "samples", "interval"),
    [
        # statsmodels.stats.proportion.proportion_confint(method="wilson"), to four digits.
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (1, 10, (0.0179, 0.4042)),
        (7, 30, (0.1179, 0.4093)),
        (50, 100, (0.4038, 0.5962)),
        (1, 1, (0.2065, 1.0)),
    ],
)
def test_wilsons_interval(found, samples, interval):
    assert wilson(found, samples) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize("found", range(9))
def test_wilsons_interval_solves_its_own_equation(found):
    """Its ends are the probabilities from which the share is 1.96 standard deviations away."""
    for end in wilson(found, 8):
        deviation = math.sqrt(end * (1 - end) / 8)
        assert abs(found / 8 - end) == pytest.approx(1.959963984540054 * deviation, abs=1e-12)


@pytest.mark.parametrize(
    ("pattern", "text", "is_in"),
    [
        ("he", "He said", True),
        ("he", "the other", False),
        ("he", "so did he.", True),
        ("he", "heat", False),
        ("don't", "I Don't know", True),
        ("New York", "in new york,", True),
        ("é", "É", True),
        (r"\bhe\b", "He", False),  # a regular expression means what it says
        (r"s?he\b", "the", True),
        ("a.c", "abc", True),
        ("$", "", True),
        ("naïve-ish", "a naïve-ish plan", True),
    ],
)
def test_words_and_regular_expressions(pattern, text, is_in):
    assert Pattern(pattern).is_in(text) == is_in


@pytest.mark.parametrize("found_of", [(0, 0), (-1, 3), (4, 3)])
def test_what_is_no_share(found_of):
    with pytest.raises(ProbeError, match="samples is no share"):
        wilson(*found_of)


def test_counting():
    found = count([Pattern("a"), Pattern("b|c")], "p", ["a b", "b", "d", "a a"])
    assert [(one.prompt, one.pattern, one.found, one.samples) for one in found] == [
        ("p", "a", 2, 4),
        ("p", "b|c", 2, 4),
    ]
    assert found[0].to_dict() == {
        "prompt": "p", "pattern": "a", "found": 2, "samples": 4, "share": 0.5,
        "interval": [*wilson(2, 4)],
    }  # fmt: skip


def test_patterns_that_cannot_be_counted(monkeypatch):
    for pattern, message in (("", "is empty"), ("  ", "is empty"), ("(", "no regular expression")):
        with pytest.raises(ProbeError, match=message):
            Pattern(pattern)
    monkeypatch.setattr("patching.continuation.counts.SECONDS", 0.05)
    with pytest.raises(ProbeError, match=r"took more than 0\.05 s on one text"):
        Pattern(r"(a|aa)+$").is_in("a" * 60 + "b")


# --------------------------------------------------------------------- figures


@pytest.fixture
def figures(monkeypatch) -> list:
    """Those that are drawn, as matplotlib has them."""
    drawn, write = [], continuation.style.write
    monkeypatch.setattr(
        continuation.style, "write",
        lambda path, draw: write(path, lambda: drawn.append(draw()) or drawn[-1]),
    )  # fmt: skip
    return drawn


AWKWARD = ["$x$", "_a", "\n", "中", "\x1b[31m", " " * 30, "a" * 99]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_choice_is_drawn(samples, tmp_path, suffix):
    found = step(3, Decoding(top_k=3))
    path = continuation.draw_choice(
        found, samples, tmp_path / f"x.{suffix}", notes=["in place of gpt2"]
    )
    assert path.stat().st_size > 5000
    if suffix == "png":
        assert imread(path).shape[1] > 900
    if suffix == "svg":
        assert "the first 5 of 6 samples" in " ".join(
            line.strip(" <!->") for line in path.read_text().splitlines()
        )


def test_awkward_texts_are_drawn_without_a_warning(samples, tmp_path):
    odd = dataclasses.replace(
        samples[0],
        prompt=" ".join(AWKWARD),
        tokens=tuple(AWKWARD) * 30,
        sample=dataclasses.replace(samples[0].sample, log_probs=(-1.0,) * (30 * len(AWKWARD))),
    )
    named = [dataclasses.replace(step(3, Decoding())[0], token=text) for text in AWKWARD]
    continuation.draw_choice(named, [odd], tmp_path / "choice.png")
    assert imread(tmp_path / "choice.png").shape[1] < 150 * 20  # inches: long, but a figure still
    counts = [Count(prompt, pattern, 3, 7) for prompt in AWKWARD for pattern in AWKWARD]
    continuation.draw_counts([("a", counts), ("$b$" * 99, counts)], tmp_path / "c.png", title="$t$")
    assert imread(tmp_path / "c.png").shape[1] == 1200


def test_bars_are_as_long_as_their_shares(tmp_path, figures):
    counts = [Count("p", "a", 1, 4), Count("p", "b", 3, 4), Count("q", "a", 0, 4)]
    continuation.draw_counts([("m", counts)], tmp_path / "c.png", title="t")
    bars = [patch.get_width() for patch in figures[0].axes[0].patches]
    assert sorted(bars) == [0, 0.25, 0.75]
    ends = [
        tuple(segment[:, 0]) for line in figures[0].axes[0].collections
        for segment in line.get_segments()
    ]  # fmt: skip
    expected = [wilson(0, 4), wilson(1, 4), wilson(3, 4)]
    assert [*sum(sorted(ends), ())] == pytest.approx([*sum(expected, ())])


def test_a_choice_shows_its_numbers(samples, tmp_path, figures):
    found = step(3, Decoding(top_k=3, top_p=0.8))
    continuation.draw_choice(found, samples[:2], tmp_path / "x.png")
    left, *paths = figures[0].axes
    bars = left.patches
    widths = [bar.get_width() for bar in bars]
    assert widths[:5] == pytest.approx([one.probability for one in found])
    assert widths[5:] == pytest.approx([one.drawn_with for one in found])
    kept, cut = (to_rgba(colour) for colour in (continuation.KEPT, continuation.CUT))
    assert [bar.get_facecolor() for bar in bars[:5]] == [kept, kept, cut, cut, cut]
    for axes, sample in zip(paths, samples[:2], strict=True):
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == pytest.approx([*sample.sample.log_probs])
        names = [label.get_text() for label in axes.get_xticklabels()]
        assert names == [continuation.style.token_label(token, 16) for token in sample.tokens]


@pytest.mark.parametrize(
    ("text", "short"), [("abcdefghij", "abcdefghij"), ("abcdefghijk", "abcd\u2026ghijk")]
)
def test_what_is_long_is_cut_in_the_middle(text, short):
    assert squeezed(text, 10) == short


@pytest.mark.parametrize("text", ["a" * 99, "\u4e2d" * 99, "ab\ncd", "\x1b[31m" * 20])
def test_cells_are_no_wider_than_they_may_be(text):
    assert width(cell(text)) <= 40
    assert "\n" not in cell(text)
    for line in side_by_side([[text, text]], ["a", "b"], 50).splitlines():
        assert width(line) <= 50
        assert "\x1b" not in line


def test_nothing_is_not_drawn(samples, tmp_path):
    with pytest.raises(DrawingError, match="no choice to draw"):
        continuation.draw_choice([], samples, tmp_path / "x.png")
    with pytest.raises(DrawingError, match="no counts to draw"):
        continuation.draw_counts([], tmp_path / "x.png", title="")
    with pytest.raises(DrawingError, match="no figure format"):
        continuation.draw_choice(step(3, Decoding()), samples, tmp_path / "x.gif")
    assert not [*tmp_path.iterdir()]
