"""Explain a prediction: what made the model prefer one next token over another.

`explain` runs prompts of one length in one batch, has each method read the recorded
activations (alti.py, logit_attribution.py, logit_lens.py), checks that the terms add
up to the logits, and returns NumPy arrays (result.py).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from torch import Tensor

from mingpt.checks import widened
from patching.errors import ExplanationError
from patching.explanation import alti, logit_attribution, logit_lens
from patching.explanation.recording import RecordedRun, record_run
from patching.explanation.request import DEFAULT, ROWS, check_rows, parse_methods
from patching.explanation.result import NOT_ASKED, Explanation
from patching.head_scores import SCORES, repeated_ids, score_heads
from patching.next_tokens import text_or_id
from patching.progress import Progress, progress_or_bar, steps
from patching.prompts import Question
from patching.result_checks import HEADROOM
from patching.running import ready, versions
from patching.text import counted

if TYPE_CHECKING:
    from mingpt.model import GPT

# The largest allowed difference between the terms' sum and the logits is TOLERANCE
# times all that is added, in absolute values (LogitTerms.magnitude), plus
# TOLERANCE_BESIDE. Half precision has no limit.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
TOLERANCE_BESIDE = {torch.float32: 1e-6, torch.float64: 1e-12}
REPEATED = 25  # random tokens that are repeated, for the scores of heads
MOST_PATTERN_BYTES = 2**29  # of all heads' attention weights, in float32
OUT_OF_MEMORY = (
    "out of memory; ask for fewer methods, explain fewer or shorter prompts at a time,"
    " or use a narrower dtype"
)


@overload
def explain(
    model: GPT,
    question: Question,
    *,
    methods: str | Iterable[str] = ...,
    rows: int = ...,
    ablate: tuple[int, int] | None = ...,
    progress: Progress | bool | None = ...,
) -> Explanation: ...


@overload
def explain(
    model: GPT,
    question: Iterable[Question],
    *,
    methods: str | Iterable[str] = ...,
    rows: int = ...,
    ablate: tuple[int, int] | None = ...,
    progress: Progress | bool | None = ...,
) -> list[Explanation]: ...


@torch.no_grad()
def explain(
    model: GPT,
    question: Question | Iterable[Question],
    *,
    methods: str | Iterable[str] = DEFAULT,
    rows: int = ROWS,
    ablate: tuple[int, int] | None = None,
    progress: Progress | bool | None = None,
) -> Explanation | list[Explanation]:
    """Explain why the model prefers one next token over another.

    Args:
        model: run in eval mode; its mode and its recording stay as they were.
        question: a prompt of T tokens with its target and foil, or several of any
            lengths. Prompts of one length are run together.
        methods: names in METHODS, as a list or separated by commas. The terms of the
            logits, their check and `logit` are always worked out.
        rows: the number of likeliest next tokens to keep.
        ablate: (layer, head) of a head that is switched off: its z is 0 at every position. The
            terms are those of that run, with its own final layer norm.
        progress: called with (work done, work in all); None for a progress bar,
            False for none.

    Returns:
        An Explanation; of several questions a list of them, in the same order.

    Raises:
        ExplanationError: a prompt or answer that the model cannot read, an unknown
            method or head, logits that are not finite, terms that do not add up to the
            logits, or too little memory.
    """
    chosen = parse_methods(methods)
    check_rows(rows)
    check_ablated(model, ablate)
    batches = _batches(model, question)
    if "attention" in chosen:
        _check_patterns(model, batches)
    vectors = sum(batch.ids.numel() for batch in batches) * model.config.n_layer
    found: dict[int, Explanation] = {}
    with progress_or_bar(progress, "explaining") as report:
        step = steps(report, vectors * (1 + ("lens" in chosen)))
        for batch in batches:
            with ready(model, ExplanationError(OUT_OF_MEMORY)):
                explanations = _explain_batch(model, batch, chosen, rows, ablate, step)
            found |= zip(batch.numbers, explanations, strict=True)
    in_order = [found[number] for number in sorted(found)]
    return in_order[0] if isinstance(question, Question) else in_order


@dataclass(frozen=True)
class _Batch:
    """Questions of one length, which are run together."""

    questions: list[Question]
    numbers: list[int]  # of the questions, among all that `explain` got
    is_single: bool  # there is one question, so that messages give no number

    @property
    def ids(self) -> Tensor:
        """Token ids (B, T)."""
        return torch.tensor([question.ids for question in self.questions])

    @property
    def answers(self) -> Tensor:
        """Target and foil (B, 2)."""
        return torch.tensor([(one.target_id, one.foil_id) for one in self.questions])

    def error(self, row: Tensor | int, message: str) -> ExplanationError:
        """Return an error that names the question of a row, if there are several."""
        name = "" if self.is_single else f"question {self.numbers[int(row)]} (from 0): "
        return ExplanationError(name + message)


def _batches(model: GPT, question: Question | Iterable[Question]) -> list[_Batch]:
    """Check the questions and return them in batches of one length.

    Raises:
        ExplanationError: an item is not a Question, or the model cannot read it.
    """
    is_single = not isinstance(question, Iterable)
    questions: list[Question] = []
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, one in enumerate(question if isinstance(question, Iterable) else [question]):
        if not isinstance(one, Question):
            raise ExplanationError(f"expected a Question (see Question.from_text), not {one!r:.60}")
        message = _unreadable(model, one)
        if message is not None:
            raise _Batch([one], [number], is_single).error(0, message)
        questions.append(one)
        by_length[len(one.ids)].append(number)
    return [
        _Batch([questions[number] for number in numbers], numbers, is_single)
        for numbers in by_length.values()
    ]


def _check_patterns(model: GPT, batches: Iterable[_Batch]) -> None:
    """Raise ExplanationError for prompts whose attention weights would take too much memory."""
    heads = model.config.n_layer * model.config.n_head
    for batch in batches:
        T = batch.ids.size(1)
        need = 4 * heads * T * T
        if need > MOST_PATTERN_BYTES:
            raise batch.error(
                0,
                f"the attention weights of {heads} heads at {T} tokens take {need / 2**20:.0f} MiB"
                f" and at most {MOST_PATTERN_BYTES / 2**20:.0f} are kept: use a shorter prompt",
            )


def check_question(model: GPT, question: Question) -> None:
    """Raise ExplanationError if the model cannot read the question, before any forward pass."""
    message = _unreadable(model, question)
    if message is not None:
        raise ExplanationError(message)


def check_ablated(model: GPT, ablate: object) -> None:
    """Raise ExplanationError unless `ablate` is None or (layer, head) of the model."""
    config = model.config
    if ablate is None:
        return
    if not (isinstance(ablate, tuple) and len(ablate) == 2 and all(type(n) is int for n in ablate)):
        raise ExplanationError(f"ablate is (layer, head), not {ablate!r:.60}")
    layer, head = ablate
    if not (0 <= layer < config.n_layer and 0 <= head < config.n_head):
        raise ExplanationError(
            f"no head {layer}.{head} to ablate: the model has {counted(config.n_layer, 'layer')}"
            f" of {counted(config.n_head, 'head')}, counted from 0"
        )


def _unreadable(model: GPT, question: Question) -> str | None:
    """Return why the model cannot read a question, or None if it can."""
    limit, vocab_size = model.config.block_size, model.config.vocab_size
    if not question.ids:
        return "the prompt is empty"
    if len(question.ids) > limit:
        return f"the prompt has {len(question.ids)} tokens, the model reads at most {limit}"
    answers = (question.target_id, question.foil_id)
    for name, numbers in (("ids", question.ids), ("target and foil", answers)):
        if min(numbers) < 0 or max(numbers) >= vocab_size:
            return f"{name} must be from 0 to {vocab_size - 1}"
    if question.target_id == question.foil_id:
        return "target and foil are the same token: there is no choice to explain"
    return None


def _explain_batch(
    model: GPT,
    batch: _Batch,
    methods: tuple[str, ...],
    rows: int,
    ablate: tuple[int, int] | None,
    step: Callable[[int], None],
) -> list[Explanation]:
    """Run one batch and explain each of its questions."""
    started = time.perf_counter()
    answers = batch.answers.to(model.device)
    run = record_run(
        model,
        batch.ids.to(model.device),
        with_contributions=not {"alti", "alti-logit"}.isdisjoint(methods),
        with_patterns="attention" in methods,
        ablate=ablate,
        step=step,
    )
    logits = model.lm_head(model.transformer.ln_f(run.final))  # (B, V)
    bad = ~logits.isfinite().all(-1)
    if bad.any():
        message = f"the model's logits are not finite in {model.dtype}; use a wider dtype"
        raise batch.error(bad.int().argmax(), message)
    terms = logit_attribution.logit_terms(model, run, answers)
    tensors = _predictions(widened(logits), answers, rows)
    tensors |= _checked_terms(terms, logits.gather(1, answers), batch)
    tensors |= _attributions(terms, run)
    if "lens" in methods:
        lens = logit_lens.logit_lens(model, run, answers, step)
        tensors["lens_ids"] = lens.ids.transpose(0, 1)
        tensors["lens_probabilities"] = lens.probabilities.transpose(0, 1)
        tensors["trajectory"] = lens.trajectory.transpose(0, 1)
    if "attention" in methods:
        tensors["pattern"] = torch.stack(run.patterns, dim=1)  # (B, L, nh, T, T)
        tensors["head_scores"] = _head_scores(model).expand(len(batch.questions), -1, -1, -1)
    arrays = {name: _array(x, model.dtype) for name, x in tensors.items()}  # each with a leading B
    seconds = time.perf_counter() - started
    checksum = model.checksum()  # not timed: a model's first checksum can be slow
    return [
        Explanation(
            ids=np.array(question.ids),
            target=question.target_id,
            foil=question.foil_id,
            # Copies: views would keep the whole batch in memory.
            **NOT_ASKED | {name: x[row].copy() for name, x in arrays.items()},
            methods=methods,
            text=question.text,
            tokens=_tokens(question, arrays, row),
            model_name=model.name,
            versions=versions(model),
            seconds=seconds,
            checksum=checksum,
            ablated=ablate,
        )
        for row, question in enumerate(batch.questions)
    ]


def _head_scores(model: GPT) -> Tensor:
    """Return the scores of all heads on random tokens that are repeated (3, L, nh)."""
    n = max(1, min(REPEATED, model.config.block_size // 2))
    scores = score_heads(model, repeated_ids(model.config, n))
    return torch.tensor(np.stack([scores[name] for name in SCORES]))


def _tokens(question: Question, arrays: dict[str, np.ndarray], row: int) -> dict[int, str]:
    """Return the text of every token that occurs in one question's explanation."""
    occurring = {*question.ids, question.target_id, question.foil_id}
    for name in ("top_ids", "lens_ids"):
        if name in arrays:
            occurring |= {*arrays[name][row].ravel().tolist()}
    return {number: text_or_id(question.text_of, number) for number in sorted(occurring)}


