"""mingpt-generate: continue prompts with one model or several, and show how tokens are chosen.

This file reads the command line and checks it before a model is loaded. generate_run.py
runs the models; generate_output.py writes the files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from click import IntRange, Option

from mingpt.files import expanded
from patching.cli import generate_output, generate_report
from patching.cli.common import output
from patching.cli.common.arguments import NONE, number_list, read_lines
from patching.cli.common.command import Command, Several, UsageError, run_command
from patching.cli.common.models import import_libraries, model_names
from patching.cli.common.options import (
    DEFAULT_OUT,
    files,
    model_options,
    place_options,
    rows_option,
    title_option,
)
from patching.cli.common.page import check_html, html_option
from patching.cli.generate_records import GenerateRequest
from patching.cli.generate_run import run_model
from patching.continuation.request import MOST_SAMPLES, GenerationSettings, check_num_samples

COMMAND = generate_output.COMMAND
EXAMPLE = "The keys to the cabinet"
MOST_FIGURES = 40  # of choices, in one run
MOST_HTML_TOKENS = 6000  # of all samples on a page: with ten candidates each some 2 MB
MOST_PROMPTS = 10_000  # each takes some 50 KB until the result is written
MOST_SETTINGS = 10_000  # combinations of the listed values, in one run
MOST_TOKENS = 100_000  # of a sample

GREEDY = "--greedy takes the likeliest token each time"
TEMPERATURES = number_list(float, lambda x: 0 < x < math.inf, "a number above 0", zero=GREEDY)
TOP_KS = number_list(int, lambda k: k >= 1, "a whole number of at least 1", none=True,
                     zero=f"{NONE} cuts nothing")  # fmt: skip
TOP_PS = number_list(float, lambda p: 0 < p <= 1, "a number in (0, 1]", none=True,
                     zero=f"{GREEDY}, and {NONE} cuts nothing")  # fmt: skip

DESCRIPTION = """\
What does a model say next?

Continues prompts token by token. Tokens are drawn from the model's distribution,
which the repetition penalty, the temperature, top-k and top-p change, in this order.
With --greedy, each token is the likeliest one. With --num-beams, a beam search looks
for the likeliest whole continuations.
"""
EPILOG = f"""\
settings:
  --temperature, --top-k and --top-p take lists, with commas between the values. Every
  combination is run. "{NONE}" cuts nothing.
    repetition penalty  divides the logits of tokens that have occurred where they are
                        positive, and multiplies them where they are negative
    temperature         divides the logits
    top-k               keeps the k likeliest tokens
    top-p               keeps the smallest set of tokens whose probability reaches p, with
                        the token that crosses the line

seeds:
  The first sample of each prompt has the seed --seed, the next ones the numbers after it.
  A sample does not depend on the others: --seed 2 --num-samples 1 is the third sample of
  --seed 0. --greedy and --num-beams draw nothing.

what is printed:
  ln p is the model's own log-probability, in nats, with none of the settings applied.
  --show-steps prints the likeliest tokens of each step. "logit" is the model's own;
  "prob" is after penalty and temperature; "cumul" sums it over the tokens that top-k kept,
  as top-p does; "kept" or "cut by"
  says what top-k and top-p did; "drawn with" is the probability after the cuts. With
  --num-beams it prints the candidates of each step of the search: the beam that each
  continues, the sum of ln p ("total"), the score, and whether it becomes a beam of the
  next step, ends or is dropped.
  A sample ends after --max-new-tokens, after <|endoftext|>, or once its text contains a
  text of --stop. Beyond the model's context, each step reads all tokens that fit again,
  which is slower.

the shipped model:
  --model builtin knows the sentences of one small grammar: names, countries, keys and
  cabinets. On any other text it says little.

