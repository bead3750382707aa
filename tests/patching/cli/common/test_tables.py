"""Tables for a terminal: widths of characters, columns."""

from patching.cli.common import tables


def test_cells_are_as_wide_as_a_terminal_shows_them():
    assert tables.width("नमस्ते") == 4  # with a sign and a vowel drawn onto others
    assert tables.width("cafe\u0301") == 4
    assert tables.width("東京") == 4
    assert tables.token_cell("東" * 40) == "東" * 11 + "\u2026"
    assert tables.token_cell("  \n  x") == "␣␣\\n␣␣x"


def test_columns_are_aligned_on_either_side():
    rows = [("a", "1"), ("東京", "100"), ("b", "20")]
    assert tables.table(rows, right=(1,)).splitlines() == ["a       1", "東京  100", "b      20"]
    assert tables.table(rows, right=()).splitlines() == ["a     1", "東京  100", "b     20"]
