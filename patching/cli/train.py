"""mingpt-train: texts, or pairs of sentences -> a model of one's own, its curves, samples."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from click import BOOL, FLOAT, Choice, IntRange, Option

from mingpt.config import ACTIVATIONS, FLAGS
from mingpt.files import expanded
from mingpt.training.request import (
    DEFAULT_PRESET,
    DROPOUTS,
    KNOBS,
    PRECISIONS,
    PRESETS,
    TrainingRequest,
)
from patching.cli.common import output
from patching.cli.common.command import Command, Several, UsageError, print_line, run_command
from patching.cli.common.models import find_device, import_libraries
from patching.cli.common.options import DEVICES, MOST_THREADS, Seed, files, models
from patching.interrupts import held, is_noted, tell
from patching.progress import bar

if TYPE_CHECKING:
    import torch

    from mingpt.training.run import Run

    pass

COMMAND = "mingpt-train"
MINUTES = {"nano": "1 minute", "micro": "4 minutes", "mini": "9 minutes"}
CURVES = "curves.png"
WHOLE = ("n_layer", "n_head", "n_embd", "block_size", "n_kv_head", "n_inner")
# Options of the request, by its field.
FIELDS = {
    "preset": "preset", "vocab": "vocab", "steps": "steps", "batch_size": "batch_size",
    "accumulate": "accumulate", "learning_rate": "learning_rate", "warmup_steps": "warmup_steps",
    "weight_decay": "weight_decay", "grad_norm_clip": "grad_norm_clip",
    "val_fraction": "val_fraction", "test_fraction": "test_fraction", "eval_every": "eval_every",
    "patience": "patience", "precision": "precision", "seed": "seed",
}  # fmt: skip

DESCRIPTION = """\
Train a small GPT on a text of yours, and look inside it.

The text is cut into three parts: to train on, to validate (the run stops when the loss
on this part no longer falls, and keeps the weights with the least one), and to test at
the end. The folder --out gets the model, which every other command reads (--model DIR),
its vocabulary, the curves (PNG), training.json, and a checkpoint to go on from.
"""
EPILOG = f"""\
presets (on 2 cores with bfloat16, vocabulary bytes; micro and mini take nearly twice as
long in float32):
  nano    3 layers, 3 heads, width 48, context 64: {MINUTES["nano"]}
  micro   4 layers, 4 heads, width 128, context 128: {MINUTES["micro"]}
  mini    6 layers, 6 heads, width 192, context 128: {MINUTES["mini"]}
  Any knob of the model can be set beside a preset, such as --n-layer 2 --n-kv-head 1.

vocabularies:
  bytes   the 256 bytes: every text, and long sequences (default)
  bpe:N   at most N tokens, by byte-pair merges that are trained on the text; fewer if
          the text has no more (needs the package tokenizers)
  gpt2    GPT-2's 50,257 tokens

pairs:
  --pairs FILE has a source, a tab and a target on each line, as Tatoeba's files. A pair
  becomes "source <|sep|> target <|endoftext|>", and only the target's loss counts. Then
      mingpt-generate --model DIR --prompt "The red cars<|sep|>" --greedy --show-steps

going on:
  Ctrl-C saves a checkpoint. --resume goes on from it; the weights at the end are bit for
  bit those of an undisturbed run with the same number of threads on the same machine.

