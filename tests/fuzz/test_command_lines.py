"""Random command lines of all commands: one line of error, or a whole result.

Each case runs in an empty folder, without a network. Its words are drawn from the options of
the command, from values that are good, odd or hostile, and from mistakes in writing them. Most
run in one process, as main(argv); some run again as a process of their own.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from command_grammar import LETTERS, OPTIONS, command_line
from fuzzing import (
    SECONDS_IN_ALL,
    Problem,
    Ran,
    TooLongError,
    check_problems,
    limit_time,
    numbers,
    problem_of,
    random_of,
    run_cases,
    run_in_process,
    save_model,
    save_nanogpt,
    scaled,
)
from helpers import ROOT, make_model

import mingpt
from mingpt.loading.sources import BUILTIN_DIRECTORY
from patching import read_pairs, run_study
from patching.study.generators.make import make_pairs, write_rows
from patching.text import escaped

pytestmark = pytest.mark.slow  # thousands of runs of whole commands
FEW, FULL = 100, 10_000
NO_JSON = {"-h", "--help", "--version", "--"}  # words with which --json may mean nothing
AGAIN = 40  # one case in so many also runs as a process of its own


def options_in_help(command: str) -> set[str]:
    """Return the options that a command's help explains."""
    ran = run_in_process(command, ["--help"])
    name = r"(--[a-z][a-z0-9-]*)"
    found = re.findall(rf"^ +(?:-\w, )?{name}(?: / {name})?", ran.out, re.MULTILINE)
    return {one for pair in found for one in pair} - {""}


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_is_drawn(command):
    assert options_in_help(command) - {"--help", "--version"} == {*OPTIONS[command]} - {""}


# --------------------------------------------------------------------- running it


def run(number: int, folder: Path) -> Problem | None:
    """Run one case in the folder `work`; models/ and inputs/ beside it must stay as they are."""
    draw = random_of(number)
    command, argv = command_line(draw)
    work, before = folder / "work", _listing(folder)
    os.environ |= {"HOME": str(work), "COLUMNS": draw.choice(("80", "80", "0", "-1", "x", "5"))}
    _empty(work)
    ran = run_in_process(command, argv, draw.choice(("utf-8", "utf-8", "utf-8", "ascii")))
    problem = problem_of(command, argv, ran) or _files_problem(command, ran, argv, work)
    if problem is None and _listing(folder) != before:
        problem = Problem("files outside the working folder", f"{_listing(folder) - before}")
    if problem is None and number % AGAIN == 0:
        problem = _problem_as_process(command, argv, ran, work)
    _empty(work)
    if problem is None:
        return None
    line = f"mingpt-{command} {shlex.join(argv)}"
    return Problem(f"{command}: {problem.kind}", f"{line[:600]!r}\n{problem.details[-1200:]}")


def _empty(work: Path) -> None:
    """Make the folder anew, and go there. Folders can be too deep for shutil.rmtree."""
    os.chdir("/")
    subprocess.run(["rm", "-rf", str(work)], check=True)
    work.mkdir()
    os.chdir(work)


def _files(folder: Path) -> list[Path]:
    """Return the files in a folder and below; Path.rglob recurses, and fails in deep ones."""
    files, waiting = [], [folder]
    while waiting:
        for path in waiting.pop().iterdir():
            (waiting if path.is_dir() else files).append(path)
    return files


def _listing(folder: Path) -> set[tuple[str, int]]:
    """Return (path, time of the last change) of the models and inputs, and the folder's names."""
    paths = [path for name in ("models", "inputs") for path in (folder / name).rglob("*")]
    there = {(str(path), path.lstat().st_mtime_ns) for path in paths}
    return there | {(path.name, 0) for path in folder.iterdir() if path.name != "work"}


def _files_problem(command: str, ran: Ran, argv: list[str], work: Path) -> Problem | None:
    """Return what is wrong with the files that a command left."""
    paths = _files(work)
    hidden = [str(path) for path in paths if ".part" in path.name]
    if hidden:
        return Problem("a temporary file is left", f"{hidden}")
    for path in paths:
        try:
            if path.suffix == ".json":
                _check_json(path.read_text(encoding="utf-8"))
            elif path.suffix == ".npz":
                with np.load(path) as arrays:
                    dict(arrays)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            return Problem("a file is not whole", f"{path}: {error}")
    said = re.findall(r"^(?:wrote|overwrote) (.*)$", ran.out + ran.err, re.MULTILINE)
    there = {escaped(str(one)) for path in paths for one in (path, path.relative_to(work))}
    lost = [path for path in said if path not in there]
    # These fill a folder, and name some of its files.
    is_folder = command in ("train", "study run")
    if ran.code == 0 and (lost or (len(said) != len(paths) and not is_folder)):
        return Problem("files differ from those it says it wrote", f"{said}\n{sorted(there)}")
    if ran.code == 0 and "--json" in argv and not {*argv} & NO_JSON:
        try:
            for line in ran.out.splitlines():
                _check_json(line)
        except ValueError as error:
            return Problem("stdout is not JSON", f"{error}\n{ran.out}")
    return None


