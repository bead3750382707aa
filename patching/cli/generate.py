"""mingpt-generate: prompts -> what a model says next, step by step, knob by knob, model by model.

Here what the user asked for is understood, and checked before anything is
loaded; generate_run.py does it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from mingpt.files import expanded
from mingpt.version import __version__
from patching.cli import generate_run
from patching.cli.common import output
from patching.cli.common.arguments import Parser, add_model_arguments, lines_of
from patching.cli.common.command import UsageError, run_command
from patching.cli.common.models import model_names

if TYPE_CHECKING:
    from patching.continuation.run import Settings

COMMAND = "mingpt-generate"
EXAMPLE = "Yesterday, I dreamed of a world where I"
MOST_FIGURES = 40  # of one run
NONE = "none"  # in a list of --top-k or --top-p: nothing is cut

DESCRIPTION = """\
What does a model say next?

Prompts are continued token by token: drawn from the model's distribution, which
temperature, top-k, top-p and a repetition penalty change, in that order but for
the penalty, which comes first; or the likeliest token each time (--greedy); or
the likeliest whole continuations that a beam finds (--num-beams).
"""
EPILOG = f"""\
settings:
  --temperature, --top-k and --top-p take lists, with commas between the values:
  every combination is run, one block for each. "{NONE}" cuts nothing.
    temperature         logits are divided by it
    top-k               only the k likeliest tokens are left
    top-p               only the smallest set whose probability reaches p is, the
                        token that crosses the line included
    repetition penalty  logits of tokens that occurred already are divided by it
                        where they are positive, and multiplied where negative

seeds:
  The first sample of each prompt has --seed, the next ones the next numbers, and
  each is what it would be by itself: --seed 2 --num-samples 1 is the third sample
  of --seed 0. Greedy and beams draw nothing.

what is printed:
  ln p is the model's own log-probability, in nats, whatever the settings are.
  --show-steps prints for each step the likeliest tokens: logit as the model gives
  it; prob and cumul(ative) after penalty and temperature; kept or cut, by what;
  and with which probability it is drawn then.
  A sample ends after --max-new-tokens, after <|endoftext|>, or where its text has
  one of --stop in it. Beyond the model's context a step reads the last tokens
  that fit anew, and is as slow as that.

bias probes:
  --prompts FILE has one prompt in each line, or as JSONL (name.jsonl) in each line
  a string or an object with "prompt". Spaces at the end of a line are part of the
  prompt, and tokens; the same prompt twice is one. --count looks for patterns in the samples:
  a word is found whole and in any case; what has other signs in it is a regular
  expression. The interval is Wilson's, of 95 %, and is drawn as a bar chart. The
  samples themselves are then in the result and in --json, and not printed.

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
    """The command; returns its exit code."""
    return run_command(COMMAND, run, sys.argv[1:] if argv is None else argv)


