"""From a key to the picture, on the live page in a real browser."""

import statistics

import pytest
import torch
from pages import LivePage, Served, started_browser

from mingpt import GPT, GPTConfig, load
from patching.page.live.prompts import Loaded

pytestmark = pytest.mark.cost
ROUNDS = 9
CLEAN = "Michelle {} was a top-notch student. Then Michelle"  # 11 tokens


def milliseconds(browser, model, tokenizer) -> float:
    """Return the median time from a key to the picture of all patched runs."""
    served = Served([Loaded("x", model, tokenizer)])
    try:
        one = LivePage(browser, served)
        found = []
        for number in range(ROUNDS + 1):
            for name, surname in (("corrupt", "Smith"), ("clean", ("Jones", "Davis")[number % 2])):
                one.fill(name, CLEAN.format(surname))
            assert one.page.locator(".prompt em").first.text_content() == " 11 tokens"
            found.append(float(one.page.evaluate("document.body.dataset.milliseconds")))
        assert one.wrong == []
        one.page.close()
        return statistics.median(found[1:])
    finally:
        served.close()


def test_the_picture_follows_a_key():
    torch.manual_seed(0)
    shipped, tokenizer = load("builtin")
    large = GPT(GPTConfig()).eval()  # of GPT-2 124M's shape, random weights
    with started_browser() as browser:
        small, big = (milliseconds(browser, model, tokenizer) for model in (shipped, large))
    print(
        f"\nfrom key to picture, 11 tokens, {torch.get_num_threads()} threads: shipped model"
        f" {small:.0f} ms, GPT-2 124M's shape {big:.0f} ms"
    )
    assert small < 100 and big < 1000
