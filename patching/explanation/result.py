"""An explanation of one prediction: arrays to compute with, saved, loaded and shown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patching.errors import ExplanationError, ResultError
from patching.explanation.request import figures_of
from patching.explanation.saved import ARRAYS, TABLE, check_agreement
from patching.frames import frame
from patching.next_tokens import NextTokens, TokenScore
from patching.notebook import HasPage
from patching.result_checks import check_fields, list_of, text
from patching.result_files import read_arrays, refused, save, scalar, structured, to_json_lists
from patching.text import escaped, squeezed, visible

if TYPE_CHECKING:
    import pandas

PROMPT_IN_REPR = 80  # characters of the prompt in a repr
FIRST_SHOWN = ("alti-logit", "logit")  # for Jupyter, in this order; else the first figure


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(HasPage):
    """One prediction explained: the parts of the target's and the foil's logits.

    The logits are those at the last position of a prompt.

    Arrays are in the model's precision (float32 for half precision). An axis of 3 is
    target, foil, target minus foil; an axis of 2 is target, foil. Attributions are in
    logits. ALTI's arrays are None unless the methods include alti or alti-logit; the
    lens's arrays are None unless they include lens, attention's unless they include attention.
    """

    # The prediction.
    ids: np.ndarray  # (T,) the prompt
    target: int  # token id
    foil: int
    logits: np.ndarray  # (2,)
    probabilities: np.ndarray  # (2,)
    ranks: np.ndarray  # (2,) among all next tokens, from 1
    top_ids: np.ndarray  # (k,) the likeliest next tokens, in order
    top_logits: np.ndarray  # (k,)
    top_probabilities: np.ndarray  # (k,)
    # Direct logit attribution: the terms of the two logits.
    heads: np.ndarray  # (2, L, nh) each head, over all positions
    initial: np.ndarray  # (2,) the embeddings
    mlp: np.ndarray  # (L, 2) each MLP, with its bias
    bias: np.ndarray  # (L, 2) the output bias of each block's attention
    final_bias: np.ndarray  # (2,) the final layer norm's bias
    error: np.ndarray  # (2,) distance between the sum of the terms and the logits
    tolerance: np.ndarray  # (2,) the largest error allowed; infinite in half precision
    # Token attributions.
    logit: np.ndarray  # (3, T) attention, by the position that it reads, over all blocks
    logit_layers: np.ndarray  # (3, L, T) the same for each block
    alti_logit: np.ndarray | None  # (3, T) `logit` attributed to the tokens of the prompt
    alti_logit_layers: np.ndarray | None  # (3, L, T)
    # ALTI: shares within each block, and after each block.
    contributions: np.ndarray | None  # (L, T, T) share of position s (last axis) in t
    rollout: np.ndarray | None  # (L, T, T) share of token s (last axis) in position t
    # The logit lens.
    lens_ids: np.ndarray | None  # (L, T) the likeliest next token after each block
    lens_probabilities: np.ndarray | None  # (L, T)
    trajectory: np.ndarray | None  # (L + 1, 2) logits at the last position; first: embeddings

    # Attention.
    pattern: np.ndarray | None  # (L, nh, T, T) weight of position s (last axis) in t
    head_scores: np.ndarray | None  # (3, L, nh) in the order of head_scores.SCORES

    methods: tuple[str, ...]  # the methods asked for
    text: str  # the prompt
    tokens: dict[int, str]  # the text of every token that occurs in the arrays
    model_name: str
    versions: dict[str, str]  # of Python and packages; device, dtype, threads
    seconds: float  # wall-clock time of the batch that the prompt was run in
    created: str = field(  # ISO 8601, UTC
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )
    notes: tuple[str, ...] = ()  # remarks for readers of the figures
    command: dict[str, Any] | None = None  # options of the command that ran it
    checksum: str | None = None  # SHA-256 of the model's weights; None in some older files
    ablated: tuple[int, int] | None = None  # (layer, head) of the head that was switched off

    @cached_property
    def next(self) -> NextTokens:
        """The likeliest next tokens, the target and the foil."""
        top = zip(self.top_ids, self.top_logits, self.top_probabilities, strict=True)
        both = zip(
            self.ranks, (self.target, self.foil), self.logits, self.probabilities, strict=True
        )
        target, foil = (self._score(*parts) for parts in both)
        ranked = tuple(self._score(rank, *parts) for rank, parts in enumerate(top, 1))
        return NextTokens(ranked, (target,), (foil,))

    def _score(self, rank: int, number: int, logit: float, probability: float) -> TokenScore:
        token = self.text_of(number)
        return TokenScore(int(rank), int(number), token, float(logit), float(probability))

    def text_of(self, number: int) -> str:
        """Return the text of a token that occurs in the explanation."""
        return self.tokens[int(number)]

    @property
    def alti(self) -> np.ndarray | None:
        """ALTI (T, T): the share of token s (last axis) in position t, after all blocks."""
        return None if self.rollout is None else self.rollout[-1]

    def parts(self) -> dict[str, float]:
        """Return the parts of target's logit minus foil's, by name.

        In half precision, `rounding` is the difference minus the sum of the other parts.
        """
        parts = {
            "attention": float(self.logit[2].sum()),
            "embeddings": float(target_minus_foil(self.initial)),
            "MLPs": float(target_minus_foil(self.mlp).sum()),
            "attention's biases": float(target_minus_foil(self.bias).sum()),
            "the final layer norm's bias": float(target_minus_foil(self.final_bias)),
        }
        if np.isinf(self.tolerance).any():
            parts["rounding"] = float(target_minus_foil(self.logits)) - sum(parts.values())
        return parts

    def bars(self, method: str = "alti-logit") -> np.ndarray:
        """Return what each token adds to target's logit minus foil's (T,), in logits.

        The embeddings count for the last token. The figure divides these numbers by
        the sum of their absolute values.

        Args:
            method: "alti-logit" or "logit".

        Raises:
            ExplanationError: another method, or ALTI-Logit that was not asked for.
        """
        there = self._token_attributions()
        if method not in there:
            raise ExplanationError(f"no bars by {method!r}; there is {' and '.join(there)}")
        bars = there[method][2].copy()
        bars[-1] += target_minus_foil(self.initial)
        return bars

    def _token_attributions(self) -> dict[str, np.ndarray]:
        both = {"logit": self.logit, "alti-logit": self.alti_logit}
        return {method: array for method, array in both.items() if array is not None}

    def worst(self) -> tuple[float, float]:
        """Return (error, tolerance) of the logit that uses most of its tolerance."""
        used = self.error.astype(np.float64)  # in float32 the quotient can overflow
        if np.isfinite(self.tolerance).all():
            used /= self.tolerance
        return float(self.error[used.argmax()]), float(self.tolerance[used.argmax()])

    # ----------------------------------------------------------------- files

    def to_dict(self) -> dict[str, Any]:
        """Return fields, next tokens and bars in JSON's types; numbers not finite are None.

        `contributions`, `rollout` and `pattern` are left out, because they are far larger than
        the other arrays. `alti` is the last rollout.
        """
        values = {name: getattr(self, name) for name in _FIELDS} | {"alti": self.alti}
        for name in ("contributions", "rollout", "pattern"):
            del values[name]
        values = {
            k: to_json_lists(v) if isinstance(v, np.ndarray) else v for k, v in values.items()
        }
        bars = {method: to_json_lists(self.bars(method)) for method in self._token_attributions()}
        return {"next": dataclasses.asdict(self.next), "bars": bars, **values}

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write `path` with the suffixes .npz and .json; return the two paths.

        In the .npz, every array has the name of its field, structured fields are
        JSON text, and arrays that are None are left out.
        """
        fields = {name: getattr(self, name) for name in _FIELDS}
        arrays = {
            name: json.dumps(value) if name in _STRUCTURED else value
            for name, value in fields.items()
            if name in _STRUCTURED or value is not None
        }
        return save(path, arrays, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Explanation:
        """Read an explanation that `save` wrote, from its .npz.

        Raises:
            ResultError: no such file, not one that `save` wrote, one that was changed, a
                .json of another run beside it, or a file of version 0.1 that explains
                several prompts.
        """
        arrays = read_arrays(path, "explanation", old_field="texts")
        with refused(path, "explanation"):
            if "texts" in arrays:
                arrays = _from_version_01(arrays, path)
            there = [name for name in _STRUCTURED if name in arrays or name not in _LATER]
            saved: dict[str, Any] = dict.fromkeys(_LATER)
            saved |= {name: structured(arrays, name) for name in there}
            saved |= {name: scalar(arrays, name) for name in ("target", "foil")}
            check_fields(saved, TABLE)
            check_agreement(saved, arrays)
        saved |= {name: tuple(saved[name]) for name in ("methods", "notes")}
        saved["ablated"] = None if saved["ablated"] is None else tuple(saved["ablated"])
        saved["tokens"] = {int(number): token for number, token in saved["tokens"].items()}
        return cls(**NOT_ASKED | {name: arrays[name] for name in ARRAYS if name in arrays} | saved)

    # ----------------------------------------------------------------- shown

    def to_frame(self) -> pandas.DataFrame:
        """Return a table with one row for each token of the prompt.

        Columns: position, token, logit, and alti_logit if it was asked for. `logit` and
        `alti_logit` hold what `bars` returns, in logits.

        Raises:
            ResultError: pandas is not installed.
        """
        return frame(
            {
                "position": np.arange(len(self.ids)),
                "token": [self.text_of(number) for number in self.ids],
                **{m.replace("-", "_"): self.bars(m) for m in self._token_attributions()},
            }
        )

    def __repr__(self) -> str:
        answers = (*self.next.target, *self.next.foil)
        target, foil = (f"logit({visible(score.token)})" for score in answers)
        parts = ", ".join(f"{name} {value:.4g}" for name, value in self.parts().items())
        off = "" if self.ablated is None else f" head {self.ablated[0]}.{self.ablated[1]} off;"
        return (
            f"Explanation of {escaped(squeezed(self.text, PROMPT_IN_REPR))!r}\n"
            f"  {target} - {foil} = {target_minus_foil(self.logits):.4g}, of which {parts}\n"
            f"  {len(self.ids)} tokens; methods {', '.join(self.methods)};{off}"
            f" model {self.model_name}; {self.seconds:.2f} s"
        )

    def _repr_png_(self) -> bytes:
        # Imported here: importing matplotlib is slow, and many results are never drawn.
        from patching.drawing.style import png_bytes
        from patching.explanation.figures import draw_explanation

        there = figures_of(self.methods)
        figure = next((name for name in FIRST_SHOWN if name in there), there[0])
        return png_bytes(draw_explanation(self, figure=figure))


# The arrays of the methods that can be left out.
NOT_ASKED: dict[str, Any] = dict.fromkeys(
    (
        "contributions", "rollout", "alti_logit", "alti_logit_layers",
        "lens_ids", "lens_probabilities", "trajectory", "pattern", "head_scores",
    )
)  # fmt: skip
_FIELDS = tuple(f.name for f in dataclasses.fields(Explanation))
_STRUCTURED = (  # JSON text in the .npz
    "methods", "text", "tokens", "model_name", "versions", "seconds",
    "created", "notes", "command", "checksum", "ablated",
)  # fmt: skip


_LATER = ("ablated",)  # fields that older files do not have; None then


def _from_version_01(arrays: Mapping[str, np.ndarray], path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of version 0.1's file under today's names.

    Such a file has `texts`, and each array has an axis of prompts if there are several
    or if it was given a list of one.

    Raises:
        ResultError: the file explains several prompts.
    """
    texts = structured(arrays, "texts")
    list_of(text, least=1)("texts", texts)
    if len(texts) != 1:
        raise ResultError(
            f"{path} explains {len(texts)} prompts in one file, as version 0.1 could;"
            " explain the prompts again and save each explanation in a file of its own"
        )
    files = {name: array for name, array in arrays.items() if name != "texts"}
    if "ids" in files and files["ids"].ndim == 2:
        files = {name: a[0] if a.dtype.kind != "U" and a.ndim else a for name, a in files.items()}
    if "arguments" in files:
        files["command"] = files["arguments"]
    return {**files, "text": np.array(json.dumps(texts[0]))}


def target_minus_foil(both: np.ndarray) -> np.ndarray:
    """Return target minus foil; the two are the last axis."""
    return both[..., 0] - both[..., 1]
