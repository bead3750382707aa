"""mingpt-study make: pairs of a family, seeded and counted, as a file."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from click import Argument, Choice, IntRange, Option

from mingpt.files import expanded
from patching.cli.common import output
from patching.cli.common.command import Command, UsageError, print_line, run_command
from patching.cli.common.models import load_tokenizers
from patching.cli.common.options import DEFAULT_MODEL_HELP, MODEL_NAMES, Seed, files, source_options
from patching.study.generators.make import FAMILIES
from patching.text import escaped

if TYPE_CHECKING:
    from patching.study.generators.make import Made

COMMAND = "mingpt-study make"
PAIRS = 100
SHOWN = 3  # pairs that are printed
# Option -> the setting of a family; a family has some of them.
SETTINGS = {"order": "order", "corruption": "corrupt", "template": "template", "length": "length"}
DESCRIPTION = """\
Make pairs of prompts of a family, as a file that mingpt-study run reads.

The words that vary are one token each in the model's tokenizer, so that both prompts of
a pair are equally long. The same family, number, seed and tokenizer make the same file.
"""


def _families() -> str:
    """Return the families, each with its description and settings."""
    lines = []
    for family in FAMILIES.values():
        options = [f"--{name}" for name, setting in SETTINGS.items() if setting in family.settings]
        settings = f" ({', '.join(options)})" if options else ""
        text = re.sub(r"^Return pairs (in which |of )?|\.$", "", family.description)
        lines += textwrap.wrap(
            f"  {family.name:<13} {text}{settings}", 90, subsequent_indent=" " * 16
        )
    return "\n".join(lines)


EPILOG = f"""\
families (the shipped model knows the sentences of the first six):
{_families()}

the file:
  Columns clean, corrupt, target, foil, template and roles. The last one names the
  tokens of a role, as "IO:2 S1:4", so that prompts of different lengths can be
  aligned. An answer that is a set of words is a JSON list.

examples:
  {COMMAND} ioi --n 200 --model builtin --out ioi.csv
  {COMMAND} ioi --n 1000 --model gpt2 --order ABBA --corruption new --out abc.jsonl
  {COMMAND} greater-than --n 100 --model gpt2 --out years.csv

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted.
"""
OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "pairs": [
        Option(["--n"], type=IntRange(1, 10**6), default=PAIRS, metavar="N",
               help="how many different pairs"),
        Option(["--seed"], type=Seed(), default=0, metavar="N", help="which of the pairs"),
        Option(["--order"], type=Choice(["ABBA", "BABA", "both"]),
               help="ioi: who is named first, the one who is given something (ABBA) or the giver"
               "  [default: both]"),
        Option(["--corruption"], type=Choice(["swap", "new"]),
               help="ioi: the other of the two names gives (swap), or three new names"
               "  [default: swap]"),
        Option(["--template"], type=IntRange(0), metavar="N",
               help="one sentence of the family, from 0  [default: all]"),
        Option(["--length"], type=IntRange(1), metavar="N",
               help="induction: words before they begin again  [default: 8]"),
    ],
    "tokenizer": source_options(f"{MODEL_NAMES}. {DEFAULT_MODEL_HELP}"),
    "output": [
        Option(["--out"], metavar="FILE", shell_complete=files,
               help="the file: .csv, .tsv, .jsonl or .json  [default: FAMILY.csv]"),
        Option(["--json"], is_flag=True, help="print what was made as JSON on stdout, text on"
               " stderr"),
        Option(["--quiet"], is_flag=True, help="print only the last line"),
    ],
}, Argument(["family"], required=False))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """Make the pairs and write them."""
    from patching.study.generators.make import make_pairs, write_rows
    from patching.study.rows import FORMATS

    family = arguments.family
    if family not in FAMILIES:
        what = "a family is missing" if family is None else f"no family {family!r:.60}"
        raise UsageError(f"{what}; there are {', '.join(FAMILIES)}")
    path = expanded(arguments.out or f"{family}.csv")
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--out {path}: a file of pairs ends in {', '.join(FORMATS)}")
    output.check_writable(path)
    settings = _settings(arguments)
    arguments.model = None if arguments.model is None else [arguments.model]
    (loaded,) = load_tokenizers(arguments)
    say = output.make_say(arguments)
    where = "" if loaded.fallback is None else f", in place of gpt2: {escaped(loaded.fallback)}"
    say(f"tokenizer: {escaped(loaded.name)}{where}", always=loaded.fallback is not None)
    made = make_pairs(family, loaded.tokenizer, arguments.n, seed=arguments.seed, **settings)
    existed = path.exists()
    write_rows(path, made.rows)
    for line in _lines(made):
        say(line)
    then = f"mingpt-study run {path} --model {loaded.name} --out runs/{family}"
    say(f"run it: {escaped(then)}")
    output.say_written(say, {path: existed})
    if arguments.json:
        found = {
            "family": family,
            "pairs": len(made.rows),
            "distinct": made.distinct,
            "tokenizer": loaded.name,
            "paths": [str(path)],
        }
        print_line(json.dumps(found), sys.stdout)


def _settings(arguments: SimpleNamespace) -> dict[str, Any]:
    """Return the family's settings that were given.

    Raises:
        UsageError: the family has no such setting.
    """
    known = FAMILIES[arguments.family].settings
    given = {name: value for name in SETTINGS if (value := getattr(arguments, name)) is not None}
    for name in given:
        if SETTINGS[name] not in known:
            has = [f"--{option}" for option, setting in SETTINGS.items() if setting in known]
            raise UsageError(
                f"{arguments.family} has no --{name}; it has {', '.join(has) or 'none of them'}"
            )
    return {SETTINGS[name]: value for name, value in given.items()}


def _lines(made: Made) -> list[str]:
    """Return how many pairs and templates there are, and the first pairs."""
    templates = len({row["template"] for row in made.rows})
    lines = [
        f"{len(made.rows):,} of {made.distinct:,} distinct pairs, {templates} templates; the first:"
    ]
    for row in made.rows[:SHOWN]:
        for name in ("clean", "corrupt"):
            answer = row["target" if name == "clean" else "foil"]
            shown = ", ".join(answer) if isinstance(answer, list) else str(answer)
            lines.append(f"  {name:<8} {escaped(row[name])} -> {escaped(shown[:60])}")
    return lines
