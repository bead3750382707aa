"""The cost of tokenizing 1 MB: plain text, and a single piece."""

import gc
import statistics
import sys
import time
from pathlib import Path
from random import Random

import pytest
from helpers import median_seconds
from tokenizers import Tokenizer, models, pre_tokenizers

from mingpt.loading.gpt2_tokenizer import gpt2_tokenizer_files
from mingpt.loading.sources import BUILTIN_DIRECTORY
from mingpt.loading.tokenizer_files import read_tokenizer
from patching.study.generators import words

pytestmark = pytest.mark.cost

MB = 10**6
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [
    *words.FIRST_NAMES, *words.SURNAMES, *words.CAPITALS, *words.PLACES, *words.OBJECTS,
    "the", "a", "was", "is", "of", "and", "to", "in", "said", "that", "she", "he",
]  # fmt: skip


def plain_text(new_words: float) -> str:
    """Return 1 MB of words; a share of `new_words` of them is random letters."""
    random, parts, size = Random(0), [], 0
    while size < MB:
        is_new = random.random() < new_words
        word = "".join(random.choices(LETTERS, k=random.randint(2, 12))) if is_new else ""
        parts.append(word or random.choice(WORDS))
        size += len(parts[-1]) + 1
    return " ".join(parts)[:MB]


@pytest.fixture(params=["gpt2", "builtin"])
def files(request) -> tuple[Path, ...]:
    if request.param == "gpt2":
        request.getfixturevalue("gpt2_tokenizer")  # skips where its files cannot be had
        return gpt2_tokenizer_files()
    return BUILTIN_DIRECTORY / "vocab.json", BUILTIN_DIRECTORY / "merges.txt"


@pytest.mark.parametrize("new_words", [0, 0.1, 1])
def test_plain_text_beside_the_tokenizers_package(files, new_words, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    theirs = Tokenizer(models.BPE.from_file(*map(str, files)))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text, times = plain_text(new_words), ([], [])
    for _ in range(5):
        ours = read_tokenizer(*files)  # anew, so that it has cached no piece
        for tokenizer, seconds in zip((theirs, ours), times, strict=True):
            started = time.perf_counter()
            tokenizer.encode(text)
            seconds.append(time.perf_counter() - started)
    ratio = statistics.median(times[0]) / statistics.median(times[1])
    print(f"\n{new_words:.0%} new words: {ratio:.2f} times as fast as the tokenizers package")
    assert ours.encode(text) == theirs.encode(text).ids
    assert ratio >= 1 / 3


def test_one_piece_takes_time_in_proportion_to_its_length(files):
    tokenizer = read_tokenizer(*files)
    whole = "".join(Random(0).choices(LETTERS, k=MB))
    half, full = median_seconds(
        [lambda: tokenizer.encode(whole[: MB // 2]), lambda: tokenizer.encode(whole)], rounds=3
    )
    print(f"\none piece of 0.5 MB: {half:.2f} s, of 1 MB: {full:.2f} s ({full / half:.2f} times)")
    assert full <= 2.5 * half


def kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is read from /proc")
def test_one_piece_of_1_mb_takes_little_memory(files):
    tokenizer = read_tokenizer(*files)
    piece = "".join(Random(0).choices(LETTERS, k=MB))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = kilobytes("VmRSS")
    tokenizer.encode(piece)
    peak = (kilobytes("VmHWM") - before) / 1024
    print(f"\none piece of 1 MB: {peak:.0f} MB")
    assert peak < 500
