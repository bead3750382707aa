"""What can be wrong with one row; read_pairs adds the file and the place, or counts the row."""

from __future__ import annotations


class UnusableRowError(Exception):
    """A row that is well formed and cannot be used; its message is the reason, for counting."""


class MalformedCellError(Exception):
    """A cell that holds another kind of value than its column should."""
