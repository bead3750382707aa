"""Answer the live page: pages of results, as the commands write them, and files to save."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mingpt.errors import MinGPTError
from mingpt.generation.sampling import Choice
from mingpt.sites import HEAD_SITES, heads_at
from patching.alignment import align
from patching.continuation.request import GenerationSettings
from patching.continuation.run import continue_prompts
from patching.continuation.step_candidates import Candidate, step_candidates
from patching.errors import LiveError
from patching.explanation.result import Explanation
from patching.explanation.run import explain
from patching.index_list import indices_of
from patching.page.charts import JSON
from patching.page.explanation_page import MOST_TOKENS, attention_page, explanation_page
from patching.page.live.jobs import Say
from patching.page.live.prompts import Checked, Loaded, check_prompts
from patching.page.live.repeat import METHODS, command_of, python_of
from patching.page.live.request import LiveRequest
from patching.page.parts import page, tables
from patching.page.report import html_of
from patching.page.sweep_page import sweep_page
from patching.progress import Progress
from patching.prompts import Question
from patching.sweep.request import Request
from patching.sweep.result import SweepResult
from patching.sweep.run import run_sweep
from patching.text import escaped, probability, visible

NEXT_TOKENS = 10  # of each patched run
CANDIDATES = 50  # rows of the table of next tokens


def answer(
    models: list[Loaded],
    checked: list[Checked],
    request: LiveRequest,
    say: Say,
    progress: Progress,
) -> None:
    """Run what is asked on each of the request's models, and say a page for each.

    What is said: {"model": its place in the request, "page": ...} or {"model", "error"}.

    Args:
        checked: what check_prompts returned for each of the request's models.

    Raises:
        Cancelled: from `progress`, if the answer is no longer wanted.
    """
    for place, (number, one) in enumerate(zip(request.models, checked, strict=True)):
        if not one.is_ready:
            continue
        try:
            say({"model": place, "page": page_of(models[number], request, one, progress)})
        except MinGPTError as error:
            say({"model": place, "error": escaped(str(error))})


def page_of(loaded: Loaded, request: LiveRequest, checked: Checked, progress: Progress) -> JSON:
    """Return the page of what is asked on one model, with the Python that does the same.

    Raises:
        MinGPTError: it cannot be run.
        Cancelled: from `progress`.
    """
    command = command_of(loaded.name, request)
    if request.mode == "next":
        shown = next_page(loaded, request, command)
    elif request.mode == "tokens":
        shown = tokens_page(loaded, request, command)
    else:
        result = result_of(loaded, request, checked, progress)
        if isinstance(result, SweepResult):
            shown = sweep_page(result, command)
        elif request.mode == "attention":
            shown = attention_page(result, command)
        else:
            shown = explanation_page(result, command)
    return shown | {"python": python_of(loaded.name, request, heads_of(loaded, request))}


def heads_of(loaded: Loaded, request: LiveRequest) -> list[int] | None:
    """Return the heads that are patched; None for all, as in the views that patch nothing.

    Raises:
        LiveError: the model has no such head, or the site has none.
    """
    if request.mode != "patch" or not request.heads:
        return None
    if request.site not in HEAD_SITES:
        raise LiveError(f"{request.site} has no heads to choose")
    size = heads_at(request.site, loaded.model.config)
    return indices_of(request.heads, "head", size, LiveError)


def result_of(
    loaded: Loaded, request: LiveRequest, checked: Checked, progress: Progress
) -> SweepResult | Explanation:
    """Run a sweep, or explain.

    Raises:
        MinGPTError: it cannot be run.
        Cancelled: from `progress`.
    """
    if checked.pair is not None:
        asked = Request(
            request.site,
            request.metric,
            request.direction,
            by_position=request.by_position,
            window=request.window,
            heads=heads_of(loaded, request),
            next_tokens=NEXT_TOKENS,
        )
        return run_sweep(loaded.model, [checked.pair], asked, progress)[0]
    question = checked.question
    if question is None:  # attention: the answers play no part in it
        if len(checked.ids) > MOST_TOKENS:
            raise LiveError(
                f"attention is shown of up to {MOST_TOKENS} tokens, not {len(checked.ids)}"
            )
        question = Question.from_ids(
            checked.ids, 0, 1, {n: loaded.tokenizer.token(n) for n in {0, 1, *checked.ids}}
        )
    return explain(loaded.model, question, methods=METHODS[request.mode], progress=progress)


# --------------------------------------------------------------------- next tokens


def next_page(loaded: Loaded, request: LiveRequest, command: str) -> JSON:
    """Return the page of the next token: what could come, what is cut, and one that is drawn.

    Raises:
        MinGPTError: as continue_prompts.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    steps: list[list[Candidate]] = []

    def observe(choice: Choice) -> None:
        asked = (request.decoding, CANDIDATES, tokenizer.token)
        steps.append(step_candidates(choice, *asked, greedy=False))

    settings = GenerationSettings(max_new_tokens=1, decoding=request.decoding)
    continue_prompts(model, tokenizer, [request.prompt], settings, seed=request.seed,
                     observe=observe, progress=False)  # fmt: skip
    (found,) = steps
    drawn = next(one for one in found if one.is_chosen)
    view = {
        "kind": "next",
        "title": "Next token",
        "caption": "A click on a token appends it to the prompt. Bars: the probability at this"
        " temperature; dark: that with which it is drawn, after the cuts.",
        "rows": [_next_row(loaded, one) for one in found],
        "drawn": _text(loaded, drawn.id),
        "drawn_as": visible(drawn.token),
    }
    return page(
        "What comes next?",
        f"model {model.name}",
        [view],
        name="next",
        command=command,
    )


