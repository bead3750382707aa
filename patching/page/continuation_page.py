"""The page of continuations: samples token by token, with what else could have come; beams."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from mingpt.generation.beams import BeamStep
from patching.continuation.result import Continuation, Continuations, sample_name
from patching.continuation.step_candidates import Candidate
from patching.next_tokens import text_or_id
from patching.page.charts import JSON, number
from patching.page.parts import made, page
from patching.text import counted, escaped, probability, visible

Steps = Mapping[tuple[int, int], Sequence[Sequence[Candidate]]]
Trees = Mapping[int, list[JSON]]

MOST_NAMED = 4  # models and settings in the line below the title
CANDIDATES = ("token", "probability", "drawn with", "")  # columns of a step's alternatives


def continuation_page(
    results: Sequence[Continuations],
    command: str = "",
    *,
    steps: Sequence[Steps] = (),
    trees: Sequence[Trees] = (),
) -> JSON:
    """Return the page of the continuations of one or more models and settings.

    Args:
        command: the command line that repeats the run; "" if there is none.
        steps: for each result (prompt, sample) -> the candidates of each step.
        trees: for each result prompt -> the tree of its beam search; see `search_tree`.
    """
    views = []
    several = len(results) > 1
    for which, result in enumerate(results):
        of = steps[which] if steps else {}
        beams = trees[which] if trees else {}
        head = f"{escaped(result.model_name)}, {result.settings.describe()}: " if several else ""
        for at in range(len(result)):
            views += continuation_views(result, at, of, beams, head)
    first = results[0]
    about = counted(len(first), "prompt")
    named = [f"model {one.model_name}, {one.settings.describe()}" for one in results[:MOST_NAMED]]
    rest = len(results) - MOST_NAMED
    return page(
        "What does the model say next?",
        "; ".join([about, *named, *([f"and {rest} more"] if rest > 0 else [])]),
        views,
        name="continuations",
        notes=first.notes,
        command=command,
        provenance=made(first.model_name, first.checksum, first.created, **first.versions),
    )


def continuation_views(
    result: Continuations, prompt: int, steps: Steps, trees: Trees, head: str = ""
) -> list[JSON]:
    """Return the views of one prompt: its samples, and of a beam search the tree.

    Args:
        prompt: its number.
        steps, trees: as for continuation_page, of this result.
        head: put before the prompt in the heading.
    """
    samples = result[prompt]
    title = f"{head}{escaped(samples[0].prompt)}"
    view = {
        "kind": "samples",
        "title": title,
        "columns": CANDIDATES,
        "samples": [
            _sample(at, one, steps.get((prompt, at), ())) for at, one in enumerate(samples)
        ],
    }
    if result.settings.num_beams is None:
        return [view]
    found = trees.get(prompt)
    nodes = tree_of(samples) if found is None else found
    return [view, {"kind": "beams", "title": f"Beams: {title}", "nodes": nodes}]


def _sample(at: int, one: Continuation, steps: Sequence[Sequence[Candidate]]) -> JSON:
    sample = one.sample
    score = "" if sample.score is None else f", score {sample.score:.3f}"
    return {
        "name": sample_name(at, sample.seed, is_beam=sample.score is not None),
        "about": f"ln p = {sample.log_prob:.3f}{score}; ended by {sample.ended}",
        "tokens": [visible(token) for token in one.tokens],
        "log_probs": [number(value) for value in sample.log_probs],
        "steps": [[_candidate(found) for found in step] for step in steps],
    }


def _candidate(one: Candidate) -> list[str]:
    what = "chosen" if one.is_chosen else "" if one.cut is None else f"cut by {one.cut}"
    return [visible(one.token), probability(one.probability), probability(one.drawn_with), what]


def tree_of(samples: Sequence[Continuation]) -> list[JSON]:
    """Return continuations as a tree: tokens that several begin with occur once.

    Returns:
        The nodes of the first tokens: {"token", "p": its probability, "is_kept": True, "notes":
        of the beams that end there, "next": the nodes after it}.

    Example:
        beams "a b" and "a c": one node a, and after it the nodes b and c.
    """
    roots: list[JSON] = []
    for at, one in enumerate(samples):
        nodes = roots
        for step, (token, log_prob) in enumerate(
            zip(one.tokens, one.sample.log_probs, strict=True)
        ):
            text = visible(token)
            node = next((known for known in nodes if known["token"] == text), None)
            if node is None:
                node = _node(text, log_prob)
                nodes.append(node)
            if step == len(one.tokens) - 1:
                score = one.sample.score
                said = "" if score is None else f": score {score:.3f}"
                node["notes"].append(f"beam {at + 1}{said}, ln p {one.sample.log_prob:.3f}")
            nodes = node["next"]
    return roots


def search_tree(steps: Sequence[BeamStep], text_of: Callable[[int], str]) -> list[JSON]:
    """Return all candidates that a beam search considered, as a tree.

    Args:
        steps: of one search, from the first on.
        text_of: returns a token's text.

    Returns:
        As tree_of; "is_kept" is False for a candidate that was dropped.
    """
    roots: list[JSON] = []
    nodes = {0: roots}  # a beam of the step -> the nodes after its last token
    for step in steps:
        kept: dict[int, list[JSON]] = {}
        for one in step.candidates:
            node = _node(visible(text_or_id(text_of, one.token)), one.log_prob)
            nodes[one.beam].append(node)
            if one.ended is not None:
                node["notes"].append(f"ends: score {one.score:.3f}")
            elif one.kept_as is None:
                node["is_kept"] = False
            if one.kept_as is not None:
                kept[one.kept_as] = node["next"]
        nodes = kept
    return roots


def _node(token: str, log_prob: float) -> JSON:
    return {"token": token, "p": number(math.exp(log_prob)), "is_kept": True, "notes": [],
            "next": []}  # fmt: skip
