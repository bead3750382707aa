"""Fit tables to a narrow terminal: columns that do not fit go below, long cells are wrapped."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from itertools import zip_longest

GAP = 2  # spaces between two columns
NARROWEST = 12  # columns of a cell that is wrapped


def terminal_columns() -> int | None:
    """Return the width of the terminal that stdout is; None if it is none.

    The variable COLUMNS says another width.
    """
    asked = os.environ.get("COLUMNS", "")
    if asked.isascii() and asked.isdigit() and int(asked) > 0:
        return int(asked)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError, AttributeError):  # a pipe, a closed stream, a test's
        return None


def total(widths: Sequence[int]) -> int:
    """Return the width of columns side by side."""
    return sum(widths) + GAP * (len(widths) - 1)


def column_blocks(widths: Sequence[int], keys: int, columns: int) -> list[list[int]]:
    """Return the columns of each part of a table whose parts stand below one another.

    Args:
        widths: of the columns.
        keys: the first columns, which every part repeats.
        columns: width of the terminal.

    Example:
        column_blocks([4, 9, 9, 9], keys=1, columns=26)  # [[0, 1, 2], [0, 3]]
    """
    first = list(range(keys))
    blocks: list[list[int]] = [[*first]]
    for column in range(keys, len(widths)):
        block = [*blocks[-1], column]
        if len(blocks[-1]) > keys and total([widths[one] for one in block]) > columns:
            block = [*first, column]
            blocks.append(block)
        else:
            blocks[-1] = block
    return blocks


def wrapped_rows(
    rows: Sequence[Sequence[str]],
    right: Sequence[int],
    columns: int,
    width: Callable[[str], int],
) -> list[Sequence[str]]:
    """Return rows whose widest text column is wrapped, so that they fit if they can.

    Args:
        right: columns of numbers, which are not wrapped.
        columns: width of the terminal.
        width: returns a text's width.
    """
    widths = [max(map(width, cells)) for cells in zip(*rows, strict=True)]
    texts = [column for column in range(len(widths)) if column not in right]
    excess = total(widths) - columns
    if excess <= 0 or not texts:
        return list(rows)
    widest = max(texts, key=lambda column: widths[column])
    room = max(widths[widest] - excess, NARROWEST)
    found: list[Sequence[str]] = []
    for row in rows:
        lines = textwrap.wrap(row[widest], room, break_on_hyphens=False) or [""]
        cells = [[cell] for cell in row]
        cells[widest] = lines
        found += zip_longest(*cells, fillvalue="")
    return found
