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

from typing import TYPE_CHECKING

from mingpt.lazy import lazy_names

if TYPE_CHECKING:  # the same names as _HOME's, for editors and type checkers
    from patching.comparison import compare as compare
    from patching.continuations import Continuation as Continuation
    from patching.continuations import Settings as Settings
    from patching.continuations import continue_prompts as continue_prompts
    from patching.errors import DrawingError as DrawingError
    from patching.errors import ExplanationError as ExplanationError
    from patching.errors import ProbeError as ProbeError
    from patching.errors import PromptError as PromptError
    from patching.errors import ResultError as ResultError
    from patching.errors import SweepError as SweepError
    from patching.explanation import Explanation as Explanation
    from patching.explanation import explain as explain
    from patching.metrics import METRICS as METRICS
    from patching.metrics import Metric as Metric
    from patching.plot import agreement as agreement
    from patching.plot import heatmap as heatmap
    from patching.portrait import draw as draw
    from patching.prompts import PromptPair as PromptPair
    from patching.prompts import answer_id as answer_id
    from patching.result import SweepResult as SweepResult
    from patching.sweep import patch_sweep as patch_sweep

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