def build_parser() -> Parser:
    """The command's options; --help is meant to teach."""
    parser = Parser(prog=COMMAND, description=DESCRIPTION, epilog=EPILOG)
    prompts = parser.add_argument_group("prompts (without any: the README's example)")
    prompts.add_argument(
        "--prompt", action="append", metavar="TEXT", help="a prompt; several times: several"
    )
    prompts.add_argument(
        "--prompts", metavar="FILE", help="prompts from a file: one in each line, or JSONL"
    )
    add_model_arguments(
        parser, more=" Several times: side by side.", seed="of the first sample", action="append"
    )
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument(
        "--max-new-tokens", type=int, default=30, metavar="N", help="of each sample; default: 30"
    )
    decoding.add_argument(
        "--num-samples", type=int, default=1, metavar="N",
        help="of each prompt; with beams, the N best; default: 1",
    )  # fmt: skip
    decoding.add_argument("--temperature", metavar="LIST", help="above 0; default: 1")
    decoding.add_argument("--top-k", metavar="LIST", help=f"1 or more; default: {NONE}")
    decoding.add_argument("--top-p", metavar="LIST", help=f"in (0, 1]; default: {NONE}")
    decoding.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X", help="above 0; default: 1"
    )
    decoding.add_argument(
        "--greedy", action="store_true", help="the likeliest token each time; nothing is drawn"
    )
    decoding.add_argument(
        "--num-beams", type=int, metavar="N", help="beam search, N wide; nothing is drawn"
    )
    decoding.add_argument(
        "--length-penalty", type=float, metavar="X",
        help="of beams: ln p is divided by the number of generated tokens to the power of X;"
        " default: 1",
    )  # fmt: skip
    decoding.add_argument(
        "--stop", action="append", metavar="TEXT",
        help="end a sample once it has this text in it; several times: any of them",
    )  # fmt: skip
    view = parser.add_argument_group("on view")
    view.add_argument(
        "--show-steps", action="store_true", help="the candidates of every step, in a table"
    )
    view.add_argument(
        "--rows", type=int, default=10, metavar="K", help="of tables of tokens; default: 10"
    )
    view.add_argument(
        "--plot", action="store_true",
        help="draw the next token's distribution and the path of each sample",
    )  # fmt: skip
    view.add_argument(
        "--count", nargs="+", action="extend", metavar="PATTERN",
        help="how often words or regular expressions are in the samples; drawn too",
    )  # fmt: skip
    files = parser.add_argument_group("output")
    output.add_place_arguments(
        files, ".json", note=" if there is a figure; without any, nothing is written"
    )
    files.add_argument(
        "--json", action="store_true",
        help="a JSON object for each sample, in a line each, on stdout; all else on stderr",
    )  # fmt: skip
    files.add_argument(
        "--quiet", action="store_true",
        help="only the model's line, texts, counts and the paths written; no bar",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"{COMMAND} {__version__}")
    return parser


def run(argv: Sequence[str]) -> None:
    """Parse, and for each model load, continue, print; then write."""
    arguments = build_parser().parse_args(argv)
    prompts = prompts_asked(arguments)
    grid = _grid(arguments)

    # Only now what takes time to import.
    from patching.continuation.counts import Pattern

    asked = generate_run.Asked(
        prompts=prompts,
        settings=_settings(arguments, grid),
        num_samples=arguments.num_samples,
        seed=arguments.seed,
        patterns=[Pattern(text) for text in dict.fromkeys(arguments.count or ())],
        rows=arguments.rows,
        steps=arguments.show_steps,
        plot=arguments.plot,
    )
    names = model_names(arguments)
    place = _place(arguments, asked, len(names))
    say = output.speaker(arguments)
    runs = [
        generate_run.run_model(arguments, name, asked, say, alone=len(names) == 1) for name in names
    ]
    if len(runs) > 1:
        generate_run.compare(runs, asked, say)
    if asked.patterns and not generate_run.pages(asked, len(names)):
        say("too many prompts for a bar chart; the counts are in the table and in the result")
    written = {} if place is None else generate_run.write(runs, asked, arguments, place)
    output.tell_written(say, written)
    if arguments.json:
        generate_run.tell_json(runs, asked, [*written])
    for run in runs:
        for block in run.blocks:
            if block.failure is not None:
                raise block.failure  # now that nothing else is lost by it


def prompts_asked(arguments: argparse.Namespace) -> list[str]:
    """The prompts of --prompt and --prompts, or the example.

    Raises:
        UsageError: an empty one, or a file that cannot be read.
    """
    prompts = [*(arguments.prompt or ())]
    if not all(prompts):
        raise UsageError("--prompt is empty")
    if arguments.prompts is not None:
        path = expanded(arguments.prompts)
        lines = lines_of("--prompts", path)
        is_json = path.suffix.lower() in (".jsonl", ".ndjson")
        prompts += [_of_json(path, *line) if is_json else line[1] for line in lines.items()]
    return [*dict.fromkeys(prompts)] or [EXAMPLE]