def _predictions(logits: Tensor, answers: Tensor, rows: int) -> dict[str, Tensor]:
    """Return the scores of the answers (B, 2) and of the likeliest tokens, from logits (B, V)."""
    top = logits.topk(min(rows, logits.size(1)))
    scores = logits.gather(1, answers)  # (B, 2)
    normaliser = logits.logsumexp(-1, keepdim=True)
    return {
        "logits": scores,
        "probabilities": (scores - normaliser).exp(),
        "ranks": 1 + (logits[:, None] > scores[..., None]).sum(-1),
        "top_ids": top.indices,
        "top_logits": top.values,
        "top_probabilities": (top.values - normaliser).exp(),
    }


def _checked_terms(
    terms: logit_attribution.LogitTerms, logits: Tensor, batch: _Batch
) -> dict[str, Tensor]:
    """Return the terms after checking that they add up to the logits (B, 2).

    Raises:
        ExplanationError: they do not, are not finite, or would overflow when they are added.
    """
    error = (terms.total() - logits).abs()  # (B, 2)
    magnitude, result = terms.magnitude(), torch.promote_types(logits.dtype, torch.float32)
    bad = ~(error.isfinite() & (magnitude <= torch.finfo(result).max / HEADROOM)).all(-1)
    if bad.any():
        message = f"the terms of the logits are not finite in {logits.dtype}, or nearly so"
        raise batch.error(bad.int().argmax(), message)
    share = TOLERANCE.get(logits.dtype, torch.inf)
    tolerance = share * magnitude + TOLERANCE_BESIDE.get(logits.dtype, 0.0)
    if (error > tolerance).any():
        row, column = divmod(int((error / tolerance).argmax()), 2)
        raise batch.error(
            row,
            "the terms do not add up to the logits: they differ by"
            f" {error[row, column].item():.3g}; allowed: {tolerance[row, column].item():.3g}",
        )
    return {
        "heads": terms.heads.permute(1, 2, 0, 3),
        "initial": terms.initial,
        "mlp": terms.mlp.transpose(0, 1),
        "bias": terms.bias.transpose(0, 1),
        "final_bias": terms.final_bias,
        "error": error,
        "tolerance": tolerance,
    }


