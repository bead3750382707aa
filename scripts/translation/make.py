"""Make a translator: pairs, a small GPT trained on them, its score on new combinations, a figure.

    python scripts/make_translator.py --out runs/translator

In three minutes on 2 cores that multiply bfloat16, or seven in float32. One in ten combinations
of a noun and an adjective is in no training pair; the score is over pairs that hold one of these,
so that agreement must have been learned, and not the phrases. The figures patch "The red cars" /
"The red houses" (gender) and "The red cars" / "The red car" (number).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import mingpt
from mingpt.files import replacing
from mingpt.training.request import TrainingRequest
from mingpt.training.result import TrainingResult
from mingpt.training.run import train
from mingpt.training.translation import score, translate
from mingpt.training.vocabulary import SEPARATOR
from patching.prompts import PromptPair
from patching.sweep.figures import draw_heatmap
from patching.sweep.run import patch_sweep
from translation import frames

TRAINED, HELD_OUT = 30_000, 1_000  # pairs
FIGURES = {  # name -> clean and corrupt source, and the first word of each translation
    "gender": ("The red cars", "The red houses", "Los", "Las"),
    "number": ("The red cars", "The red car", "Los", "El"),
}


def write_pairs(pairs: Sequence[tuple[str, str]], path: Path) -> None:
    """Write a pair a line: source, tab, target."""
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{en}\t{es}\n" for en, es in pairs), encoding="utf-8")


def request(path: Path, steps: int, seed: int) -> TrainingRequest:
    """Return the request of the translator's training."""
    return TrainingRequest(
        pairs=str(path),
        preset="micro",
        vocab="bpe:2000",
        knobs={"block_size": 64, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0},
        steps=steps,
        batch_size=64,
        val_fraction=0.02,
        test_fraction=0.02,
        seed=seed,
    )


def draw(folder: Path, out: Path) -> list[Path]:
    """Draw where gender and number travel; return the figures' paths."""
    model, tokenizer = mingpt.load(folder)
    model.name = "translator"
    paths = []
    for name, (clean, corrupt, target, foil) in FIGURES.items():
        pair = PromptPair.from_text(
            tokenizer, clean + SEPARATOR, corrupt + SEPARATOR, target=target, foil=foil
        )
        result = patch_sweep(model, pair, metric="recovery")
        paths.append(out / f"{name}.png")
        draw_heatmap(result, paths[-1])
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pairs, train, score and draw; print each step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--pairs", type=int, default=TRAINED, help="to train on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    out = arguments.out
    write_pairs(frames.pairs(arguments.pairs, arguments.seed, held_out=False), out / "pairs.tsv")
    held_out = frames.pairs(HELD_OUT, arguments.seed, held_out=True)
    write_pairs(held_out, out / "held-out.tsv")
    asked = request(out / "pairs.tsv", arguments.steps, arguments.seed)
    result: TrainingResult = train(
        asked,
        out / "model",
        evaluated=lambda run: print(
            f"step {run.step}: validation loss {run.history[-1].val_loss:.4f}", flush=True
        ),
    )
    model, tokenizer = mingpt.load(out / "model")
    sources, targets = zip(*held_out, strict=True)
    found = translate(model, tokenizer, sources)
    scores = {"test part": result.translation, "held-out combinations": score(found, targets)}
    for name, one in scores.items():
        print(f"{name}: {', '.join(f'{key} {value:.4g}' for key, value in (one or {}).items())}")
    wrong = [row for row in zip(sources, targets, found, strict=True) if row[1] != row[2]]
    with replacing(out / "scores.json") as temporary:
        text = json.dumps({**scores, "wrong": wrong[:50]}, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    for path in (*draw(out / "model", out), out / "scores.json"):
        print(f"wrote {path}")
    return 0
