"""The texts of mingpt-generate: cells, columns, and samples as they are printed."""

import pytest
import torch

from mingpt.generation.sampling import Choice
from patching.cli import generate_report
from patching.cli.common.tables import width
from patching.cli.generate_report import cell, side_by_side
from patching.text import squeezed


@pytest.mark.parametrize(
    ("text", "short"), [("abcdefghij", "abcdefghij"), ("abcdefghijk", "abcd\u2026ghijk")]
)
def test_what_is_long_is_cut_in_the_middle(text, short):
    assert squeezed(text, 10) == short


@pytest.mark.parametrize("text", ["a" * 99, "\u4e2d" * 99, "ab\ncd", "\x1b[31m" * 20])
def test_cells_are_no_wider_than_they_may_be(text):
    assert width(cell(text)) <= 40
    assert "\n" not in cell(text)
    for line in side_by_side([[text, text]], ["a", "b"], 50).splitlines():
        assert width(line) <= 50
        assert "\x1b" not in line


def test_characters_are_printed_when_their_last_byte_is_there(builtin):
    """Bytes that never become a character are printed at the end."""
    _, tokenizer = builtin
    said = []
    text = "\u00e9\u4e2d\x1b[31m\n"
    ids = tokenizer.encode(text)
    half = tokenizer.encode("\u00e9")[0]
    assert len(tokenizer.data(half)) < 2  # otherwise this tests nothing
    transcript = generate_report.Transcript(
        said.append, tokenizer, [(0, 0)], lambda key: "", is_live=True, with_ends=False
    )
    logits = torch.zeros(tokenizer.vocab_size)
    for step, number in enumerate([*ids, half]):
        ended = "length" if step == len(ids) else None
        transcript(Choice(0, 0, step, logits, torch.tensor([0]), number, 0.0, ended))
    assert "".join(said) == "\u00e9\u4e2d\\x1b[31m\n\ufffd\n"
    assert "" in said  # the first half of a character prints nothing
