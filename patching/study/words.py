"""What a study's numbers are called, and the unpatched values that they are compared with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from patching.study.request import RECOVERY
from patching.sweep.put import ABLATIONS, FROM_PROMPTS
from patching.sweep.request import DIRECTIONS
from patching.text import counted, escaped

if TYPE_CHECKING:
    import pandas

    from patching.study.result import Study

ALPHA = 0.05  # cells with a smaller corrected p are said to survive
# What a metric is in every pair.
METRIC_WORDS = {
    "logit_diff": "logit(foil) - logit(target)",
    "target_logit": "logit(target), patched minus clean",
    "log_prob": "ln p(target)",
    "prob_diff": "p(foil) - p(target)",
    "kl": "KL(clean || patched), nats",
    "recovery": "recovery of the logit difference: 0 corrupt, 1 clean",
}


def unpatched_means(study: Study, metric: str, only_correct: str | None) -> tuple[float, float]:
    """Return a metric's means over pairs in the clean and the corrupt run; of recovery 1 and 0.

    Args:
        only_correct: as Study.chosen.
    """
    if metric == RECOVERY:
        return 1.0, 0.0
    pairs = study.chosen(only_correct)
    clean, corrupt = (
        float(study.unpatched(run)[metric][pairs].mean()) for run in ("clean", "corrupt")
    )
    return clean, corrupt


def experiment_words(study: Study, what: str) -> str:
    """Return what was done, such as "activation patching of z, clean into corrupt".

    Of means and resampling it names the prompts: "ablation of z, clean run, by the mean of 40
    clean prompts of ioi.csv at each position".

    Args:
        what: the site, and what else is to be said of it.
    """
    request = study.request
    base, source = run_names(study)
    if request.paths is not None:
        return f"{_paths(study)}, {source} into {base}"
    if request.put not in ABLATIONS:
        return f"activation patching of {what}, {source} into {base}"
    # Of a mean it is said once: titles begin with "Mean of".
    done = "ablation" if request.put == "mean" else ABLATIONS[request.put].lower()
    return f"{done} of {what}, {base} run" + (f", by {by}" if (by := put_words(study)) else "")


def kept_words(study: Study, what: str) -> tuple[str, ...]:
    """Return the lines that a title of a caller's own must not remove: ablation, paths, noise."""
    request = study.request
    is_plain = request.put not in ABLATIONS and request.paths is None
    done = "" if is_plain else experiment_words(study, what)
    return tuple(filter(None, [done, noise_words(study)]))


def put_words(study: Study) -> str:
    """Return which prompts give what a study puts in; "" for what is not taken from prompts.

    Example:
        "another of 40 clean prompts of ioi.csv, seed 5"
    """
    request, said = study.request, study.fields.get("put_from", {})
    if request.put not in FROM_PROMPTS:
        return ""
    file = said.get("file")
    count = said.get("prompts")  # older studies have none
    prompts = "the clean prompts" if count is None else counted(count, "clean prompt")
    prompts += f" of {escaped(Path(file).name)}" if file is not None else ""
    if request.put == "resample":
        return f"another of {prompts}, seed {request.put_seed}"
    where = {"position": "at each position", "role": "of each role", "all": "over all positions"}[
        request.mean_per
    ]
    return f"the mean of {prompts} {where}"


def run_names(study: Study) -> tuple[str, str]:
    """Return the names of the base and the source run; a run with noise is "noised"."""
    names = {"clean": "clean", "corrupt": corrupt_name(study)}
    base, source = DIRECTIONS[study.request.direction]
    return names[base], names[source]


def corrupt_name(study: Study) -> str:
    """Return "noised" for a study with noise, else "corrupt"."""
    return "corrupt" if study.request.corrupt_by is None else "noised"


def noise_words(study: Study) -> str:
    """Return what the noise of a study is; "" for a study without noise.

    Example:
        "noised: Gaussian noise on each subject's token embeddings, standard deviation 0.2927 (3 x
        that of the subjects' embeddings), mean over 10 draws, seed 0"
    """
    request = study.request
    if request.corrupt_by is None:
        return ""
    how = ""
    if request.noise_std.endswith("s"):
        how = f" ({request.noise_std[:-1]} x that of the subjects' embeddings)"
    return (
        "noised: Gaussian noise on each subject's token embeddings, standard deviation"
        f" {study.noise_std:.4g}{how}, mean over {counted(request.noise_draws, 'draw')},"
        f" seed {request.noise_seed}"
    )


def how_words(study: Study) -> str:
    """Return a study's direction and what it puts in, such as "noise, zero ablation"."""
    request = study.request
    if request.paths is not None:
        return f"{request.direction}, {_paths(study)}"
    if request.corrupt_by is not None:
        return f"{request.direction}, noise of sd {study.noise_std:.4g} on subjects"
    put = f", {ABLATIONS[request.put].lower()}" if request.put in ABLATIONS else ""
    return f"{request.direction}{put}"


def _paths(study: Study) -> str:
    """Return "path patching of senders to q:9.9, MLPs recomputed", with positions if chosen."""
    request = study.request
    words = f"path patching of senders to {request.paths}, MLPs {request.mlps}"
    for name, at in (("sent", request.sender_positions), ("received", request.receiver_positions)):
        words += f", {name} at the last position" if at else ""
    return words


def unpatched_words(study: Study, metric: str, only_correct: str | None, form: str) -> str:
    """Return a metric's means of the unpatched runs, such as "clean -3.2100, noised 2.0400".

    Args:
        only_correct: as Study.chosen.
        form: the format of a number.
    """
    clean, corrupt = unpatched_means(study, metric, only_correct)
    said = f"clean {clean:{form}}"
    return said if math.isnan(corrupt) else f"{said}, {corrupt_name(study)} {corrupt:{form}}"


def pairing_words(found: pandas.DataFrame) -> str:
    """Return which pairs of two studies were compared, and how.

    Args:
        found: what compare_studies returned.
    """
    n, other, paired = (found[name].iloc[0] for name in ("n", "n_other", "paired"))
    if paired:
        return f"{counted(int(n), 'pair')} that A and B share, compared pair by pair"
    return (
        f"{counted(int(n), 'pair')} in A and {int(other):,} in B, each resampled by itself:"
        " intervals and no p"
    )
