"""Activation patching on mingpt's GPT, explanations of one prediction, continuations.

Example:
    model, tokenizer = mingpt.load("builtin")
    pair = PromptPair.from_text(tokenizer, clean, corrupt, target="Jones", foil="Smith")
    result = patch_sweep(model, pair)
    draw_heatmap(result, "figures/michelle.png")

    question = Question.from_text(tokenizer, prompt, target="hot", foil="cold")
    explanation = explain(model, question)
    draw_explanation(explanation, "figures/lens.png", figure="lens")

    ((sample,),) = continue_prompts(model, tokenizer, ["The keys to the cabinet"])
    sample.text, sample.sample.log_probs
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names as _HOME's, for editors and type checkers
    from patching.continuation.figures import draw_choice as draw_choice
    from patching.continuation.figures import draw_counts as draw_counts
    from patching.continuation.request import GenerationSettings as GenerationSettings
    from patching.continuation.result import Continuation as Continuation
    from patching.continuation.result import Continuations as Continuations
    from patching.continuation.run import continue_prompts as continue_prompts
    from patching.errors import CountError as CountError
    from patching.errors import DrawingError as DrawingError
    from patching.errors import ExplanationError as ExplanationError
    from patching.errors import PairsError as PairsError
    from patching.errors import PathError as PathError
    from patching.errors import PromptError as PromptError
    from patching.errors import ResultError as ResultError
    from patching.errors import StudyError as StudyError
    from patching.errors import SweepError as SweepError
    from patching.explanation.figures import draw_explanation as draw_explanation
    from patching.explanation.result import Explanation as Explanation
    from patching.explanation.run import explain as explain
    from patching.paths.agreement import compare_edges as compare_edges
    from patching.paths.figures import draw_paths as draw_paths
    from patching.paths.graph import Receiver as Receiver
    from patching.paths.result import EdgeResult as EdgeResult
    from patching.paths.result import PathResult as PathResult
    from patching.paths.run import patch_edges as patch_edges
    from patching.paths.run import patch_paths as patch_paths
    from patching.prompts import PromptPair as PromptPair
    from patching.prompts import Question as Question
    from patching.prompts import answer_id as answer_id
    from patching.study.figures import draw_study as draw_study
    from patching.study.figures import draw_study_pairs as draw_study_pairs
    from patching.study.pairs_file import read_pairs as read_pairs
    from patching.study.result import Study as Study
    from patching.study.run import run_study as run_study
    from patching.study.subjects import noise_on_subjects as noise_on_subjects
    from patching.sweep.agreement import compare_sweeps as compare_sweeps
    from patching.sweep.figures import draw_agreement as draw_agreement
    from patching.sweep.figures import draw_heatmap as draw_heatmap
    from patching.sweep.gaussian import Gaussian as Gaussian
    from patching.sweep.gaussian import gaussian as gaussian
    from patching.sweep.metrics import METRICS as METRICS
    from patching.sweep.metrics import Metric as Metric
    from patching.sweep.put import mean_over as mean_over
    from patching.sweep.put import resample_from as resample_from
    from patching.sweep.result import SweepResult as SweepResult
    from patching.sweep.run import patch_sweep as patch_sweep

# Name -> the module it lives in; imported when it is first used.
_HOME = {
    "PromptPair": "patching.prompts",
    "Question": "patching.prompts",
    "answer_id": "patching.prompts",
    "METRICS": "patching.sweep.metrics",
    "Metric": "patching.sweep.metrics",
    "patch_sweep": "patching.sweep.run",
    "Gaussian": "patching.sweep.gaussian",
    "gaussian": "patching.sweep.gaussian",
    "mean_over": "patching.sweep.put",
    "resample_from": "patching.sweep.put",
    "SweepResult": "patching.sweep.result",
    "draw_heatmap": "patching.sweep.figures",
    "draw_agreement": "patching.sweep.figures",
    "compare_sweeps": "patching.sweep.agreement",
    "patch_paths": "patching.paths.run",
    "patch_edges": "patching.paths.run",
    "Receiver": "patching.paths.graph",
    "PathResult": "patching.paths.result",
    "EdgeResult": "patching.paths.result",
    "compare_edges": "patching.paths.agreement",
    "draw_paths": "patching.paths.figures",
    "explain": "patching.explanation.run",
    "Explanation": "patching.explanation.result",
    "draw_explanation": "patching.explanation.figures",
    "continue_prompts": "patching.continuation.run",
    "GenerationSettings": "patching.continuation.request",
    "Continuation": "patching.continuation.result",
    "Continuations": "patching.continuation.result",
    "draw_choice": "patching.continuation.figures",
    "draw_counts": "patching.continuation.figures",
    "read_pairs": "patching.study.pairs_file",
    "run_study": "patching.study.run",
    "noise_on_subjects": "patching.study.subjects",
    "Study": "patching.study.result",
    "draw_study": "patching.study.figures",
    "draw_study_pairs": "patching.study.figures",
    "PromptError": "patching.errors",
    "PairsError": "patching.errors",
    "StudyError": "patching.errors",
    "SweepError": "patching.errors",
    "PathError": "patching.errors",
    "ResultError": "patching.errors",
    "DrawingError": "patching.errors",
    "CountError": "patching.errors",
    "ExplanationError": "patching.errors",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> object:
    from mingpt.lazy import public_name  # here, as in mingpt/__init__.py

    return public_name(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
