"""Names of methods and figures, checked without a model."""

import subprocess
import sys

import pytest
from helpers import ROOT

from patching import ExplanationError
from patching.explanation.request import (
    DEFAULT,
    FIGURES,
    METHODS,
    check_rows,
    figures_of,
    parse_methods,
)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("lens", ("lens",)),
        ("direct, alti,direct", ("alti", "direct")),
        (["lens", "logit"], ("logit", "lens")),
        (iter(("direct", "alti-logit")), ("alti-logit", "direct")),
        (DEFAULT, DEFAULT),
    ],
)
def test_methods_come_once_each_in_one_order(asked, expected):
    assert parse_methods(asked) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("alti,lense", "no method 'lense'; there are alti, alti-logit, logit, lens, direct"),
        ("", "no method ''"),
        ("alti,", "no method ''"),
        ([], "no method; there are"),
        (None, "methods are names, not None"),
        ([1], "no method 1; there are"),
    ],
)
def test_what_is_no_method(asked, message):
    with pytest.raises(ExplanationError, match=message):
        parse_methods(asked)


@pytest.mark.parametrize("rows", [0, -1, "x", 1.5, None])
def test_rows_are_counted_from_one(rows):
    with pytest.raises(ExplanationError, match="rows must be a whole number of at least 1, not "):
        check_rows(rows)
    check_rows(1)


def test_every_method_has_its_figures():
    assert [*FIGURES] == [*METHODS]
    assert len({*figures_of(METHODS)}) == len(figures_of(METHODS))
    assert figures_of(["logit", "lens"]) == ("logit", "logit-layers", "lens")


def test_nothing_heavy_is_imported():
    names = ("torch", "numpy", "matplotlib")
    code = f"import sys, patching.explanation.request; print({{*sys.modules}} & {{*{names}}})"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "set()"
