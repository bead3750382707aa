"""The result of a sweep, and its two files.

The .npz, to compute with, loads without pickle; its keys are the field names. The
.json, to read, has the same content.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mingpt.sites import RESIDUAL_SITES
from patching.errors import ResultError
from patching.frames import frame, tidy
from patching.next_tokens import NextTokens, TokenScore
from patching.notebook import HasPage
from patching.prompts import PromptPair
from patching.result_checks import check_fields
from patching.result_files import read_arrays, refused, save, scalar, structured, to_json_lists
from patching.sweep import old_files
from patching.sweep.approximate import APPROXIMATE, estimate_words
from patching.sweep.request import DIRECTIONS, ROWS
from patching.sweep.saved import TABLE, check_agreement
from patching.sweep.words import put_words, unpatched_words
from patching.text import escaped, squeezed, visible

if TYPE_CHECKING:
    import pandas

PROMPT_IN_REPR = 72  # characters of a prompt in the repr


class MetricValues(NamedTuple):
    """One metric of a sweep, in its unit."""

    values: np.ndarray  # the grid; NaN where nothing was patched
    clean: float  # of the unpatched clean run
    corrupt: float  # of the unpatched corrupt run; NaN where there is none


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult(HasPage):
    """The values of a patching sweep, with the settings, prompts and model they belong to.

    It holds no model and no tokenizer, so it pickles to little more than its arrays.
    """

    site: str  # a name in mingpt.SITES
    direction: str  # "denoise": clean put into corrupt; "noise": corrupt put into clean
    metrics: dict[str, MetricValues]  # by name, in the order they were asked for
    captions: dict[str, str]  # metric -> what it measures in words, for a colour bar
    diverging: tuple[str, ...]  # metrics whose default colours diverge from the neutral value
    pair: PromptPair
    model_name: str
    layers: tuple[int, ...]  # the layers that were patched, counted from 0
    heads: tuple[int, ...] | None = None  # the patched heads; None at a site without heads
    positions: tuple[int, ...] | None = None  # positions patched one by one; None: all at once
    by_position: bool = False  # heads were patched at each position alone
    window: int = 1  # layers patched at once
    put: str = "recorded"  # what was put in: a name in PUTS
    # Of a mean: "prompts", how many, "per", and the "checksum" of their token ids; of resampling:
    # the "prompt", and the "seed".
    put_from: dict[str, Any] = field(default_factory=dict)
    # Of Gaussian noise in place of a corrupt prompt: subject, positions, std, asked, draws, seed.
    noise: dict[str, Any] | None = None
    method: str = "fast"  # a name in METHODS
    relp_rules: tuple[str, ...] | None = None  # names in RELP_RULES; None: the method is not relp
    steps: int | None = None  # gradients that were averaged; None: not attribution-ig
    patches: str | None = None  # name of the caller's function for the patches, if there was one
    shared_by: int = 1  # query heads that read each patched head: more than 1 for shared k and v
    max_memory: int | None = None  # bytes that the fast method was allowed, if a limit was given
    tf32: bool = False  # CUDA rounded float32 factors to 10 bits
    checksum: str | None = None  # SHA-256 of the model's weights
    clean_next: NextTokens | None = None  # the clean run's next tokens
    corrupt_next: NextTokens | None = None  # the corrupt run's next tokens
    rows: int = ROWS  # tokens in these two tables
    # Of each cell's run the k likeliest next tokens, if they were asked for: (*grid, k).
    next_ids: np.ndarray | None = None  # -1 where nothing was patched
    next_logits: np.ndarray | None = None  # NaN where nothing was patched
    next_probabilities: np.ndarray | None = None
    next_texts: dict[int, str] = field(default_factory=dict)  # of the tokens in next_ids
    # Metric -> the value that favours neither side, or, of recovery, the base run's.
    neutral: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)  # of packages; device, dtype, threads
    seconds: float = 0.0  # wall-clock time to the last number; pairs swept together share it
    created: str = field(  # ISO 8601, UTC
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )
    notes: tuple[str, ...] = ()  # remarks for a reader of the figure
    command: dict[str, Any] | None = None  # options of the command that ran the sweep

    @property
    def metric(self) -> str:
        """The first metric's name."""
        return next(iter(self.metrics))

    @property
    def values(self) -> np.ndarray:
        """The first metric's grid: (n_layer, T), (n_layer, heads) or (n_layer, heads, T)."""
        return self.metrics[self.metric].values

    @property
    def clean_value(self) -> float:
        """The first metric of the unpatched clean run."""
        return self.metrics[self.metric].clean

    @property
    def corrupt_value(self) -> float:
        """The first metric of the unpatched corrupt run; NaN where there is none."""
        return self.metrics[self.metric].corrupt

    @property
    def cells(self) -> int:
        """The number of cells that were patched."""
        return int(np.isfinite(self.values).sum())

    @property
    def is_approximate(self) -> bool:
        """True for estimates by gradients, False for numbers of patched runs."""
        return self.method in APPROXIMATE

    @property
    def estimate_words(self) -> tuple[str, str]:
        """An approximate method's name for titles, and in which way it is approximate."""
        return estimate_words(self.method, self.relp_rules, self.steps)

    @property
    def runs(self) -> tuple[str, ...]:
        """The unpatched runs: "clean", and "corrupt" unless there is none."""
        return self.pair.runs if self.noise is None else ("clean", "corrupt")

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of `values`."""
        if self.site in RESIDUAL_SITES:
            return ("layer", "position")
        return ("layer", "head", "position")[: self.values.ndim]

    def next_of(self, *index: int) -> tuple[TokenScore, ...]:
        """Return the likeliest next tokens of a cell's run, the likeliest first.

        Args:
            index: of the cell in `values`: layer and position, say.

        Raises:
            ResultError: the sweep kept none (next_tokens=0), or the cell was not patched.
        """
        if self.next_ids is None or self.next_logits is None or self.next_probabilities is None:
            raise ResultError("the sweep kept no next tokens: sweep with next_tokens=10")
        ids = self.next_ids[index]
        if ids.ndim != 1 or (ids < 0).any():
            raise ResultError(f"{index} is no cell that was patched")
        rows = zip(ids, self.next_logits[index], self.next_probabilities[index], strict=True)
        return tuple(
            TokenScore(rank, int(number), self.next_texts[int(number)], float(logit), float(p))
            for rank, (number, logit, p) in enumerate(rows, 1)
        )

    def __repr__(self) -> str:
        base, source = DIRECTIONS[self.direction]
        approximate = f", {self.estimate_words[1]}" if self.is_approximate else ""
        shape = " x ".join(
            f"{n} {axis}s" for n, axis in zip(self.values.shape, self.axes, strict=True)
        )
        pair = self.pair
        put_in = f"{source} into {base} ({self.direction})"
        if self.put != "recorded":
            put_in = f"{escaped(put_words(self.put, self.put_from))} into {base}"
        if self.patches is not None:
            put_in = f"patches of {self.patches}() into {base}"
        lines = [
            f"SweepResult of {escaped(self.model_name)}: {self.site}, {put_in},"
            f" {shape}, {self.cells} cells patched{approximate}"
        ]
        answers_of = {"clean": pair.target_tokens, "corrupt": pair.foil_tokens}
        for run in pair.runs:
            answers = answers_of[run]
            text = squeezed(escaped(getattr(pair, f"{run}_text")), PROMPT_IN_REPR)
            asked = f" -> {squeezed(' '.join(map(visible, answers)), PROMPT_IN_REPR)}" * bool(
                answers
            )
            lines.append(f"  {run}: {text}{asked}")
        lines.append(
            f"  {self.metric}: {unpatched_words(self, self.metric)}; {self._largest_cell()}"
        )
        lines += [f"  note: {escaped(note)}" for note in self.notes]
        return "\n".join(lines)

    def _largest_cell(self) -> str:
        """Describe the cell furthest from the unpatched base run."""
        found = self.metrics[self.metric]
        change = np.abs(found.values - getattr(found, DIRECTIONS[self.direction][0]))
        if not np.isfinite(change).any():
            return "no cell was patched"
        index = np.unravel_index(int(np.nanargmax(change)), change.shape)
        where = ", ".join(f"{axis} {i}" for axis, i in zip(self.axes, index, strict=True))
        if self.axes[-1] == "position":
            where += f" ({visible(self.pair.clean_tokens[index[-1]])})"
        return f"the largest change is at {where}: {found.values[index]:.4f}"

    def _repr_png_(self) -> bytes:
        """Return the heatmap of the first metric, for Jupyter."""
        from patching.drawing.style import png_bytes
        from patching.sweep.figures import draw_heatmap

        return png_bytes(draw_heatmap(self))

    def to_frame(self) -> pandas.DataFrame:
        """Return a tidy pandas table with a row for each cell that was patched.

        Its columns are the axes (of layer, head, position); clean_token and
        corrupt_token, if position is an axis; and each metric under its name.

        Raises:
            ResultError: pandas is not installed.
        """
        patched = np.isfinite(self.values).ravel()
        columns: dict[str, Any] = tidy(self.values, self.axes)
        if "position" in columns:
            for run in self.pair.runs:
                tokens = np.array(getattr(self.pair, f"{run}_tokens"), dtype=object)
                columns[f"{run}_token"] = tokens[columns["position"]]
        for name, found in self.metrics.items():  # a metric called "layer" becomes "layer_value"
            columns[f"{name}_value" if name in columns else name] = found.values.ravel()
        return frame({name: column[patched] for name, column in columns.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return every field in types that JSON has, with None for a number that is not finite.

        The first metric's name, values, clean value and corrupt value come first.
        """
        first = {
            "metric": self.metric,
            "values": to_json_lists(self.values),
            "clean_value": to_json_lists(self.clean_value),
            "corrupt_value": to_json_lists(self.corrupt_value),
        }
        structured = {
            "metrics": {
                name: {key: to_json_lists(value) for key, value in found._asdict().items()}
                for name, found in self.metrics.items()
            },
            "pair": {name: getattr(self.pair, name) for name in (*PAIR_FIELDS, "differing")},
            "clean_next": self.clean_next and dataclasses.asdict(self.clean_next),
            "corrupt_next": self.corrupt_next and dataclasses.asdict(self.corrupt_next),
            "next_texts": {str(number): token for number, token in self.next_texts.items()},
        }
        fields = {name: getattr(self, name) for name in _FIELDS}
        for name in _NEXT:  # left out if they were not asked for
            if (array := fields.pop(name)) is not None:
                structured[name] = to_json_lists(array)
        return first | fields | structured

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write `path` with the suffixes .npz and .json; return the two paths.

        In the .npz, `values` is the first metric's array and `values_<name>` each
        metric's. Numbers and texts are stored as they are; fields that have a
        structure, or can be None, as JSON text.
        """
        fields = self.to_dict()
        ends = {name: {"clean": m.clean, "corrupt": m.corrupt} for name, m in self.metrics.items()}
        arrays = {
            name: json.dumps(value) if name in _STRUCTURED else value
            for name, value in (fields | {"metrics": ends}).items()
        }
        for name in ("values", "clean_value", "corrupt_value"):
            arrays[name] = getattr(self, name)
        arrays |= {f"values_{name}": found.values for name, found in self.metrics.items()}
        arrays |= {name: getattr(self, name) for name in _NEXT if name in fields}
        return save(path, arrays, fields)

    @classmethod
    def load(cls, path: str | Path) -> SweepResult:
        """Read a result that `save` wrote, or version 0.1's, from its .npz.

        Raises:
            ResultError: there is no such file, it holds no sweep, it was changed, or the
                .json beside it is of another run.
        """
        arrays = read_arrays(path, "sweep", old_field="arguments")
        with refused(path, "sweep"):
            fields = dataclasses.fields(cls)
            saved = old_files.fields_of_01(arrays, fields) if "arguments" in arrays else {}
            is_old = "neutral" not in arrays
            saved |= {name: arrays.get(name) for name in _NEXT}
            saved |= {name: old for name, old in _LATER.items() if name not in arrays}
            for name in _FIELDS:
                if name not in saved and not (is_old and name == "neutral"):
                    saved[name] = (structured if name in _STRUCTURED else scalar)(arrays, name)
            saved = old_files.renamed(saved)
            check_fields(saved, {name: TABLE[name] for name in TABLE if name in saved})
            if is_old:
                base = DIRECTIONS[saved["direction"]][0]
                saved["neutral"] = old_files.neutral_of_03(saved, base)
            check_agreement(saved, arrays)
        saved["metrics"] = {
            name: MetricValues(arrays[f"values_{name}"], ends["clean"], ends["corrupt"])
            for name, ends in saved["metrics"].items()
        }
        pair = {name: saved["pair"][name] for name in PAIR_FIELDS}
        saved["pair"] = PromptPair(**with_tuples(pair))
        saved |= {run: NextTokens.from_dict(saved[run]) for run in ("clean_next", "corrupt_next")}
        texts = {int(number): token for number, token in saved["next_texts"].items()}
        saved["next_texts"] = texts
        return cls(**with_tuples(saved))


def with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn JSON's lists into the tuples that the fields hold."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}


_NEXT = ("next_ids", "next_logits", "next_probabilities")  # arrays; None if not asked for
_LATER: dict[str, Any] = {  # 0.3 and before lack them
    "next_texts": {}, "put": "recorded", "put_from": {}, "relp_rules": None, "steps": None,
    "noise": None,
}  # fmt: skip
PAIR_FIELDS = tuple(f.name for f in dataclasses.fields(PromptPair) if f.name != "text_of")
_FIELDS = tuple(f.name for f in dataclasses.fields(SweepResult))
_STRUCTURED = (  # JSON text in the .npz
    "metrics", "captions", "diverging", "pair", "layers", "heads", "positions", "patches",
    "max_memory", "checksum", "clean_next", "corrupt_next", "neutral", "versions",
    "notes", "command", "next_texts", "put_from", "relp_rules", "steps", "noise",
)  # fmt: skip
