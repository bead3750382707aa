"""Read the live page's requests: every field's type and range is checked before any work."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from mingpt.generation.decoding import Decoding
from mingpt.sites import SITES
from patching.errors import LiveError
from patching.index_list import wrong_part
from patching.sweep.metrics import METRICS
from patching.sweep.request import DIRECTIONS, Request
from patching.text import shortened

MODES = ("patch", "explain", "attention", "next", "tokens")
OF_BOTH = ("patch", "tokens")  # those that read both prompts
RUNS = ("clean", "corrupt")
FORMATS = ("html", "png", "npz")  # of files that are saved
LONGEST = 20_000  # characters of a text
MOST_MODELS = 2  # side by side
LARGEST = 10_000  # window
TAB = re.compile(r"[a-z0-9]{1,32}", re.ASCII)


@dataclass(frozen=True)
class LiveRequest:
    """One state of the live page.

    Raises:
        LiveError: a field of another type, or out of its range.
    """

    mode: str = "patch"
    models: tuple[int, ...] = (0,)  # numbers of the models that are asked
    clean: str = ""
    corrupt: str = ""
    target: str = ""  # a word, or several with commas between them
    foil: str = ""
    run: str = "clean"  # whose prompt explain, attention and next read
    site: str = Request.site
    direction: str = Request.direction
    metric: str = "logit_diff"
    window: int = 1
    by_position: bool = False
    heads: str = ""  # as 0,3-5; "": all
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    format: str = "html"
    tab: str = "0"  # which of the browser's tabs asks: a newer request of a tab ends its older one

    def __post_init__(self) -> None:
        for name, known in (
            ("mode", MODES), ("run", RUNS), ("format", FORMATS), ("site", (*SITES,)),
            ("direction", (*DIRECTIONS,)), ("metric", (*METRICS,)),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise LiveError(f"{name} is one of {', '.join(known)}")
        for name in ("clean", "corrupt", "target", "foil"):
            if len(getattr(self, name)) > LONGEST:
                raise LiveError(f"{name} has more than {LONGEST:,} characters")
        if TAB.fullmatch(self.tab) is None:
            raise LiveError("tab is up to 32 letters and digits")
        if not 1 <= self.window <= LARGEST:
            raise LiveError(f"window is from 1 to {LARGEST:,}")
        if self.heads and (len(self.heads) > LONGEST or wrong_part(self.heads) is not None):
            raise LiveError("heads are written as 0,3-5")
        if not 0 <= self.seed < 2**63:
            raise LiveError("seed is from 0 to 2**63 - 1")

    @classmethod
    def parse(cls, data: object, n_models: int) -> LiveRequest:
        """Return the request that JSON data describe.

        Args:
            n_models: how many models the server has.

        Raises:
            LiveError: not an object, an unknown field, or a field of another type or range.
        """
        if not isinstance(data, dict):
            raise LiveError("a request is a JSON object")
        unknown = sorted(set(data) - set(FIELDS))
        if unknown:
            raise LiveError(f"no field {shortened(repr(unknown[0]), 40)}")
        values: dict[str, Any] = {}
        for name, value in data.items():
            kind = FIELDS[name]
            if not _is_of(kind, value):
                raise LiveError(f"{name} must be {KINDS[kind]}")
            make = {"tuple[int, ...]": tuple, "float": float}.get(kind, lambda same: same)
            values[name] = make(value)
        request = cls(**values)
        chosen = request.models
        if not 1 <= len(chosen) <= MOST_MODELS or len({*chosen}) < len(chosen):
            raise LiveError(f"models are 1 to {MOST_MODELS} different numbers")
        if not all(0 <= one < n_models for one in chosen):
            raise LiveError(f"models are numbers from 0 to {n_models - 1}")
        return request

    @property
    def runs(self) -> tuple[str, ...]:
        """The prompts that are read: both, or the one that explain, attention and next read."""
        return RUNS if self.mode in OF_BOTH else (self.run,)

    @property
    def prompt(self) -> str:
        """The prompt that explain, attention and next read."""
        return self.clean if self.run == "clean" else self.corrupt

    @property
    def targets(self) -> tuple[str, ...]:
        """The words of the target."""
        return _words(self.target)

    @property
    def foils(self) -> tuple[str, ...]:
        """The words of the foil."""
        return _words(self.foil)

    @property
    def decoding(self) -> Decoding:
        """The decoding with which the next token is drawn.

        Raises:
            ConfigError: a number out of its range.
        """
        return Decoding(self.temperature, self.top_k, self.top_p)


KINDS = {  # type -> what a message calls it
    "str": "a text",
    "bool": "true or false",
    "int": "a whole number",
    "int | None": "a whole number, or nothing",
    "float": "a number",
    "float | None": "a number, or nothing",
    "tuple[int, ...]": "a list of whole numbers",
}
# Field -> its type as the annotation says it.
FIELDS = {one.name: str(one.type) for one in dataclasses.fields(LiveRequest)}


def _is_of(kind: str, value: object) -> bool:
    """Return True if a JSON value is of the type that an annotation of LiveRequest says."""
    if kind.endswith(" | None"):
        return value is None or _is_of(kind.removesuffix(" | None"), value)
    if kind == "tuple[int, ...]":
        return isinstance(value, list) and all(_is_of("int", one) for one in value)
    if kind == "float":
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return abs(value) <= 1e9  # not so of NaN, nor of a whole number that no float can hold
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, {"str": str, "bool": bool}[kind])


def _words(text: str) -> tuple[str, ...]:
    """Return the words of a text with commas between them; a comma alone is a word.

    Example:
        _words("Jones, Davis")  # ("Jones", "Davis")
    """
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    return words or ((text.strip(),) if text.strip() else ())
