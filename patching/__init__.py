"""Activation patching on mingpt's GPT, explanations of one prediction, and what comes next.

Example:
    model, tokenizer = mingpt.load("builtin")
    pair = PromptPair.from_text(tokenizer, clean, corrupt, target="Jones", foil="Smith")
    result = patch_sweep(model, pair)
    draw_heatmap(result, "figures/michelle.png")

    explanation = explain(model, ids, target, foil, tokenizer=tokenizer)
    draw(explanation, "lens", "figures/lens.png")

    ((sample,),) = continue_prompts(model, tokenizer, ["The keys to the cabinet"])
    sample.text, sample.sample.log_probs
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mingpt.lazy import lazy_names

if TYPE_CHECKING:  # the same names as _HOME's, for editors and type checkers
    from patching.continuation.run import Continuation as Continuation
    from patching.continuation.run import Settings as Settings
    from patching.continuation.run import continue_prompts as continue_prompts
    from patching.drawing.explanation import draw as draw
    from patching.errors import DrawingError as DrawingError
    from patching.errors import ExplanationError as ExplanationError
    from patching.errors import ProbeError as ProbeError
    from patching.errors import PromptError as PromptError
    from patching.errors import ResultError as ResultError
    from patching.errors import SweepError as SweepError
    from patching.explanation.run import Explanation as Explanation
    from patching.explanation.run import explain as explain
    from patching.prompts import PromptPair as PromptPair
    from patching.prompts import answer_id as answer_id
    from patching.sweep.agreement import compare_sweeps as compare_sweeps
    from patching.sweep.figures import draw_agreement as draw_agreement
    from patching.sweep.figures import draw_heatmap as draw_heatmap
    from patching.sweep.metrics import METRICS as METRICS
    from patching.sweep.metrics import Metric as Metric
    from patching.sweep.result import SweepResult as SweepResult
    from patching.sweep.run import patch_sweep as patch_sweep

# Name -> the module it lives in; imported when it is first used.
_HOME = {
    "PromptPair": "patching.prompts",
    "answer_id": "patching.prompts",
    "METRICS": "patching.sweep.metrics",
    "Metric": "patching.sweep.metrics",
    "patch_sweep": "patching.sweep.run",
    "SweepResult": "patching.sweep.result",
    "draw_heatmap": "patching.sweep.figures",
    "draw_agreement": "patching.sweep.figures",
    "compare_sweeps": "patching.sweep.agreement",
    "explain": "patching.explanation.run",
    "Explanation": "patching.explanation.run",
    "draw": "patching.drawing.explanation",
    "Settings": "patching.continuation.run",
    "Continuation": "patching.continuation.run",
    "continue_prompts": "patching.continuation.run",
    "PromptError": "patching.errors",
    "SweepError": "patching.errors",
    "ResultError": "patching.errors",
    "DrawingError": "patching.errors",
    "ProbeError": "patching.errors",
    "ExplanationError": "patching.errors",
}
__all__ = [*_HOME]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
