"""The options that say what is put in, with its file of pairs, and those of noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from click import Choice, IntRange, Option

from mingpt.files import expanded
from patching.cli.common.command import UsageError
from patching.cli.common.options import files
from patching.sweep.gaussian import DRAWS, MOST_DRAWS, STD, Gaussian, gaussian
from patching.sweep.put import FROM_PROMPTS, MEANS_PER, PUTS, Put
from patching.text import escaped

if TYPE_CHECKING:
    from patching.cli.common.models import LoadedModel


OF_PUT = ("mean_over", "mean_per", "resample_from")  # what the saved command keeps of them
PUT_HELP = """\
what is put in (--put):
  recorded           the other run's activation: activation patching
  zero               zeros. Without which vector is the answer lost? They are far from
                     what a model meets, so the run can fail for that alone
  mean               the mean over the clean prompts of --mean-over: what these share
                     stays, what differs between them is removed
  resample           the activation of one other clean prompt of --resample-from: what
                     does the run lose that another prompt does not bring?
  The last three ablate the run that is patched, and need no --corrupt: without it
  that is the clean run, direction noise, and recovery is refused."""


def put_options(*, of_study: bool = False) -> list[Option]:
    """Return the options that say what is put in.

    Args:
        of_study: the pairs of the study are the default of the files.
    """
    own = "  [default: the study's own pairs]" if of_study else ""
    return [
        Option(["--put"], type=Choice(PUTS), default=Put.what,
               help="what is put in. recorded: the other run's activation; the others ablate the"
               " run that is patched (the clean one with --direction noise). zero; mean: over the"
               " prompts of --mean-over; resample: of a prompt of --resample-from"),
        Option(["--mean-over"], metavar="FILE", shell_complete=files,
               help=f"--put mean: the file of pairs whose clean prompts are averaged{own}"),
        Option(["--mean-per"], type=Choice(MEANS_PER), default=Put.per,
               help="--put mean. position: at each position, over prompts of equal length; role: of"
               " each role of the tokens of a study's own pairs; all: one mean over all positions"),
        Option(["--resample-from"], metavar="FILE", shell_complete=files,
               help="--put resample: the file of pairs, one of whose clean prompts of equal length"
               f" is chosen by --seed{own}"),
    ]  # fmt: skip


def noise_options(*, of_study: bool = False) -> list[Option]:
    """Return the options of noise in place of a corrupt prompt.

    Args:
        of_study: the subject is a column or a role; --draws are those of the statistics.
    """
    subject = (
        "whole words of the clean prompt; where it names them first"
        if not of_study
        else "the column that holds each row's subject, words of its prompt, or one of the roles"
        "  [default: the column subject]"
    )
    draws = "--noise-draws" if of_study else "--draws"
    place = "corrupt prompts" if of_study else "--corrupt"
    return [
        Option(["--corrupt-by"], type=Choice(["gaussian"]),
               help=f"in place of {place}: noise on the token embeddings of --subject, as causal"
               " tracing has it (Meng et al. 2022). Noise can mislead: it puts the model off its"
               " distribution, and finds other places than another prompt does (Zhang & Nanda 2023,"
               " arXiv 2309.16042)"),
        Option(["--subject"], metavar="COLUMN" if of_study else "TEXT", help=subject),
        Option(["--noise-std"], metavar="X", default=STD,
               help="standard deviation: 3s is 3 x that of the subject's embeddings, 0.4 is 0.4"),
        Option([draws], type=IntRange(1, MOST_DRAWS), default=DRAWS, metavar="N",
               help="draws of noise by --seed, the same for every cell; values are means over them,"
               " recovery a ratio of means"),
    ]  # fmt: skip


def check_noise(arguments: SimpleNamespace) -> Gaussian | None:
    """Return noise on position 0, for the checks that need no prompt; None if none is asked for.

    Raises:
        UsageError: the subject is missing, or an option is given that is of no use.
        SweepError: no such standard deviation.
    """
    if arguments.corrupt_by is None:
        defaults = {"subject": None, "noise_std": STD, "draws": DRAWS}
        for name, default in defaults.items():
            if getattr(arguments, name) != default:
                raise UsageError(f"--{name.replace('_', '-')} is for --corrupt-by gaussian")
        return None
    if arguments.corrupt is not None:
        raise UsageError("--corrupt-by takes the place of --corrupt: give one of the two")
    if not arguments.subject:
        raise UsageError("--corrupt-by gaussian needs --subject, words of the clean prompt")
    return Gaussian((0,), arguments.noise_std)


def noise_of(arguments: SimpleNamespace, loaded: LoadedModel, clean: str) -> Gaussian | None:
    """Return the noise that takes the place of a corrupt prompt, if it is asked for."""
    if arguments.corrupt_by is None:
        return None
    std, draws, seed = arguments.noise_std, arguments.draws, arguments.seed
    return gaussian(loaded.tokenizer, clean, arguments.subject, std=std, draws=draws, seed=seed)


def put_of(arguments: SimpleNamespace, *, of_study: bool = False) -> Put:
    """Return what --put names, without the pairs of its file.

    Args:
        of_study: a file can be left out, and the seed counts only where it chooses.

    Raises:
        UsageError: its file is missing, or an option is given that it does not read.
    """
    for what, (option, name) in FROM_PROMPTS.items():
        path = getattr(arguments, option)
        if path is None and arguments.put == what and not of_study:
            raise UsageError(f"--put {what} needs {name} FILE, a file of pairs")
        if path is not None and arguments.put != what:
            raise UsageError(f"{name} is for --put {what}")
    if arguments.mean_per != Put.per and arguments.put != "mean":
        raise UsageError("--mean-per is for --put mean")
    seed = arguments.seed if arguments.put == "resample" or not of_study else Put.seed
    return Put(arguments.put, per=arguments.mean_per, seed=seed)


def file_of_put(arguments: SimpleNamespace) -> Path | None:
    """Return the file that what is put in is taken from, after reading its rows once.

    Raises:
        PairsError: the file cannot be read as rows of pairs.
    """
    if arguments.put not in FROM_PROMPTS:
        return None
    from patching.study.columns import choose_columns
    from patching.study.rows import read_rows

    given = getattr(arguments, FROM_PROMPTS[arguments.put][0])
    if given is None:  # a study's own
        return None
    path = expanded(given)
    choose_columns(read_rows(path), None)  # before the model, which takes longer
    return path


def with_pairs(put: Put, path: Path | None, loaded: LoadedModel, say: Callable[..., None]) -> Put:
    """Return what is put in with the pairs of its file, after printing what was found there."""
    if path is None:
        return put
    from patching.study.pairs_file import read_pairs

    limit = loaded.model.config.block_size
    pairs, report = read_pairs(loaded.tokenizer, path, most_tokens=limit)
    lines = [f"what is put in is from {escaped(str(path))}: ", *report.lines()]
    say("\n" + "".join(lines[:2]) + "".join(f"\n{line}" for line in lines[2:]))
    return replace(put, pairs=tuple(pairs), file=str(path))
