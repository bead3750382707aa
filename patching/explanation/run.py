"""Explaining one prediction: what made the model prefer one next word over another.

`explain` runs the model once, has each instrument read what it needs from that
(alti.py, logit_attribution.py, logit_lens.py), checks that the terms add up to the logits, and
gives NumPy arrays that can be saved and read again.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mingpt.checks import from_the_end, widened
from patching.errors import ExplanationError
from patching.explanation import alti, logit_attribution, logit_lens
from patching.explanation.recording import watch
from patching.explanation.request import DEFAULT, instruments_asked
from patching.next_tokens import NextTokens, TokenScore, text_or_id
from patching.prompts import Tokenizer
from patching.result_files import open_result, save, to_json_lists
from patching.running import Progress, ready, steps, versions

if TYPE_CHECKING:
    from mingpt.model import GPT

# The most by which terms and logits may differ: of the sum of the terms' absolute
# values, and beside it. Half precision is not judged.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
TOLERANCE_BESIDE = {torch.float32: 1e-6, torch.float64: 1e-12}
TOP_K = 10
OUT_OF_MEMORY = (
    "the memory is not enough; ask for fewer methods, explain a shorter prompt,"
    " or use a narrower dtype"
)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where target's and foil's logits at the last position come from.

    Arrays are in the model's precision (float32 for half precision); where
    three rows are, they are target, foil, and target minus foil; where two,
    target and foil. Of several prompts every array has a leading B. ALTI's
    arrays are None unless alti or alti-logit was asked for, the lens's unless it was.
    """

    # What the model says.
    ids: np.ndarray  # (T,) the prompt
    target: np.ndarray  # () token id; (B,) of several prompts
    foil: np.ndarray  # ()
    logits: np.ndarray  # (2,)
    probabilities: np.ndarray  # (2,)
    ranks: np.ndarray  # (2,) among all next tokens, from 1
    top_ids: np.ndarray  # (k,) the likeliest next tokens, in order
    top_logits: np.ndarray  # (k,)
    top_probabilities: np.ndarray  # (k,)
    # Direct logit attribution: the terms of the two logits.
    heads: np.ndarray  # (2, L, nh) what each head writes, over all positions
    initial: np.ndarray  # (2,) the embeddings
    mlp: np.ndarray  # (L, 2) each MLP, its bias included
    bias: np.ndarray  # (L, 2) the bias after each attention
    final_bias: np.ndarray  # (2,) the final layer norm's bias
    error: np.ndarray  # (2,) by how much the sum of the terms differs from the logits
    tolerance: np.ndarray  # (2,) by how much it may; infinite in half precision
    # Token attributions.
    logit: np.ndarray  # (3, T) what attention writes of each position, over all blocks
    logit_layers: np.ndarray  # (3, L, T) of each block
    alti_logit: np.ndarray | None  # (3, T) `logit` handed on to the tokens of the prompt
    alti_logit_layers: np.ndarray | None  # (3, L, T)
    # ALTI.
    contributions: np.ndarray | None  # (L, T, T) in a block, of position s (last axis) to t
    rollout: np.ndarray | None  # (L, T, T) after a block, of the prompt's token s to position t
    # The logit lens.
    lens_ids: np.ndarray | None  # (L, T) the likeliest next token after each block
    lens_probabilities: np.ndarray | None  # (L, T)
    trajectory: np.ndarray | None  # (L + 1, 2) the lens's logits, last position; first: embeddings

    methods: tuple[str, ...]  # the instruments
    texts: tuple[str, ...]  # of each prompt
    tokens: dict[int, str]  # the text of every token that occurs in it
    model_name: str
    versions: dict[str, str]  # of Python and packages; device, dtype, threads
    seconds: float  # wall-clock time of the call
    created: str = field(  # ISO 8601, UTC
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )
    notes: tuple[str, ...] = ()  # what a reader of the figures must know
    arguments: dict[str, Any] = field(default_factory=dict)  # of the command that ran it
    checksum: str | None = None  # SHA-256 of the model's weights, where the command took it

    @property
    def is_single(self) -> bool:
        """Whether it is of one prompt, without a leading B."""
        return self.ids.ndim == 1

    @cached_property
    def next(self) -> NextTokens:
        """The likeliest next tokens, target and foil. Of a single prompt."""
        self._check_single()
        top = zip(self.top_ids, self.top_logits, self.top_probabilities, strict=True)
        both = zip((self.target, self.foil), self.logits, self.probabilities, strict=True)
        return NextTokens(
            tuple(self._score(rank, *found) for rank, found in enumerate(top, 1)),
            *(self._score(rank, *found) for rank, found in zip(self.ranks, both, strict=True)),
        )

    def _score(self, rank: int, number: int, logit: float, probability: float) -> TokenScore:
        number = int(number)
        return TokenScore(int(rank), number, self.tokens[number], float(logit), float(probability))

    def parts(self) -> dict[str, float]:
        """What target's logit minus foil's is made of. Of a single prompt.

        In half precision there is one more part, `rounding`: what is missing.
        """
        self._check_single()
        parts = {
            "attention": float(self.logit[2].sum()),
            "embeddings": float(minus_foil(self.initial)),
            "MLPs": float(minus_foil(self.mlp).sum()),
            "attention's biases": float(minus_foil(self.bias).sum()),
            "the final layer norm's bias": float(minus_foil(self.final_bias)),
        }
        if np.isinf(self.tolerance).any():
            parts["rounding"] = float(minus_foil(self.logits)) - sum(parts.values())
        return parts

    def _check_single(self) -> None:
        if not self.is_single:
            raise ExplanationError("several prompts: take explanation.prompt(0), and so on")

    def bars(self, method: str = "alti-logit") -> np.ndarray:
        """What each token adds to target's logit minus foil's (T,), the embeddings on the last.

        Of a single prompt, by "alti-logit" or "logit"; as it is, not divided
        by the sum of absolute values as in the plot.

        Raises:
            ExplanationError: neither of the two, ALTI-Logit was not asked for,
                or several prompts.
        """
        self._check_single()
        both = {"logit": self.logit, "alti-logit": self.alti_logit}
        if both.get(method) is None:
            there = " and ".join(name for name, array in both.items() if array is not None)
            raise ExplanationError(f"no bars by {method!r}; there is {there}")
        bars = both[method][2].copy()
        bars[-1] += minus_foil(self.initial)
        return bars

    def worst(self) -> tuple[float, float]:
        """Error and tolerance of the logit whose terms come nearest to missing it too far."""
        error, tolerance = self.error.ravel(), self.tolerance.ravel()
        ratio = error / tolerance if np.isfinite(tolerance).all() else error
        return float(error[ratio.argmax()]), float(tolerance[ratio.argmax()])

    def text_of(self, number: int) -> str:
        """The text of a token that occurs in it."""
        return self.tokens[int(number)]

    def prompt(self, number: int) -> Explanation:
        """One prompt's part of an explanation of several.

        Raises:
            ExplanationError: there is no such prompt, or it is of a single one.
        """
        if self.is_single:
            raise ExplanationError("it is of a single prompt already")
        if not isinstance(number, Integral):
            raise ExplanationError(f"a prompt's number is a whole number, not {number!r}")
        number = from_the_end("prompt", int(number), len(self.ids), ExplanationError)
        arrays = {name: np.asarray(array[number]) for name, array in self._arrays().items()}
        return dataclasses.replace(self, **arrays, texts=(self.texts[number],))

    def _arrays(self) -> dict[str, np.ndarray]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}

    @property
    def alti(self) -> np.ndarray | None:
        """ALTI (T, T): of the prompt's token s (last axis) to position t, through all blocks."""
        return None if self.rollout is None else self.rollout[..., -1, :, :]

    def to_dict(self) -> dict[str, Any]:
        """Every field in types that JSON has; what is not finite becomes None.

        Of `contributions` and `rollout`, which are L times as large as all else
        together, there is only the last rollout, as `alti`. Of a single prompt
        there are the next tokens and the bars of the plots, too.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("contributions", "rollout"):
            del values[name]
        values["alti"] = self.alti
        values = {
            k: to_json_lists(v) if isinstance(v, np.ndarray) else v for k, v in values.items()
        }
        if not self.is_single:
            return values
        methods = ("logit",) if self.alti_logit is None else ("logit", "alti-logit")
        bars = {method: to_json_lists(self.bars(method)) for method in methods}
        return {"next": dataclasses.asdict(self.next), "bars": bars, **values}

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write `path` with the suffixes .npz and .json; return the two paths.

        In the .npz every array has its field's name; what has a structure of
        its own is JSON text, and what there is not is left out.
        """
        rest = {name: json.dumps(getattr(self, name)) for name in _STRUCTURED}
        return save(path, {**self._arrays(), **rest}, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Explanation:
        """An explanation that `save` wrote, from its .npz.

        Raises:
            ResultError: no such file, or not one that `save` wrote.
        """
        with open_result(path, "explanation") as arrays:
            saved: dict[str, Any] = {name: arrays[name] for name in arrays}
            for name in _STRUCTURED:
                saved[name] = json.loads(saved[name].item())
            for name in ("methods", "texts", "notes"):
                saved[name] = tuple(saved[name])
            saved["tokens"] = {int(number): text for number, text in saved["tokens"].items()}
            return cls(**{**dict.fromkeys(_OPTIONAL), **saved})


_OPTIONAL = (
    *("contributions", "rollout", "alti_logit", "alti_logit_layers"),
    *("lens_ids", "lens_probabilities", "trajectory"),
)
_STRUCTURED = (
    *("methods", "texts", "tokens", "model_name", "versions", "seconds"),
    *("created", "notes", "arguments", "checksum"),
)


@torch.no_grad()
def explain(
    model: GPT,
    ids: Tensor,
    target: int | Sequence[int],
    foil: int | Sequence[int],
    *,
    methods: str | Iterable[str] = DEFAULT,
    top_k: int = TOP_K,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Take the preference for one next token over another apart.

    Args:
        model: put in eval mode meanwhile; what it has recorded stays.
        ids: (T,) token ids, or (B, T) of several prompts of one length.
        target, foil: token ids; of several prompts one for all, or one for each.
        methods: names in INSTRUMENTS, several with commas between them or as a
            list. Terms, their check and `logit` are there whatever is asked for.
        top_k: how many of the likeliest next tokens to keep.
        tokenizer: for the text of tokens; without it they are "id:5437".
        progress: called with (work done, work in all).

    Raises:
        ExplanationError: ids that the model cannot read, answers that are no
            tokens or are the same, no such method, logits that are not finite,
            terms that do not add up to the logits, or too little memory.
    """
    started = time.perf_counter()
    chosen = instruments_asked(methods)
    if not isinstance(top_k, Integral) or top_k < 1:
        raise ExplanationError(f"top_k is a whole number from 1 on, not {top_k!r}")
    rows, answers = _checked(model, ids, target, foil)
    weight = model.transformer.wte.weight
    step = steps(progress, rows.numel() * model.config.n_layer * (1 + ("lens" in chosen)))
    on_device = answers.to(weight.device)
    with ready(model, ExplanationError(OUT_OF_MEMORY)):
        mixing = not {"alti", "alti-logit"}.isdisjoint(chosen)
        seen = watch(model, rows.to(weight.device), mixing=mixing, step=step)
        logits = model.lm_head(model.transformer.ln_f(seen.final))  # (B, V)
        if not logits.isfinite().all():
            raise ExplanationError(
                f"the model's logits are not finite in {weight.dtype}; use a wider dtype"
            )
        found = logit_attribution.terms(model, seen, on_device)
        arrays = _said(widened(logits), on_device, top_k)
        arrays |= _judged(found, logits.gather(1, on_device))
        arrays |= _attributions(found, seen.contributions)
        if "lens" in chosen:
            arrays |= _through_the_lens(logit_lens.look(model, seen, on_device, step))
    arrays |= {"ids": rows, "target": answers[:, 0], "foil": answers[:, 1]}
    precision = torch.promote_types(weight.dtype, torch.float32)
    arrays = dict.fromkeys(_OPTIONAL) | {
        name: _array(x.to(precision) if x.is_floating_point() else x) for name, x in arrays.items()
    }
    whole = Explanation(
        **arrays,
        methods=chosen,
        texts=tuple(_text(tokenizer, row) for row in rows.tolist()),
        tokens=_tokens(tokenizer, arrays),
        model_name=model.name,
        versions=versions(model),
        seconds=time.perf_counter() - started,
    )
    return whole.prompt(0) if np.ndim(ids) == 1 else whole


def _said(logits: Tensor, answers: Tensor, top_k: int) -> dict[str, Tensor]:
    """What the model says next: logits (B, V), answers (B, 2)."""
    top = logits.topk(min(top_k, logits.size(1)))
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


def _judged(found: logit_attribution.Terms, logits: Tensor) -> dict[str, Tensor]:
    """The terms, once they have been found to add up to the logits (B, 2).

    Raises:
        ExplanationError: they do not, or are not finite.
    """
    error = (found.total() - logits).abs()
    if not error.isfinite().all():
        raise ExplanationError(f"the terms of the logits are not finite in {logits.dtype}")
    share = TOLERANCE.get(logits.dtype, torch.inf)
    tolerance = share * found.magnitude() + TOLERANCE_BESIDE.get(logits.dtype, 0.0)
    if (error > tolerance).any():
        worst = (error / tolerance).argmax()
        raise ExplanationError(
            "the terms do not add up to the logits: they differ by"
            f" {error.flatten()[worst].item():.3g}, and may by"
            f" {tolerance.flatten()[worst].item():.3g}"
        )
    return {
        "heads": found.heads.permute(1, 2, 0, 3),
        "initial": found.initial,
        "mlp": found.mlp.transpose(0, 1),
        "bias": found.bias.transpose(0, 1),
        "final_bias": found.final_bias,
        "error": error,
        "tolerance": tolerance,
    }


def _attributions(found: logit_attribution.Terms, contributions: list[Tensor]) -> dict[str, Tensor]:
    """Logit, and with ALTI's contributions, (B, T, T) of each block, ALTI-Logit."""
    target, foil = found.attention.split(1, dim=2)  # (L, B, 1, T)
    layers = {"logit": torch.cat((target, foil, target - foil), dim=2)}
    arrays = {}
    if contributions:
        through = alti.rollout(contributions)
        if not through.isfinite().all():
            raise ExplanationError(f"ALTI's contributions are not finite in {through.dtype}")
        layers["alti_logit"] = alti.handed_on(layers["logit"], through.to(target.dtype))
        arrays["contributions"] = torch.stack(contributions).transpose(0, 1)
        arrays["rollout"] = through.transpose(0, 1)
    for name, attribution in layers.items():  # (L, B, 3, T)
        arrays[name] = attribution.sum(0)
        arrays[f"{name}_layers"] = attribution.permute(1, 2, 0, 3)
    return arrays


def _through_the_lens(found: logit_lens.Lens) -> dict[str, Tensor]:
    return {
        "lens_ids": found.ids.transpose(0, 1),
        "lens_probabilities": found.probabilities.transpose(0, 1),
        "trajectory": found.trajectory.transpose(0, 1),
    }


def _text(tokenizer: Tokenizer | None, ids: list[int]) -> str:
    if tokenizer is None:
        return " ".join(f"id:{number}" for number in ids)
    return tokenizer.decode(ids)


def _tokens(tokenizer: Tokenizer | None, arrays: dict[str, np.ndarray | None]) -> dict[int, str]:
    """The text of every token that occurs."""
    names = ("ids", "target", "foil", "top_ids", "lens_ids")
    occurring = [arrays[name].ravel() for name in names if arrays[name] is not None]
    text_of = "id:{}".format if tokenizer is None else tokenizer.token
    numbers = np.unique(np.concatenate(occurring)).tolist()
    return {number: text_or_id(text_of, number) for number in numbers}


def _checked(
    model: GPT, ids: Tensor, target: int | Sequence[int], foil: int | Sequence[int]
) -> tuple[Tensor, Tensor]:
    """ids (B, T) and answers (B, 2), once they are such."""
    rows = _whole_numbers("ids", ids)
    if rows.dim() not in (1, 2) or rows.numel() == 0:
        raise ExplanationError(f"ids must be token ids (T,) or (B, T), not {tuple(rows.shape)}")
    rows = rows.reshape(-1, rows.size(-1))
    limit, vocab_size = model.config.block_size, model.config.vocab_size
    if rows.size(1) > limit:
        raise ExplanationError(
            f"the prompt has {rows.size(1)} tokens, the model reads at most {limit}"
        )
    both = [_whole_numbers(name, one) for name, one in (("target", target), ("foil", foil))]
    if any(one.numel() not in (1, len(rows)) for one in both):
        raise ExplanationError(f"target and foil must be one token id each, or {len(rows)}")
    answers = torch.stack([one.reshape(-1).expand(len(rows)) for one in both], dim=1)
    for name, numbers in (("ids", rows), ("target and foil", answers)):
        if numbers.min() < 0 or numbers.max() >= vocab_size:
            raise ExplanationError(f"{name} must be from 0 to {vocab_size - 1}")
    if (answers[:, 0] == answers[:, 1]).any():
        raise ExplanationError("target and foil are the same token: there is no choice to explain")
    return rows, answers


def _whole_numbers(name: str, given: object) -> Tensor:
    """On the CPU, as int64; a word is none (see patching.answer_id)."""
    try:
        numbers = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        numbers = None
    if numbers is None or numbers.is_floating_point() or numbers.dtype == torch.bool:
        said = f"{given!r:.60}" if numbers is None else str(numbers.dtype)
        raise ExplanationError(f"{name} must be token ids, whole numbers, not {said}")
    return numbers.cpu().long()


def minus_foil(both: np.ndarray) -> np.ndarray:
    """Target minus foil, of an array that has the two last."""
    return both[..., 0] - both[..., 1]


def _array(x: Tensor) -> np.ndarray:
    return x.cpu().contiguous().numpy()
