"""Run mingpt-generate's request: load each model, continue the prompts, print as samples are made.

generate_output.py prints and writes the rest when all models are done.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import TYPE_CHECKING

from patching.cli import generate_report
from patching.cli.common import output, tables
from patching.cli.common.command import print_line
from patching.cli.common.models import LoadedModel, load_model
from patching.cli.generate_records import GenerateRequest, ModelRun, SettingsRun, Stopwatch
from patching.errors import CountError
from patching.progress import bar, steps
from patching.text import escaped

if TYPE_CHECKING:
    from mingpt.generation.beams import BeamStep
    from mingpt.generation.sampling import Choice
    from patching.continuation.request import GenerationSettings
    from patching.continuation.step_candidates import Candidate
    from patching.progress import Progress


def run_model(
    arguments: SimpleNamespace,
    name: str | None,
    request: GenerateRequest,
    say: Callable[..., None],
    *,
    alone: bool,
) -> ModelRun:
    """Load a model, continue all prompts with all settings, and free the model.

    Args:
        name: a value of --model; None for the default model.
        say: prints a text; see `output.make_say`.
        alone: True if there is no other model; results are then printed as they are made.
    """
    loaded = load_model(arguments, name)
    say(tables.model_line(loaded.model, loaded.fallback), always=True)
    session = _Session(loaded, request, arguments, alone)
    run = session.read_prompts()
    if alone and not request.patterns:
        for prompt, log_probs, scores in zip(request.prompts, run.log_probs, run.next, strict=True):
            say(f"\nprompt: {escaped(prompt)}")
            say(generate_report.likelihood_line(log_probs))
            if len(request.prompts) == 1:
                say(tables.scores_table({"": scores}, {}))
    for settings in request.settings:
        if alone:
            say(f"\n{settings.describe()}:", always=len(request.settings) > 1)
        one = session.run(settings)
        run.runs.append(one)
        if alone:
            say(f"\n{generate_report.time_line(one)}")
            if request.patterns:
                say(f"\n{generate_report.count_table(one.counts)}", always=True)
    if request.plot or request.patterns or request.html or arguments.out is not None:
        run.checksum = loaded.model.checksum()
    return run


class _Session:
    """One loaded model: runs each of the settings, and prints samples as they are made."""

    def __init__(
        self,
        loaded: LoadedModel,
        request: GenerateRequest,
        arguments: SimpleNamespace,
        alone: bool,
    ) -> None:
        self.loaded, self.model, self.tokenizer = loaded, loaded.model, loaded.tokenizer
        self.request, self.quiet = request, arguments.quiet
        self.out = sys.stderr if arguments.json else sys.stdout
        # With --count, samples go to the result file only: there may be hundreds.
        self.prints = alone and not request.patterns and not (arguments.json and arguments.quiet)
        # Of the settings that are run: prompt -> token id -> candidate for the first token.
        self.first: dict[int, dict[int, Candidate]] = {}
        self.beam_steps: dict[int, list[BeamStep]] = {}  # prompt -> steps of the beam search

    def read_prompts(self) -> ModelRun:
        """Run each prompt once, for its log-probability and the likeliest next tokens."""
        from mingpt.generation.sampling import check, log_likelihood
        from patching.continuation.request import encode_prompts
        from patching.next_tokens import likeliest
        from patching.running import versions

        model, request = self.model, self.request
        run = ModelRun(model.name, output.fallback_notes(self.loaded.fallback), versions(model))
        ids = encode_prompts(self.tokenizer, request.prompts, model.config.block_size)
        check(model.config, ids, 1, seed=request.seed)  # all prompts, before the first is run
        with bar("reading", quiet=self.quiet) as progress:
            step = steps(progress, len(ids))
            for one in ids:
                run.log_probs.append(log_likelihood(model, one))
                logits = model.last_logits  # (1, V), from the forward pass just done
                if logits is not None:
                    run.next.append(likeliest(logits[0], request.rows, self.tokenizer.token))
                step()
        return run

    def run(self, settings: GenerationSettings) -> SettingsRun:
        """Make all samples with one choice of settings, and count the patterns in them."""
        from patching.continuation.run import continue_prompts

        request, stopwatch = self.request, Stopwatch()
        self.first, self.beam_steps = {}, defaultdict(list)
        steps: dict[tuple[int, int], list[list[Candidate]]] = {}
        transcript = self._transcript(settings, steps)

        def observe(choice: Choice) -> None:
            stopwatch.stop(is_first=choice.step == 0)
            self._keep(settings, steps, choice)
            if self.prints:
                transcript(choice)

        # A bar would be drawn over samples that are printed as they are made.
        quiet = self.quiet or self._is_live(settings)
        with bar("generating", quiet=quiet) as shown:
            result = continue_prompts(
                self.model,
                self.tokenizer,
                request.prompts,
                settings,
                num_samples=request.num_samples,
                seed=request.seed,
                observe=observe,
                observe_beams=self._keep_beams,
                progress=self._timed(settings, stopwatch, shown),
            )
        done = SettingsRun(settings, result, stopwatch, steps)
        if settings.num_beams is not None:
            self._after_beams(done)
        done.first = {
            prompt: sorted(found.values(), key=lambda one: one.rank)
            for prompt, found in self.first.items()
        }
        self._count(done)
        return done

    def _timed(
        self, settings: GenerationSettings, stopwatch: Stopwatch, shown: Progress | None
    ) -> Progress:
        """Return a progress function that moves the bar; the bar's own time is not measured."""
        of_prompt = self.request.tokens_per_prompt(settings)
        before = 0

        def progress(done: int, total: int) -> None:
            nonlocal before
            # A beam search reports its steps only here; done == 0 is before the first step.
            if settings.num_beams is not None and done > 0:
                stopwatch.stop(is_first=before % of_prompt == 0)
                before = done
            if shown is not None:
                shown(done, total)
            stopwatch.restart()

        return progress

    def _count(self, run: SettingsRun) -> None:
        """Count the patterns; if that fails, keep the samples and the error."""
        from patching.continuation.counts import count

        patterns = self.request.patterns
        try:
            for prompt, samples in zip(self.request.prompts, run.result, strict=True):
                run.counts += count(patterns, prompt, [one.text for one in samples])
        except CountError as error:
            run.failure = error

    def _is_live(self, settings: GenerationSettings) -> bool:
        """Return True if a sample is printed token by token."""
        return self.prints and self.out.isatty() and settings.num_beams is None

    def _keep(
        self,
        settings: GenerationSettings,
        steps: dict[tuple[int, int], list[list[Candidate]]],
        choice: Choice,
    ) -> None:
        """Keep the candidates of a step, if they will be shown or drawn."""
        from patching.continuation.step_candidates import keep_first, step_candidates

        asked = (settings.decoding, self.request.rows, self.tokenizer.token)
        greedy = not settings.is_drawn
        if self.request.steps or self.request.html:
            found = step_candidates(choice, *asked, greedy=greedy)
            steps.setdefault((choice.prompt, choice.sample), []).append(found)
        if self.request.plot and choice.step == 0:
            keep_first(self.first.setdefault(choice.prompt, {}), choice, *asked, greedy=greedy)

    def _keep_beams(self, prompt: int, step: BeamStep) -> None:
        if self.request.steps or self.request.html:
            self.beam_steps[prompt].append(step)

    def _after_beams(self, run: SettingsRun) -> None:
        """Print the samples of a beam search and keep its first step, once the search is done."""
        run.beam_steps = dict(self.beam_steps)
        if self.request.html:
            from patching.page.continuation_page import search_tree

            text_of = self.tokenizer.token
            run.trees = {at: search_tree(one, text_of) for at, one in run.beam_steps.items()}
        for prompt, samples in enumerate(run.result):
            if self.request.plot:
                self._keep_first_of_beams(run, prompt)
            if self.prints and self.request.steps and not self.quiet:
                text = generate_report.beam_tables(self.beam_steps[prompt], self.tokenizer)
                print_line(f"\n{text}", self.out)
            for number, one in enumerate(samples if self.prints else ()):
                sample, text = one.sample, generate_report.readable(one.text)
                head = self._head(run.settings, (prompt, number), sample.score)
                print_line(f"{head}{text}", self.out)
                if not self.quiet:
                    end = (len(sample.ids), sample.log_prob, sample.ended)
                    print_line(generate_report.sample_end(*end), self.out)

    def _keep_first_of_beams(self, run: SettingsRun, prompt: int) -> None:
        """Keep the candidates for the first token of each beam, for the figure."""
        import torch

        from mingpt.generation.sampling import Choice

        samples = [one.sample for one in run.result[prompt]]
        ids = torch.tensor([samples[0].prompt], device=self.model.device)
        with torch.no_grad():
            logits = self.model.next_logits(ids)[0]
        for number, one in enumerate(samples):
            choice = Choice(prompt, number, 0, logits, ids[0], one.ids[0], one.log_probs[0], None)
            self._keep(run.settings, {}, choice)

    def _transcript(
        self,
        settings: GenerationSettings,
        steps: dict[tuple[int, int], list[list[Candidate]]],
    ) -> generate_report.Transcript:
        def step_table(choice: Choice) -> str:
            return generate_report.candidate_table(steps[choice.prompt, choice.sample][-1])

        request = self.request
        return generate_report.Transcript(
            lambda text: print_line(text, self.out, end=""),
            self.tokenizer,
            list(product(range(len(request.prompts)), range(request.num_samples))),
            lambda key: self._head(settings, key),
            steps=step_table if request.steps and not self.quiet else None,
            is_live=self._is_live(settings),
            with_ends=not self.quiet,
        )

    def _head(
        self,
        settings: GenerationSettings,
        key: generate_report.Key,
        score: float | None = None,
    ) -> str:
        """Return the heading of a sample."""
        several = len(self.request.prompts) > 1
        if self.quiet and not several:
            return ""
        prompt, sample = key
        seed = self.request.seed + sample if settings.is_drawn else None
        name = generate_report.heading(sample, seed, score)
        if name == "greedy" and not several:
            return "\n"  # the line above says how tokens are chosen
        if several:
            name = f"{generate_report.cell(self.request.prompts[prompt])} ({name})"
        return f"\n{name}\n"
