"""Print and write mingpt-generate's results: models side by side, files, JSON lines."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from patching.cli import generate_report
from patching.cli.common import output, tables
from patching.cli.common.command import print_line
from patching.cli.common.page import command_line, html_path
from patching.cli.generate_report import heading
from patching.interrupts import check_interrupted
from patching.text import escaped, model_label

if TYPE_CHECKING:
    from patching.cli.generate_records import GenerateRequest, ModelRun, SettingsRun

COMMAND = "mingpt-generate"
MOST_BARS = 120  # in a figure of counts
MOST_BARS_OF_PROMPT = 400  # in a figure of counts of one prompt
MOST_PAGES = 10  # figures of counts; if more are needed, none is drawn


# --------------------------------------------------------------------- models side by side


def print_side_by_side(
    models: Sequence[ModelRun], request: GenerateRequest, say: Callable[..., None]
) -> None:
    """Print the samples of several models next to each other."""
    names = numbered_names([model.name for model in models])
    for number, prompt in enumerate(request.prompts):
        say(f"\nprompt: {escaped(prompt)}")
        for name, model in zip(names, models, strict=True):
            line = generate_report.likelihood_line(model.log_probs[number])
            say(f"{generate_report.readable(name)}: {line}")
        scores = [model.next[number] for model in models]
        say(tables.scores_table(dict(zip(names, scores, strict=True)), {}))
        # With --count, samples are in the result and in --json only: there may be hundreds.
        for which, settings in enumerate(() if request.patterns else request.settings):
            say(f"\n{settings.describe()}:\n")
            say(_samples_of_prompt(models, names, which, number), always=True)
    counted = bool(request.patterns)  # whose tables need the names above them
    for which, settings in enumerate(request.settings):
        say(f"\n{settings.describe()}:", always=counted)
        for name, model in zip(names, models, strict=True):
            run = model.runs[which]
            line = f"{generate_report.readable(name)}: {generate_report.time_line(run)}"
            say(line, always=counted)
            if request.patterns:
                say(f"\n{generate_report.count_table(run.counts)}\n", always=True)


def _samples_of_prompt(
    models: Sequence[ModelRun], names: Sequence[str], which: int, prompt: int
) -> str:
    """Return one prompt's samples as text, a column for each model.

    Args:
        which: number of the settings.
        prompt: number of the prompt.
    """
    samples = zip_longest(*(model.runs[which].result[prompt] for model in models))
    texts = [
        [
            None
            if one is None
            else f"({heading(number, one.sample.seed, one.sample.score)}) {one.text}"
            for one in row
        ]
        for number, row in enumerate(samples)
    ]
    return generate_report.side_by_side(texts, names, shutil.get_terminal_size().columns)


def numbered_names(names: Sequence[str]) -> list[str]:
    """Return the names; add a number to names that occur several times."""
    return [
        name if names.count(name) == 1 else f"{name} ({number})"
        for number, name in enumerate(names, 1)
    ]


# --------------------------------------------------------------------- files


def count_figures(request: GenerateRequest, models: int) -> int:
    """Return the number of figures of counts; 0 if they would be too many or too high."""
    if not request.patterns or _bars_of_prompt(request, models) > MOST_BARS_OF_PROMPT:
        return 0
    count = math.ceil(len(request.prompts) / _prompts_per_figure(request, models))
    return count if count <= MOST_PAGES else 0


def _prompts_per_figure(request: GenerateRequest, models: int) -> int:
    return max(1, MOST_BARS // _bars_of_prompt(request, models))


def _bars_of_prompt(request: GenerateRequest, models: int) -> int:
    return models * len(request.settings) * len(request.patterns)


def write(
    models: Sequence[ModelRun],
    request: GenerateRequest,
    arguments: SimpleNamespace,
    place: output.OutputPlace,
) -> dict[Path, bool]:
    """Write the figures and the result.

    Returns:
        The path of each file that was written -> True if it replaced another file.
    """
    name = _run_name(models, request)
    *figures, result = place.files(name)
    existed = {path: path.exists() for path in (*figures, result)}
    check_interrupted()
    _write_result(models, arguments, result)
    choices = len(models) * len(request.settings) * len(request.prompts) if request.plot else 0
    _draw_choices(models, request, figures[:choices], result)
    if request.html:
        page = html_path(place.stem(name))
        existed[page] = page.exists()
        _write_html(models, request, page)
    if any(run.failure for _, run in _all_runs(models)):  # a pattern could not be counted
        return {path: did for path, did in existed.items() if path.exists()}
    _draw_counts(models, request, figures[choices:], result, arguments.max_new_tokens)
    return existed


def _run_name(models: Sequence[ModelRun], request: GenerateRequest) -> str:
    settings = [one.to_dict() for one in request.settings]
    defining = (
        [(model.name, model.checksum, model.notes, model.versions["dtype"]) for model in models],
        (
            settings,
            request.prompts,
            request.num_samples,
            request.seed,
            request.rows,
            request.plot,
            request.title,
        ),
        [pattern.text for pattern in request.patterns],
    )
    return output.run_name(request.prompts[0], "continued", defining=defining)


def _write_result(models: Sequence[ModelRun], arguments: SimpleNamespace, path: Path) -> None:
    """Write all samples and counts into one file."""
    from patching.continuation.result import Continuations

    names = (
        *output.MODEL_ARGUMENTS,
        "num_samples",
        "rows",
        "format",
        "plot",
        "show_steps",
        "title",
    )
    command = {name: getattr(arguments, name) for name in names}
    results = [
        replace(run.result, command=command, notes=model.notes, checksum=model.checksum)
        for model, run in _all_runs(models)
    ]
    counts = [
        {"model": model.name, "settings": run.settings.to_dict(), **one.to_dict()}
        for model, run in _all_runs(models)
        for one in run.counts
    ]
    Continuations.save_all(path, results, counts=counts)


def _draw_choices(
    models: Sequence[ModelRun], request: GenerateRequest, paths: Sequence[Path], result: Path
) -> None:
    """Draw the first step of every prompt, for each model and settings.

    Args:
        result: the result's file, which each figure names.
    """
    if not paths:
        return
    from patching.continuation.figures import draw_choice
    from patching.drawing.style import save_figure
    from patching.result_files import saved_checksum

    waiting, checksum = iter(paths), saved_checksum(result)
    for _, run in _all_runs(models):
        for prompt, samples in enumerate(run.result):
            first = run.first[prompt]
            notes = models[0].notes
            figure = draw_choice(first, samples=samples, notes=notes, title=request.title)
            save_figure(figure, next(waiting), [checksum])


def _draw_counts(
    models: Sequence[ModelRun],
    request: GenerateRequest,
    paths: Sequence[Path],
    result: Path,
    max_new_tokens: int,
) -> None:
    """Draw the counts, the same number of prompts in each figure.

    Args:
        result: the result's file, which each figure names.
    """
    if not paths:
        return
    from patching.continuation.figures import draw_counts
    from patching.drawing.style import save_figure
    from patching.result_files import saved_checksum

    checksum = saved_checksum(result)
    each = _prompts_per_figure(request, len(models))
    for number, path in enumerate(paths):
        prompts = set(request.prompts[number * each : (number + 1) * each])
        panels = [
            (
                f"{model_label(model.name)}, {run.settings.describe()}",
                [one for one in run.counts if one.prompt in prompts],
            )
            for model, run in _all_runs(models)
        ]
        title = (
            "Share of samples in which each pattern occurs;"
            f" {request.num_samples} samples a prompt, of at most {max_new_tokens} tokens"
        )
        title = title if request.title is None else request.title
        title += f"; page {number + 1} of {len(paths)}" if len(paths) > 1 else ""
        figure = draw_counts(panels, title=title, notes=models[0].notes)
        save_figure(figure, path, [checksum])


def _write_html(models: Sequence[ModelRun], request: GenerateRequest, path: Path) -> None:
    """Write the page of all samples."""
    from patching.page.continuation_page import continuation_page
    from patching.page.report import write_page

    runs = list(_all_runs(models))
    page = continuation_page(
        [replace(run.result, notes=model.notes, checksum=model.checksum) for model, run in runs],
        command_line(COMMAND),
        steps=[run.steps for _, run in runs],
        trees=[run.trees for _, run in runs],
    )
    write_page(page, path, title=request.title)


def _all_runs(models: Sequence[ModelRun]) -> Iterator[tuple[ModelRun, SettingsRun]]:
    for model in models:
        for run in model.runs:
            yield model, run


# --------------------------------------------------------------------- JSON


def print_json(models: Sequence[ModelRun], request: GenerateRequest, paths: Sequence[Path]) -> None:
    """Print a JSON object for each sample, one a line."""
    from patching.result_files import to_json_lists

    for model, run in _all_runs(models):
        for prompt, samples in enumerate(run.result):
            for number, one in enumerate(samples):
                fields: dict[str, Any] = one.to_dict()
                fields["prompt_log_prob"] = to_json_lists(sum(model.log_probs[prompt]))
                fields["milliseconds_per_token"] = run.stopwatch.milliseconds_per_token
                if request.patterns and run.failure is None:
                    fields["found"] = {
                        pattern.text: pattern.is_in(one.text) for pattern in request.patterns
                    }
                if request.steps and run.beam_steps:  # one search: the same for all its beams
                    fields["beam_steps"] = [asdict(step) for step in run.beam_steps[prompt]]
                elif request.steps:
                    fields["steps"] = [
                        [asdict(candidate) for candidate in step]
                        for step in run.steps[prompt, number]
                    ]
                fields["paths"] = [str(path) for path in paths]
                print_line(json.dumps(fields, allow_nan=False), sys.stdout)
