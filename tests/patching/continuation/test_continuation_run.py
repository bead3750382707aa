"""Prompts continued: what the samples are, what they depend on, progress, what is refused."""

import sys

import pytest

from mingpt import ConfigError, Decoding
from patching.continuation.request import GenerationSettings
from patching.continuation.result import Continuation
from patching.continuation.run import continue_prompts
from patching.errors import PromptError

KEYS = "The keys to the cabinet"
DRAWN = GenerationSettings(8, Decoding(1.3, 20, 0.95, 1.1), stop=("dust",))


@pytest.fixture(scope="module")
def samples(builtin) -> tuple[Continuation, ...]:
    result = continue_prompts(*builtin, [KEYS], DRAWN, num_samples=6, seed=3)
    assert (result.model_name, result.settings, result.prompts) == ("builtin", DRAWN, (KEYS,))
    return result[0]


def test_a_continuation_says_what_it_is(builtin, samples):
    _, tokenizer = builtin
    for number, one in enumerate(samples):
        assert (one.model_name, one.prompt, one.settings) == ("builtin", KEYS, DRAWN)
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
    for settings in (GenerationSettings(1, greedy=True), GenerationSettings(1, num_beams=3)):
        (one,) = continue_prompts(*builtin, [prompt], settings)[0]
        assert one.text == " Paris"
        assert one.sample.seed is None


def test_the_model_is_left_in_the_mode_it_was_in(builtin):
    model, tokenizer = builtin
    try:
        model.train()
        continue_prompts(model, tokenizer, [KEYS], GenerationSettings(2))
        assert model.training
    finally:
        model.eval()


def test_progress_ends_at_the_whole(builtin):
    for settings, wanted in ((DRAWN, 3), (GenerationSettings(8, num_beams=4), 3)):
        done, totals = [], []

        def progress(now, total, done=done, totals=totals):
            done.append(now)
            totals.append(total)

        continue_prompts(*builtin, [KEYS, "A"], settings, num_samples=wanted, progress=progress)
        assert set(totals) == {2 * wanted * 8}
        assert (done[0], done[-1]) == (0, 2 * wanted * 8)
        assert done == sorted(set(done))  # each call reports more


def test_each_step_is_observed_before_it_is_done(builtin):
    events = []
    (samples,) = continue_prompts(
        *builtin, [KEYS], GenerationSettings(3, stop=("no such text",)),
        observe=lambda choice: events.append(choice.token),
        progress=lambda done, total: events.append((done, total)),
    )  # fmt: skip
    first, second, third = samples[0].sample.ids
    assert events == [(0, 3), first, (1, 3), second, (2, 3), third, (3, 3)]


def test_no_bar_is_drawn_where_none_is_wanted(builtin, monkeypatch, capsys):
    monkeypatch.setattr("patching.progress.SECONDS_BEFORE_A_BAR", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    continue_prompts(*builtin, [KEYS], GenerationSettings(2), progress=False)
    assert capsys.readouterr().err == ""
    continue_prompts(*builtin, [KEYS], GenerationSettings(2))
    assert "generating" in capsys.readouterr().err


def test_what_cannot_be_continued(builtin):
    for prompts, message in (
        ([""], "^the prompt is empty$"),
        ([KEYS, ""], "^prompt 2 is empty$"),
        (["\udc80"], "^the prompt: the text is not valid Unicode"),
    ):
        with pytest.raises(PromptError, match=message):
            continue_prompts(*builtin, prompts)
    for asked, message in (
        (
            {"prompts": ["a", "b" * 10**7]},
            r"^prompt 2 has at least \d+ tokens, the model reads 1 to 128",
        ),
        ({"prompts": [KEYS * 60]}, "the prompt has .* tokens, the model reads 1 to 128"),
        (
            {"settings": GenerationSettings(greedy=True), "num_samples": 2},
            "greedy has one continuation",
        ),
        ({"settings": GenerationSettings(num_beams=2), "num_samples": 3}, "2 beams cannot give 3"),
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            continue_prompts(*builtin, **{"prompts": [KEYS], **asked})
    with pytest.raises(PromptError, match="prompts must be a list of texts, not 'The keys"):
        continue_prompts(*builtin, KEYS)
