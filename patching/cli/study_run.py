"""mingpt-study run: a file of pairs -> every pair swept, into a folder that survives a crash."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from click import FLOAT, Argument, Choice, IntRange, Option

from mingpt.files import expanded
from mingpt.sites import SITES
from patching.cli.common import output
from patching.cli.common.command import Command, UsageError, print_line, run_command
from patching.cli.common.models import LoadedModel, import_libraries, load_model
from patching.cli.common.options import files, model_options
from patching.cli.patch_put import file_of_put, noise_options, put_of, put_options, with_pairs
from patching.cli.study_noise import fields_of, noise_of, subject_of
from patching.cli.study_options import (
    check_libraries,
    statistics,
    statistics_options,
    texts_of,
)
from patching.interrupts import tell
from patching.paths.request import MLPS, PathRequest
from patching.study.align import ALIGNMENTS
from patching.study.request import OF_PATHS, StudyRequest, Workers, path_settings
from patching.sweep.engine.memory import parse_size
from patching.sweep.metrics import METRICS
from patching.sweep.put import ABLATIONS
from patching.sweep.request import DIRECTIONS
from patching.text import duration, escaped

if TYPE_CHECKING:
    from patching.study.pairs_file import Pairs
    from patching.study.result import Study

COMMAND = "mingpt-study run"
EXAMPLE = "ioi"  # the family of the study without a file
EXAMPLE_PAIRS = 40
SETTINGS = ("site", "metric", "direction", "align", "by_position", "batch")
NO_ROLES = "none"
ROLES = "roles"  # the column that is read if there is one
DESCRIPTION = """\
Sweep every pair of a file into a folder, and summarize.

The folder gets study.json, a Parquet file for each batch of pairs, the summary (Parquet,
CSV, JSON) and figures. The same command goes on where an earlier one stopped; another
study in the same folder is refused.
"""
EPILOG = f"""\
files of pairs (CSV, TSV, JSONL, JSON):
  Columns clean, corrupt, target, foil; also those of EAP-IG, feature-circuits, AutoCircuit
  and MIB. A word gets a leading space. A cell can be a set of words, as a JSON list. A row
  that cannot be used (prompts of unequal lengths, an answer of several tokens, a prompt
  that is too long, a pair twice) is left out and counted; a malformed row is an error.
  With --corrupt-by gaussian no corrupt prompts are read, and a row needs a subject.

