"""What every command shares: arguments, errors at the edge, models, progress.

Nothing here imports PyTorch at the top, so that --help and a mistyped option
answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO, TypeVar

from mingpt.errors import DownloadError, MinGPTError
from mingpt.indices import from_the_end
from patching.text import escaped

if TYPE_CHECKING:
    import torch

    from mingpt import GPT, BPETokenizer
    from mingpt.pretrained import HubSource, Source

Loaded = TypeVar("Loaded")

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what a shell reports for Ctrl-C: 128 + SIGINT
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("float32", "float64", "float16", "bfloat16")
SECONDS_BEFORE_A_BAR = 1.0
Progress = Callable[[int, int], None]  # (done, in all or 0)
BYTES = {"unit": "B", "unit_scale": True}
SHARE = {"bar_format": "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"}
MODEL_NAMES = (
    "builtin; gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2; owner/name, a GPT-2 on the"
    " Hugging Face hub; a directory with config.json and its weights; or nanoGPT's or minGPT's"
    " .pt file"
)
DEFAULT_MODEL = "gpt2"
LONGEST_END = 1000  # characters of an error's beginning, and of its end


class UsageError(MinGPTError, ValueError):
    """An argument, or a combination of them, that the command cannot work with."""


# --------------------------------------------------------------------- the edge


def run_command(command: str, body: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Run `body`; turn every error that was raised on purpose into one line.

    Returns:
        The exit code: 0, 2 for bad input, 130 after Ctrl-C.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, as with >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            # A terminal that cannot show a character gets its escape, not a traceback.
            stream.reconfigure(errors="backslashreplace")
    try:
        body(argv)
        tell("", sys.stdout, end="")  # what is still to be flushed
    except (MinGPTError, OSError) as error:
        line = escaped(" ".join(str(error).split()))  # it may quote what the user typed
        if len(line) > 2 * LONGEST_END:  # or what a file says, at any length
            line = f"{line[:LONGEST_END]}\u2026{line[-LONGEST_END:]}"
        print(f"{command}: error: {line}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def tell(text: str, stream: TextIO, end: str = "\n") -> None:
    """Print at once. When a pipe's reader has gone, the work goes on unheard."""
    try:
        print(text, end=end, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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


# --------------------------------------------------------------------- progress


class Bars:
    """Progress bars on stderr: none when it is no terminal, or with --quiet."""

    def __init__(self, quiet: bool) -> None:
        self.shown = sys.stderr.isatty() and not quiet

    @contextlib.contextmanager
    def bar(self, label: str, *, in_bytes: bool = False) -> Iterator[Progress | None]:
        """A progress callback that draws once a second has passed."""
        if not self.shown:
            yield None
            return
        from tqdm import tqdm

        size = shutil.get_terminal_size()  # 80 x 24 where a terminal says 0 x 0
        bars: list[tqdm] = []

        def progress(done: int, total: int) -> None:
            known = total or None
            if not bars or bars[0].total != known:  # another file, or the first
                for old in bars:
                    old.close()
                bars[:] = [
                    tqdm(
                        total=known,
                        desc=label,
                        **(BYTES if in_bytes else SHARE),
                        delay=SECONDS_BEFORE_A_BAR,
                        leave=False,
                        ncols=size.columns,
                        nrows=size.lines,
                        file=sys.stderr,
                    )
                ]
            bars[0].update(done - bars[0].n)

        try:
            yield progress
        finally:
            for old in bars:
                old.close()


# --------------------------------------------------------------------- models


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


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and why it is not the one that was hoped for (or None)."""

    model: GPT
    tokenizer: BPETokenizer
    fallback: str | None


def model_names(arguments: argparse.Namespace) -> list[str | None]:
    """Those of a --model that may be given several times, each once; [None] without any.

    Raises:
        CheckpointError: one of which it is clear, before any is loaded, that it is no model.
    """
    from mingpt.pretrained import resolve

    names = [*dict.fromkeys(arguments.model or ())]
    for name in names:
        resolve(name, n_head=arguments.n_head, offline=arguments.offline)
    return names or [None]


def load_model(arguments: argparse.Namespace, name: str | None, bars: Bars) -> LoadedModel:
    """The model of that name, on the command line's device.

    None, without --model, is GPT-2 124M if it is in the cache or can be fetched,
    else the shipped model, with the reason.

    Raises:
        UsageError: a device that is not there.
        MinGPTError: as mingpt.load.
    """
    import torch

    from mingpt.loading import load
    from mingpt.pretrained import resolve

    device = find_device(arguments.device, arguments.dtype)
    dtype = getattr(torch, arguments.dtype)
    if not 0 <= arguments.seed < 2**63:
        raise UsageError(f"--seed must be from 0 to 2**63 - 1, not {arguments.seed}")
    torch.manual_seed(arguments.seed)
    source = resolve(
        DEFAULT_MODEL if name is None else name,
        n_head=arguments.n_head,
        offline=arguments.offline,
    )
    with bars.bar("fetching", in_bytes=True) as progress:

        def loaded(source: Source) -> tuple[GPT, BPETokenizer]:
            return load(source, dtype=dtype, progress=progress)

        if name is not None:
            (model, tokenizer), fallback = loaded(source), None
        else:
            (model, tokenizer), fallback = or_builtin(source, loaded, whole=True)
    return LoadedModel(model.to(device), tokenizer, fallback)


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, the name of its model, and why it is not the one hoped for (or None)."""

    name: str
    tokenizer: BPETokenizer
    fallback: str | None


def load_tokenizers(arguments: argparse.Namespace, bars: Bars) -> list[LoadedTokenizer]:
    """Those of every --model, without the models; without any as `load_model`.

    Raises:
        MinGPTError: as mingpt.load_tokenizer.
    """
    from mingpt.loading import load_tokenizer
    from mingpt.pretrained import BUILTIN, resolve

    names = arguments.model or [DEFAULT_MODEL]
    where = {"n_head": arguments.n_head, "offline": arguments.offline}
    sources = [resolve(name, **where) for name in dict.fromkeys(names)]
    with bars.bar("fetching", in_bytes=True) as progress:

        def loaded(source: Source) -> BPETokenizer:
            return load_tokenizer(source, progress=progress)

        if arguments.model:
            return [LoadedTokenizer(source.name, loaded(source), None) for source in sources]
        tokenizer, fallback = or_builtin(sources[0], loaded, whole=False)
    return [LoadedTokenizer(DEFAULT_MODEL if fallback is None else BUILTIN, tokenizer, fallback)]


def or_builtin(
    source: HubSource, load: Callable[[Source], Loaded], *, whole: bool
) -> tuple[Loaded, str | None]:
    """What `load` makes of GPT-2, or where that is not to be had, of the shipped model, and why.

    Args:
        whole: the weights are needed too.
    """
    from mingpt import hub
    from mingpt.download import reach
    from mingpt.pretrained import BUILTIN, resolve

    is_here = source.is_here if whole else source.has_tokenizer
    try:
        if not (is_here or source.offline or hub.is_offline()):
            if whole:
                print(
                    f"fetching GPT-2 124M, {hub.KNOWN[DEFAULT_MODEL].megabytes} MB, once;"
                    f" --model {BUILTIN} skips it",
                    file=sys.stderr,
                )
            reach(hub.endpoint())  # once: no network is to cost a few seconds at most
        return load(source), None
    except DownloadError as error:
        return load(resolve(BUILTIN)), str(error)


def find_device(name: str, dtype: str) -> torch.device:
    """The device called `name`, "auto" resolved.

    Raises:
        UsageError: it is not there, or has no arithmetic in `dtype`.
    """
    import torch

    there = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        name = next(kind for kind, is_there in there.items() if is_there())
    if not there[name]():
        raise UsageError(f"--device {name}: this machine, or this build of PyTorch, has none")
    if name == "mps" and dtype == "float64":
        raise UsageError("--dtype float64: mps has no float64; use --device cpu")
    return torch.device(name)