def _attributions(terms: logit_attribution.LogitTerms, run: RecordedRun) -> dict[str, Tensor]:
    """Return the arrays of Logit and, if the run has contributions, of ALTI and ALTI-Logit."""
    target, foil = terms.attention.split(1, dim=2)  # (L, B, 1, T)
    layers = {"logit": torch.cat((target, foil, target - foil), dim=2)}  # (L, B, 3, T)
    tensors = {}
    if run.contributions:
        through = alti.rollout(run.contributions)
        if not through.isfinite().all():
            raise ExplanationError(f"ALTI's contributions are not finite in {through.dtype}")
        by_token = alti.attribute_to_tokens(layers["logit"], through.to(target.dtype))
        layers["alti_logit"] = by_token
        tensors["contributions"] = torch.stack(run.contributions).transpose(0, 1)
        tensors["rollout"] = through.transpose(0, 1)
    for name, attribution in layers.items():
        tensors[name] = attribution.sum(0)
        tensors[f"{name}_layers"] = attribution.permute(1, 2, 0, 3)
    return tensors


def _array(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Return `x` as an array; floating-point numbers in `dtype`, or float32 if that is wider."""
    if x.is_floating_point():
        x = x.to(torch.promote_types(dtype, torch.float32))
    return x.cpu().contiguous().numpy()
