"""What mingpt-generate was asked for, done model by model: continued, printed, compared, written.

The work is patching's, and the words are generate_report.py's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patching.cli import generate_report
from patching.cli.common import output, tables
from patching.cli.common.command import tell
from patching.cli.common.models import LoadedModel, load_model
from patching.cli.common.progress import Bars
from patching.errors import ProbeError
from patching.text import escaped

if TYPE_CHECKING:
    from mingpt.generation.sampling import Choice
    from patching.continuation.counts import Count, Pattern
    from patching.continuation.run import Continuation, Settings
    from patching.continuation.step_candidates import Candidate
    from patching.next_tokens import TokenScore


MOST_BARS = 120  # in a figure of counts
MOST_PAGES = 10  # of them; of more prompts than they hold, no chart is drawn


@dataclass(frozen=True)
class Asked:
    """What is to be done with each model."""

    prompts: list[str]
    settings: list[Settings]
    num_samples: int
    seed: int
    patterns: list[Pattern]
    rows: int
    steps: bool
    plot: bool


@dataclass
class Block:
    """What came of one model with one of the settings."""

    settings: Settings
    samples: list[list[Continuation]] = field(default_factory=list)  # of each prompt
    counts: list[Count] = field(default_factory=list)
    failure: ProbeError | None = None  # why there are no counts
    steps: dict[tuple[int, int], list[list[Candidate]]] = field(default_factory=dict)
    stopwatch: Stopwatch = field(default_factory=lambda: Stopwatch())

    @property
    def tokens(self) -> int:
        """How many were generated."""
        return sum(len(one.sample.ids) for samples in self.samples for one in samples)


class Stopwatch:
    """Time that the model takes: for what comes first, and for the steps after it.

    A first step reads the prompt; what is done between two steps, as printing
    them, does not count.
    """

    def __init__(self) -> None:
        self.first = self.later = 0.0  # seconds
        self.steps = 0  # of the later kind; of several samples at once, one each
        self.restart()

    def restart(self) -> None:
        """From now on."""
        self._since = time.perf_counter()

    def stop(self, *, is_first: bool) -> None:
        """A step is done."""
        seconds = time.perf_counter() - self._since
        if is_first:
            self.first += seconds
        else:
            self.later += seconds
            self.steps += 1

    @property
    def milliseconds_per_token(self) -> float | None:
        """Of the later steps; of several samples at once, each gets its share. None: no such."""
        return 1000 * self.later / self.steps if self.steps else None


@dataclass
class Run:
    """What came of one model."""

    name: str
    notes: tuple[str, ...]
    versions: dict[str, str]
    checksum: str | None = None  # where something is written
    next: list[tuple[TokenScore, ...]] = field(default_factory=list)  # of each prompt
    log_probs: list[list[float]] = field(default_factory=list)  # of each prompt's tokens
    blocks: list[Block] = field(default_factory=list)


def run_model(
    arguments: argparse.Namespace,
    name: str | None,
    asked: Asked,
    say: Callable[..., None],
    *,
    alone: bool,
) -> Run:
    """Everything with one model, which is gone afterwards; printed as it comes if it is alone."""
    loaded = load_model(arguments, name, Bars(arguments.quiet))
    say(tables.model_line(loaded.model, loaded.fallback), always=True)
    desk = _Desk(loaded, asked, arguments, alone)
    run = desk.read_prompts()
    if alone and not asked.patterns:
        for prompt, log_probs, scores in zip(asked.prompts, run.log_probs, run.next, strict=True):
            say(f"\nprompt: {escaped(prompt)}")
            say(generate_report.likelihood_line(log_probs))
            if len(asked.prompts) == 1:
                say(tables.scores_table({"": scores}, {}))
    for settings in asked.settings:
        if alone:
            say(f"\n{settings.describe()}:", always=len(asked.settings) > 1)
        block = desk.block(settings)
        run.blocks.append(block)
        if alone:
            say(f"\n{_time(block)}")
            if asked.patterns:
                say(f"\n{generate_report.count_table(block.counts)}", always=True)
    if asked.plot or asked.patterns or arguments.out is not None:
        run.checksum = loaded.model.checksum()
    return run


class _Desk:
    """One model at work: what it reads, says and is shown saying."""

    def __init__(
        self, loaded: LoadedModel, asked: Asked, arguments: argparse.Namespace, alone: bool
    ) -> None:
        self.loaded, self.model, self.tokenizer = loaded, loaded.model, loaded.tokenizer
        self.asked, self.quiet = asked, arguments.quiet
        self.bars = Bars(arguments.quiet)
        self.out = sys.stderr if arguments.json else sys.stdout
        # Hundreds of samples that are counted nobody reads; they are in the result.
        self.is_told = alone and not asked.patterns and not (arguments.json and arguments.quiet)

    def read_prompts(self) -> Run:
        """The prompts as the model finds them, and what it would say next."""
        from mingpt.generation.sampling import check, log_likelihood
        from patching.continuation.run import encoded
        from patching.next_tokens import likeliest
        from patching.running import versions

        model, prompts = self.model, self.asked.prompts
        run = Run(model.name, output.fallback_notes(self.loaded.fallback), versions(model))
        ids = encoded(self.tokenizer, prompts)
        check(model.config, ids, 1, seed=self.asked.seed)  # before any of them is run
        with self.bars.bar("reading") as progress:
            for number, one in enumerate(ids, 1):
                run.log_probs.append(log_likelihood(model, one))
                run.next.append(
                    likeliest(model.last_logits[0], self.asked.rows, self.tokenizer.token)
                )
                if progress is not None:
                    progress(number, len(ids))
        return run

    def block(self, settings: Settings) -> Block:
        """All samples with one of the settings."""
        from patching.continuation.counts import count
        from patching.continuation.run import continue_prompts
        from patching.running import steps

        asked, block = self.asked, Block(settings)
        transcript = self._transcript(block)

        def observe(choice: Choice) -> None:
            block.stopwatch.stop(is_first=choice.step == 0)
            self._keep(block, choice)
            if self.is_told:
                transcript(choice)

        # A bar would be drawn over samples that come as they are made.
        bars = Bars(quiet=True) if self._is_live(settings) else self.bars
        with bars.bar("generating") as progress:
            total = len(asked.prompts) * asked.num_samples * settings.max_new_tokens
            further, of_prompt = steps(progress, total), 0

            def step(tokens: int) -> None:
                nonlocal of_prompt
                if settings.num_beams is not None:  # whose steps nobody else sees
                    block.stopwatch.stop(is_first=of_prompt == 0)
                    of_prompt = (of_prompt + tokens) % (asked.num_samples * settings.max_new_tokens)
                further(tokens)
                block.stopwatch.restart()

            block.stopwatch.restart()
            block.samples = continue_prompts(
                self.model,
                self.tokenizer,
                asked.prompts,
                settings,
                num_samples=asked.num_samples,
                seed=asked.seed,
                observe=observe,
                step=step,
            )
        if settings.num_beams is not None:
            self._after_beams(block)
        try:
            for prompt, samples in zip(asked.prompts, block.samples, strict=True):
                block.counts += count(asked.patterns, prompt, [one.text for one in samples])
        except ProbeError as error:  # the samples are worth more than the counts
            block.failure = error
        return block

    def _is_live(self, settings: Settings) -> bool:
        """Whether samples are printed as they are made."""
        return self.is_told and self.out.isatty() and settings.num_beams is None

    def _keep(self, block: Block, choice: Choice) -> None:
        """The candidates of a step, if they are to be shown or drawn."""
        from patching.continuation.step_candidates import candidates

        is_drawn = self.asked.plot and (choice.step, choice.sample) == (0, 0)
        if self.asked.steps or is_drawn:
            settings, text_of = block.settings, self.tokenizer.token
            how = (settings.decoding, self.asked.rows, text_of)
            found = candidates(choice, *how, greedy=not settings.is_drawn)
            block.steps.setdefault((choice.prompt, choice.sample), []).append(found)

    def _after_beams(self, block: Block) -> None:
        """What samples show as they are made, of beams: they are known at the end only."""
        import torch

        from mingpt.generation.sampling import Choice

        for prompt, samples in enumerate(block.samples):
            best = samples[0].sample
            ids = torch.tensor([best.prompt], device=self.model.device)
            if self.asked.plot:
                first = (best.ids[0], best.log_probs[0], None)
                with torch.no_grad():
                    logits = self.model.next_logits(ids)[0]
                self._keep(block, Choice(prompt, 0, 0, logits, ids[0], *first))
            for number, one in enumerate(samples if self.is_told else ()):
                sample, text = one.sample, generate_report.readable(one.text)
                head = self._head(block, (prompt, number), sample.score)
                tell(f"{head}{text}", self.out)
                if not self.quiet:
                    end = (len(sample.ids), sample.log_prob, sample.ended)
                    tell(generate_report.sample_end(*end), self.out)

    def _transcript(self, block: Block) -> generate_report.Transcript:
        def step_table(choice: Choice) -> str:
            return generate_report.candidate_table(block.steps[choice.prompt, choice.sample][-1])

        return generate_report.Transcript(
            lambda text: tell(text, self.out, end=""),
            self.tokenizer,
            [*product(range(len(self.asked.prompts)), range(self.asked.num_samples))],
            lambda key: self._head(block, key),
            steps=step_table if self.asked.steps and not self.quiet else None,
            is_live=self._is_live(block.settings),
            with_ends=not self.quiet,
        )

    def _head(self, block: Block, key: generate_report.Key, score: float | None = None) -> str:
        """What stands over a sample."""
        several = len(self.asked.prompts) > 1
        if self.quiet and not several:
            return ""
        prompt, sample = key
        seed = self.asked.seed + sample if block.settings.is_drawn else None
        name = generate_report.sample_name(sample, seed, score)
        if several:
            name = f"{generate_report.cell(self.asked.prompts[prompt])} ({name})"
        return f"\n{name}\n"


def _time(block: Block) -> str:
    watch, tokens = block.stopwatch, "1 token" if block.tokens == 1 else f"{block.tokens} tokens"
    said = f"{tokens}: the first of each sample in {watch.first:.2f} s"
    if watch.milliseconds_per_token is None:
        return said
    of_beams = block.settings.num_beams is not None
    unit = "step of all beams" if of_beams else "token"
    if not of_beams and sum(map(len, block.samples)) > 1:
        unit += ", several samples at a time"
    return f"{said}, then {watch.milliseconds_per_token:.1f} ms per {unit}"


def compare(runs: Sequence[Run], asked: Asked, say: Callable[..., None]) -> None:
    """What several models say, next to each other."""
    columns, names = shutil.get_terminal_size().columns, unlike([run.name for run in runs])
    for number, prompt in enumerate(asked.prompts):
        say(f"\nprompt: {escaped(prompt)}")
        for name, run in zip(names, runs, strict=True):
            line = generate_report.likelihood_line(run.log_probs[number])
            say(f"{generate_report.readable(name)}: {line}")
        scores = [run.next[number] for run in runs]
        say(tables.scores_table(dict(zip(names, scores, strict=True)), {}))
        for block, settings in enumerate(asked.settings):
            say(f"\n{settings.describe()}:\n")
            texts = [
                [one and f"({generate_report.named(one, n)}) {one.text}" for one in of_models]
                for n, of_models in enumerate(
                    zip_longest(*(run.blocks[block].samples[number] for run in runs))
                )
            ]
            say(generate_report.side_by_side(texts, names, columns), always=True)
    for block, settings in enumerate(asked.settings):
        say(f"\n{settings.describe()}:")
        for name, run in zip(names, runs, strict=True):
            say(f"{generate_report.readable(name)}: {_time(run.blocks[block])}")
            if asked.patterns:
                say(f"\n{generate_report.count_table(run.blocks[block].counts)}\n", always=True)


def pages(asked: Asked, models: int) -> int:
    """How many figures the counts take; 0 where they would be too many."""
    if not asked.patterns:
        return 0
    count = -(-len(asked.prompts) // _per_page(asked, models))
    return count if count <= MOST_PAGES else 0


def _per_page(asked: Asked, models: int) -> int:
    """Prompts in a figure of counts."""
    bars = models * len(asked.settings) * max(len(asked.patterns), 1)  # of one prompt
    return max(1, MOST_BARS // bars)


def unlike(names: Sequence[str]) -> list[str]:
    """Names with a number behind those that come several times."""
    return [
        name if names.count(name) == 1 else f"{name} ({number})"
        for number, name in enumerate(names, 1)
    ]


def write(
    runs: Sequence[Run], asked: Asked, arguments: argparse.Namespace, place: output.Place
) -> dict[Path, bool]:
    """Write figures and result; the paths, and whether something was there before."""
    from patching.continuation.run import save
    from patching.drawing.continuation import draw_choice, draw_counts

    settings = [one.to_dict() for one in asked.settings]
    defining = (
        [(run.name, run.checksum, run.notes, run.versions["dtype"]) for run in runs],
        (settings, asked.prompts, asked.num_samples, asked.seed, asked.rows, asked.plot),
        [pattern.text for pattern in asked.patterns],
    )
    name = output.run_name(asked.prompts[0], "continued", defining=defining)
    *figures, result = place.files(name)
    existed = {path: path.exists() for path in (*figures, result)}
    names = (*output.MODEL_ARGUMENTS, "num_samples", "rows", "format", "plot", "show_steps")
    save(
        result,
        [one for run in runs for block in run.blocks for row in block.samples for one in row],
        arguments={name: getattr(arguments, name) for name in names},
        models=[
            {"name": run.name, "checksum": run.checksum, "notes": run.notes,
             "versions": run.versions}
            for run in runs
        ],
        counts=[
            {"model": run.name, "settings": block.settings.to_dict(), **one.to_dict()}
            for run in runs
            for block in run.blocks
            for one in block.counts
        ],
    )  # fmt: skip
    choices = [
        (block.steps[prompt, 0][0], samples)
        for run in runs
        for block in run.blocks
        for prompt, samples in enumerate(block.samples)
        if asked.plot
    ]
    for (first, samples), path in zip(choices, figures, strict=False):
        draw_choice(first, samples, path, notes=runs[0].notes)
    if any(block.failure for run in runs for block in run.blocks):
        return {path: did for path, did in existed.items() if path.exists()}
    each, pages = _per_page(asked, len(runs)), figures[len(choices) :]
    for number, path in enumerate(pages):
        mine = {*asked.prompts[number * each : (number + 1) * each]}
        panels = [
            (
                f"{run.name}, {block.settings.describe()}",
                [one for one in block.counts if one.prompt in mine],
            )
            for run in runs
            for block in run.blocks
        ]
        what = f"How often each was said in {asked.num_samples} samples of at most"
        title = f"{what} {arguments.max_new_tokens} tokens"
        title += f"; page {number + 1} of {len(pages)}" if len(pages) > 1 else ""
        draw_counts(panels, path, title=title, notes=runs[0].notes)
    return existed


def tell_json(runs: Sequence[Run], asked: Asked, paths: Sequence[Path]) -> None:
    """A line for each sample."""
    for run in runs:
        for block in run.blocks:
            for prompt, samples in enumerate(block.samples):
                for number, one in enumerate(samples):
                    fields: dict[str, Any] = one.to_dict()
                    fields["prompt_log_prob"] = sum(run.log_probs[prompt])
                    fields["milliseconds_per_token"] = block.stopwatch.milliseconds_per_token
                    if asked.patterns and block.failure is None:
                        fields["found"] = {
                            pattern.text: pattern.is_in(one.text) for pattern in asked.patterns
                        }
                    if asked.steps:
                        fields["steps"] = [
                            [asdict(candidate) for candidate in step]
                            for step in block.steps[prompt, number]
                        ]
                    fields["paths"] = [str(path) for path in paths]
                    tell(json.dumps(fields, allow_nan=False), sys.stdout)
