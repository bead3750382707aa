"""Results as text for a terminal: aligned tables, nothing unprintable in them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from patching.alignment import alignment
from patching.text import SPACE, escaped, shortened, visible

if TYPE_CHECKING:
    from mingpt.model import GPT
    from patching.alignment import Row
    from patching.explanation.run import Explanation
    from patching.next_tokens import NextTokens, TokenScore
    from patching.prompts import PromptPair

_TOKEN_COLUMNS = 24  # of a token in a table; longer ones are cut
_MARKS = ("Mn", "Me")  # Unicode's categories of what is drawn onto the character before it
_CARRIER = "\u25cc"  # the dotted circle, for a mark with nothing before it


def model_line(model: GPT, fallback: str | None) -> str:
    """Which model runs, its shape, and why it is not the one that was hoped for."""
    config, weight = model.config, model.transformer.wte.weight
    count = sum(parameter.numel() for parameter in model.parameters())
    shared = f" ({config.kv_heads} of keys and values)" if config.kv_heads < config.n_head else ""
    line = (
        f"model: {model.name} ({config.n_layer} layers, {config.n_head} heads{shared},"
        f" width {config.n_embd}, {count / 1e6:.1f}M parameters;"
        f" {str(weight.dtype).removeprefix('torch.')} on {weight.device})"
    )
    return line if fallback is None else f"{line}, in place of gpt2: {fallback}"


def pair_table(pair: PromptPair) -> str:
    """Both tokenizations side by side; a star marks the positions that differ."""
    return alignment_table(
        alignment(pair.clean_ids, pair.corrupt_ids),
        ids=(pair.clean_ids, pair.corrupt_ids),
        tokens=(pair.clean_tokens, pair.corrupt_tokens),
        names=("clean", "corrupt"),
    )


def alignment_table(
    rows: Sequence[Row],
    ids: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[str]],
    names: Sequence[str],
) -> str:
    """Any two prompts' tokens, paired as tokenview.alignment does; of each its positions."""

    def side(prompt: int, at: int | None) -> tuple[str, ...]:
        if at is None:
            return ("",) * 3
        return (str(at), str(ids[prompt][at]), token_cell(tokens[prompt][at]))

    cells = [("", "pos", "id", names[0], "pos", "id", names[1])]
    for row in rows:
        cells.append(("*" if row.differs else "", *side(0, row.a), *side(1, row.b)))
    if all(row.a == row.b for row in rows):  # one column of positions is enough
        return table([(*row[:4], *row[5:]) for row in cells], right=(1, 2, 4))
    return table(cells, right=(1, 2, 4, 5))


def prompt_table(ids: Sequence[int], tokens: Sequence[str]) -> str:
    """One prompt's tokens."""
    rows = [("pos", "id", "token")]
    rows += [
        (str(position), str(number), token_cell(token))
        for position, (number, token) in enumerate(zip(ids, tokens, strict=True))
    ]
    return table(rows, right=(0, 1))


def attribution_table(ids: Sequence[int], found: Explanation, method: str) -> str:
    """What each token adds to target's logit minus foil's, and its share of the plot's bars."""
    bars = found.bars(method)
    total = abs(bars).sum() or 1
    rows = [("pos", "token", "logits", "share")]
    rows += [
        (str(position), token_cell(found.text_of(number)), f"{bar:.4f}", f"{bar / total:.4f}")
        for position, (number, bar) in enumerate(zip(ids, bars, strict=True))
    ]
    return table(rows, right=(0, 2, 3))


def next_token_table(**runs: NextTokens) -> str:
    """The likeliest next tokens after each run, side by side, and then target and foil."""
    answers = {name: [getattr(run, name) for run in runs.values()] for name in ("target", "foil")}
    return scores_table({name: run.top for name, run in runs.items()}, answers)


def scores_table(
    runs: Mapping[str, Sequence[TokenScore]], answers: Mapping[str, Sequence[TokenScore]]
) -> str:
    """Candidates after each run by its name, side by side; then rows with a name of their own.

    Args:
        answers: name of the row -> of each run the candidate.
    """
    head = ("rank", "id", "token", "logit", "prob")

    def row(name: str, parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
        joined = [cell for part in parts for cell in (" ", *part)]
        return (name, *joined[1:])  # a blank column between runs

    rows = [] if len(runs) == 1 else [row("", ((escaped(name), "", "", "", "") for name in runs))]
    rows.append(row("", (head for _ in runs)))
    rows += [row("", map(_score, scores)) for scores in zip_longest(*runs.values())]
    rows += [row(name, map(_score, scores)) for name, scores in answers.items()]
    right = [6 * run + column for run in range(len(runs)) for column in (4, 5)]
    if not answers:  # no column for the names that there are not
        rows, right = [cells[1:] for cells in rows], [column - 1 for column in right]
    return table(rows, right)


def _score(score: TokenScore | None) -> tuple[str, ...]:
    if score is None:
        return ("",) * 5
    return (
        str(score.rank),
        str(score.id),
        token_cell(score.token),
        f"{score.logit:.4f}",
        f"{score.probability:.4f}",
    )


def token_cell(token: str) -> str:
    """A token or a piece as a table has it: nothing in it invisible, cut if it is long."""
    text = visible(token).replace(" ", SPACE)  # of a run of white space, not only the first ones
    if unicodedata.category(text[:1] or " ") in _MARKS:
        text = _CARRIER + text
    cut = shortened(text, _TOKEN_COLUMNS)
    while width(cut) > _TOKEN_COLUMNS:
        cut = shortened(cut, len(cut) - 1)
    return cut


def table(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Columns two spaces apart; those in `right` are flush right."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            " " * (most - width(cell)) + cell
            if column in right
            else cell + " " * (most - width(cell))
            for column, (cell, most) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def width(text: str) -> int:
    """Columns on a terminal: wide East Asian characters take two, marks on others none."""
    return sum(
        0 if unicodedata.category(char) in _MARKS
        else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )  # fmt: skip
