"""Activation patching on mingpt's GPT, explanations of one prediction, and what comes next.

Example:
    model, tokenizer = mingpt.load("builtin")
    pair = PromptPair.from_text(tokenizer, clean, corrupt, target="Jones", foil="Smith")
    result = patch_sweep(model, pair)
    heatmap(result, "figures/michelle.png")

    explanation = explain(model, ids, target, foil, tokenizer=tokenizer)
    draw(explanation, "lens", "figures/lens.png")

    ((sample,),) = continue_prompts(model, tokenizer, ["The keys to the cabinet"])
    sample.text, sample.sample.log_probs
"""

from __future__ import annotations

from mingpt.lazy import lazy_names

# Name -> the module it lives in; imported when it is first used.
_HOME = {
    "PromptPair": "patching.prompts",
    "answer_id": "patching.prompts",
    "METRICS": "patching.metrics",
    "Metric": "patching.metrics",
    "patch_sweep": "patching.sweep",
    "SweepResult": "patching.result",
    "heatmap": "patching.plot",
    "agreement": "patching.plot",
    "compare": "patching.comparison",
    "explain": "patching.explanation",
    "Explanation": "patching.explanation",
    "draw": "patching.portrait",
    "Settings": "patching.continuations",
    "Continuation": "patching.continuations",
    "continue_prompts": "patching.continuations",
    "PromptError": "patching.errors",
    "SweepError": "patching.errors",
    "ResultError": "patching.errors",
    "DrawingError": "patching.errors",
    "ProbeError": "patching.errors",
    "ExplanationError": "patching.errors",
}
__all__ = [*_HOME]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