def _check_json(text: str) -> None:
    """Raise ValueError if a text is no JSON; NaN is none."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    json.loads(text, parse_constant=refuse)


def _problem_as_process(command: str, argv: list[str], ran: Ran, work: Path) -> Problem | None:
    """Run the command as a process too; return what is wrong, or differs."""
    name, *words = command.split()
    script = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *words]
    _empty(work)
    limit_time(0, SECONDS_IN_ALL)  # the other process's computing does not count here
    try:
        done = subprocess.run([*script, *argv], capture_output=True)
    except TooLongError:
        return Problem("hang of the process", "")
    again = Ran(
        done.returncode,
        *(one.decode("utf-8", "surrogateescape") for one in (done.stdout, done.stderr)),
    )
    problem = problem_of(command, argv, again) or _files_problem(command, again, argv, work)
    if problem is None and again.code != ran.code:
        problem = Problem(f"exit code {again.code}, in process {ran.code}", again.err)
    return problem


# --------------------------------------------------------------------- the test


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with models and inputs, good and bad."""
    models, inputs = tmp_path / "models", tmp_path / "inputs"
    vocab = {"vocab_size": len(json.loads((BUILTIN_DIRECTORY / "vocab.json").read_bytes()))}
    small = {**vocab, "n_layer": 1, "block_size": 32}
    save_model(make_model(**small, n_head=1, n_embd=1), models / "width1")
    save_model(make_model(**small, n_inner=1), models / "inner1")
    save_model(make_model(**{**small, "block_size": 4}), models / "short")
    shared = {**vocab, "n_head": 4, "n_kv_head": 2, "block_size": 32, "bias": False}
    save_model(make_model(**shared).bfloat16(), models / "wide")
    for name, factor in (("flat", 0.0), ("1e36", 1e36), ("1e38", 1e38), ("nan", float("nan"))):
        save_model(scaled(factor, **small), models / name)
    save_nanogpt(make_model(**small), models / "nano.pt")
    for name in ("vocab.json", "merges.txt"):  # beside nano.pt
        shutil.copy(BUILTIN_DIRECTORY / name, models)
    (models / "empty").mkdir()
    (models / "red\x1b[31m").symlink_to(BUILTIN_DIRECTORY)
    inputs.mkdir()
    for place in (models, inputs):
        os.mkfifo(place / "fifo")
        (place / "loop").symlink_to("loop")
    (inputs / "dangling").symlink_to("nowhere/at/all")
    (inputs / "train.txt").write_text("The keys to the cabinet are here.\n" * 90, "utf-8")
    (inputs / "pairs.tsv").write_text("".join(f"{n}\t{n + 1}\n" for n in range(40)), "utf-8")
    tokenizer = mingpt.load_tokenizer("builtin")
    write_rows(inputs / "ioi.csv", make_pairs("ioi", tokenizer, 5).rows)
    marked = '{"clean": "{S:Mary} saw", "corrupt": "John saw", "target": "her", "foil": "him"}\n'
    (inputs / "marks.jsonl").write_text(marked, "utf-8")
    facts = "prompt,subject,attribute\nThe keys to the cabinet,keys,are\nThe key,key,is\n"
    (inputs / "facts.csv").write_text(facts, "utf-8")
    pairs, _ = read_pairs(tokenizer, inputs / "ioi.csv", roles="roles")
    run_study(mingpt.load("builtin")[0], pairs, out=inputs / "study", progress=False)
    pieces = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
              "max_input_chars_per_word": 99, "vocab": {"[UNK]": 0, "the": 1}}  # fmt: skip
    (inputs / "wordpiece.json").write_text(json.dumps({"version": "1.0", "model": pieces}))
    (inputs / "prompts.txt").write_text("The keys\nThe cabinet \n\nna\xefve\n", encoding="utf-8")
    (inputs / "prompts.jsonl").write_text('"The keys"\n{"prompt": "The \\u00e9"}\n')
    (inputs / "deep.jsonl").write_text("[" * 100_000)
    (inputs / "latin1.txt").write_bytes("caf\xe9".encode("latin-1"))
    (inputs / "blank.txt").write_text("\n  \n")
    (inputs / "long.txt").write_text(LETTERS * 5)
    return tmp_path


def test_no_command_line_ends_badly(folder):
    """Exit 0, 2 or 130; one line of error; whole files, and only those that it says it wrote."""
    check_problems(__file__, run_cases(run, folder, numbers(few=FEW, full=FULL)))
