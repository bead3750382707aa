"""Results as text for a terminal: aligned tables, nothing unprintable in them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from patching.text import shortened, visible

if TYPE_CHECKING:
    from mingpt import GPT
    from patching.prompts import PromptPair
    from patching.result import NextTokens

_TOKEN_COLUMNS = 24  # of a token in a table; longer ones are cut


def model_line(model: GPT, fallback: str | None) -> str:
    """Which model runs, its shape, and why it is not the one that was hoped for."""
    config, weight = model.config, model.transformer.wte.weight
    count = sum(parameter.numel() for parameter in model.parameters())
    line = (
        f"model: {model.name} ({config.n_layer} layers, {config.n_head} heads,"
        f" width {config.n_embd}, {count / 1e6:.1f}M parameters;"
        f" {str(weight.dtype).removeprefix('torch.')} on {weight.device})"
    )
    return line if fallback is None else f"{line}, in place of gpt2: {fallback}"


def pair_table(pair: PromptPair) -> str:
    """Both tokenizations side by side; a star marks the positions that differ."""
    rows = [("", "pos", "id", "clean", "id", "corrupt")]
    differing = set(pair.differing)
    for position in range(len(pair)):
        rows.append(
            (
                "*" if position in differing else "",
                str(position),
                str(pair.clean_ids[position]),
                _token(pair.clean_tokens[position]),
                str(pair.corrupt_ids[position]),
                _token(pair.corrupt_tokens[position]),
            )
        )
    return _table(rows, right=(1, 2, 4))


def next_token_table(clean: NextTokens, corrupt: NextTokens) -> str:
    """The likeliest next tokens after either prompt, and then target and foil."""
    head = ("rank", "id", "token", "logit", "prob")
    rows = [
        ("", "clean", "", "", "", "", " ", "corrupt", "", "", "", ""),
        ("", *head, " ", *head),
    ]
    for left, right in zip_longest(clean.top, corrupt.top):
        rows.append(("", *_score(left), " ", *_score(right)))
    for name in ("target", "foil"):
        rows.append((name, *_score(getattr(clean, name)), " ", *_score(getattr(corrupt, name))))
    return _table(rows, right=(4, 5, 10, 11))


def _score(score: object | None) -> tuple[str, ...]:
    if score is None:
        return ("",) * 5
    return (
        str(score.rank),
        str(score.id),
        _token(score.token),
        f"{score.logit:.4f}",
        f"{score.probability:.4f}",
    )


def _token(token: str) -> str:
    return shortened(visible(token), _TOKEN_COLUMNS)


def _table(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Columns two spaces apart; those in `right` are flush right."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            " " * (width - _width(cell)) + cell
            if column in right
            else cell + " " * (width - _width(cell))
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    """Columns on a terminal: wide East Asian characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )
