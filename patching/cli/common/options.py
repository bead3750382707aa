"""The options that several commands share."""

from __future__ import annotations

import click
from click import Choice, IntRange, Option
from click.shell_completion import CompletionItem

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("float32", "float64", "float16", "bfloat16")
MODEL_NAMES = (
    "builtin; gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2; owner/name, a GPT-2 on the"
    " Hugging Face hub; a directory with config.json and its weights; or nanoGPT's or minGPT's"
    " .pt file"
)
SHORT_NAMES = ("builtin", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
DEFAULT_MODEL_HELP = (
    "Default: gpt2 if it is in a cache or can be fetched (548 MB, once), else builtin"
)
DEFAULT_OUT = "figures/"
MOST_THREADS = 1024
MOST_ROWS = 10**6  # of a table of tokens: more than any vocabulary has


class Seed(click.ParamType):
    """A seed: a whole number from 0 to 2**63 - 1, as PyTorch takes it."""

    name = "seed"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number, or fail with a message."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)
        if not 0 <= number < 2**63:
            self.fail(f"{value} is not from 0 to 2**63 - 1", param, ctx)
        return number


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete the name of a file."""
    return [CompletionItem(incomplete, type="file")]


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete the name of a model, or of a file."""
    names = [CompletionItem(name) for name in SHORT_NAMES if name.startswith(incomplete)]
    return names + files(ctx, param, incomplete)


def source_options(model_help: str, *, multiple: bool = False) -> list[Option]:
    """Return --model, --n-head and --offline.

    Args:
        model_help: the help of --model.
        multiple: --model may be repeated.
    """
    return [
        Option(["--model"], metavar="NAME|PATH", help=model_help, multiple=multiple,
               shell_complete=models),
        Option(["--n-head"], type=int, metavar="N",
               help="number of attention heads, for a minGPT .pt file without a config.json"
               " beside it"),
        Option(["--offline"], is_flag=True,
               help="use only files on this machine; HF_HUB_OFFLINE=1 does the same"),
    ]  # fmt: skip


def model_options(
    *,
    more: str = "",
    default: str = DEFAULT_MODEL_HELP,
    seed: str = "seed of PyTorch's random numbers",
    multiple: bool = False,
) -> list[Option]:
    """Return --model, --n-head, --offline, --device, --dtype, --threads and --seed.

    Args:
        more: text to add to the help of --model.
        default: what the help of --model says of its default.
        seed: the help of --seed.
        multiple: --model may be repeated.
    """
    return [
        *source_options(f"{MODEL_NAMES}.{more} {default}", multiple=multiple),
        Option(
            ["--device"], type=Choice(DEVICES), default="auto", help="auto: cuda, mps, else cpu"
        ),
        Option(["--dtype"], type=Choice(DTYPES), default="float32"),
        Option(["--threads"], type=IntRange(1, MOST_THREADS), metavar="N",
               help="CPU threads; default: the cores that no other process keeps busy"),
        Option(["--seed"], type=Seed(), default=0, metavar="N", help=seed),
    ]  # fmt: skip


def place_options(kinds: str = ".npz and .json", *, note: str = "") -> list[Option]:
    """Return --out and --format.

    Args:
        kinds: the suffixes of the result's files, for the help.
        note: what the help says of the default; if given, --out is None by default.
    """
    return [
        Option(["--out"], default=None if note else DEFAULT_OUT, metavar="FILE|DIR",
               shell_complete=files,
               help="the figure's file, or a folder in which the file is named after the prompt and"
               " a hash of the run; with several figures, each file's name ends in the figure's"
               f" name; the result is written beside them as {kinds}{note}"),
        Option(["--format"], metavar="NAME",
               help="for figures in a folder: png (default), svg or pdf"),
    ]  # fmt: skip


def rows_option(default: int) -> Option:
    """Return --rows, the rows of a command's tables of tokens."""
    return Option(["--rows"], type=IntRange(1, MOST_ROWS), default=default, metavar="N",
                  help="rows of the tables of next tokens")  # fmt: skip


def look_options() -> list[Option]:
    """Return --cmap and --title."""
    return [
        Option(["--cmap"], metavar="NAME", help="a matplotlib colour map, e.g. magma"),
        title_option(),
    ]


def title_option() -> Option:
    """Return --title."""
    return Option(["--title"], metavar="TEXT", help="title of the figures, in place of their own")


def output_options(rows: int) -> list[Option]:
    """Return --rows, its old name --top-k, --out, --format, --json and --quiet.

    Args:
        rows: the default of --rows.
    """
    return [
        rows_option(rows),
        Option(["--top-k"], type=IntRange(1, MOST_ROWS), metavar="N",
               help="the old name of --rows (in mingpt-generate, --top-k cuts the distribution)"),
        *place_options(),
        Option(["--json"], is_flag=True, help="print the result as JSON on stdout, text on stderr"),
        Option(["--quiet"], is_flag=True,
               help="print only the model's line and the paths written; no progress bar"),
    ]  # fmt: skip
