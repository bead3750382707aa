"""Parse options: the parser, the options that several commands share, and their values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

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

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings
        )

    def error(self, message: str) -> NoReturn:
        """Raise the message as a UsageError, which becomes one line."""
        raise UsageError(f"{message} (see --help)")

    # ignore[override]: argparse's other forms, with sys.argv or a namespace, are not used here
    def parse_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: None = None
    ) -> argparse.Namespace:
        """Parse `args`; in `--layers -3--1` and `--clean --` the second word is the value."""
        parsed = super().parse_args(self._glued(args), namespace)
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            if action.nargs is None and isinstance(value, list):
                # argparse drops a value that is "--", even after "="
                mended = ["--" if one == [] else one for one in value] or "--"
                setattr(parsed, action.dest, mended)
        return parsed

    def _glued(self, args: Sequence[str]) -> list[str]:
        """Rewrite `--option -value` as `--option=-value`, unless -value is an option itself.

        Options are moved to the front: argparse does not continue a list of
        texts after an option.
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
                options.append(waiting.pop(0))  # values of the option
        return options + others

    def _is_option(self, arg: str) -> bool:
        return arg.split("=", 1)[0] in self._option_string_actions


def add_model_arguments(
    parser: argparse.ArgumentParser,
    *,
    more: str = "",
    seed: str = "seed of PyTorch's random numbers",
    **settings: Any,
) -> None:
    """Add --model, --n-head, --offline, --device, --dtype and --seed.

    Args:
        parser: the command's.
        more: text to add to the help of --model.
        seed: the help of --seed.
        settings: passed to add_argument for --model.
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


def add_source_arguments(group: argparse._ArgumentGroup, model_help: str, **settings: Any) -> None:
    """Add --model, --n-head and --offline.

    Args:
        group: of the parser.
        model_help: the help of --model.
        settings: passed to add_argument for --model.
    """
    group.add_argument("--model", metavar="NAME|PATH", help=model_help, **settings)
    group.add_argument(
        "--n-head", type=int, metavar="N",
        help="number of attention heads, for a minGPT .pt file without a config.json beside it",
    )  # fmt: skip
    group.add_argument(
        "--offline", action="store_true",
        help="use only files on this machine; HF_HUB_OFFLINE=1 does the same",
    )  # fmt: skip


def parse_texts(arguments: argparse.Namespace, example: dict[str, str]) -> dict[str, str]:
    """Return the text options that were given, or the example if none was.

    Args:
        arguments: the parsed options.
        example: option's name -> text; "target" and "foil" are among them.

    Raises:
        UsageError: some are missing, one is empty, or target and foil are the
            same.
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


def read_lines(option: str, path: Path) -> dict[int, str]:
    """Return the lines of a text file that are not blank, by line number from 1.

    Args:
        option: named in messages.
        path: the file.

    Raises:
        UsageError: the file cannot be read, is not UTF-8, or has only blank lines.
    """
    try:
        # Not splitlines, which also splits at U+2028 and others that a prompt may contain.
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{option} {path} is not UTF-8 text") from None
    found = {
        number: line.removesuffix("\r") for number, line in enumerate(lines, 1) if line.strip()
    }
    if not found:
        raise UsageError(f"{option} {path} is empty")
    return found


@dataclass(frozen=True)
class IndexList:
    """A list of indices as a user writes it: "0,3,5-7"; negative ones count from the end."""

    text: str

    def of(self, what: str, size: int) -> list[int]:
        """Return the indices in [0, size), sorted, each once.

        Args:
            what: what is counted, e.g. "layer"; named in messages.
            size: how many there are.

        Raises:
            UsageError: the text is not such a list, a range runs backwards, or an
                index is out of range.
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