counting patterns:
  --prompts FILE has one prompt a line. A JSONL file (name.jsonl) has a string, or an
  object with "prompt", on each line. Spaces at the end of a line are part of the prompt.
  A prompt that occurs twice is run once.
  --count counts the samples that contain a pattern. A word is found whole, in upper or
  lower case; a pattern with other characters is a regular expression. The intervals are
  Wilson's, at 95 %, and a bar chart shows them. With --count the samples are not printed;
  the result file and --json contain them.

examples:
  {COMMAND} --model builtin
  {COMMAND} --model builtin --prompt "The capital of" --max-new-tokens 5 \\
      --top-k 50 --top-p 0.9 --temperature 0.8 --num-samples 3 --seed 0
  {COMMAND} --model builtin --prompt "The keys to the cabinet" --max-new-tokens 3 \\
      --greedy --show-steps --rows 5
  {COMMAND} --model builtin --prompt "They flew to" --num-beams 3 --show-steps \\
      --max-new-tokens 4
  {COMMAND} --model gpt2 --temperature 0.5,1,1.5 --top-p 0.9,{NONE} --num-samples 2
  {COMMAND} --model gpt2 --prompts jobs.txt --num-samples 200 --count he she they
  {COMMAND} --model gpt2 --model distilgpt2 --num-beams 4 --num-samples 2
  {COMMAND} --model gpt2 --num-samples 100 --json --quiet > samples.jsonl

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted.
"""


OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "prompts (default: the README's example)": [
        Option(["--prompt"], multiple=True, metavar="TEXT", help="a prompt; repeat it for several"),
        Option(["--prompts"], metavar="FILE", shell_complete=files,
               help="a file of prompts: one a line, or JSONL"),
    ],
    "model": model_options(more=" Repeat it to see several models side by side.",
                           seed="seed of each prompt's first sample", multiple=True),
    "decoding": [
        Option(["--max-new-tokens"], type=IntRange(1, MOST_TOKENS), metavar="N",
               default=GenerationSettings.max_new_tokens, help="most tokens of each sample"),
        Option(["--num-samples"], type=IntRange(1, MOST_SAMPLES), default=1, metavar="N",
               help="samples of each prompt; with beams, the N best"),
        Option(["--temperature"], type=TEMPERATURES, metavar="LIST", help="above 0; default: 1"),
        Option(["--top-k"], type=TOP_KS, metavar="LIST", help=f"1 or more; default: {NONE}"),
        Option(["--top-p"], type=TOP_PS, metavar="LIST", help=f"in (0, 1]; default: {NONE}"),
        Option(["--repetition-penalty"], type=float, metavar="X",
               default=1.0, help="above 0; 1 changes nothing"),
        Option(["--greedy"], is_flag=True, help="take the likeliest token each time; draw nothing"),
        Option(["--num-beams"], type=IntRange(1), metavar="N",
               help="beam search, N beams wide; draws nothing"),
        Option(["--length-penalty"], type=float, metavar="X",
               help="beam search divides ln p by the number of generated tokens to the power of"
               f" X; default: {GenerationSettings.length_penalty:g}"),
        Option(["--stop"], multiple=True, metavar="TEXT",
               help="end a sample once it contains this text; repeat it for several texts"),
    ],
    "view": [
        Option(["--show-steps"], is_flag=True,
               help="print the candidates of every step in a table"),
        rows_option(10),
        Option(["--plot"], is_flag=True,
               help="draw the next token's distribution and the log-probabilities of each sample"),
        Several(["--count"], multiple=True, metavar="PATTERN...",
                help="count the samples that contain words or regular expressions, and draw the"
                " counts"),
        title_option(),
    ],
    "output": [
        *place_options(".json", note=f"; default: {DEFAULT_OUT} with --plot, --count or --html,"
                       " otherwise nothing is written"),
        html_option("samples coloured by probability, what else could have come, beams as a tree"),
        Option(["--json"], is_flag=True,
               help="print a JSON object for each sample on stdout, one a line; all else on"
               " stderr"),
        Option(["--quiet"], is_flag=True,
               help="print only the model's line, texts, counts and the paths written; no progress"
               " bar"),
    ],
})  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """Run and print model by model; then write the files.

    Raises:
        MinGPTError: anything that the command cannot do, with a message for the user.
    """
    request = parse_request(arguments)
    names = model_names(arguments)
    place = _place(arguments, request, len(names))
    say = output.make_say(arguments)
    if len(request.settings) > 1:
        say(generate_report.settings_line(request.settings))
    models = [run_model(arguments, name, request, say, alone=len(names) == 1) for name in names]
    if len(models) > 1:
        generate_output.print_side_by_side(models, request, say)
    if request.patterns and not generate_output.count_figures(request, len(names)):
        say(
            "too many prompts or patterns for a bar chart; the counts are in the table and in the"
            " result"
        )
    written = {}
    if place is not None:
        written = generate_output.write(models, request, arguments, place)
    output.say_written(say, written)
    if arguments.json:
        generate_output.print_json(models, request, list(written))
    for model in models:
        for done in model.runs:
            if done.failure is not None:
                raise done.failure  # last, so that the samples are printed and saved


def parse_request(arguments: SimpleNamespace) -> GenerateRequest:
    """Return what the arguments ask for.

    Raises:
        UsageError: options that do not go together, or a file that cannot be read.
        ConfigError: a number out of its range.
        CountError: a pattern is empty, or not a regular expression.
    """
    prompts = parse_prompts(arguments)
    grid = _grid(arguments)

    # After the first checks: the import is slow.
    if arguments.html:
        check_html()
    draws = arguments.plot or arguments.count or arguments.html or arguments.out is not None
    import_libraries(drawing=bool(draws))
    from patching.continuation.counts import Pattern

    return GenerateRequest(
        prompts=prompts,
        settings=_settings(arguments, grid),
        num_samples=arguments.num_samples,
        seed=arguments.seed,
        patterns=[Pattern(text) for text in dict.fromkeys(arguments.count or ())],
        rows=arguments.rows,
        steps=arguments.show_steps,
        plot=arguments.plot,
        title=arguments.title,
        html=arguments.html,
    )


def parse_prompts(arguments: SimpleNamespace) -> list[str]:
    """Return the prompts of --prompt and --prompts, each once; without any, the example.

    Raises:
        UsageError: an empty prompt, a file that cannot be read, or too many prompts.
    """
    prompts = list(arguments.prompt or ())
    if not all(prompts):
        raise UsageError("--prompt is empty")
    if arguments.prompts is not None:
        path = expanded(arguments.prompts)
        lines = read_lines("--prompts", path)
        is_json = path.suffix.lower() in (".jsonl", ".ndjson")
        prompts += [_from_json(path, *line) if is_json else line[1] for line in lines.items()]
    prompts = list(dict.fromkeys(prompts)) or [EXAMPLE]
    if len(prompts) > MOST_PROMPTS:
        raise UsageError(f"{len(prompts)} prompts; at most {MOST_PROMPTS} are run: split the file")
    return prompts


def _from_json(path: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError(f"--prompts {path}: line {number} is not JSON") from None
    prompt = value.get("prompt") if isinstance(value, dict) else value
    if not (isinstance(prompt, str) and prompt):
        raise UsageError(
            f'--prompts {path}: line {number} is neither a string nor an object with "prompt"'
        )
    return prompt


def _grid(arguments: SimpleNamespace) -> list[dict[str, Any]]:
    """Return every combination of the listed values, as fields of Decoding.

    Fields whose option was not given are left out.

    Raises:
        UsageError: there are too many, or a list has no effect because of --greedy or
            --num-beams.
    """
    fields = ("temperature", "top_k", "top_p")
    values = {name: found for name in fields if (found := getattr(arguments, name)) is not None}
    if values and (arguments.greedy or arguments.num_beams is not None):
        other = "--greedy" if arguments.greedy else "--num-beams"
        option = f"--{next(iter(values)).replace('_', '-')}"
        raise UsageError(f"{other} draws nothing, so {option} changes nothing: leave one out")
    count = math.prod(map(len, values.values()))
    if count > MOST_SETTINGS:
        raise UsageError(
            f"{' x '.join(str(len(one)) for one in values.values())} values are {count} settings;"
            f" at most {MOST_SETTINGS} are run: ask for fewer"
        )
    return [dict(zip(values, row, strict=True)) for row in product(*values.values())]


def _settings(
    arguments: SimpleNamespace, grid: Sequence[dict[str, Any]]
) -> list[GenerationSettings]:
    """Return the settings of every combination, checked with all other options.

    Raises:
        UsageError: options that do not go together.
        ConfigError: a number out of its range.
    """
    from mingpt.generation.decoding import Decoding

    if arguments.length_penalty is not None and arguments.num_beams is None:
        raise UsageError("--length-penalty needs --num-beams")
    if arguments.seed + arguments.num_samples > 2**63:
        raise UsageError("--seed plus --num-samples must be at most 2**63")
    _check_together(arguments)
    same: dict[str, Any] = {
        "max_new_tokens": arguments.max_new_tokens,
        "greedy": arguments.greedy,
        "num_beams": arguments.num_beams,
        "stop": tuple(arguments.stop or ()),
    }
    if arguments.length_penalty is not None:
        same["length_penalty"] = arguments.length_penalty
    penalty = arguments.repetition_penalty
    settings = [
        GenerationSettings(**same, decoding=Decoding(**fields, repetition_penalty=penalty))
        for fields in grid
    ]
    for one in settings:
        check_num_samples(one, arguments.num_samples)
    return settings


def _check_together(arguments: SimpleNamespace) -> None:
    """Check --count and --show-steps against the other options.

    Raises:
        UsageError: they do not go together.
    """
    if arguments.count and (arguments.greedy or arguments.num_beams is not None):
        other = "--greedy" if arguments.greedy else "--num-beams"
        raise UsageError(f"--count needs samples that are drawn, and {other} draws none")
    several = len(dict.fromkeys(arguments.model or ())) > 1
    if arguments.show_steps and (several or arguments.count) and not arguments.json:
        raise UsageError(
            "--show-steps does not go with --count or with several models; leave one out, or"
            " add --json, which contains the steps"
        )


def _numbered(end: str, count: int) -> list[str]:
    """Return `count` ends of figures' names: -choice, or -choice-1, -choice-2, ..."""
    return [f"{end}-{n}" for n in range(1, count + 1)] if count > 1 else [end] * count


