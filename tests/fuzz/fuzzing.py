"""What the fuzz tests share: the number of cases, a process that runs them, small models.

Three environment variables choose the cases. Each case is made from the seed and its own
number alone, so a failure names the one command that repeats it.

    FUZZ=full     the full number of cases (see .ci/README.md); default: a few
    FUZZ=500      500 cases of each test
    FUZZ_SEED=7   the seed; default: 0
    FUZZ_CASE=12  only case 12
"""

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from helpers import ROOT, make_model

from mingpt import GPT, save
from mingpt.loading.sources import BUILTIN_DIRECTORY

SECONDS = 20  # of computing; a case that takes longer hangs
SECONDS_IN_ALL = 60  # ... or waits for ever; more than SECONDS, for machines that are busy
MEMORY = 2 * 2**30  # bytes that the cases may use beside what the libraries take
SHOWN = 5  # failures of a kind whose details are shown
EXIT_CODES = (0, 2, 130)
# Lines that may come before a command's line of error. The rest goes to stdout, or with
# --json to stderr.
NOTES = ("fetching GPT-2 124M,",)


class Problem(NamedTuple):
    """What was wrong with a case: the kind, to group cases by, and the details."""

    kind: str
    details: str


class TooLongError(BaseException):
    """A case ran for too long. No Exception, so that no `except` of ours takes it."""


# --------------------------------------------------------------------- cases


def random_of(number: int) -> random.Random:
    """Return the random numbers of one case."""
    return random.Random(f"{os.environ.get('FUZZ_SEED', '0')} {number}")


def numbers(*, few: int, full: int) -> Iterable[int]:
    """Return the numbers of the cases that the environment asks for."""
    if "FUZZ_CASE" in os.environ:
        return [int(os.environ["FUZZ_CASE"])]
    asked = os.environ.get("FUZZ", "few")
    return range({"few": few, "full": full}.get(asked) or int(asked))


def check_problems(test: str, found: dict[int, Problem]) -> None:
    """Fail if there are problems; say how to repeat each.

    Args:
        test: the path of the test's file.
        found: by the number of the case.
    """
    kinds: dict[str, list[int]] = {}
    for number, problem in found.items():
        kinds.setdefault(problem.kind, []).append(number)
    seed, file = os.environ.get("FUZZ_SEED", "0"), Path(test).relative_to(ROOT)
    lines = []
    for kind, cases in sorted(kinds.items(), key=lambda item: -len(item[1])):
        lines.append(f"\n{len(cases)} x {kind}")
        for number in cases[:SHOWN]:
            lines += [
                f"  FUZZ_SEED={seed} FUZZ_CASE={number} python -m pytest -m slow {file}",
                *(f"    {line}" for line in found[number].details.splitlines()),
            ]
    assert not found, "\n".join(lines)


def run_cases(
    run: Callable[[int, Path], Problem | None], folder: Path, cases: Iterable[int]
) -> dict[int, Problem]:
    """Run cases one after another in another process; return the problems by number.

    Args:
        run: a function of a module, called with the case's number and `folder`.
        folder: the worker's own; home, caches and temporary files are in it too.
        cases: the numbers.
    """
    found: dict[int, Problem] = {}
    worker = None
    for number in cases:
        worker = worker or _Worker(run, folder)
        problem = worker.run(number)
        if problem is not None:
            found[number] = problem
        if worker.is_over:
            worker = None
    if worker is not None:
        worker.end()
    return found


