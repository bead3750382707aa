"""Explaining one prediction: the prompt's part in the choice between two next words.

`explain` has the work done by alti.py, checks that the terms add up to the
logits, and gives NumPy arrays that can be saved and read again.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from patching import alti
from patching.errors import ExplanationError, ResultError
from patching.precision import float32_products
from patching.running import enough_memory, eval_mode, versions
from patching.saving import lists, result_paths, save

if TYPE_CHECKING:
    from mingpt import GPT

# The most by which terms and logits may differ: of the sum of the terms' absolute
# values, and beside it. Half precision is not judged.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
TOLERANCE_BESIDE = {torch.float32: 1e-6, torch.float64: 1e-12}


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where target's and foil's logits at the last position come from.

    Arrays are in the model's precision (float32 for half precision); where
    three rows are, they are target, foil, and target minus foil; where two,
    target and foil. Of several prompts every array has a leading B.
    """

    ids: np.ndarray  # (T,) the prompt
    target: np.ndarray  # () token id; (B,) of several prompts
    foil: np.ndarray  # ()
    contributions: np.ndarray  # (L, T, T) ALTI: of position s (last axis) to position t, a block
    rollout: np.ndarray  # (L, T, T) of the prompt's token s to position t, after a block
    logit: np.ndarray  # (3, T) what attention writes of each position, over all blocks
    alti_logit: np.ndarray  # (3, T) the same, handed on to the tokens of the prompt
    logit_layers: np.ndarray  # (3, L, T) `logit` of each block
    alti_logit_layers: np.ndarray  # (3, L, T) `alti_logit` of each block
    heads: np.ndarray  # (2, L, nh) what each head writes, over all positions
    initial: np.ndarray  # (2,) the embeddings
    mlp: np.ndarray  # (L, 2) each MLP, its bias included
    bias: np.ndarray  # (L, 2) the bias after each attention
    final_bias: np.ndarray  # (2,) the final layer norm's bias
    logits: np.ndarray  # (2,) as the model has them
    error: np.ndarray  # (2,) by how much the sum of the terms differs from them
    tolerance: np.ndarray  # (2,) by how much it may; infinite in half precision
    model_name: str
    versions: dict[str, str]  # of Python and packages; device, dtype, threads
    created: str = field(  # ISO 8601, UTC
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )

    def to_dict(self) -> dict[str, Any]:
        """Every field, in types that JSON has; what is not finite becomes None."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: lists(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write `path` with the suffixes .npz and .json; return the two paths."""
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        arrays["versions"] = json.dumps(self.versions)
        return save(path, arrays, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Explanation:
        """An explanation that `save` wrote, from its .npz.

        Raises:
            ResultError: no such file, or not one that `save` wrote.
        """
        npz, _ = result_paths(path)
        try:
            with np.load(npz, allow_pickle=False) as arrays:
                saved: dict[str, Any] = {f.name: arrays[f.name] for f in dataclasses.fields(cls)}
            for name in ("model_name", "created", "versions"):
                saved[name] = saved[name].item()
            saved["versions"] = json.loads(saved["versions"])
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise ResultError(f"{npz} is no saved explanation: {error}") from None
        return cls(**saved)


@torch.no_grad()
def explain(
    model: GPT, ids: Tensor, target: int | Sequence[int], foil: int | Sequence[int]
) -> Explanation:
    """Take the preference for one next token over another apart: ALTI and ALTI-Logit.

    Args:
        model: put in eval mode meanwhile; what it has recorded stays.
        ids: (T,) token ids, or (B, T) of several prompts of one length.
        target, foil: token ids; of several prompts one for all, or one for each.

    Raises:
        ExplanationError: ids that the model cannot read, answers that are no
            tokens or are the same, logits that are not finite, or terms that do
            not add up to the logits.
        SweepError: there is not enough memory.
    """
    weight = model.transformer.wte.weight
    rows, answers = _checked(model, torch.as_tensor(ids), target, foil)
    with eval_mode(model), float32_products(model), enough_memory():
        found = alti.terms(model, rows.to(weight.device), answers.to(weight.device))
    error = (found.total() - found.logits).abs()
    if not torch.isfinite(error).all():
        raise ExplanationError(f"logits or their terms are not finite in {weight.dtype}")
    share = TOLERANCE.get(weight.dtype, torch.inf)
    tolerance = share * found.magnitude() + TOLERANCE_BESIDE.get(weight.dtype, 0.0)
    if (error > tolerance).any():
        raise ExplanationError(
            f"the terms do not add up to the logits: they differ by {error.max().item():.3g},"
            f" and may by {tolerance.min().item():.3g}"
        )
    logit, alti_logit = found.token_attributions()  # (L, B, 3, T)
    batched = {  # B in front
        "contributions": found.contributions.transpose(0, 1),
        "rollout": found.rollout.transpose(0, 1),
        "logit": logit.sum(0),
        "alti_logit": alti_logit.sum(0),
        "logit_layers": logit.permute(1, 2, 0, 3),
        "alti_logit_layers": alti_logit.permute(1, 2, 0, 3),
        "heads": found.heads.permute(1, 2, 0, 3),
        "initial": found.initial,
        "mlp": found.mlp.transpose(0, 1),
        "bias": found.bias.transpose(0, 1),
        "final_bias": found.final_bias,
        "logits": found.logits,
        "error": error,
        "tolerance": tolerance,
        "ids": rows,
        "target": answers[:, 0],
        "foil": answers[:, 1],
    }
    single = torch.as_tensor(ids).dim() == 1
    arrays = {name: _array(x[0] if single else x) for name, x in batched.items()}
    return Explanation(**arrays, model_name=model.name, versions=versions(model))


def _checked(
    model: GPT, ids: Tensor, target: int | Sequence[int], foil: int | Sequence[int]
) -> tuple[Tensor, Tensor]:
    """ids (B, T) and answers (B, 2), once they are such."""
    if ids.dim() not in (1, 2) or ids.numel() == 0 or ids.is_floating_point():
        raise ExplanationError(f"ids must be token ids (T,) or (B, T), not {tuple(ids.shape)}")
    rows = ids.long().reshape(-1, ids.size(-1))
    limit, vocab_size = model.config.block_size, model.config.vocab_size
    if rows.size(1) > limit:
        raise ExplanationError(
            f"the prompt has {rows.size(1)} tokens, the model reads at most {limit}"
        )
    try:
        answers = torch.stack(
            [torch.as_tensor(one).expand(len(rows)) for one in (target, foil)], dim=1
        ).long()
    except RuntimeError:
        raise ExplanationError(
            f"target and foil must be one token id each, or {len(rows)}"
        ) from None
    for name, numbers in (("ids", rows), ("target and foil", answers)):
        if numbers.min() < 0 or numbers.max() >= vocab_size:
            raise ExplanationError(f"{name} must be from 0 to {vocab_size - 1}")
    if (answers[:, 0] == answers[:, 1]).any():
        raise ExplanationError("target and foil are the same token: there is no choice to explain")
    return rows, answers


def _array(x: Tensor) -> np.ndarray:
    """On the CPU, half precision widened, for NumPy has not all of it."""
    is_half = x.dtype in (torch.float16, torch.bfloat16)
    return (x.float() if is_half else x).cpu().contiguous().numpy()
