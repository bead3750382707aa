"""A server of the live page with two models."""

import pytest
from pages import Served

from mingpt import load
from patching.page.live.prompts import Loaded


@pytest.fixture(scope="session")
def served():
    model, tokenizer = load("builtin")
    one = Served([Loaded("builtin", model, tokenizer), Loaded("again", model, tokenizer)])
    yield one
    one.close()
