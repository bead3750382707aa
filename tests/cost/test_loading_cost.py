"""Loading random weights of GPT-2 124M's shape: logits as in transformers, time, memory."""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from helpers import ROOT, median_seconds
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from mingpt import GPT

LARGEST = 50257 * 768  # values of the largest tensor, wte
PARAMETERS = 124_439_808
pytestmark = pytest.mark.cost


@pytest.fixture(scope="module")
def theirs() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config()).eval()


@pytest.fixture(scope="module")
def directory(theirs):
    # Not tmp_path: pytest would keep this half gigabyte for three runs.
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        yield Path(folder)


def test_the_logits_are_those_of_transformers(theirs, directory):
    ours = GPT.from_pretrained(directory)
    assert sum(parameter.numel() for parameter in ours.parameters()) == PARAMETERS
    ids = torch.randint(50257, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids)[0], theirs(ids).logits, rtol=0, atol=1e-4)


def test_loading_takes_at_most_half_as_long_again_as_copying_the_file(directory):
    path = directory / "model.safetensors"

    def copy():
        return {key: tensor.clone() for key, tensor in load_file(path).items()}

    ours, reference = median_seconds([lambda: GPT.from_pretrained(directory), copy])
    print(f"\nloading / copying: {ours / reference:.2f}")
    assert ours < 1.5 * reference


PEAK = """
import ctypes, gc, sys, torch
from pathlib import Path
from mingpt import GPT
from helpers import make_model

def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

make_model()  # whatever is set up once
GPT.from_pretrained("builtin", dtype=torch.bfloat16)
for directory, dtype in zip(sys.argv[1::2], sys.argv[2::2]):
    model = None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is not to count as there already
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = kilobytes("VmRSS")
    model = GPT.from_pretrained(Path(directory), dtype=getattr(torch, dtype))
    print((kilobytes("VmHWM") - before) * 1024)
"""


def unaligned(source: Path, target: Path) -> None:
    """Copy a safetensors file so that its data is at an odd address, as in GPT-2's own."""
    with source.open("rb") as file, target.open("wb") as copy:
        (size,) = struct.unpack("<Q", file.read(8))
        header = file.read(size).rstrip(b" ")
        header += b" " * (3 - len(header) % 4)
        copy.write(struct.pack("<Q", len(header)) + header)
        shutil.copyfileobj(file, copy, 1 << 24)


@pytest.fixture
def variants(directory):
    """Yield pairs (what to load, in which dtype)."""
    weights = directory / "model.safetensors"
    folders = {"aligned": directory}
    with tempfile.TemporaryDirectory() as root:
        for name in ("unaligned", "bin"):
            folders[name] = Path(root) / name
            folders[name].mkdir()
            shutil.copy(directory / "config.json", folders[name])
        unaligned(weights, folders["unaligned"] / "model.safetensors")
        torch.save(load_file(weights), folders["bin"] / "pytorch_model.bin")
        yield [
            (folders["aligned"], "float32"),
            (folders["aligned"], "bfloat16"),
            (folders["aligned"], "float64"),
            (folders["unaligned"], "float32"),
            (folders["bin"], "float32"),
        ]


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is read from /proc")
def test_peak_memory_is_the_parameters_and_the_largest_tensor(variants):
    """Measure the peak growth of a process while it loads, mapped files included."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *(str(word) for variant in variants for word in variant)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=True,
    )
    peaks = [int(line) for line in done.stdout.split()]
    for (folder, dtype), peak in zip(variants, peaks, strict=True):
        itemsize = getattr(torch, dtype).itemsize
        share = peak / (PARAMETERS * itemsize)
        (weights,) = folder.glob("*model*")
        kind = "unaligned " if folder.name == "unaligned" else ""
        print(f"\n{kind}{weights.name} in {dtype}: peak / parameters {share:.2f}")
        assert share <= 1.15 + LARGEST / PARAMETERS
        assert share >= 0.9  # the measurement works: it sees the parameters
