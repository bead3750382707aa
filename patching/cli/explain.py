"""mingpt-explain: one prompt and two next words -> what made the model prefer one of them.

The command checks its options before it loads a model. patching.explanation explains;
explain_report.py writes the text.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from click import Option

from patching.cli.common import output
from patching.cli.common.arguments import parse_rows, parse_texts
from patching.cli.common.command import Command, UsageError, print_line, run_command
from patching.cli.common.models import import_libraries, load_model
from patching.cli.common.options import look_options, model_options, output_options
from patching.cli.common.page import check_html, command_line, html_option, html_path
from patching.explanation.request import DEFAULT, METHODS, ROWS, figures_of, parse_methods
from patching.interrupts import check_interrupted
from patching.progress import Progress, bar, steps
from patching.text import counted

if TYPE_CHECKING:
    from mingpt.model import GPT
    from patching.explanation.result import Explanation

COMMAND = "mingpt-explain"
EXAMPLE = {
    "text": "This summer, unlike the previous winter, is being extremely",
    "target": "hot",
    "foil": "cold",
}

DESCRIPTION = """\
Which words of a prompt made the model prefer one next word over another?

The model runs once. Each of the two words' logits is split into what the embeddings,
each attention head, each MLP and the biases add to it. Every run checks that these
terms add up to the logits. ALTI-Logit (Ferrando et al. 2023, arXiv 2305.12535) then
attributes what attention adds, block by block, to the words of the prompt. In numbers
and figures, a positive number favours the target and a negative one the foil. (In
mingpt-patch's logit_diff the signs are the other way round.)
"""
EPILOG = f"""\
prompt:
  Target and foil must be one token each. A word is looked up with a leading space
  ("hot" is the token " hot"). Text that starts with a space or a punctuation mark is
  used as it is. id:3024 names a token by its id.

what --show can list (several with commas between them):
  alti        the share of each token in each position, after all blocks:
              a heatmap of positions by tokens
  alti-logit  what each token of the prompt adds to logit(target) - logit(foil):
              bars, and a heatmap of layers by tokens
  logit       what attention adds from each position that it reads, not attributed
              to the tokens: bars, and a heatmap of layers by positions
  lens        what the model would predict if it stopped after a layer (logit
              lens), and the logit difference after each layer
  direct      what each head and each MLP adds by itself (direct logit attribution)
  attention   what each head reads at each position: a panel for each head, or with
              --head one of them large; and the heads scored on random repeated
              tokens (previous token, duplicate token, induction)
  default: {",".join(DEFAULT)}

  The bars show what attention and the embeddings add. They leave out the MLPs and the
  biases. So they do not add up to the logit difference and can even have the opposite
  sign; the line under the plot gives the numbers. No method here follows information
  through an MLP; patching does (mingpt-patch).

examples:
  {COMMAND} --model builtin
      the example of the README on the model that ships with the project
  {COMMAND} --model gpt2 --text "The keys to the cabinet" --target are --foil is
  {COMMAND} --model builtin --show lens,direct --out run/ --format svg
  {COMMAND} --model builtin --show logit --json --quiet
  {COMMAND} --model builtin --show alti-logit,lens,attention --html --out hot.png
      hot.html too, to open in a browser
  {COMMAND} --model builtin --ablate 1.1
      without head 1 of layer 1: what do the other heads and MLPs make up for?

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted.
"""


OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "prompt (default: the README's example)": [
        Option(["--text"], metavar="TEXT", help="the prompt"),
        Option(["--target"], metavar="WORD", help="the next word to explain"),
        Option(["--foil"], metavar="WORD", help="the next word it is preferred over"),
    ],
    "model": model_options(seed="accepted for scripts; nothing here is random"),
    "explanation": [
        Option(["--show"], metavar="LIST",
               help=f"one or more of {', '.join(METHODS)}; default: {','.join(DEFAULT)}"),
        Option(["--method"], metavar="LIST",
               help="the old name of --show, which still works; mingpt-patch's --method means"
               " something else"),
        Option(["--ablate"], metavar="LAYER.HEAD",
               help="switch this head off, as 1.3, and show what the other parts make up for"
               " (direct logit attribution before and after)"),
    ],
    "figure": [
        *look_options(),
        Option(["--head"], metavar="LAYER.HEAD",
               help="with --show attention: draw this head alone, as 1.3; of a model of pairs,"
               " from the target to the source"),
    ],
    "output": [
        *output_options(ROWS),
        html_option("hover a word, see where it goes, read every head's attention"),
    ],
})  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """Load, explain, print and write."""
    texts = parse_texts(arguments, EXAMPLE)
    head, ablated = _head("--head", arguments.head), _head("--ablate", arguments.ablate)
    methods = _methods(arguments, head, ablated)
    rows = parse_rows(arguments, ROWS)

    import_libraries(drawing=True)  # after the first checks: it is slow
    from patching.cli.common import tables
    from patching.cli.explain_report import ablation, report
    from patching.drawing.style import check_cmap
    from patching.explanation.ablation import Ablation
    from patching.explanation.run import check_question, explain
    from patching.prompts import Question

    figures = [*figures_of(methods), *(() if ablated is None else ("ablation",))]
    check_cmap(arguments.cmap)
    if arguments.html:
        check_html()
    results = ("",) if ablated is None else ("", "-ablated")
    place = output.OutputPlace.of(arguments, [f"-{name}" for name in figures], results)
    say = output.make_say(arguments)
    loaded = load_model(arguments, arguments.model)
    model, tokenizer = loaded.model, loaded.tokenizer
    say(tables.model_line(model, loaded.fallback), always=True)
    _check_head("--head", head, model)
    _check_head("--ablate", ablated, model)
    question = Question.from_text(tokenizer, **texts, most_tokens=model.config.block_size)
    check_question(model, question)
    say(f"\n{tables.prompt_table(question.ids, list(map(tokenizer.token, question.ids)))}")

    progress = False if arguments.quiet else None
    explanations = [explain(model, question, methods=methods, rows=rows, progress=progress)]
    if ablated is not None:
        explanations.append(
            explain(model, question, methods="direct", rows=rows, ablate=ablated, progress=progress)
        )
    for block in report(explanations[0]):
        say(f"\n{block}")
    if ablated is not None:
        say(f"\n{ablation(Ablation(*explanations), rows)}")
    found = [_with_command(one, arguments, loaded.fallback) for one in explanations]
    with bar("drawing", quiet=arguments.quiet) as drawn:
        written = _write(found, model, figures, place, head, drawn, html=arguments.html)
    output.say_written(say, written)
    if arguments.json:
        more = {"ablated_run": found[1].to_dict()} if len(found) > 1 else {}
        fields = {**found[0].to_dict(), **more, "paths": [str(path) for path in written]}
        print_line(json.dumps(fields, allow_nan=False), sys.stdout)


def _methods(
    arguments: SimpleNamespace, head: tuple[int, int] | None, ablated: tuple[int, int] | None
) -> tuple[str, ...]:
    """Return what --show, or its old name --method, lists; by default what the heads need.

    Raises:
        UsageError: both are given, or --head without attention.
        ExplanationError: an unknown method.
    """
    if arguments.show is not None and arguments.method is not None:
        raise UsageError("--method is the old name of --show: give one of the two")
    shown = arguments.method if arguments.show is None else arguments.show
    if shown is None:
        shown = DEFAULT if ablated is None else "direct"
        shown = shown if head is None else "attention"
    methods = parse_methods(shown)
    if head is not None and "attention" not in methods:
        raise UsageError("--head needs --show attention")
    return methods


def _head(option: str, text: str | None) -> tuple[int, int] | None:
    """Return the layer and the head that "9.6" names; None for none.

    Raises:
        UsageError: the text is not of this form.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", text, re.ASCII)
    if match is None:
        raise UsageError(f"{option} {text}: write a layer and a head, as 1.3")
    return int(match[1]), int(match[2])


def _check_head(option: str, head: tuple[int, int] | None, model: GPT) -> None:
    """Raise UsageError if the model has no such head."""
    config = model.config
    if head is not None and not (head[0] < config.n_layer and head[1] < config.n_head):
        raise UsageError(
            f"{option} {head[0]}.{head[1]}: the model has {counted(config.n_layer, 'layer')} of"
            f" {counted(config.n_head, 'head')}, counted from 0"
        )


def _with_command(
    found: Explanation, arguments: SimpleNamespace, fallback: str | None
) -> Explanation:
    """Return the explanation with the command's options, notes and matplotlib's version."""
    import matplotlib

    asked = (*output.MODEL_ARGUMENTS, "cmap", "title", "head", "ablate", "format")
    return dataclasses.replace(
        found,
        notes=output.fallback_notes(fallback),
        command={name: getattr(arguments, name) for name in asked},
        versions={**found.versions, "matplotlib": matplotlib.__version__},
    )


def _write(
    explanations: Sequence[Explanation],
    model: GPT,
    figures: Sequence[str],
    place: output.OutputPlace,
    head: tuple[int, int] | None,
    progress: Progress | None,
    *,
    html: bool,
) -> dict[Path, bool]:
    """Write figures and results; return path -> True if it replaced a file.

    Args:
        explanations: the model's, and with --ablate that of the run without the head.
        html: write a page of each too.
    """
    from patching.drawing.style import save_figure
    from patching.explanation.ablation import Ablation
    from patching.explanation.figures import draw_ablation, draw_explanation
    from patching.result_files import saved_checksum

    found = explanations[0]
    command = found.command or {}
    cmap, title = command["cmap"], command["title"]
    defining = (
        output.model_identity(model, found.checksum, is_fallback=bool(found.notes)),
        (found.methods, len(found.top_ids), cmap, title, head, command["seed"]),
        (found.ids.tolist(), found.target, found.foil),
        (found.versions["device"], found.versions["dtype"]),
        [one.ablated for one in explanations[1:]],
    )
    name = output.run_name(found.text, "explained", defining=defining)
    files = place.files(name)  # the figures, then the results' files
    existed = {path: path.exists() for path in files}
    check_interrupted()
    checksums = []
    for one, end in zip(explanations, place.results, strict=True):
        _, readable = one.save(place.stem(name, end))
        checksums.append(saved_checksum(readable))
    step = steps(progress, len(figures))
    for figure, path in zip(figures, files, strict=False):
        if figure == "ablation":
            drawn = draw_ablation(Ablation(*explanations), cmap=cmap, title=title)
        else:
            drawn = draw_explanation(found, figure=figure, cmap=cmap, title=title, head=head)
        save_figure(drawn, path, checksums if figure == "ablation" else checksums[:1])
        step()
    if html:
        from patching.page.report import save_page

        for one, end in zip(explanations, place.results, strict=True):
            page = html_path(place.stem(name, end))
            existed[page] = page.exists()
            save_page(one, page, command=command_line(COMMAND), title=title)
    return existed