def _place(
    arguments: SimpleNamespace, request: GenerateRequest, models: int
) -> output.OutputPlace | None:
    """Return where the figures and the result go; None if nothing is written.

    Raises:
        UsageError: too many figures, or options that do not go together.
    """
    choices = models * len(request.settings) * len(request.prompts) if request.plot else 0
    if choices > MOST_FIGURES:
        raise UsageError(
            f"--plot would draw {choices} figures, one for each prompt, setting and model;"
            f" at most {MOST_FIGURES} are drawn: ask for fewer"
        )
    if request.html:
        tokens = sum(map(request.tokens_per_prompt, request.settings)) * len(request.prompts)
        if tokens * models > MOST_HTML_TOKENS:
            raise UsageError(
                f"--html would show up to {tokens * models:,} tokens, and shows at most"
                f" {MOST_HTML_TOKENS:,}: ask for fewer, or leave it out"
            )
    ends = _numbered("-choice", choices)
    if request.patterns:
        ends += _numbered("-counts", generate_output.count_figures(request, models))
    if not ends and Path(arguments.out or ".json").suffix not in ("", ".json"):
        raise UsageError(
            f"--out {arguments.out}: without --plot or --count only a .json result is written"
        )
    if not ends and arguments.out is None and not (request.patterns or request.html):
        if arguments.format is not None:
            raise UsageError("--format needs a figure: add --plot or --count")
        return None
    return output.OutputPlace.of(arguments, ends, kinds=(".json",))
