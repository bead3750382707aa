"""Make the parts that all pages have: prompts, tables of next tokens, how it was made.

A page is a dictionary of JSON's types: title, subtitle, notes, prompts, views, command and
provenance. A view is a part of the page with a heading: {"kind": "charts" | "attention" |
"samples" | "beams" | "tables" | "pairs" | "next", "title": ..., ...}. Texts of prompts and tokens
are made printable here; escape.py makes them harmless in HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from patching.next_tokens import TokenScore
from patching.page.charts import JSON, LONGEST_LABEL
from patching.text import escaped, probability, shortened, visible

SCORES = ("rank", "token", "logit", "probability")  # columns of a table of next tokens


def page(
    title: str,
    subtitle: str,
    views: Sequence[JSON],
    *,
    name: str,
    prompts: Sequence[JSON] = (),
    notes: Sequence[str] = (),
    command: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> JSON:
    """Return a page.

    Args:
        name: of the file in which the reader saves the numbers, without its suffix.
        prompts: see `prompt`.
        command: the command line that repeats the run; "" if there is none.
        provenance: facts about the run.
    """
    return {
        "title": escaped(title),
        "subtitle": escaped(subtitle),
        "notes": [escaped(note) for note in notes],
        "prompts": list(prompts),
        "views": list(views),
        "name": name,
        "command": escaped(command),
        "provenance": [[key, escaped(str(value))] for key, value in (provenance or {}).items()],
    }


def prompt(
    name: str, tokens: Sequence[str], *, marked: Sequence[int] = (), answers: Sequence[str] = ()
) -> JSON:
    """Return a prompt as its tokens.

    Args:
        marked: the positions of tokens that are marked, such as those that differ.
        answers: the next words that are asked for.
    """
    return {
        "name": name,
        "tokens": [visible(token) for token in tokens],
        "marked": list(marked),
        "answers": [visible(token) for token in answers],
    }


def token_labels(*prompts: Sequence[str]) -> list[str]:
    """Return a label for each position: the token, or tokens where prompts differ, and its place.

    Example:
        token_labels([" Ann", " ran"], [" Bob", " ran"])  # ["␣Ann / ␣Bob (0)", "␣ran (1)"]
    """
    labels = []
    for position, tokens in enumerate(zip(*prompts, strict=True)):
        text = " / ".join(dict.fromkeys(map(visible, tokens)))
        labels.append(f"{shortened(text, LONGEST_LABEL)} ({position})")
    return labels


def charts(title: str, of: Sequence[JSON], *, choose: str = "", caption: str = "") -> JSON:
    """Return a view of charts, one shown at a time.

    Args:
        choose: what the reader chooses among them: "metric", "head".
        caption: a sentence below the heading.
    """
    return {"kind": "charts", "title": title, "charts": list(of), "choose": choose,
            "caption": caption}  # fmt: skip


def tables(title: str, of: Sequence[JSON]) -> JSON:
    """Return a view of tables side by side."""
    return {"kind": "tables", "title": title, "tables": list(of)}


def score_table(caption: str, scores: Sequence[TokenScore]) -> JSON:
    """Return a table of next tokens."""
    rows = [
        (str(one.rank), visible(one.token), f"{one.logit:.4f}", probability(one.probability))
        for one in scores
    ]
    return {"caption": caption, "columns": SCORES, "rows": rows}


def made(model_name: str, checksum: str | None, created: str, **more: Any) -> dict[str, Any]:
    """Return the facts about a run that every result has."""
    return {
        "model": model_name,
        "weights (SHA-256)": checksum or "unknown",
        "created": created,
        **more,
    }
