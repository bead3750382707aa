"""Draw the READMEs' figures again, with the shipped model.

Run: python scripts/make_figures.py [--out DIR]. It needs no network. The same versions of the
packages give the same files.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import mingpt
from mingpt.generation.decoding import Decoding
from patching.cli.explain import EXAMPLE as SUMMER
from patching.cli.patch import EXAMPLE
from patching.continuation.figures import draw_choice
from patching.continuation.request import GenerationSettings
from patching.continuation.run import continue_prompts
from patching.continuation.step_candidates import Candidate, keep_first
from patching.explanation.figures import draw_explanation
from patching.explanation.run import explain
from patching.paths.figures import draw_paths
from patching.paths.run import patch_edges, patch_paths
from patching.prompts import PromptPair, Question
from patching.study.figures import draw_study
from patching.study.generators.make import make_pairs, write_rows
from patching.study.pairs_file import read_pairs
from patching.study.run import run_study
from patching.sweep.figures import draw_heatmap
from patching.sweep.run import patch_sweep

SWEEPS = {
    "readme-michelle.png": (EXAMPLE, {}),
    "readme-heads.png": (EXAMPLE, {"site": "v", "by_position": True, "metric": "recovery"}),
    "readme-indirect-object.png": (
        {
            "clean": "When Mary and John went to the store, John gave a drink to",
            "corrupt": "When Mary and John went to the store, Mary gave a drink to",
            "target": "Mary",
            "foil": "John",
        },
        {"metric": "recovery"},
    ),
}
STUDIED = 200  # pairs
CONTINUED = "The doctor said that"
EXPLAINED = {"readme-alti-logit.png": "alti-logit", "readme-lens.png": "lens"}


def folder_of(argv: Sequence[str] | None, about: str) -> Path:
    """Return the folder that --out names, made if it is not there.

    Args:
        about: the script's docstring, whose first line is its help.
    """
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "figures", metavar="DIR", help="default: figures/"
    )
    folder: Path = parser.parse_args(argv).out
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Write every figure into the folder that --out names and print its path."""
    folder = folder_of(argv, __doc__)
    model, tokenizer = mingpt.load("builtin")
    for name, (texts, settings) in SWEEPS.items():
        result = patch_sweep(model, PromptPair.from_text(tokenizer, **texts), **settings)
        draw_heatmap(result, folder / name)
        print(f"wrote {folder / name}")
    found = explain(model, Question.from_text(tokenizer, **SUMMER))
    for name, figure in EXPLAINED.items():
        draw_explanation(found, folder / name, figure=figure)
        print(f"wrote {folder / name}")
    steps, settings = [], GenerationSettings(decoding=Decoding(1.2, top_k=12, top_p=0.85))
    (samples,) = continue_prompts(
        model, tokenizer, [CONTINUED], settings, num_samples=3, observe=steps.append
    )
    known: dict[int, Candidate] = {}
    for step in steps:
        if step.step == 0:
            keep_first(known, step, settings.decoding, 15, tokenizer.token, greedy=False)
    first = sorted(known.values(), key=lambda one: one.rank)
    path = folder / "readme-choice.png"
    draw_choice(first, path, samples=samples)
    print(f"wrote {path}")
    pair = PromptPair.from_text(tokenizer, **SWEEPS["readme-indirect-object.png"][0])
    draw_paths(patch_paths(model, pair), folder / "readme-paths.png")
    draw_paths(patch_edges(model, pair), folder / "readme-circuit.png", figure="circuit")
    print(f"wrote {folder / 'readme-paths.png'}\nwrote {folder / 'readme-circuit.png'}")
    path = folder / "readme-study.png"
    with tempfile.TemporaryDirectory() as made:
        rows = make_pairs("ioi", tokenizer, STUDIED).rows
        pairs, _ = read_pairs(tokenizer, write_rows(f"{made}/ioi.csv", rows), roles="roles")
    draw_study(run_study(model, pairs, progress=False), path)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
