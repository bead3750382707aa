"""Options: the parser, the options that several commands share, and what their values mean."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mingpt.checks import from_the_end
from patching.cli.common.command import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("float32", "float64", "float16", "bfloat16")
MODEL_NAMES = (
    "builtin; gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2; owner/name, a GPT-2 on the"
    " Hugging Face hub; a directory with config.json and its weights; or nanoGPT's or minGPT's"
    " .pt file"
)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, and values that may begin with a dash."""

    def __init__(self, **settings: object) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings
        )

    def error(self, message: str) -> NoReturn:
        """As every other bad input: one line at the edge."""
        raise UsageError(f"{message} (see --help)")

    def parse_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:
        """As argparse's, but `--layers -3--1` and `--clean --` mean what they say."""
        parsed = super().parse_args(self._glued(args), namespace)
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            if action.nargs is None and isinstance(value, list):
                # argparse drops a value that is "--", even after "="
                mended = ["--" if one == [] else one for one in value] or "--"
                setattr(parsed, action.dest, mended)
        return parsed

    def _glued(self, args: Sequence[str]) -> list[str]:
        """`--option -value` as `--option=-value`, unless -value is an option itself.

        And options first: argparse does not go on with a list after one of them.
        """
        options: list[str] = []
        others: list[str] = []
        waiting = list(args)
        while waiting:
            arg = waiting.pop(0)
            if arg == "--":
                others += [arg, *waiting]
                break
            action = self._option_string_actions.get(arg.split("=", 1)[0])
            takes_value = action is not None and action.nargs is None and "=" not in arg
            if takes_value and waiting and not self._is_option(waiting[0]):
                arg = f"{arg}={waiting.pop(0)}"
            (others if action is None else options).append(arg)
            while action is not None and action.nargs == "+" and waiting:
                if waiting[0].startswith("-"):
                    break
                options.append(waiting.pop(0))  # they are the option's, not texts of their own
        return options + others

    def _is_option(self, arg: str) -> bool:
        return arg.split("=", 1)[0] in self._option_string_actions


def add_model_arguments(
    parser: argparse.ArgumentParser,
    *,
    more: str = "",
    seed: str = "of PyTorch's random numbers",
    **settings: object,
) -> None:
    """--model, --n-head, --offline, --device, --dtype, --seed: the same words in every command.

    Args:
        more: words to add on --model.
        seed: what it is the seed of.
        settings: add_argument's, of --model.
    """
    group = parser.add_argument_group("model")
    add_source_arguments(
        group,
        f"{MODEL_NAMES}.{more} Default: gpt2 if it is in a cache or can be fetched (548 MB, once),"
        " else builtin",
        **settings,
    )
    group.add_argument(
        "--device", choices=DEVICES, default="auto", help="default: auto (cuda, mps, else cpu)"
    )
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="default: float32")
    group.add_argument("--seed", type=int, default=0, help=f"{seed}, 0 or more; default: 0")


def add_source_arguments(
    group: argparse._ArgumentGroup, model_help: str, **settings: object
) -> None:
    """Of these --model, --n-head and --offline; `settings` are add_argument's, of --model."""
    group.add_argument("--model", metavar="NAME|PATH", help=model_help, **settings)
    group.add_argument(
        "--n-head", type=int, metavar="N",
        help="attention heads, of a minGPT .pt file with no config.json beside it",
    )  # fmt: skip
    group.add_argument(
        "--offline", action="store_true",
        help="only what is on this machine; HF_HUB_OFFLINE=1 says the same",
    )  # fmt: skip


def texts_asked(arguments: argparse.Namespace, example: dict[str, str]) -> dict[str, str]:
    """The options that `example` has, as they were given; the example if none was.

    Raises:
        UsageError: some are given and some are not, or one is empty, or target
            and foil are the same.
    """
    given = {name: getattr(arguments, name) for name in example}
    missing = [f"--{name}" for name, text in given.items() if text is None]
    if len(missing) == len(example):
        return example
    if missing:
        raise UsageError(
            f"{', '.join(missing)} missing: the {len(example)} prompt options go together"
        )
    for name, text in given.items():
        if not text:
            raise UsageError(f"--{name} is empty")
    if given["target"] == given["foil"]:
        raise UsageError(f"--target and --foil are the same: {given['target']!r}")
    return given


def lines_of(option: str, path: Path) -> dict[int, str]:
    """The lines of a text file that are not blank, by their numbers.

    Raises:
        UsageError: it cannot be read, is not in UTF-8, or has none.
    """
    try:
        # Not splitlines: a prompt may hold what only Unicode takes for an end of line.
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{option} {path} is no text in UTF-8") from None
    found = {
        number: line.removesuffix("\r") for number, line in enumerate(lines, 1) if line.strip()
    }
    if not found:
        raise UsageError(f"{option} {path} is empty")
    return found


@dataclass(frozen=True)
class IndexList:
    """Indices as a user writes them: "0,3,5-7", negative ones from the end."""

    text: str

    def of(self, what: str, size: int) -> list[int]:
        """The indices in [0, size) that are meant.

        Raises:
            UsageError: not such a list, a range that runs backwards, or an
                index that is not there.
        """
        chosen: set[int] = set()
        for part in self.text.split(","):
            match = re.fullmatch(r"\s*(-?\d{1,9})(?:-(-?\d{1,9}))?\s*", part, re.ASCII)
            if match is None:
                raise UsageError(
                    f"{what}s {self.text!r}: {part!r} is neither a number nor a range;"
                    " write a list like 0,3,5-7 or -1"
                )
            ends = [
                from_the_end(what, int(number), size, UsageError)
                for number in match.groups()
                if number is not None
            ]
            first, last = ends[0], ends[-1]
            if first > last:
                raise UsageError(f"{what}s {self.text!r}: the range {part!r} runs backwards")
            chosen.update(range(first, last + 1))
        return sorted(chosen)