which positions of different pairs are one cell (--align):
  start, end             the position from the first, or the last token
  first-diff, last-diff  ... from the first, or the last token that differs
  roles                  the role of a token, or its place after a role. Roles come from a
                         column, "IO:2 S1:4", or from marks in the prompts,
                         "When {{IO:Mary}} and {{S1:John}} went" (--roles marks; {{{{ is a brace)
  Without --align: start, if all pairs have one length and differ at the same positions;
  else roles, if there are some; else first-diff.

the numbers:
  mean is the mean patched value, low and high its bootstrap interval over pairs, p by
  sign flips of patched minus unpatched. Sign flips assume that pairs are independent and
  that effects are symmetric about 0 where there is none. Several maps are not corrected
  for one another.

examples:
  {COMMAND}
      a small study on the model that ships with the project
  {COMMAND} ioi.csv --model builtin --metric logit_diff,recovery --out runs/ioi
  {COMMAND} ioi.csv --model gpt2 --site resid_post,attn_out,mlp_out --dry-run
      what is in the file, and how long it will take
  {COMMAND} ioi.csv --model gpt2 --site z --direction noise --out runs/heads
  {COMMAND} ioi.csv --model gpt2 --site z --direction noise --put mean --out runs/mean
      each head of the clean runs at its mean over the clean prompts
  {COMMAND} ioi.csv --model gpt2 --paths q:9.9,9.6,10.0 --receiver-positions end --out runs/q
      which heads and MLPs speak to the queries of three heads
  {COMMAND} facts.csv --model gpt2-xl --corrupt-by gaussian --metric log_prob --out runs/facts
      causal tracing of facts: columns prompt, subject and target
  {COMMAND} ioi.csv --model gpt2-xl --workers 8 --ray auto --gpus-per-worker 1

exit codes: 0 done; 2 bad input, with one line on stderr; 130 interrupted: the same
command goes on.
"""
OPTIONS = Command(COMMAND, DESCRIPTION, EPILOG, {
    "pairs": [
        Option(["--columns"], metavar="LIST",
               help="what holds what, where the file has names of its own:"
               " clean=sentence,target=answer"),
        Option(["--roles"], metavar="COLUMN",
               help="a column of roles, marks for marks in the prompts, or none  [default: the"
               " column roles, if there is one]"),
        Option(["--strict"], is_flag=True, help="a row that would be left out is an error"),
        Option(["--dry-run"], is_flag=True,
               help="read the pairs, say how long the study would take, and write nothing"),
    ],
    "model": model_options(seed="seed of the statistics, of --put resample and of noise"),
    "study": [
        Option(["--site"], metavar="LIST", default=",".join(StudyRequest.sites),
               help=f"one or more of {', '.join(SITES)}"),
        Option(["--metric"], metavar="LIST", default=",".join(StudyRequest.metrics),
               help=f"one or more of {', '.join(METRICS)}"),
        Option(["--direction"], type=Choice([*DIRECTIONS]), default=StudyRequest.direction),
        Option(["--align"], type=Choice(ALIGNMENTS), help="see below"),
        Option(["--by-position"], is_flag=True,
               help="at sites with heads: patch one position at a time"),
        Option(["--batch"], type=IntRange(1, 10**6), default=StudyRequest.batch, metavar="N",
               help="pairs that run together and are written as one file"),
    ],
    "intervention": put_options(of_study=True),
    "noise in place of corrupt prompts": noise_options(of_study=True),
    "paths (in place of --site)": [
        Option(["--paths"], metavar="RECEIVERS",
               help="path patching of every head and MLP to logits, q:9.9,9.6 or mlp:8; see"
               " mingpt-paths --help"),
        Option(["--mlps"], type=Choice(MLPS), default=StudyRequest.mlps,
               help="between sender and receiver"),
        Option(["--sender-positions"], type=Choice(["end"]),
               help="senders write at the last token alone  [default: at all]"),
        Option(["--receiver-positions"], type=Choice(["end"]),
               help="receivers read at the last token alone  [default: at all]"),
    ],
    "workers": [
        Option(["--workers"], type=IntRange(1, 10**4), default=1, metavar="N",
               help="processes that run batches, each with a model of its own (needs ray)"),
        Option(["--ray"], metavar="ADDRESS",
               help="the Ray cluster on which they run, auto or host:port"
               "  [default: this machine]"),
        Option(["--gpus-per-worker"], type=FLOAT, default=0.0, metavar="X",
               help="GPUs of each worker; below 1, several share one"),
    ],
    "statistics": statistics_options(),
    "output": [
        Option(["--out"], metavar="DIR", shell_complete=files,
               help="the study's folder  [default: runs/NAME, after the file of pairs]"),
        Option(["--json"], is_flag=True,
               help="print the study and its summary as JSON on stdout, text on stderr"),
        Option(["--quiet"], is_flag=True,
               help="print only the model's line and the paths written; no progress bar"),
    ],
}, Argument(["pairs"], required=False))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(OPTIONS, run, argv)


def run(arguments: SimpleNamespace) -> None:
    """Read the pairs, sweep them, summarize, print and draw."""
    settings = _settings(arguments)
    workers = Workers(arguments.workers, arguments.ray, arguments.gpus_per_worker)
    how = statistics(arguments)
    source = _Source.of(arguments)
    of_put = file_of_put(arguments)
    folder = _folder(arguments)
    check_libraries()
    import_libraries(drawing=True)
    from patching.cli import study_show
    from patching.cli.common import tables

    say = output.make_say(arguments)
    name = "builtin" if source.path is None and arguments.model is None else arguments.model
    loaded = load_model(arguments, name)
    say(tables.model_line(loaded.model, loaded.fallback), always=True)
    pairs = source.read(loaded, say)
    settings["put"] = with_pairs(settings["put"], of_put, loaded, say)
    settings["corrupt_by"] = noise_of(arguments, pairs)
    if arguments.dry_run:
        _estimate(loaded, pairs, settings, say)
        return
    say("")
    progress = False if arguments.quiet else None
    study = _study(loaded, pairs, folder, workers, settings, progress)
    table = study.summary(**how)
    written = study_show.write_summary(study, table)
    study_show.report(study, table, how, say, with_pairs=False)
    figures = folder / study_show.FIGURES
    written |= study_show.draw(study, table, how, figures, study_show.Look())
    output.say_written(say, written)
    if arguments.json:
        found = study_show.as_json(study, table, how)
        print_line(json.dumps({**found, "paths": [str(path) for path in written]}), sys.stdout)


def _study(
    loaded: LoadedModel,
    pairs: Pairs,
    folder: Path,
    workers: Workers,
    settings: dict[str, Any],
    progress: bool | None,
) -> Study:
    """Return the study, finished; after an interrupt say how to go on."""
    from patching.study.run import run_study

    places: dict[str, Any] = {
        "workers": workers.count,
        "ray": workers.ray,
        "gpus_per_worker": workers.gpus,
    }
    try:
        return run_study(
            loaded.model, pairs, out=folder, progress=progress, **places, **settings
        )  # fmt: skip
    except KeyboardInterrupt:
        if (folder / "study.json").exists():
            tell(f"{COMMAND}: the same command goes on with {escaped(str(folder))}")
        raise


def _settings(arguments: SimpleNamespace) -> dict[str, Any]:
    """Return the settings of run_study that decide the numbers.

    Raises:
        StudyError: one that does not exist or is out of its range.
    """
    settings = {name: getattr(arguments, name) for name in SETTINGS}
    if arguments.max_memory is not None:
        settings["max_memory"] = parse_size(arguments.max_memory)
    settings["paths"] = _paths(arguments)
    put = put_of(arguments, of_study=True)
    fields = {{"site": "sites", "metric": "metrics"}.get(k, k): v for k, v in settings.items()}
    fields |= zip(OF_PATHS, path_settings(fields["paths"]), strict=True)
    fields |= fields_of(arguments)
    StudyRequest(**fields, put=put.what, mean_per=put.per, put_seed=put.seed)
    return settings | {"put": put}


def _paths(arguments: SimpleNamespace) -> PathRequest | None:
    """Return what --paths asks for; None without it.

    Raises:
        UsageError: options of paths without it.
    """
    at = arguments.sender_positions, arguments.receiver_positions
    if arguments.paths is not None:
        return PathRequest(
            arguments.paths, arguments.mlps, sender_positions=at[0], receiver_positions=at[1]
        )
    if arguments.mlps != StudyRequest.mlps or any(at):
        raise UsageError("--mlps, --sender-positions and --receiver-positions are for --paths")
    return None


@dataclass(frozen=True)
class _Source:
    """Where the pairs come from: a file, or, without one, the example's family."""

    path: Path | None
    columns: dict[str, str]
    roles: str | None
    strict: bool
    subject: str | None  # a column or a role, of noise
    with_corrupt: bool  # False for noise, and for an ablation by a file without corrupt prompts

    @classmethod
    def of(cls, arguments: SimpleNamespace) -> _Source:
        """Return the source that the options name, after reading the file's rows once.

        Raises:
            UsageError: options for a file without one.
            PairsError: the file cannot be read as rows.
        """
        columns = texts_of(arguments.columns)
        roles = None if arguments.roles == NO_ROLES else arguments.roles
        subject = subject_of(arguments)
        if arguments.pairs is None:
            if columns or roles or arguments.strict:
                raise UsageError("--columns, --roles and --strict are for a file of pairs")
            return cls(None, {}, ROLES, False, subject, subject is None)
        from patching.study.columns import choose_columns, has_corrupt
        from patching.study.rows import read_rows
        from patching.study.subjects import Subjects

        path = expanded(arguments.pairs)
        table = read_rows(path)  # before the model, which takes longer
        is_alone = arguments.put in ABLATIONS and not has_corrupt(table, columns)
        with_corrupt = subject is None and not is_alone
        choose_columns(table, columns or None, with_corrupt=with_corrupt)
        if arguments.roles is None and ROLES in table.columns:
            roles = ROLES
        if subject is not None:
            Subjects.of(table, subject, roles)
        return cls(path, columns, roles, arguments.strict, subject, with_corrupt)

    def read(self, loaded: LoadedModel, say: Callable[..., None]) -> Pairs:
        """Return the pairs, and print what was found in the file."""
        import tempfile

        from patching.study.generators.make import make_pairs, write_rows
        from patching.study.pairs_file import read_pairs

        with tempfile.TemporaryDirectory() as made:
            path = self.path
            if path is None:
                rows = make_pairs(EXAMPLE, loaded.tokenizer, EXAMPLE_PAIRS).rows
                path = write_rows(Path(made) / f"{EXAMPLE}.csv", rows)
                say(
                    f"an example of {EXAMPLE_PAIRS} pairs, as by: mingpt-study make {EXAMPLE}"
                    f" --n {EXAMPLE_PAIRS} --model {escaped(loaded.model.name)}"
                )
            pairs, report = read_pairs(
                loaded.tokenizer,
                path,
                columns=self.columns or None,
                roles=self.roles,
                subject=self.subject,
                with_corrupt=self.with_corrupt,
                most_tokens=loaded.model.config.block_size,
                strict=self.strict,
            )
        say("\n" + "\n".join(report.lines()))
        if self.path is None:  # the file was a temporary one
            pairs = replace(pairs, report=replace(report, path=f"{EXAMPLE} (made)"))
        return pairs


def _folder(arguments: SimpleNamespace) -> Path:
    """Return the study's folder, after checking that it can be written."""
    if arguments.out == "":
        raise UsageError("--out is empty: name a folder, or leave it out")
    stem = output.slug(Path(arguments.pairs).stem) if arguments.pairs else f"{EXAMPLE}-example"
    folder = expanded(arguments.out or f"runs/{stem}")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder}: a file has this name; name a folder")
    output.check_writable(folder / "study.json")
    return folder


def _estimate(
    loaded: LoadedModel, pairs: Pairs, settings: dict[str, Any], say: Callable[..., None]
) -> None:
    """Print how long the study would take."""
    from patching.study.estimate import estimate_seconds

    seconds = estimate_seconds(loaded.model, pairs, **settings)
    say(
        f"about {duration(seconds)} for {len(pairs):,} pairs on {loaded.model.device}, by the time"
        " of one batch; nothing was written",
        always=True,
    )
