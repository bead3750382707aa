"""Results as text for a terminal: aligned tables, nothing unprintable in them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from patching.text import escaped, shortened, visible

if TYPE_CHECKING:
    from mingpt import GPT
    from patching.candidates import NextTokens
    from patching.comparison import Agreement
    from patching.explanation import Explanation
    from patching.prompts import PromptPair
    from patching.result import SweepResult

_TOKEN_COLUMNS = 24  # of a token in a table; longer ones are cut


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


def prompt_table(ids: Sequence[int], tokens: Sequence[str]) -> str:
    """One prompt's tokens."""
    rows = [("pos", "id", "token")]
    rows += [
        (str(position), str(number), _token(token))
        for position, (number, token) in enumerate(zip(ids, tokens, strict=True))
    ]
    return _table(rows, right=(0, 1))


def attribution_table(ids: Sequence[int], found: Explanation, method: str) -> str:
    """What each token adds to target's logit minus foil's, and its share of the plot's bars."""
    bars = found.bars(method)
    total = abs(bars).sum() or 1
    rows = [("pos", "token", "logits", "share")]
    rows += [
        (str(position), _token(found.text_of(number)), f"{bar:.4f}", f"{bar / total:.4f}")
        for position, (number, bar) in enumerate(zip(ids, bars, strict=True))
    ]
    return _table(rows, right=(0, 2, 3))


def next_token_table(**runs: NextTokens) -> str:
    """The likeliest next tokens after each run, side by side, and then target and foil."""
    head = ("rank", "id", "token", "logit", "prob")

    def row(name: str, parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
        joined = [cell for part in parts for cell in (" ", *part)]
        return (name, *joined[1:])  # a blank column between runs

    rows = [] if len(runs) == 1 else [row("", ((name, "", "", "", "") for name in runs))]
    rows.append(row("", (head for _ in runs)))
    rows += [
        row("", map(_score, scores)) for scores in zip_longest(*(r.top for r in runs.values()))
    ]
    rows += [
        row(name, (_score(getattr(run, name)) for run in runs.values()))
        for name in ("target", "foil")
    ]
    return _table(rows, right=[6 * run + column for run in range(len(runs)) for column in (4, 5)])


def agreement_table(
    approximate: SweepResult, exact: SweepResult, agreement: dict[str, Agreement]
) -> str:
    """How well two sweeps agree, metric by metric, and where they are furthest apart."""
    return "\n\n".join(
        _agreement(approximate, exact, name, found) for name, found in agreement.items()
    )


def _agreement(approximate: SweepResult, exact: SweepResult, name: str, found: Agreement) -> str:
    rho = found.rank_correlation
    said = "undefined: one of the two is constant" if rho is None else f"{rho:.4f}"
    head = (
        f"{escaped(approximate.captions[name])}: rank correlation with the exact sweep"
        f" ({exact.seconds:.2f} s) {said}; furthest apart:"
    )
    axes = approximate.axes
    rows = [(*axes, "token", "approximate", "exact", "difference")]
    for miss in found.misses:
        values = (miss.approximate, miss.exact, miss.approximate - miss.exact)
        token = ""
        if axes[-1] == "position":
            pair, position = approximate.pair, miss.index[-1]
            both = (pair.clean_tokens[position], pair.corrupt_tokens[position])
            token = " / ".join(dict.fromkeys(map(_token, both)))
        rows.append((*map(str, miss.index), token, *(f"{value:.4f}" for value in values)))
    columns = len(axes)
    right = (*range(columns), *range(columns + 1, columns + 4))
    return f"{head}\n{_table(rows, right=right)}"


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
