"""Draw the README's pictures again: python scripts/make_figures.py

The shipped model on the README's examples. Needs no network and no arguments;
the same versions give the same files.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import mingpt
from mingpt.generation.decoding import Decoding
from patching.cli.explain import EXAMPLE as SUMMER
from patching.cli.patch import EXAMPLE
from patching.continuation.run import Settings, continue_prompts
from patching.continuation.step_candidates import candidates
from patching.drawing.continuation import draw_choice
from patching.drawing.explanation import draw
from patching.explanation.run import explain
from patching.prompts import PromptPair, Question
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
CONTINUED = "The doctor said that"
EXPLAINED = {"readme-alti-logit.png": "alti-logit", "readme-lens.png": "lens"}


def main() -> int:
    """Write every figure into figures/ and say so."""
    model, tokenizer = mingpt.load("builtin")
    for name, (texts, settings) in SWEEPS.items():
        result = patch_sweep(model, PromptPair.from_text(tokenizer, **texts), **settings)
        draw_heatmap(result, ROOT / "figures" / name)
        print(f"wrote {ROOT / 'figures' / name}")
    asked = Question.from_text(tokenizer, **SUMMER)
    answers = (asked.target_id, asked.foil_id)
    found = explain(model, torch.tensor(asked.ids), *answers, tokenizer=tokenizer)
    for name, figure in EXPLAINED.items():
        print(f"wrote {draw(found, figure, ROOT / 'figures' / name)}")
    steps, settings = [], Settings(decoding=Decoding(1.2, top_k=12, top_p=0.85))
    (samples,) = continue_prompts(
        model, tokenizer, [CONTINUED], settings, num_samples=3, observe=steps.append
    )
    first = candidates(steps[0], settings.decoding, 15, tokenizer.token, greedy=False)
    print(f"wrote {draw_choice(first, samples, ROOT / 'figures' / 'readme-choice.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
