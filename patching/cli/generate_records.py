"""The records of mingpt-generate: what is asked of each model, and what came out of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mingpt.generation.beams import BeamStep
    from patching.continuation.counts import Count, Pattern
    from patching.continuation.request import GenerationSettings
    from patching.continuation.result import Continuations
    from patching.continuation.step_candidates import Candidate
    from patching.errors import CountError
    from patching.next_tokens import TokenScore


@dataclass(frozen=True)
class GenerateRequest:
    """The request of a command line: what to do with each model."""

    prompts: list[str]
    settings: list[GenerationSettings]
    num_samples: int  # of each prompt, with each of the settings
    seed: int  # of each prompt's first sample
    patterns: list[Pattern]  # to count in the samples
    rows: int  # of tables of tokens
    steps: bool  # show the candidates of every step
    plot: bool  # draw the candidates of the first step
    title: str | None = None  # of the figures, in place of their own
    html: bool = False  # write the page, which shows the candidates of every step

    def tokens_per_prompt(self, settings: GenerationSettings) -> int:
        """Return the largest number of tokens of all samples of a prompt together."""
        return self.num_samples * settings.max_new_tokens


class Stopwatch:
    """The model's time: that of the first step of each sample, and that of all later steps.

    A first step reads the prompt. Time between two steps, such as for printing, is not counted.
    """

    def __init__(self) -> None:
        self.first = self.later = 0.0  # seconds
        self.steps = 0  # later steps; a batch of samples counts each sample's step
        self.restart()

    def restart(self) -> None:
        """Start to measure the next step."""
        self._since = time.perf_counter()

    def stop(self, *, is_first: bool) -> None:
        """Add the time since the last restart, as the time of one step."""
        seconds = time.perf_counter() - self._since
        if is_first:
            self.first += seconds
        else:
            self.later += seconds
            self.steps += 1

    @property
    def milliseconds_per_token(self) -> float | None:
        """Mean time of a later step of one sample, in ms; None if there are no later steps."""
        return 1000 * self.later / self.steps if self.steps else None


@dataclass
class SettingsRun:
    """The samples of one model with one choice of settings."""

    settings: GenerationSettings
    result: Continuations
    stopwatch: Stopwatch
    # (prompt, sample) -> the candidates of each step, if they are shown or drawn
    steps: dict[tuple[int, int], list[list[Candidate]]]
    # prompt -> the candidates for its first token, if they are drawn: the likeliest, and
    # those that samples begin with
    first: dict[int, list[Candidate]] = field(default_factory=dict)
    # prompt -> the steps of its beam search, if they are shown
    beam_steps: dict[int, list[BeamStep]] = field(default_factory=dict)
    # prompt -> all candidates of its beam search as a tree, for the page
    trees: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    counts: list[Count] = field(default_factory=list)
    failure: CountError | None = None  # why there are no counts

    @property
    def tokens(self) -> int:
        """The number of tokens that were generated."""
        return sum(len(one.sample.ids) for samples in self.result for one in samples)


@dataclass
class ModelRun:
    """The samples of one model with all settings."""

    name: str
    notes: tuple[str, ...]
    versions: dict[str, str]
    checksum: str | None = None  # of the weights; None if no file is written
    next: list[tuple[TokenScore, ...]] = field(default_factory=list)  # for each prompt
    log_probs: list[list[float]] = field(default_factory=list)  # of each prompt's own tokens
    runs: list[SettingsRun] = field(default_factory=list)
