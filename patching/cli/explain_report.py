"""Write an explanation as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from patching.cli.common.tables import next_token_table, table, token_cell
from patching.explanation.request import METHODS
from patching.text import visible

if TYPE_CHECKING:
    import numpy as np

    from patching.explanation.ablation import Ablation
    from patching.explanation.result import Explanation


TOP_HEADS = 5  # of each score


def report(found: Explanation) -> Iterator[str]:
    """Yield the blocks of text that describe an explanation."""
    yield next_token_table(run=found.next)
    for method in ("alti-logit", "logit"):
        if method in found.methods:
            heading = f"{METHODS[method]} (the last row includes the embeddings):"
            yield f"{heading}\n{attribution_table(found, method)}"
    if found.head_scores is not None:
        yield f"heads with the highest scores:\n{head_table(found.head_scores)}"
    yield f"{choice(found)}\n{completeness(found)}\nexplained in {found.seconds:.2f} s"


def ablation(found: Ablation, rows: int) -> str:
    """Return what a head added, and the parts that change most when it is switched off."""
    name = "{}.{}".format(*found.head)
    token = [visible(score.token) for score in (*found.before.next.target, *found.before.next.foil)]
    before, after = (float(one.logits[0] - one.logits[1]) for one in (found.before, found.after))
    opposite = found.made_up * found.direct < 0
    said = "makes up for a part of it" if opposite else "changes the same way"
    if opposite and abs(found.made_up) > abs(found.direct):
        said = "makes up for more than it"
    parts = found.parts()
    later = sum(part.change for part in parts)
    lines = [
        f"head {name} switched off at every position (z = 0):",
        f"logit({token[0]}) - logit({token[1]}) = {after:z.4f}, before {before:z.4f}:"
        f" a change of {found.total:z.4f}",
        f"  the head's own term, which is gone: {found.direct:z.4f}; the rest:"
        f" {found.made_up:z.4f}, which {said}",
        f"  of the rest: later heads and MLPs {later:z.4f}, the other scale of the final layer norm"
        f" {found.by_scale:z.4f}",
        f"the parts that change most (of {len(parts)} that can), in logits; before and after at"
        " each run's scale,",
        "the change of what a part writes at the scale of the run with all heads:",
    ]
    cells = [("part", "before", "after", "change")]
    cells += [
        (part.name, f"{part.before:z.4f}", f"{part.after:z.4f}", f"{part.change:z.4f}")
        for part in parts[:rows]
    ]
    return "\n".join(lines) + "\n" + table(cells, right=(1, 2, 3))


def attribution_table(found: Explanation, method: str) -> str:
    """Return a table of what each token adds to the logit difference, and of its plotted share."""
    bars = found.bars(method)
    total = abs(bars).sum() or 1
    rows = [("pos", "token", "logits", "share")]
    rows += [
        (str(position), token_cell(found.text_of(number)), f"{bar:.4f}", f"{bar / total:.4f}")
        for position, (number, bar) in enumerate(zip(found.ids, bars, strict=True))
    ]
    return table(rows, right=(0, 2, 3))


def head_table(scores: np.ndarray) -> str:
    """Return the highest heads of each score side by side, as layer.head.

    Args:
        scores: (3, L, nh), in the order of SCORES.
    """
    from patching.head_scores import SCORES  # not at the top: the module imports PyTorch

    heads = []
    for one in scores:
        order = one.ravel().argsort()[::-1][:TOP_HEADS]
        heads.append([(*divmod(int(at), one.shape[1]), float(one.ravel()[at])) for at in order])
    rows = [tuple(name.replace("_", " ") for name in SCORES)]
    rows += [
        tuple(f"{layer}.{head}  {score:.3f}" for layer, head, score in row)
        for row in zip(*heads, strict=True)
    ]
    return table(rows, right=())


def choice(found: Explanation) -> str:
    """Return a line with both logits, their difference and its parts."""
    scores = (*found.next.target, *found.next.foil)
    names = " - ".join(f"logit({visible(score.token)})" for score in scores)
    both = " and ".join(f"{score.logit:z.4f}" for score in scores)
    parts = ", ".join(f"{name} {value:z.4f}" for name, value in found.parts().items())
    difference = found.logits[0] - found.logits[1]
    return f"{names} = {difference:z.4f} ({both}), of which {parts}"


def completeness(found: Explanation) -> str:
    """Return a line with the error of the terms' sum, and the largest error allowed."""
    error, allowed = found.worst()
    limit = f"allowed: {allowed:.2g}" if math.isfinite(allowed) else "not checked in half precision"
    return f"completeness: the terms differ from the logits by {error:.2g} ({limit})"
