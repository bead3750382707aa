"""Commands where another process keeps one core busy: near the time of one thread, not twice it."""

import json
import os
import re
import statistics
import subprocess
import sys

import pytest
import torch

from mingpt import GPT, GPTConfig, load_tokenizer
from mingpt.loading.model_files import save

pytestmark = pytest.mark.cost

ROUNDS = int(os.environ.get("ROUNDS", "5"))
BUSY = [sys.executable, "-c", "while True: pass"]


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory):
    """Save four layers of GPT-2's width, with the shipped model's tokenizer."""
    tokenizer = load_tokenizer("builtin")
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=4, vocab_size=len(tokenizer.vocab), block_size=64))
    save(model, folder, tokenizer)
    return folder


@pytest.fixture
def busy():
    """Keep all cores but one busy."""
    others = [subprocess.Popen(BUSY) for _ in range(max(1, os.cpu_count() - 1))]
    yield
    for one in others:
        one.kill()
        one.wait()


def milliseconds(folder, threads: int | None) -> float:
    """Return the time of a token of the wide model, as the command states it."""
    asked = ["--model", str(folder), "--prompt", "a b c", "--max-new-tokens", "20"]
    run = command("generate", *asked, *([] if threads is None else ["--threads", str(threads)]))
    return float(re.search(r"then ([\d.]+) ms per token", run)[1])


def seconds(folder, threads: int | None) -> float:
    """Return the time of a sweep of the wide model, as its result states it."""
    asked = ["--model", str(folder), "--json", "--quiet", "--out", str(folder / "x.png")]
    run = command("patch", *asked, *([] if threads is None else ["--threads", str(threads)]))
    return json.loads(run)["seconds"]


def command(name: str, *arguments: str) -> str:
    code = f"import sys; from patching.cli.{name} import main; sys.exit(main())"
    environment = {key: value for key, value in os.environ.items() if "OMP" not in key}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True,
        text=True, check=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("measure", [milliseconds, seconds])
def test_a_busy_core_costs_little(wide_folder, busy, measure):
    """The two are run in turn; their medians are compared."""
    both = [(measure(wide_folder, None), measure(wide_folder, 1)) for _ in range(ROUNDS)]
    default, one = (statistics.median(times) for times in zip(*both, strict=True))
    print(f"\n{measure.__name__}: default {default:.4g}, one thread {one:.4g}: {default / one:.2f}")
    assert default <= 1.5 * one
