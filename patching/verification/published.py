"""Read published figures: numbers of a named model that others printed, with their source.

Each file in published/ is of one source and one model:

    {"model": "gpt2", "source": "owner/repository", "where": {commits and files},
     "pairs": {name: {"clean": ids, "corrupt": ids, "target": id, "foil": id}},
     "figures": [{"kind": "sweep", "what": "...", ..., "values": [...],
                  "printed": 1e-6, "float32": 3e-4}]}

Logit differences have our sign, foil - target; direct logit attribution has target - foil, as
`explain` has. "printed" is what the source's rounding can hide; "float32" is what another
device, another order of sums, and folded weights cost in that unit. Together they are what a
number of ours may differ by. checks/ says what each kind of figure holds and computes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patching.prompts import PromptPair, Question

FOLDER = Path(__file__).with_name("published")


@dataclass(frozen=True)
class Figure:
    """One published figure: what was run, and the numbers that came out."""

    kind: str  # a name in checks.table.CHECKS
    what: str
    source: str
    printed: float  # half a unit of the last printed digit
    float32: float  # what float32 arithmetic costs in the figure's unit
    fields: Mapping[str, Any]  # what the kind needs, as the file has it
    pairs: Mapping[str, Mapping[str, Any]]  # the file's prompt pairs, by name
    shared: Mapping[str, Any]  # the file's other entries, such as a template of prompts

    @property
    def allowed(self) -> float:
        """The largest difference at which the figure holds."""
        return self.printed + self.float32

    @property
    def because(self) -> str:
        """Why that difference is allowed."""
        printed = f"printed to within {self.printed:.0e}" if self.printed else "printed exactly"
        return f"{printed}; float32 costs up to {self.float32:g}"

    @property
    def cost(self) -> int:
        """A rough measure of the time it takes: the number of values, times the pairs."""
        values = self.fields["values"] if "values" in self.fields else self.fields.get("cells", [])
        count = len(values) if isinstance(values, dict) else int(np.size(np.array(values, object)))
        return 10 + count * len(self.fields.get("pairs", [0]))

    def pair(self, name: str) -> PromptPair:
        """Return one of the file's prompt pairs."""
        ids = self.pairs[name]
        return PromptPair.from_ids(ids["clean"], ids["corrupt"], ids["target"], ids["foil"])

    def prompt_pairs(self) -> list[PromptPair]:
        """Return the pairs that the figure is about."""
        return [self.pair(name) for name in self.fields["pairs"]]

    def questions(self) -> list[Question]:
        """Return the clean prompts of the figure's pairs, with their answers."""
        chosen = [self.pairs[name] for name in self.fields["pairs"]]
        return [Question.from_ids(ids["clean"], ids["target"], ids["foil"]) for ids in chosen]


def read_figures(model: str, *, long: bool = False, folder: Path = FOLDER) -> list[Figure]:
    """Return the published figures of a model.

    Args:
        model: "gpt2" or "gpt2-xl".
        long: with those that take minutes.
        folder: where the files are.
    """
    figures = []
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["model"] == model:
            figures += [figure_of(data, fields) for fields in data["figures"]]
    return [figure for figure in figures if long or not figure.fields.get("long")]


def figure_of(data: Mapping[str, Any], fields: Mapping[str, Any]) -> Figure:
    """Return a figure from its entry `fields` in a file's content `data`."""
    own = ("kind", "what", "printed", "float32", "source")
    return Figure(
        kind=fields["kind"],
        what=fields["what"],
        source=fields.get("source", data["source"]),
        printed=fields["printed"],
        float32=fields["float32"],
        fields={name: value for name, value in fields.items() if name not in own},
        pairs=data["pairs"],
        shared={name: value for name, value in data.items() if name != "figures"},
    )