examples:
  {COMMAND} --text README.md --out runs/readme --preset nano --steps 300
  {COMMAND} --text shakespeare.txt --out runs/shakespeare --vocab bpe:2000 --preset mini
  {COMMAND} --resume --out runs/shakespeare
  {COMMAND} --pairs eng-spa.tsv --out runs/translator --vocab bpe:1000 --preset micro
  {COMMAND} --text shakespeare.txt --out runs/heads --preset micro --compare n-kv-head=4,2,1
  {COMMAND} --from builtin --text README.md --out runs/tuned --steps 100
  mingpt-generate --model runs/shakespeare --prompt "ROMEO:" --num-samples 3

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted, and saved.
"""


def _knob(name: str) -> Option:
    """Return the option of a field of GPTConfig."""
    option = f"--{name.replace('_', '-')}"
    if name in WHOLE:
        return Option([option], type=IntRange(1), metavar="N", help=_HELP.get(name))
    if name in FLAGS:
        return Option([option], type=BOOL, metavar="BOOL", help=_HELP.get(name))
    if name == "activation":
        return Option([option], type=Choice(ACTIVATIONS))
    return Option([option], type=FLOAT, metavar="X", help=_HELP.get(name))


_HELP = {
    "n_kv_head": "heads of keys and values; 1 is multi-query attention",
    "block_size": "tokens that the model reads",
    "n_inner": "width of the MLP; default: 4 times the model's",
    "embd_pdrop": "dropout on the embeddings",
    "resid_pdrop": "dropout on what attention and MLP add",
    "attn_pdrop": "dropout on the attention pattern",
    "initializer_range": "standard deviation of fresh weights",
}

OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "data": [
        Several(["--text"], multiple=True, metavar="FILE...", shell_complete=files,
                help="text files in UTF-8"),
        Option(["--pairs"], metavar="FILE", shell_complete=files,
               help="a file of pairs: source, tab, target on each line"),
        Option(["--vocab"], metavar="NAME", help="bytes, bpe:N or gpt2  [default: bytes]"),
        Option(["--val-fraction"], type=FLOAT, metavar="X",
               help=f"part to validate on  [default: {TrainingRequest.val_fraction}]"),
        Option(["--test-fraction"], type=FLOAT, metavar="X",
               help=f"part to test on  [default: {TrainingRequest.test_fraction}]"),
    ],
    "model": [
        Option(["--preset"], type=Choice([*PRESETS]),
               help=f"size and length of the run  [default: {DEFAULT_PRESET}]"),
        Option(["start", "--from"], metavar="NAME|DIR", shell_complete=models,
               help="go on from this model's weights and vocabulary, with a tenth of the preset's"
               " learning rate"),
        *map(_knob, KNOBS),
        Option(["--dropout"], type=FLOAT, metavar="X",
               help="all three dropouts  [default: 0.1]"),
    ],
    "run": [
        Option(["--steps"], type=IntRange(1), metavar="N", help="at most so many"),
        Option(["--batch-size"], type=IntRange(1), metavar="N", help="sequences in a batch"),
        Option(["--accumulate"], type=IntRange(1), metavar="N",
               help="batches whose mean gradient makes one step  [default: 1]"),
        Option(["--learning-rate"], type=FLOAT, metavar="X",
               help="the highest: it rises for a twentieth of the steps and falls to a tenth on a"
               " cosine"),
        Option(["--warmup-steps"], type=IntRange(0), metavar="N"),
        Option(["--weight-decay"], type=FLOAT, metavar="X",
               help=f"on matrices  [default: {TrainingRequest.weight_decay}]"),
        Option(["--grad-norm-clip"], type=FLOAT, metavar="X",
               help=f"largest norm of the gradient  [default: {TrainingRequest.grad_norm_clip:g}]"),
        Option(["--eval-every"], type=IntRange(1), metavar="N",
               help="steps between evaluations and checkpoints; default: a twentieth of all"),
        Option(["--patience"], type=IntRange(0), metavar="N",
               help="evaluations without a lower loss before the run stops; 0: never"
               f"  [default: {TrainingRequest.patience}]"),
        Option(["--precision"], type=Choice(PRECISIONS),
               help="of matrix products; weights stay in float32  [default: auto, bfloat16 where"
               " the processor has it]"),
        Option(["--device"], type=Choice(DEVICES), default="auto",
               help="auto: cuda, mps, else cpu"),
        Option(["--threads"], type=IntRange(1, MOST_THREADS), metavar="N",
               help="CPU threads; default: the cores that no other process keeps busy"),
        Option(["--seed"], type=Seed(), metavar="N", help="of weights, batches and dropout"
               "  [default: 0]"),
        Option(["--resume"], is_flag=True, help="go on with the run in --out"),
        Option(["--compare"], metavar="KNOB=LIST",
               help="train a model for each value of a knob, as n-kv-head=4,2,1, each in a folder"
               " of its own in --out, and compare losses, cache and time"),
        Option(["--sentence"], multiple=True, metavar="TEXT",
               help="with --compare: state each model's ln p of this text; repeat it for several"),
    ],
    "output": [
        Option(["--out"], metavar="DIR", shell_complete=files, help="the folder of the run"),
        Option(["--prompt"], metavar="TEXT",
               help="what the samples begin with that are printed as the model learns; default:"
               " the beginning of the validation part"),
        Option(["--title"], metavar="TEXT", help="title of the curves, in place of their own"),
        Option(["--json"], is_flag=True, help="print the result as JSON on stdout, text on stderr"),
        Option(["--quiet"], is_flag=True, help="print only the last lines; no progress bar"),
    ],
})  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """Train, print and write."""
    directory = _directory(arguments)
    request = None if arguments.resume else _request(arguments)
    knob, values = _compared(arguments)
    if arguments.resume:
        _check_alone(arguments)
    output.check_writable(directory / CURVES)
    import_libraries(drawing=True)
    import torch

    from mingpt.training.checkpoint import NAME as CHECKPOINT
    from mingpt.training.run import saved_request, train
    from patching.cli import train_report
    from patching.training_curves import draw_curves

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = find_device(arguments.device, "float32")
    if request is None:
        request = saved_request(directory)
    say = output.make_say(arguments)
    if knob is not None:
        _compare(arguments, request, directory, knob, values, device, say)
        return
    report = train_report.Report(say, request, arguments.prompt, samples=not arguments.quiet)
    steps, preparing = ExitStack(), ExitStack()

    def started(run: Run) -> None:
        preparing.close()
        report.started(run)
        # From here on, a step is never broken off: its weights would be neither the old nor the
        # new ones.
        steps.enter_context(held())

    try:
        with bar("training", quiet=arguments.quiet) as progress, steps, preparing:
            result = train(
                request,
                directory,
                resume=arguments.resume,
                device=device,
                progress=progress,
                tokenizing=preparing.enter_context(bar("tokenizing", quiet=arguments.quiet)),
                started=started,
                evaluated=report.evaluated,
                should_stop=is_noted,
            )
    except KeyboardInterrupt:
        if (directory / CHECKPOINT).exists():
            tell(f"{COMMAND}: saved; go on with: {COMMAND} --resume --out {directory}")
        raise
    paths = [directory / CURVES, directory / "training.json"]
    draw_curves(result, paths[0], title=arguments.title)
    say(train_report.summary(result), always=True)
    for path in (directory / "model.safetensors", *paths):
        say(f"wrote {path}", always=True)
    if arguments.json:
        fields = {**result.to_dict(), "paths": [str(path) for path in paths]}
        print_line(json.dumps(fields, allow_nan=False), sys.stdout)


def _compared(arguments: SimpleNamespace) -> tuple[str | None, list[Any]]:
    """Return the knob of --compare and its values; None and [] without it.

    Raises:
        UsageError: it is not KNOB=LIST, or --resume or --sentence does not go with it.
    """
    if arguments.compare is None:
        if arguments.sentence:
            raise UsageError("--sentence needs --compare")
        return None, []
    if arguments.resume:
        raise UsageError("--compare does not go with --resume")
    knob, _, listed = arguments.compare.partition("=")
    knob = knob.strip().lstrip("-").replace("-", "_")
    try:
        values = [json.loads(one) for one in listed.split(",")]
    except ValueError:
        raise UsageError(
            f"--compare {arguments.compare!r}: write a knob and its values, as n-kv-head=4,2,1"
        ) from None
    return knob, values


def _compare(
    arguments: SimpleNamespace,
    request: TrainingRequest,
    directory: Path,
    knob: str,
    values: list[Any],
    device: torch.device,
    say: Callable[..., None],
) -> None:
    """Train a model for each value of a knob; print and draw the comparison."""
    from mingpt.training.comparison import check_comparison, compare
    from patching.cli import train_report
    from patching.training_curves import draw_comparison_of

    check_comparison(request, knob, values)
    report = train_report.Report(say, request, arguments.prompt, samples=False)
    with bar("training", quiet=arguments.quiet) as progress, held():
        found = compare(
            request,
            directory,
            knob,
            values,
            sentences=arguments.sentence or (),
            device=device,
            progress=progress,
            started=report.started,
            evaluated=report.evaluated,
            should_stop=is_noted,
        )
    path = directory / "comparison.png"
    draw_comparison_of(found, path, title=arguments.title)
    say(train_report.comparison_table(found), always=True)
    for written in (path, directory / "comparison.json"):
        say(f"wrote {written}", always=True)
    if arguments.json:
        print_line(json.dumps(asdict(found), allow_nan=False), sys.stdout)


def _directory(arguments: SimpleNamespace) -> Path:
    if not arguments.out:
        raise UsageError(f"--out missing: name a folder for the run, as in {EXAMPLE}")
    return expanded(arguments.out)


EXAMPLE = f"{COMMAND} --text README.md --out runs/readme"


def _request(arguments: SimpleNamespace) -> TrainingRequest:
    """Return the request of the options that were given.

    Raises:
        UsageError: neither texts nor pairs, or options that do not go together.
        TrainingError, ConfigError: a value out of its range.
    """
    if not arguments.text and arguments.pairs is None:
        raise UsageError(f"--text or --pairs missing: what to train on, as in {EXAMPLE}")
    if arguments.text and arguments.pairs is not None:
        raise UsageError("--text and --pairs do not go together: leave one out")
    if arguments.start is not None and arguments.vocab is not None:
        raise UsageError("--vocab does not go with --from, whose model has its vocabulary")
    knobs: dict[str, Any] = {}
    if arguments.dropout is not None:
        knobs |= dict.fromkeys(DROPOUTS, arguments.dropout)
    knobs |= {name: value for name in KNOBS if (value := getattr(arguments, name)) is not None}
    given = {
        field: value
        for field, name in FIELDS.items()
        if (value := getattr(arguments, name)) is not None
    }
    return TrainingRequest(
        texts=tuple(str(expanded(path)) for path in arguments.text),
        pairs=None if arguments.pairs is None else str(expanded(arguments.pairs)),
        start=arguments.start,
        knobs=knobs,
        **given,
    )


def _check_alone(arguments: SimpleNamespace) -> None:
    """Raise UsageError for an option that --resume would ignore."""
    names = ("text", "pairs", "start", "dropout", *KNOBS, *FIELDS.values())
    given = [name for name in names if getattr(arguments, name) not in (None, ())]
    if given:
        option = "--from" if given[0] == "start" else f"--{given[0].replace('_', '-')}"
        raise UsageError(
            f"{option} does not go with --resume, which goes on with the run's own settings"
        )