def _next_row(loaded: Loaded, one: Candidate) -> JSON:
    return {
        "token": visible(one.token),
        "text": _text(loaded, one.id),
        "logit": f"{one.logit:.4f}",
        "p": one.probability,
        "probability": probability(one.probability),
        "cumulative": f"{one.cumulative:.4f}",
        "drawn": one.drawn_with,
        "drawn_with": probability(one.drawn_with),
        "cut": one.cut or "",
    }


def _text(loaded: Loaded, number: int) -> str | None:
    """Return a token's text, to be appended to a prompt; None for a part of a character."""
    text = loaded.tokenizer.token(number)
    return text if loaded.tokenizer.encode(text) == [number] else None


def tokens_page(loaded: Loaded, request: LiveRequest, command: str) -> JSON:
    """Return the page of both prompts' tokens, one position a row."""
    tokenizer = loaded.tokenizer
    a, b = (tokenizer.encode(text) for text in (request.clean, request.corrupt))

    def cells(ids: list[int], at: int | None) -> tuple[str, str, str]:
        if at is None:
            return "", "", ""
        return str(at), str(ids[at]), visible(tokenizer.token(ids[at]))

    rows = [
        (*cells(a, row.a), *cells(b, row.b), "differs" if row.differs else "")
        for row in align(a, b)
    ]
    columns = ("position", "id", "clean", "position", "id", "corrupt", "")
    table = {"caption": f"{len(a)} and {len(b)} tokens", "columns": columns, "rows": rows}
    return page(
        "How the prompts become tokens",
        f"tokenizer of {loaded.model.name}; {len(tokenizer.vocab):,} tokens",
        [tables("Tokens, aligned", [table])],
        name="tokens",
        command=command,
    )


# --------------------------------------------------------------------- files


def file_of(models: list[Loaded], request: LiveRequest, progress: Progress) -> tuple[str, bytes]:
    """Return the name and the bytes of a file with the result of the request's first model.

    Raises:
        MinGPTError: it cannot be run, or there is no such file of it.
        Cancelled: from `progress`.
    """
    loaded = models[request.models[0]]
    checked = check_prompts(loaded, request)
    if checked.pair is None and checked.question is None and request.mode != "attention":
        raise LiveError("there is nothing to save: the prompts cannot be run as they are")
    name = f"{request.mode}.{request.format}"
    if request.format == "html":
        return name, html_of(page_of(loaded, request, checked, progress)).encode()
    result = result_of(loaded, request, checked, progress)
    if request.format == "png":
        return name, _figure_of(result, request)
    with tempfile.TemporaryDirectory() as folder:
        path, _ = result.save(Path(folder) / "x")
        return name, path.read_bytes()


def _figure_of(result: SweepResult | Explanation, request: LiveRequest) -> bytes:
    from patching.drawing.style import png_bytes
    from patching.explanation.figures import draw_explanation
    from patching.sweep.figures import draw_heatmap

    if isinstance(result, SweepResult):
        return png_bytes(draw_heatmap(result))
    figure = "attention" if request.mode == "attention" else "alti-logit"
    return png_bytes(draw_explanation(result, figure=figure))