def _of_json(path: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError(f"--prompts {path}: line {number} is no JSON") from None
    prompt = value.get("prompt") if isinstance(value, dict) else value
    if not (isinstance(prompt, str) and prompt):
        raise UsageError(
            f'--prompts {path}: line {number} is neither a string nor an object with "prompt"'
        )
    return prompt


def _grid(arguments: argparse.Namespace) -> list[dict[str, float | int | None]]:
    """Every combination of the lists, as fields of Decoding.

    Raises:
        UsageError: a list of something else, or of what changes nothing here.
    """
    lists = {"temperature": (float, False), "top_k": (int, True), "top_p": (float, True)}
    values: dict[str, list] = {}
    for name, (kind, may_be_none) in lists.items():
        text, option = getattr(arguments, name), f"--{name.replace('_', '-')}"
        if text is None:
            values[name] = [None if may_be_none else 1.0]
            continue
        if arguments.greedy or arguments.num_beams is not None:
            other = "--greedy" if arguments.greedy else "--num-beams"
            raise UsageError(f"{other} draws nothing, so {option} changes nothing: leave one out")
        values[name] = [*dict.fromkeys(_number(option, kind, may_be_none, part)
                                       for part in text.split(","))]  # fmt: skip
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
    arguments: argparse.Namespace, grid: Sequence[dict[str, float | int | None]]
) -> list[Settings]:
    """What each block is run with."""
    from mingpt.generation.decoding import Decoding
    from patching.continuation.run import Settings

    if arguments.length_penalty is not None and arguments.num_beams is None:
        raise UsageError("--length-penalty is for --num-beams")
    if arguments.show_steps and arguments.num_beams is not None:
        raise UsageError("--show-steps shows how one token after another is chosen; beams choose"
                         " whole continuations")  # fmt: skip
    if arguments.rows < 1:
        raise UsageError(f"--rows must be at least 1, not {arguments.rows}")
    if arguments.seed + arguments.num_samples > 2**63:
        raise UsageError("--seed is too large for so many samples: the last ones' would be too")
    _check_together(arguments)
    same = {
        "max_new_tokens": arguments.max_new_tokens,
        "greedy": arguments.greedy,
        "num_beams": arguments.num_beams,
        "stop": tuple(arguments.stop or ()),
    }
    if arguments.length_penalty is not None:
        same["length_penalty"] = arguments.length_penalty
    penalty = {"repetition_penalty": arguments.repetition_penalty}
    settings = [Settings(**same, decoding=Decoding(**fields, **penalty)) for fields in grid]
    for one in settings:
        one.check(arguments.num_samples)
    return settings


def _check_together(arguments: argparse.Namespace) -> None:
    """Raises UsageError if options do not go together."""
    if arguments.count and (arguments.greedy or arguments.num_beams is not None):
        other = "--greedy" if arguments.greedy else "--num-beams"
        raise UsageError(f"--count is of samples, and {other} draws none: an interval says nothing")
    several = len(dict.fromkeys(arguments.model or ())) > 1
    if arguments.show_steps and (several or arguments.count) and not arguments.json:
        raise UsageError(
            "--show-steps prints the samples of one model, and none that are counted: leave out"
            " --count and other models, or take --json, which has the steps"
        )


def _numbered(end: str, count: int) -> list[str]:
    """What the names of so many figures of a kind end in."""
    return [f"{end}-{n}" for n in range(1, count + 1)] if count > 1 else [end] * count


def _place(
    arguments: argparse.Namespace, asked: generate_run.Asked, models: int
) -> output.Place | None:
    """Where figures and result go; None if nothing is written."""
    choices = models * len(asked.settings) * len(asked.prompts) if asked.plot else 0
    if choices > MOST_FIGURES:
        raise UsageError(
            f"--plot would draw {choices} figures, one for each prompt, setting and model;"
            f" at most {MOST_FIGURES} are drawn: ask for fewer"
        )
    ends = _numbered("-choice", choices)
    if asked.patterns:
        ends += _numbered("-counts", generate_run.pages(asked, models))
    if not ends and Path(arguments.out or ".json").suffix not in ("", ".json"):
        raise UsageError(
            f"--out {arguments.out}: without a figure there is the result alone, a .json"
        )
    if not ends and arguments.out is None and not asked.patterns:
        if arguments.format is not None:
            raise UsageError("--format is of figures: --plot or --count draw them")
        return None
    return output.Place.of(arguments, ends, kinds=(".json",))