class _Worker:
    """A process with limits on time and memory; it is over once it crashed or hung."""

    def __init__(self, run: Callable, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.is_over = False
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, run, folder), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, number: int) -> Problem | None:
        problem = None
        try:
            self._pipe.send(number)
            if self._pipe.poll(2 * SECONDS_IN_ALL):  # it stops itself earlier, if it can
                return self._pipe.recv()
            problem = Problem("hang", "it could not be stopped from Python")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            problem = Problem(f"crash with exit code {self._process.exitcode}", "")
        self.end()
        return problem

    def end(self) -> None:
        self.is_over = True
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe, run: Callable[[int, Path], Problem | None], folder: Path) -> None:
    """Run the cases whose numbers come through the pipe, and send back what was wrong."""
    os.environ.pop("MINGPT_CACHE", None)
    for name in ("HOME", "TMPDIR", "MPLCONFIGDIR", "HF_HUB_CACHE", "HF_HOME"):
        os.environ[name] = str(folder / "own" / name.lower())
        (folder / "own" / name.lower()).mkdir(parents=True, exist_ok=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", "COLUMNS": "80"}
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    torch.set_num_threads(1)
    for name in ("matplotlib.pyplot", "patching.cli.generate", "patching.drawing.sweep"):
        importlib.import_module(name)  # before the memory is limited
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for end in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(end, _too_long)
    while True:
        number = pipe.recv()
        limit_time(SECONDS, SECONDS_IN_ALL)
        try:
            problem = run(number, folder)
        except BaseException as error:
            problem = Problem(_kind_of(error), traceback.format_exc())
        limit_time(0, 0)
        pipe.send(problem)


def limit_time(computing: float, in_all: float) -> None:
    """Raise TooLongError in this process after so many seconds, anew; 0 is no limit."""
    signal.setitimer(signal.ITIMER_PROF, computing)
    signal.setitimer(signal.ITIMER_REAL, in_all)


def _too_long(*_) -> None:
    raise TooLongError


def _kind_of(error: BaseException) -> str:
    """Return the error's type and the last of our functions that it went through."""
    ours = [
        f"{Path(frame.filename).relative_to(ROOT)} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith((str(ROOT / "mingpt"), str(ROOT / "patching")))
    ]
    what = "hang" if isinstance(error, TooLongError) else type(error).__name__
    return f"{what} in {ours[-1] if ours else 'the test'}"


# --------------------------------------------------------------------- commands


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str
    error: str | None = None  # the kind of the exception that left it


def run_in_process(command: str, argv: list[str], encoding: str = "utf-8") -> Ran:
    """Call a command's main as its script does, and capture what it prints.

    Args:
        command: the module in patching.cli, and the words that come first: "study run".
        encoding: of the streams.
    """
    module, *words = command.split()
    main = importlib.import_module(f"patching.cli.{module}").main
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, newline="\n") for _ in range(2)]
    kind = None
    with (
        warnings.catch_warnings(),  # also forgets which warnings were shown before
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
    ):
        try:
            code = main([*words, *argv])
        except SystemExit as end:  # after --help
            code = end.code or 0
        except BaseException as error:
            code, kind = 1, _kind_of(error)
            traceback.print_exc()
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding, "surrogateescape"))
    return Ran(code, *texts, kind)


def problem_of(command: str, argv: list[str], ran: Ran) -> Problem | None:
    """Return what is wrong with a command's exit code and streams."""
    lines = ran.err.splitlines()
    if ran.error is not None or "Traceback" in ran.err:
        return Problem(ran.error or "traceback", "\n".join(lines[-12:]))
    if ran.code not in EXIT_CODES:
        return Problem(f"exit code {ran.code}", ran.err)
    for stream, text in (("stdout", ran.out), ("stderr", ran.err)):
        control = [char for char in text if not (char.isprintable() or char == "\n")]
        if control:
            return Problem(
                f"characters that are not printable on {stream}", f"{control[:5]!r}\n{text!r}"
            )
    errors = [line for line in lines if line.startswith(f"mingpt-{command}: error: ")]
    if len(errors) != (ran.code == 2) or errors != lines[len(lines) - len(errors) :]:
        return Problem(f"exit code {ran.code} with {len(errors)} lines of error", ran.err)
    others = [line for line in lines[: len(lines) - len(errors)] if not line.startswith(NOTES)]
    if others and "--json" not in argv:
        return Problem("more than the line of error on stderr", ran.err)
    return None


# --------------------------------------------------------------------- models


def save_model(model: GPT, folder: Path, tokenizer: Path = BUILTIN_DIRECTORY) -> Path:
    """Save a model with a copy of the tokenizer of another folder."""
    save(model, folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    return folder


def save_nanogpt(model: GPT, path: Path) -> Path:
    """Save a model as nanoGPT does."""
    names = ("n_layer", "n_head", "n_embd", "vocab_size", "block_size", "bias")
    sizes = {name: getattr(model.config, name) for name in names}
    torch.save({"model": model.state_dict(), "model_args": sizes, "iter_num": 3}, path)
    return path


def small_tokenizer(folder: Path, merges: int = 60) -> int:
    """Write the builtin model's 256 bytes and first merges as a tokenizer; return its size."""
    folder.mkdir(parents=True)
    vocab = json.loads((BUILTIN_DIRECTORY / "vocab.json").read_text(encoding="utf-8"))
    lines = (BUILTIN_DIRECTORY / "merges.txt").read_text(encoding="utf-8").split("\n")
    pairs = [line for line in lines if line and not line.startswith("#version")][:merges]
    symbols = sorted((text for text in vocab if len(text) == 1), key=vocab.get)
    symbols += [pair.replace(" ", "") for pair in pairs]
    ids = json.dumps({symbol: number for number, symbol in enumerate(symbols)}, ensure_ascii=False)
    (folder / "vocab.json").write_text(ids, encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]), encoding="utf-8")
    return len(symbols)


def scaled(factor: float, **fields) -> GPT:
    """Return a random model whose logits are multiplied by `factor`."""
    model = make_model(**fields)
    with torch.no_grad():
        model.transformer.ln_f.weight *= factor
        if model.config.bias:
            model.transformer.ln_f.bias *= factor
    return model
