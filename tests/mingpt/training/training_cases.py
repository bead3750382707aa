"""Texts and requests that the tests of training share."""

from pathlib import Path

from mingpt.training.request import TrainingRequest

WORDS = (
    "the cat sat on the mat",
    "the dog ran to the cat",
    "a bird saw the dog",
    "the mat was red",
)
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16}


def text_file(folder: Path, name: str = "text.txt", lines: int = 200) -> Path:
    """Write lines of a few sentences that repeat."""
    path = folder / name
    path.write_text("".join(f"{WORDS[n * n % 4]}, {n}.\n" for n in range(lines)), "utf-8")
    return path


def request(path: Path, **fields) -> TrainingRequest:
    """Return a request of a second's training."""
    settings = {
        "knobs": SMALL, "steps": 30, "batch_size": 4, "eval_every": 10, "learning_rate": 1e-2,
        "precision": "float32",
    }  # fmt: skip
    return TrainingRequest(texts=(str(path),), **{**settings, **fields})


def pair_file(folder: Path, count: int = 60) -> Path:
    """Write pairs that spell numbers backwards."""
    path = folder / "pairs.tsv"
    rows = (f"{n + 100}\t{str(n + 100)[::-1]}\tsome source" for n in range(count))
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path
