"""mingpt-verify: are the numbers right on this model? Published figures and identities.

Which model it is, the command takes from the hash of its weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from click import IntRange, Option

from patching.cli.common import output
from patching.cli.common.command import Command, UsageError, print_line, run_command
from patching.cli.common.models import DEFAULT_MODEL, import_libraries, load_model
from patching.cli.common.options import files, model_options
from patching.verification.request import SAMPLES, Request

if TYPE_CHECKING:
    import torch

    from patching.verification.published import Figure

COMMAND = "mingpt-verify"
EXIT_OFF = 1
DESCRIPTION = """\
Verify this program's numbers on a model.

On any model, identities must hold: the fast sweep equals the loop, patching the
clean run into itself changes nothing, the terms of a logit add up to it, and so
on. On GPT-2 124M and XL, figures that others published are computed again and
compared: heatmaps, head maps, direct logit attribution, head scores.
"""
EPILOG = f"""\
the table:
  Each row is a figure or an identity. published and ours are the two numbers at
  the place where they differ most; of an identity, published is what must come
  out. allowed is the source's printed precision plus what float32 costs; --json
  says both parts for each row.

which model it is:
  GPT-2 124M is known by the SHA-256 of its model.safetensors. GPT-2 XL, and GPT-2
  in another file, are known by the name of their repository, and the hub states
  the hash of the file. Any other model gets the identities only.

examples:
  {COMMAND}
      GPT-2 124M: every published figure, then ours beside it
  {COMMAND} --model builtin
      the identities on the model that ships with the project
  {COMMAND} --model runs/mine --samples 50 --seed 1
  {COMMAND} --long --json > verified.json
  {COMMAND} --model gpt2-xl

exit codes: 0 everything holds; 1 a row is off; 2 it could not be run, with one
line on stderr; 130 interrupted.
"""

OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "model": model_options(
        default="Default: gpt2, which must be in a cache or be fetched (548 MB, once)",
        seed="seed of the random prompts and cells",
    ),
    "verification": [
        Option(["--long"], is_flag=True,
               help="also figures that take minutes: means over 1,000 prompts"),
        Option(["--samples"], type=IntRange(1, 10**6), default=SAMPLES, metavar="N",
               help="cells of each site in which the loop is run and compared"),
    ],
    "output": [
        Option(["--out"], metavar="FILE", shell_complete=files,
               help="write the table as .json, to be read by Verification.load"),
        Option(["--json"], is_flag=True, help="print the table as JSON on stdout, text on stderr"),
        Option(["--quiet"], is_flag=True, help="print only the rows that are off; no progress bar"),
    ],
})  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> int:
    """Load, verify, print and write; return 0, or 1 if a row is off."""
    request = Request(long=arguments.long, samples=arguments.samples, seed=arguments.seed)
    path = None if arguments.out is None else _result_path(arguments.out)
    import_libraries(drawing=False)
    from mingpt.loading.sources import resolve
    from patching.cli import verify_report
    from patching.cli.common import tables
    from patching.verification.identity import identify
    from patching.verification.run import run_verification

    say = output.make_say(arguments)
    # GPT-2 by its name: without one, the shipped model would take its place.
    name = DEFAULT_MODEL if arguments.model is None else arguments.model
    loaded = load_model(arguments, name)
    say(tables.model_line(loaded.model, loaded.fallback))
    identity = identify(resolve(name, n_head=arguments.n_head, offline=True))
    say(f"identity: {identity.words}")
    figures = _figures(identity.model, request, loaded.model.dtype)
    found = run_verification(
        loaded.model,
        request,
        figures=figures,
        identity=identity.words,
        progress=False if arguments.quiet else None,
    )
    for block in verify_report.report(found):
        say(f"\n{block}")
    if arguments.quiet:
        for row in found.off:
            say(verify_report.line(row), always=True)
    if path is not None:
        existed = path.exists()
        found.save(path)
        output.say_written(say, {path: existed})
    if arguments.json:
        print_line(json.dumps(found.to_dict(), allow_nan=False), sys.stdout)
    return 0 if found.ok else EXIT_OFF


def _figures(model: str | None, request: Request, dtype: torch.dtype) -> list[Figure]:
    """Return the published figures of a model; none in half precision, which they are not of."""
    from patching.verification.published import read_figures

    if model is None:
        return []
    if str(dtype) not in ("torch.float32", "torch.float64"):
        raise UsageError(
            f"{model}'s published figures are of float32, not of {str(dtype)[6:]}: leave out"
            " --dtype"
        )
    return read_figures(model, long=request.long)


def _result_path(out: str) -> Path:
    """Return the .json that --out names, after checking that it can be written.

    Raises:
        UsageError: another suffix, or a place that cannot be written.
    """
    from mingpt.files import expanded

    path = expanded(out)
    if path.suffix != ".json":
        raise UsageError(f"--out {out}: the table is written as .json; write --out {out}.json")
    output.check_writable(path)
    return path
