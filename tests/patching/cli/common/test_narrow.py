"""Tables on a narrow terminal."""

import pytest

from patching.cli.common.narrow import column_blocks, terminal_columns, wrapped_rows
from patching.cli.common.tables import scores_table, table
from patching.next_tokens import TokenScore
from patching.text import probability

ROWS = [("key", "first", "second"), ("a", "1" * 12, "2" * 12), ("b", "3", "4")]


def test_a_table_that_fits_is_left_as_it_is(monkeypatch):
    wide = table(ROWS, right=(1, 2))
    monkeypatch.setenv("COLUMNS", "31")
    assert table(ROWS, right=(1, 2)) == wide
    assert max(map(len, wide.splitlines())) == 31


def test_columns_that_do_not_fit_go_below(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    first, second = table(ROWS, right=(1, 2)).split("\n\n")
    assert first.splitlines()[0].split() == ["key", "first"]
    assert second.splitlines()[0].split() == ["key", "second"]
    assert second.splitlines()[1].split() == ["a", "2" * 12]


def test_the_columns_of_each_part():
    assert column_blocks([4, 9, 9, 9], keys=1, columns=26) == [[0, 1, 2], [0, 3]]
    assert column_blocks([4, 90, 9], keys=1, columns=26) == [[0, 1], [0, 2]]


def test_a_long_text_is_wrapped():
    rows = [("n", "text"), ("1", "one two three four five six")]
    found = wrapped_rows(rows, right=(0,), columns=20, width=len)
    assert found == [("n", "text"), ("1", "one two three"), ("", "four five six")]


def test_runs_side_by_side_stand_below_one_another(monkeypatch):
    scores = [TokenScore(n, n, f" token{n}", 1.0, 0.5) for n in range(1, 4)]
    runs = {"clean": scores, "corrupt": scores}
    answers = {"target": scores[:2]}
    assert max(map(len, scores_table(runs, answers).splitlines())) > 60
    monkeypatch.setenv("COLUMNS", "60")
    found = scores_table(runs, answers)
    assert max(map(len, found.splitlines())) <= 60
    assert [line for line in found.splitlines() if line in runs] == ["clean", "corrupt"]
    assert found.count("target") == 2


@pytest.mark.parametrize("value", ["", "x", "0", "-5"])
def test_a_pipe_has_no_width(monkeypatch, capsys, value):
    monkeypatch.setenv("COLUMNS", value)
    assert terminal_columns() is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.5000"), (0.00005, "0.0001"), (0.0000499, "5.0e-05"), (0, "0.0000"), (1, "1.0000")],
)
def test_a_small_probability_is_not_shown_as_zero(value, shown):
    assert probability(value) == shown
