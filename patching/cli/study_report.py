"""Write a study as text for a terminal: what was run, what was left out, the largest effects."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from patching.cli.common.tables import table
from patching.errors import ResultError, StudyError
from patching.study.pairs_report import PairsReport
from patching.study.request import RECOVERY
from patching.study.statistics import split_half
from patching.study.summary import AXES
from patching.study.words import (
    ALPHA,
    METRIC_WORDS,
    pairing_words,
    unpatched_means,
    unpatched_words,
)
from patching.text import counted, escaped, probability

if TYPE_CHECKING:
    import pandas

    from patching.study.result import Study

TEMPLATE = "template"  # a column of the file of pairs
_NAMES = {"top": "likeliest of all tokens", "preferred": "likelier than the other answer"}


def facts(study: Study, *, with_pairs: bool) -> str:
    """Return what was run, what was left out and why, and the unpatched runs' accuracy.

    Args:
        with_pairs: say what was found in the file of pairs.
    """
    lines = [repr(study)]
    report = study.fields["pairs_report"]
    if report is not None and with_pairs:
        read = PairsReport.from_dict(report)
        lines.append(f"pairs from {escaped(read.path)}:")
        lines += [f"  {line}" for line in read.lines()]
    if not study.is_complete:
        missing = len(study) - sum(len(study.batches[number]) for number in study.finished)
        lines.append(
            f"{counted(missing, 'pair')} not run yet: mingpt-study run goes on with the folder"
        )
    for run, shares in study.accuracy().items():
        answer = "target" if run == "clean" else "foil"
        said = [f"{shares[name]:.1%} {_NAMES[name]}" for name in shares if _known(shares[name])]
        if said:
            lines.append(f"{run} run, its answer (the {answer}) is: {', '.join(said)}")
    return "\n".join(lines)


def maps(
    study: Study, summary: pandas.DataFrame, how: Mapping[str, Any], rows: int
) -> Iterator[str]:
    """Yield a table of each map's largest effects.

    Args:
        summary: Study.summary(**how).
        rows: of each table.
    """
    for (site, metric), found in summary.groupby(["site", "metric"], sort=False):
        yield _largest(study, str(site), str(metric), found, how, rows)


def notes(study: Study, summary: pandas.DataFrame, how: Mapping[str, Any]) -> str:
    """Return what a reader of the tables should know."""
    count = len(summary.groupby(["site", "metric"]))
    lines = []
    n = int(summary["n"].min())
    if 2 / 2**n >= ALPHA:
        lines.append(f"of {n} pairs the smallest p is {2 / 2**n:g}: no cell can survive")
    if how["correction"] == "bh":
        lines.append("p corrected by Benjamini and Hochberg: for screening, not a proof of a cell")
    if count > 1:
        lines.append(f"the {count} maps are not corrected for one another")
    lines.append(
        "sign flips assume that pairs are independent, with effects symmetric about 0 where there"
        " is none; these pairs have " + _shared(study)
    )
    return "\n".join(f"note: {line}" for line in lines)


def _largest(
    study: Study,
    site: str,
    metric: str,
    found: pandas.DataFrame,
    how: Mapping[str, Any],
    rows: int,
) -> str:
    """Return one map's headline and its cells with the largest effects."""
    clean, corrupt = unpatched_means(study, metric, how["only_correct"])
    base = corrupt if study.request.direction == "denoise" else clean
    tested = found[found["p_corrected"].notna()].assign(effect=found["mean"] - base)
    survivors = int((tested["p_corrected"] < ALPHA).sum())
    head = (
        f"{site}, {METRIC_WORDS[metric]}: {counted(int(found['n'].iloc[0]), 'pair')};"
        f" {unpatched_words(study, metric, how['only_correct'], 'z.4f')}; {survivors} of"
        f" {counted(len(tested), 'cell')} that can change survive {how['correction']}"
        f" (p < {ALPHA:g}){_stability(study, site, metric, how)}"
    )
    # Without an effect column where it would repeat the mean.
    numbers = ["effect"] * (base != 0) + ["mean", "low", "high"]
    return f"{head}\n{_ranked(tested, 'effect', numbers, how['confidence'], rows)}"


def difference(
    site: str, metric: str, found: pandas.DataFrame, confidence: float, rows: int
) -> str:
    """Return a table of the cells in which two studies' effects differ most.

    Args:
        found: what compare_studies returned.
    """
    tested = found[found["p_corrected"].notna()]
    said = pairing_words(found)
    if len(tested):
        said += (
            f"; {int((tested['p_corrected'] < ALPHA).sum())} of {counted(len(tested), 'cell')}"
            f" differ (max-t, p < {ALPHA:g})"
        )
    ranked = _ranked(
        tested if len(tested) else found,
        "difference",
        ["difference", "low", "high"],
        confidence,
        rows,
    )
    return f"{site}, {METRIC_WORDS[metric]}, effect in A minus effect in B: {said}\n{ranked}"


def _shared(study: Study) -> str:
    """Return how many templates and answers the pairs share, and how often the commonest occurs.

    Example:
        "12 templates (the commonest in 23 pairs) and 68 target words (the commonest in 2 pairs)"
    """
    counts = {"target word": Counter(" ".join(words) for words in study.column("target_tokens"))}
    with contextlib.suppress(ResultError):  # pairs that came from no file
        further = [json.loads(row) for row in study.column("further")]
        if further and TEMPLATE in further[0]:
            counts = {"template": Counter(str(row.get(TEMPLATE)) for row in further), **counts}
    return " and ".join(
        f"{counted(len(found), what)} (the commonest in"
        f" {counted(found.most_common(1)[0][1], 'pair')})"
        for what, found in counts.items()
    )


def _stability(study: Study, site: str, metric: str, how: Mapping[str, Any]) -> str:
    """Return how well the mean maps of two random halves of the pairs agree; "" of few pairs."""
    read = "logit_diff" if metric == RECOVERY else metric
    cells = study.cells(site, read, only_correct=how["only_correct"])
    try:
        found = split_half(cells.effects, seed=how["seed"])
    except StudyError:  # fewer than 4 pairs, or than 2 cells that can change
        return ""
    known = found[~np.isnan(found)]
    if not known.size:
        return ""
    least = np.percentile(known, 5)
    return f"; halves of the pairs agree by r = {known.mean():.3f} ({least:.3f} in the worst 5 %)"


def _ranked(
    found: pandas.DataFrame, size: str, numbers: Sequence[str], confidence: float, rows: int
) -> str:
    """Return the cells whose column `size` is largest, with their place and numbers."""
    axes = [name for name in AXES if name in found and found[name].notna().any()]
    if "head" in axes:  # a head's name says its layer
        names = [f"{a}.{b}" for a, b in zip(found["layer"], found["head"], strict=True)]
        found, axes = found.assign(head=names), axes[1:]
    order = found[size].abs().sort_values(ascending=False, kind="stable").index[:rows]
    heads = {"low": f"{confidence:.0%} from", "high": "to"}
    cells = [(*axes, *(heads.get(name, name) for name in numbers), "p corrected")]
    for _, row in found.loc[order].iterrows():
        p = float(row["p_corrected"])
        cells.append(
            (
                *(escaped(str(row[name])) for name in axes),
                *(f"{row[name]:z.4f}" for name in numbers),
                "" if math.isnan(p) else probability(p),
            )
        )
    return table(cells, right=range(len(cells[0])))


def _known(value: float) -> bool:
    return not math.isnan(value)
