"""mingpt-generate: continue prompts with one model or several, and show how tokens are chosen.

This file reads the command line and checks it before a model is loaded. generate_run.py
runs the models; generate_output.py writes the files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from mingpt.files import expanded
from mingpt.version import __version__
from patching.cli import generate_output
from patching.cli.common import output
from patching.cli.common.arguments import Parser, add_model_arguments, read_lines
from patching.cli.common.command import UsageError, run_command
from patching.cli.common.models import model_names
from patching.cli.generate_records import GenerateRequest
from patching.cli.generate_run import run_model
from patching.continuation.request import GenerationSettings, check_num_samples

COMMAND = "mingpt-generate"
EXAMPLE = "Yesterday, I dreamed of a world where I"
MOST_FIGURES = 40  # of choices, in one run
NONE = "none"  # a value of --top-k and --top-p: nothing is cut

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
  "prob" and "cumul" (cumulative) are after penalty and temperature; "kept" or "cut by"
  says what top-k and top-p did; "drawn with" is the probability after the cuts.
  A sample ends after --max-new-tokens, after <|endoftext|>, or once its text contains a
  text of --stop. Beyond the model's context, each step reads all tokens that fit again,
  which is slower.

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
  {COMMAND} --prompt "Yesterday, I dreamed of a world where I" --max-new-tokens 30 \\
      --top-k 50 --top-p 0.9 --temperature 0.8 --num-samples 3 --seed 0
  {COMMAND} --model builtin --prompt "The keys to the cabinet" --max-new-tokens 3 \\
      --greedy --show-steps --rows 5
  {COMMAND} --model gpt2 --temperature 0.5,1,1.5 --top-p 0.9,{NONE} --num-samples 2
  {COMMAND} --model gpt2 --prompts jobs.txt --num-samples 200 --count he she they
  {COMMAND} --model gpt2 --model distilgpt2 --num-beams 4 --num-samples 2
  {COMMAND} --model gpt2 --num-samples 100 --json --quiet > samples.jsonl

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, run, sys.argv[1:] if argv is None else argv)


def build_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(prog=COMMAND, description=DESCRIPTION, epilog=EPILOG)
    prompts = parser.add_argument_group("prompts (default: the README's example)")
    prompts.add_argument(
        "--prompt", action="append", metavar="TEXT", help="a prompt; repeat it for several"
    )
    prompts.add_argument(
        "--prompts", metavar="FILE", help="a file of prompts: one a line, or JSONL"
    )
    add_model_arguments(
        parser,
        more=" Repeat it to see several models side by side.",
        seed="seed of each prompt's first sample",
        action="append",
    )
    _add_decoding(parser.add_argument_group("decoding"))
    _add_view(parser.add_argument_group("view"))
    _add_output(parser.add_argument_group("output"))
    parser.add_argument("--version", action="version", version=f"{COMMAND} {__version__}")
    return parser


def _add_decoding(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-new-tokens", type=int, default=GenerationSettings.max_new_tokens, metavar="N",
        help=f"most tokens of each sample; default: {GenerationSettings.max_new_tokens}",
    )  # fmt: skip
    group.add_argument(
        "--num-samples", type=int, default=1, metavar="N",
        help="samples of each prompt; with beams, the N best; default: 1",
    )  # fmt: skip
    group.add_argument("--temperature", metavar="LIST", help="above 0; default: 1")
    group.add_argument("--top-k", metavar="LIST", help=f"1 or more; default: {NONE}")
    group.add_argument("--top-p", metavar="LIST", help=f"in (0, 1]; default: {NONE}")
    group.add_argument(
        "--repetition-penalty", type=float, metavar="X",
        help="above 0; 1 changes nothing; default: 1",
    )  # fmt: skip
    group.add_argument(
        "--greedy", action="store_true", help="take the likeliest token each time; draw nothing"
    )
    group.add_argument(
        "--num-beams", type=int, metavar="N", help="beam search, N beams wide; draws nothing"
    )
    group.add_argument(
        "--length-penalty", type=float, metavar="X",
        help="beam search divides ln p by the number of generated tokens to the power of X;"
        f" default: {GenerationSettings.length_penalty:g}",
    )  # fmt: skip
    group.add_argument(
        "--stop", action="append", metavar="TEXT",
        help="end a sample once it contains this text; repeat it for several texts",
    )  # fmt: skip


def _add_view(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--show-steps", action="store_true", help="print the candidates of every step in a table"
    )
    group.add_argument(
        "--rows", type=int, default=10, metavar="K", help="rows of these tables; default: 10"
    )
    group.add_argument(
        "--plot", action="store_true",
        help="draw the next token's distribution and the log-probabilities of each sample",
    )  # fmt: skip
    group.add_argument(
        "--count", nargs="+", action="extend", metavar="PATTERN",
        help="count the samples that contain words or regular expressions, and draw the counts",
    )  # fmt: skip


def _add_output(group: argparse._ArgumentGroup) -> None:
    output.add_place_arguments(
        group, ".json", note=" with --plot or --count; otherwise nothing is written"
    )
    group.add_argument(
        "--json", action="store_true",
        help="print a JSON object for each sample on stdout, one a line; all else on stderr",
    )  # fmt: skip
    group.add_argument(
        "--quiet", action="store_true",
        help="print only the model's line, texts, counts and the paths written; no bar",
    )  # fmt: skip


def run(argv: Sequence[str]) -> None:
    """Parse the arguments; run and print model by model; then write the files.

    Raises:
        MinGPTError: anything that the command cannot do, with a message for the user.
    """
    arguments = build_parser().parse_args(argv)
    request = parse_request(arguments)
    names = model_names(arguments)
    place = _place(arguments, request, len(names))
    say = output.make_say(arguments)
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


def parse_request(arguments: argparse.Namespace) -> GenerateRequest:
    """Return what the arguments ask for.

    Raises:
        UsageError: options that do not go together, or a file that cannot be read.
        ConfigError: a number out of its range.
        CountError: a pattern is empty, or not a regular expression.
    """
    prompts = parse_prompts(arguments)
    grid = _grid(arguments)

    # Imported after the first checks: the import is slow.
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
    )


def parse_prompts(arguments: argparse.Namespace) -> list[str]:
    """Return the prompts of --prompt and --prompts, each once; without any, the example.

    Raises:
        UsageError: an empty prompt, or a file that cannot be read.
    """
    prompts = list(arguments.prompt or ())
    if not all(prompts):
        raise UsageError("--prompt is empty")
    if arguments.prompts is not None:
        path = expanded(arguments.prompts)
        lines = read_lines("--prompts", path)
        is_json = path.suffix.lower() in (".jsonl", ".ndjson")
        prompts += [_from_json(path, *line) if is_json else line[1] for line in lines.items()]
    return list(dict.fromkeys(prompts)) or [EXAMPLE]


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


def _grid(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return every combination of the listed values, as fields of Decoding.

    Fields whose option was not given are left out.

    Raises:
        UsageError: a value is not a number, or a list has no effect because of --greedy or
            --num-beams.
    """
    lists = {"temperature": (float, False), "top_k": (int, True), "top_p": (float, True)}
    values: dict[str, list[float | int | None]] = {}
    for name, (kind, may_be_none) in lists.items():
        text, option = getattr(arguments, name), f"--{name.replace('_', '-')}"
        if text is None:
            continue
        if arguments.greedy or arguments.num_beams is not None:
            other = "--greedy" if arguments.greedy else "--num-beams"
            raise UsageError(f"{other} draws nothing, so {option} changes nothing: leave one out")
        parsed = (_number(option, kind, may_be_none, part) for part in text.split(","))
        values[name] = list(dict.fromkeys(parsed))
    return [dict(zip(values, row, strict=True)) for row in product(*values.values())]


