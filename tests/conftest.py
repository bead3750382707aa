"""Fixtures: small models, the shipped model, GPT-2's files where they are cached."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, make_model
from hub_server import ROWS, HubServer, set_hub
from hypothesis import settings

from mingpt import GPT, BPETokenizer, DownloadError, load
from mingpt.loading import download, hub, model_files
from mingpt.loading.model_files import save
from mingpt.loading.sources import BUILTIN_DIRECTORY, resolve
from mingpt.loading.tokenizer_files import tokenizer_in
from patching import PromptPair

# The same examples in every run, and no time limit on a busy machine.
settings.register_profile("seeded", derandomize=True, deadline=None, database=None)
settings.load_profile("seeded")

# Tests use no network: those that fetch talk to a local server. Nor do they read the hub's
# cache of this machine's owner. Only the fixture `gpt2` restores the owner's settings.
OWNERS = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN")}
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(ROOT / "no-such-cache")}
os.environ |= {"HF_TOKEN_PATH": str(ROOT / "no-such-token")}
os.environ.pop("HF_TOKEN", None)
# huggingface_hub reads the environment when it is imported: not before here.


# A shell starts background jobs with Ctrl-C ignored, which they and their commands would keep.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Marker -> why its tests are skipped unless pytest -m MARKER asks for them.
APART = {
    "cost": "measures time or memory on GPT-2's shape",  # needs an idle machine
    "slow": "takes many seconds",
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that only their marker runs; choose the number of threads."""
    for name, why in APART.items():
        if item.get_closest_marker(name) is not None and item.config.option.markexpr != name:
            pytest.skip(f"{why}: pytest -m {name}")
    os.environ.pop("COLUMNS", None)  # xdist sets it, and tables would be cut for that width
    # The other tests' models are so small that a second thread makes them slower.
    torch.set_num_threads(1 if item.get_closest_marker("cost") is None else 2)


@pytest.fixture
def model() -> GPT:
    return make_model()


@pytest.fixture
def pair() -> PromptPair:
    """A pair of seven tokens for `model`; the prompts differ at position 2."""
    return PromptPair.from_ids([5, 9, 11, 3, 7, 30, 5], [5, 9, 22, 3, 7, 30, 5], 11, 22)


@pytest.fixture(scope="session")
def builtin() -> tuple[GPT, BPETokenizer]:
    return load("builtin")


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> BPETokenizer:
    if not os.environ.get("MINGPT_GPT2_TOKENIZER"):
        pytest.skip("MINGPT_GPT2_TOKENIZER names no folder with GPT-2's encoder.json and vocab.bpe")
    return model_files.gpt2_tokenizer()


@pytest.fixture(scope="session")
def gpt2(request) -> tuple[GPT, BPETokenizer]:
    """GPT-2 124M, loaded as a user loads it; fetched only with pytest -m gpt2."""
    home = os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser()
    with pytest.MonkeyPatch.context() as patch:
        if OWNERS["HF_TOKEN"]:
            patch.setenv("HF_TOKEN", OWNERS["HF_TOKEN"])
        set_hub(
            patch,
            cache=OWNERS["HF_HUB_CACHE"] or f"{home}/hub",
            endpoint=os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
            offline=OWNERS["HF_HUB_OFFLINE"] not in (None, "", "0"),
        )
        if not resolve("gpt2").is_here:
            if request.config.option.markexpr != "gpt2":
                pytest.skip("GPT-2 124M is in no cache; pytest -m gpt2 fetches it (548 MB)")
            try:
                hub.reach()
            except DownloadError as error:
                pytest.skip(f"GPT-2 124M is in no cache, and the hub out of reach: {error}")
        return load("gpt2")


@pytest.fixture
def command(tmp_path):
    """A function that runs scripts/NAME.py in an empty folder, as a user would."""

    def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments],
            cwd=tmp_path,
            env={**os.environ, "MINGPT_GPT2_TOKENIZER": "", **environment},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, bytes]:
    """The files of a small model, as mingpt.save writes them."""
    directory = tmp_path_factory.mktemp("origin")
    tokenizer = tokenizer_in(BUILTIN_DIRECTORY)
    save(make_model(vocab_size=ROWS), directory, tokenizer)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A local hub, online mode, an empty cache, and no GPT-2's tokenizer."""
    monkeypatch.delenv("MINGPT_GPT2_TOKENIZER", raising=False)
    monkeypatch.setattr(download, "SECONDS_BETWEEN", 0.01)
    monkeypatch.setattr(hub, "SECONDS_BETWEEN", 0.01)
    with HubServer() as server:
        set_hub(monkeypatch, cache=tmp_path / "hub", endpoint=server.url, offline=False)
        yield server


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty cache, no network, and no GPT-2's tokenizer."""
    monkeypatch.delenv("MINGPT_GPT2_TOKENIZER", raising=False)
    set_hub(monkeypatch, cache=tmp_path / "hub", endpoint="http://127.0.0.1:9", offline=True)
