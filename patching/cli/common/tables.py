"""Write results as text for a terminal: aligned tables with unprintable characters escaped."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from patching.alignment import align
from patching.cli.common.narrow import (
    GAP,
    column_blocks,
    terminal_columns,
    total,
    wrapped_rows,
)
from patching.text import SPACE, escaped, probability, shortened, visible

if TYPE_CHECKING:
    from mingpt.model import GPT
    from patching.alignment import Row
    from patching.next_tokens import NextTokens, TokenScore
    from patching.paths.result import PathsFound
    from patching.prompts import PromptPair
    from patching.sweep.result import SweepResult

_TOKEN_COLUMNS = 24  # greatest width of a token; longer ones are cut
_MARKS = ("Mn", "Me")  # Unicode's categories of marks drawn onto the character before them
_CARRIER = "\u25cc"  # the dotted circle, drawn before a mark that comes first


def model_line(model: GPT, fallback: str | None) -> str:
    """Return a line with the model's name, shape and device, and why it replaces GPT-2."""
    config = model.config
    count = sum(parameter.numel() for parameter in model.parameters())
    shared = f" ({config.kv_heads} of keys and values)" if config.kv_heads < config.n_head else ""
    line = (
        f"model: {escaped(model.name)} ({config.n_layer} layers, {config.n_head} heads{shared},"
        f" width {config.n_embd}, {count / 1e6:.1f}M parameters;"
        f" {str(model.dtype).removeprefix('torch.')} on {model.device})"
    )
    return line if fallback is None else f"{line}, in place of gpt2: {escaped(fallback)}"


def pair_table(pair: PromptPair) -> str:
    """Return both prompts' tokens side by side; a star marks the positions that differ."""
    if not pair.has_corrupt:
        return prompt_table(pair.clean_ids, pair.clean_tokens)
    return alignment_table(
        align(pair.clean_ids, pair.corrupt_ids),
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
    """Return two prompts' tokens side by side; a star marks the rows that differ.

    Args:
        rows: the pairing, from patching.alignment.align.
        ids, tokens, names: for the first prompt and for the second.
    """

    def side(prompt: int, at: int | None) -> tuple[str, ...]:
        if at is None:
            return ("",) * 3
        return (str(at), str(ids[prompt][at]), token_cell(tokens[prompt][at]))

    cells: list[tuple[str, ...]] = [("", "pos", "id", names[0], "pos", "id", names[1])]
    for row in rows:
        cells.append(("*" if row.differs else "", *side(0, row.a), *side(1, row.b)))
    if all(row.a == row.b for row in rows):  # one column of positions is enough
        return table([(*row[:4], *row[5:]) for row in cells], right=(1, 2, 4))
    return table(cells, right=(1, 2, 4, 5))


def prompt_table(ids: Sequence[int], tokens: Sequence[str]) -> str:
    """Return a table of one prompt's tokens: position, id, text."""
    rows = [("pos", "id", "token")]
    rows += [
        (str(position), str(number), token_cell(token))
        for position, (number, token) in enumerate(zip(ids, tokens, strict=True))
    ]
    return table(rows, right=(0, 1))


def next_tokens_of(result: SweepResult | PathsFound) -> str:
    """Return the next-token tables of a result's clean and corrupt run, side by side."""
    runs = {"clean": result.clean_next, "corrupt": result.corrupt_next}
    return next_token_table(**{name: run for name, run in runs.items() if run is not None})


def next_token_table(**runs: NextTokens) -> str:
    """Return the likeliest next tokens of each run side by side, then target and foil.

    Each token of a set has a row: target, target 2, target 3.
    """
    answers = {}
    for name in ("target", "foil"):
        each = zip(*(getattr(run, name) for run in runs.values()), strict=True)
        for number, scores in enumerate(each, 1):
            answers[name if number == 1 else f"{name} {number}"] = scores
    return scores_table({name: run.top for name, run in runs.items()}, answers)


def scores_table(
    runs: Mapping[str, Sequence[TokenScore]], answers: Mapping[str, Sequence[TokenScore]]
) -> str:
    """Return the likeliest next tokens of each run, then rows with names.

    The runs stand side by side, or below one another where the terminal is too narrow.

    Args:
        runs: the run's name -> its tokens, the likeliest first.
        answers: the row's name -> one token for each run.
    """
    head = ("rank", "id", "token", "logit", "prob")

    def row(name: str, parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
        joined = [cell for part in parts for cell in (" ", *part)]
        return (name, *joined[1:])  # a blank column between runs

    columns = terminal_columns()
    if len(runs) > 1 and columns is not None:
        tables = [
            scores_table({name: scores}, {key: [found[number]] for key, found in answers.items()})
            for number, (name, scores) in enumerate(runs.items())
        ]
        widest = [max(map(width, text.split("\n"))) for text in tables]
        if total(widest) > columns:
            named = zip(runs, tables, strict=True)
            return "\n\n".join(f"{escaped(name)}\n{text}" for name, text in named)
    rows = [] if len(runs) == 1 else [row("", ((escaped(name), "", "", "", "") for name in runs))]
    rows.append(row("", (head for _ in runs)))
    rows += [row("", map(_score, scores)) for scores in zip_longest(*runs.values())]
    rows += [row(name, map(_score, scores)) for name, scores in answers.items()]
    right = [6 * run + column for run in range(len(runs)) for column in (4, 5)]
    if not answers:  # leave out the column of names
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
        probability(score.probability),
    )


def token_cell(token: str) -> str:
    """Return a token or a piece for a table: every character visible, cut if it is long."""
    text = visible(token).replace(" ", SPACE)  # every space, not only the first
    if unicodedata.category(text[:1] or " ") in _MARKS:
        text = _CARRIER + text
    cut = shortened(text, _TOKEN_COLUMNS)
    while width(cut) > _TOKEN_COLUMNS:
        cut = shortened(cut, len(cut) - 1)
    return cut


def table(rows: Sequence[Sequence[str]], right: Sequence[int], keys: int = 1) -> str:
    """Return rows as aligned columns, two spaces apart; columns in `right` are flush right.

    On a terminal that is too narrow, the widest text is wrapped; where that is not enough,
    columns that do not fit go into a further table below.

    Args:
        keys: the first columns, which such a table repeats.
    """
    columns = terminal_columns()
    widths = [max(map(width, cells)) for cells in zip(*rows, strict=True)]
    if columns is None or total(widths) <= columns:
        return _aligned(rows, right)
    wrapped = wrapped_rows(rows, right, columns, width)
    if total([max(map(width, cells)) for cells in zip(*wrapped, strict=True)]) <= columns:
        return _aligned(wrapped, right)
    parts = []
    for block in column_blocks(widths, keys, columns):
        part = [cells for row in rows if any(cells := [row[column] for column in block])]
        flush = [place for place, column in enumerate(block) if column in right]
        parts.append(_aligned(wrapped_rows(part, flush, columns, width), flush))
    return "\n\n".join(parts)


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            " " * (most - width(cell)) + cell
            if column in right
            else cell + " " * (most - width(cell))
            for column, (cell, most) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((" " * GAP).join(cells).rstrip())
    return "\n".join(lines)


def width(text: str) -> int:
    """Return a text's width in columns: wide East Asian characters take two, marks none."""
    return sum(
        0 if unicodedata.category(char) in _MARKS
        else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )  # fmt: skip
