"""The settings of a continuation: their words, their checks, and what they leave unimported."""

import dataclasses
import subprocess
import sys

import pytest
from helpers import ROOT

from mingpt import ConfigError, Decoding
from patching.continuation.request import (
    MOST_SAMPLES,
    GenerationSettings,
    check_num_samples,
    encode_prompts,
)
from patching.errors import PromptError


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (GenerationSettings(), "temperature 1"),
        (
            GenerationSettings(decoding=Decoding(0.5, 3, 0.9)),
            "temperature 0.5, top-k 3, top-p 0.9",
        ),
        (
            GenerationSettings(greedy=True, decoding=Decoding(repetition_penalty=1.2)),
            "greedy, repetition penalty 1.2",
        ),
        (GenerationSettings(num_beams=4, length_penalty=0.6), "4 beams, length penalty 0.6"),
    ],
)
def test_settings_in_words(settings, words):
    assert settings.describe() == words
    assert settings.is_drawn == words.startswith("temperature")


def test_settings_are_frozen_and_read_back_from_their_dictionary():
    settings = GenerationSettings(5, Decoding(0.5, 3, 0.9, 1.2), stop=("a", "b"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.greedy = True
    assert settings.to_dict() == {
        "temperature": 0.5, "top_k": 3, "top_p": 0.9, "repetition_penalty": 1.2,
        "max_new_tokens": 5, "greedy": False, "num_beams": None, "length_penalty": 1.0,
        "stop": ["a", "b"],
    }  # fmt: skip
    for one in (settings, GenerationSettings(num_beams=3), GenerationSettings(greedy=True)):
        assert GenerationSettings.from_dict(one.to_dict()) == one
    with pytest.raises(ConfigError, match="texts to stop at are several"):
        GenerationSettings.from_dict({**settings.to_dict(), "stop": "ab"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stop": "abc"}, "several, in a tuple, not 'abc'"),
        ({"stop": ("",)}, "a text to stop at is empty, or none: ''"),
        ({"stop": (3,)}, "a text to stop at is empty, or none: 3"),
        ({"stop": ("\udcff",)}, "is not valid Unicode"),
        ({"num_beams": 0}, "num_beams must be a whole number"),
        ({"num_beams": 2, "length_penalty": 11}, "length_penalty must be from -10 to 10"),
        ({"greedy": True, "num_beams": 2}, "exclude each other; choose one"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1"),
        ({"max_new_tokens": 10**26}, "max_new_tokens must be at most 1000000, not 1000"),
        ({"max_new_tokens": True}, "max_new_tokens must be a whole number of at least 1"),
    ],
)
def test_settings_that_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        GenerationSettings(**fields)


@pytest.mark.parametrize(
    ("settings", "num_samples", "message"),
    [
        (GenerationSettings(greedy=True), 2, "greedy has one continuation"),
        (GenerationSettings(num_beams=2), 3, "2 beams cannot give 3"),
        (GenerationSettings(), 0, "num_samples must be a whole number of at least 1"),
        (GenerationSettings(), MOST_SAMPLES + 1, "at most 1000000 samples of a prompt"),
    ],
)
def test_numbers_of_samples_that_are_refused(settings, num_samples, message):
    with pytest.raises(ConfigError, match=message):
        check_num_samples(settings, num_samples)


def test_prompts_are_encoded_or_refused_by_number(builtin):
    _, tokenizer = builtin
    encoded = [tokenizer.encode(text) for text in ("a b", "c")]
    assert encode_prompts(tokenizer, ["a b", "c"]) == encoded
    for prompts, message in (
        (["a", 3], "^prompt 2 is not a text: 3$"),
        (["a", ""], "^prompt 2 is empty$"),
        ([""], "^the prompt is empty$"),
        (["\udc80"], "^the prompt: the text is not valid Unicode"),
        ("abc", "prompts must be a list of texts, not 'abc'"),
    ):
        with pytest.raises(PromptError, match=message):
            encode_prompts(tokenizer, prompts)


def test_the_request_is_read_without_pytorch():
    code = "import sys, patching.continuation.request; print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout == "False\n"
