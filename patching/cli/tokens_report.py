"""mingpt-tokens's output as text for a terminal; common/tables.py has the parts of tables."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from patching.cli.common.tables import table, token_cell, width
from patching.text import counted, escaped

if TYPE_CHECKING:
    from mingpt.bpe import BPETokenizer, PieceWork
    from patching.alignment import Suggestion
    from patching.cli.common.models import LoadedTokenizer

_MOST_LINES = 4  # lines of one piece's bytes, or of its merges
_HEX_COLUMNS = 23  # width of eight bytes in hex
_FEWEST_COLUMNS = 16  # width of the merges, however narrow the terminal
_NAME_COLUMNS = 24  # width of a model's name over its column


def tokenizer_line(loaded: LoadedTokenizer) -> str:
    """Return a line with the tokenizer's name and size, and why it replaces GPT-2's."""
    tokenizer = loaded.tokenizer
    line = (
        f"tokenizer: {escaped(loaded.name)}"
        f" ({len(tokenizer.vocab)} tokens, {len(tokenizer.merges)} merges)"
    )
    return (
        line if loaded.fallback is None else f"{line}, in place of gpt2: {escaped(loaded.fallback)}"
    )


def text_line(name: str, text: str, counts: dict[str, int]) -> str:
    """Return a line with a text and its number of tokens.

    Args:
        name: what the text is called, such as "clean".
        counts: name of the model -> number of tokens.
    """
    said = ", ".join(
        f"{escaped(model)} {count}" if len(counts) > 1 else str(count)
        for model, count in counts.items()
    )
    unit = "token" if {*counts.values()} == {1} else "tokens"
    return f"{name}, {said} {unit}: {escaped(text)}"


def piece_table(
    models: Sequence[LoadedTokenizer], works: Sequence[Sequence[PieceWork]], columns: int
) -> str:
    """Return a table of a text's pieces and bytes, and of each model's merges, ids and tokens.

    Args:
        models: side by side.
        works: for each model, what `show_work` returns for the text.
        columns: width of the terminal. The merges get the columns that the rest does not use.
    """
    head = ["merges", "id", "token"]
    rows: list[Sequence[str]] = [["piece", "bytes", *head * len(models)]]
    blocks = [
        _block([model.tokenizer for model in models], work) for work in zip(*works, strict=True)
    ]
    merges = list(range(2, len(rows[0]), len(head)))
    flat = [row for block in blocks for row in zip_longest(*block, fillvalue="")]
    taken = [max(map(width, cells)) for cells in zip(*rows, *flat, strict=True)]
    for column in merges:
        taken[column] = 0
    left = columns - sum(taken) - 2 * (len(taken) - 1)
    room = max(left // len(models), _FEWEST_COLUMNS)
    if len(models) > 1:
        names = (_name(model.name, room) for model in models)
        rows.insert(0, ["", "", *chain.from_iterable((name, "", "") for name in names)])
    for block in blocks:
        for column in merges:
            block[column] = _wrapped(" ".join(block[column]), room)
        rows += zip_longest(*block, fillvalue="")
    return table(rows, right=[column + 1 for column in merges])


def _block(tokenizers: Sequence[BPETokenizer], works: Sequence[PieceWork]) -> list[Sequence[str]]:
    """Return one piece's cells, column by column, with each merge as a text of its own."""
    block: list[Sequence[str]] = [
        [token_cell(works[0].piece)],
        _wrapped(works[0].data.hex(" "), _HEX_COLUMNS),
    ]
    for tokenizer, work in zip(tokenizers, works, strict=True):
        block.append(
            [
                "+".join(token_cell(tokenizer.token(tokenizer.vocab[symbol])) for symbol in pair)
                for pair in work.merges
            ]
        )
        block += [[str(number) for number in work.ids], list(map(token_cell, work.tokens))]
    return block


def _wrapped(text: str, columns: int) -> list[str]:
    return textwrap.wrap(
        text, columns, max_lines=_MOST_LINES, placeholder=" \u2026", break_on_hyphens=False
    )


def alignment_line(model: str, names: Sequence[str], ids: Sequence[Sequence[int]]) -> str:
    """Return a line that says if two prompts can be patched, and if not, why.

    Args:
        model: its name.
        names: what the two prompts are called.
        ids: their token ids.
    """
    (a, b), (a_count, b_count) = names, map(len, ids)
    model = escaped(model)
    if a_count != b_count:
        more = f"{abs(b_count - a_count)} {'more' if b_count > a_count else 'fewer'}"
        return (
            f"{model}: {a} has {counted(a_count, 'token')}, {b} {b_count}, {more}:"
            " mingpt-patch needs equally many"
        )
    each = counted(a_count, "token")
    differing = sum(one != other for one, other in zip(*ids, strict=True))
    if not differing:
        return f"{model}: {a} and {b} are the same {each}: there is nothing to patch"
    return (
        f"{model}: {a} and {b} have {each} each, {differing} of them different:"
        " a pair for mingpt-patch"
    )


def suggestion_line(model: str, clean: str, length: int, suggested: Sequence[Suggestion]) -> str:
    """Return a line with the number of words that fit, and the reasons why others do not.

    Args:
        model: its name.
        clean: the clean prompt.
        length: number of tokens of the clean prompt.
        suggested: one suggestion for each word.
    """
    fitting = sum(one.fits for one in suggested)
    wrong = Counter(_verdict(one, clean, length)[1] for one in suggested if not one.fits)
    why = ", ".join(f"{count} {reason}" for reason, count in wrong.items())
    return f"{escaped(model)}: {fitting} of {len(suggested)} fit{f' ({why})' if why else ''}"


def suggestion_table(
    models: Sequence[str],
    clean: str,
    lengths: Sequence[int],
    suggested: Sequence[Sequence[Suggestion]],
) -> str | None:
    """Return a table of the words that fit for at least one model; None if there are none.

    Args:
        models: their names.
        clean: the clean prompt.
        lengths: the clean prompt's number of tokens, for each model.
        suggested: one suggestion for each word, for each model.
    """
    rows = [("word", *(_name(name, _NAME_COLUMNS) for name in models), "prompt")]
    for row in zip(*suggested, strict=True):
        if any(one.fits for one in row):
            both = zip(row, lengths, strict=True)
            verdicts = [_verdict(one, clean, length)[0] for one, length in both]
            rows.append((token_cell(row[0].word), *verdicts, escaped(row[0].prompt)))
    return table(rows, right=()) if len(rows) > 1 else None


def _verdict(one: Suggestion, clean: str, length: int) -> tuple[str, str]:
    """Return a word's cell in the table, and why it does not fit ("" if it does).

    "shifted": as long as the clean prompt, but tokens outside the word differ too.
    """
    more = len(one.ids) - length
    if one.fits:
        return "fits", ""
    if more:
        return f"{more:+d}", "too long" if more > 0 else "too short"
    return ("clean", "same as clean") if one.prompt == clean else ("shifted", "with shifted tokens")


def _name(model: str, most: int) -> str:
    """Return a model's name for the head of its column; of a long one, the end.

    Long names are paths, which usually differ at the end.
    """
    name = escaped(model)
    return name if len(name) <= most else "\u2026" + name[1 - most :]
