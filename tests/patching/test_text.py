"""Texts that are made readable: counts with their nouns, names of models."""

import pytest

from patching.text import counted, model_label


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (counted(1, "head"), "1 head"),
        (counted(0, "head"), "0 heads"),
        (counted(2, "query", "queries"), "2 queries"),
        (counted(1, "query", "queries"), "1 query"),
    ],
)
def test_a_number_and_its_noun(found, expected):
    assert found == expected


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("gpt2", "gpt2"),
        ("openai-community/gpt2", "openai-community/gpt2"),  # a repository of the hub
        ("../gpt2rand", "gpt2rand"),
        ("./runs/", "runs"),
        ("/home/ann/models/tiny", "tiny"),
        ("~/tiny", "tiny"),
        ("runs/deep/tiny/", "tiny"),
        ("out/ckpt.pt", "ckpt.pt"),
        ("C:\\models\\tiny", "tiny"),
        ("..", ".."),
        ("/", "/"),
    ],
)
def test_the_name_of_a_model_is_not_its_path(name, label):
    assert model_label(name) == label