def _number(option: str, kind: type, may_be_none: bool, text: str) -> float | int | None:
    text = text.strip()
    if may_be_none and text == NONE:
        return None
    try:
        return kind(text)
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        more = f", or {NONE}," if may_be_none else ""
        raise UsageError(f"{option} {text!r}: write a list of {what}{more} like 1,5") from None


def _settings(
    arguments: argparse.Namespace, grid: Sequence[dict[str, Any]]
) -> list[GenerationSettings]:
    """Return the settings of every combination, checked with all other options.

    Raises:
        UsageError: options that do not go together.
        ConfigError: a number out of its range.
    """
    from mingpt.generation.decoding import Decoding

    if arguments.length_penalty is not None and arguments.num_beams is None:
        raise UsageError("--length-penalty needs --num-beams")
    if arguments.show_steps and arguments.num_beams is not None:
        raise UsageError(
            "--show-steps does not go with --num-beams, which chooses whole continuations, not"
            " one token after another"
        )
    if arguments.rows < 1:
        raise UsageError(f"--rows must be at least 1, not {arguments.rows}")
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
    penalty = {}
    if arguments.repetition_penalty is not None:
        penalty["repetition_penalty"] = arguments.repetition_penalty
    settings = [
        GenerationSettings(**same, decoding=Decoding(**fields, **penalty)) for fields in grid
    ]
    for one in settings:
        check_num_samples(one, arguments.num_samples)
    return settings


def _check_together(arguments: argparse.Namespace) -> None:
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
    arguments: argparse.Namespace, request: GenerateRequest, models: int
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
    ends = _numbered("-choice", choices)
    if request.patterns:
        ends += _numbered("-counts", generate_output.count_figures(request, models))
    if not ends and Path(arguments.out or ".json").suffix not in ("", ".json"):
        raise UsageError(
            f"--out {arguments.out}: without --plot or --count only a .json result is written"
        )
    if not ends and arguments.out is None and not request.patterns:
        if arguments.format is not None:
            raise UsageError("--format needs a figure: add --plot or --count")
        return None
    return output.OutputPlace.of(arguments, ends, kinds=(".json",))
