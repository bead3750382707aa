"""Texts and pairs: their three parts, their batches, what is refused."""

import itertools
from random import Random

import pytest
import torch
from training_cases import pair_file, text_file

import mingpt
from mingpt import GPTConfig
from mingpt.bpe import END_OF_TEXT
from mingpt.errors import TrainingError
from mingpt.training.data import PairSequences, TextSequences, chunks, read_pairs, read_texts
from mingpt.training.preparation import make_sequences, read_parts
from mingpt.training.request import TrainingRequest
from mingpt.training.vocabulary import SEPARATOR, make_vocabulary


def test_a_text_is_cut_into_three_parts_at_ends_of_lines(tmp_path):
    path = text_file(tmp_path)
    (train,), (val,), (test,) = read_texts([str(path)], 0.1, 0.2)
    text = path.read_text("utf-8")
    assert train + val + test == text
    assert all(part.endswith("\n") for part in (train, val, test))
    assert len(val) == pytest.approx(0.1 * len(text), abs=40)
    assert len(test) == pytest.approx(0.2 * len(text), abs=40)


def test_every_file_is_in_every_part(tmp_path):
    paths = [str(text_file(tmp_path, f"{n}.txt", 100)) for n in range(2)]
    assert [len(part) for part in read_texts(paths, 0.1, 0.1)] == [2, 2, 2]
    tokenizer = make_vocabulary("bytes", [])
    ids = TextSequences(["ab", "cd"], tokenizer, 2, "training").ids.tolist()
    assert ids == [97, 98, tokenizer.vocab[END_OF_TEXT], 99, 100]


def test_a_batch_depends_on_the_step_and_the_seed_alone():
    sequences = TextSequences(["abcdefghij" * 20], make_vocabulary("bytes", []), 8, "training")
    ids, targets = sequences.batch(5, 3, seed=1)
    again = sequences.batch(5, 3, seed=1)
    assert torch.equal(ids, again[0])
    assert torch.equal(ids[:, 1:], targets[:, :-1])
    assert not torch.equal(ids, sequences.batch(6, 3, seed=1)[0])
    assert not torch.equal(ids, sequences.batch(5, 3, seed=2)[0])


def test_all_windows_cover_the_text_once():
    text = "".join(map(chr, range(97, 97 + 26))) * 4
    sequences = TextSequences([text], make_vocabulary("bytes", []), 10, "test")
    parts = [targets.flatten() for _, targets in sequences.all(3, most=10**6)]
    covered = torch.cat(parts)
    assert bytes(covered.tolist()).decode() == text[1 : 1 + len(covered)]
    assert len(covered) == (len(text) - 1) // 10 * 10
    fewer = sum(targets.numel() for _, targets in sequences.all(3, most=50))
    assert fewer == 50


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n \n", "is empty"),
        (b"caf\xe9", "UTF-8"),
        (b"one\ntwo <|sep|> three", r"line 2 contains <\|sep\|>, a token of its own"),
        (b"<|endoftext|>", "line 1 contains"),
    ],
)
def test_texts_that_are_refused(tmp_path, data, message):
    (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(TrainingError, match=message):
        read_texts([str(tmp_path / "x.txt")], 0.1, 0.1)


def test_a_text_shorter_than_a_context_is_refused():
    with pytest.raises(TrainingError, match="the validation part has 3 tokens, and one context"):
        TextSequences(["abc"], make_vocabulary("bytes", []), 8, "validation")


# --------------------------------------------------------------------- pairs


def test_pairs_become_sequences_whose_targets_alone_count():
    tokenizer = make_vocabulary("bytes", [], separator=True)
    sequences = PairSequences(["ab\tc", "abc\tde"], tokenizer, 12)
    ids, targets = next(sequences.all(2, most=100))
    sep, end = (tokenizer.vocab[name] for name in (SEPARATOR, END_OF_TEXT))
    a, b, c, d, e, space = b"abcde "
    assert ids.tolist() == [[a, b, sep, space, c, end], [a, b, c, sep, space, d, e]] or (
        ids.tolist() == [[a, b, sep, space, c, end, end], [a, b, c, sep, space, d, e]]
    )
    assert targets.tolist() == [
        [-1, -1, space, c, end, -1, -1],
        [-1, -1, -1, space, d, e, end],
    ]
    assert sequences.n_scored == 3 + 4


def test_an_epoch_holds_every_pair_once(tmp_path):
    parts = read_pairs(str(pair_file(tmp_path)), 0.1, 0.1, seed=0)
    assert [len(part) for part in parts] == [48, 6, 6]
    assert len({line for part in parts for line in part}) == 60
    sequences = PairSequences(parts.train, make_vocabulary("bytes", [], separator=True), 32)
    rows = [tuple(row) for step in range(12) for row in sequences.batch(step, 4, 0)[0].tolist()]
    assert len({*rows}) == len(rows) == 48
    later = [
        tuple(row) for step in range(12, 24) for row in sequences.batch(step, 4, 0)[0].tolist()
    ]
    assert later != rows
    assert sorted(later) == sorted(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\tuno\nno tab here\n", "line 2 is not a source, a tab and a target: 'no tab here'"),
        ("one\tuno\n\ntwo\t \n", "line 3 is not a source"),
        ("one\tuno\n", "has 1 pairs: too few for three parts"),
        ("a<|sep|>\tb\n", r"line 1 contains <\|sep\|>"),
    ],
)
def test_pairs_that_are_refused(tmp_path, text, message):
    (tmp_path / "x.tsv").write_text(text, "utf-8")
    with pytest.raises(TrainingError, match=message):
        read_pairs(str(tmp_path / "x.tsv"), 0.1, 0.1, seed=0)


def test_a_pair_longer_than_the_context_is_named():
    tokenizer = make_vocabulary("bytes", [], separator=True)
    with pytest.raises(TrainingError, match=r"the pair 'abc\\tde' has 8 tokens, and the context 6"):
        PairSequences(["abc\tde"], tokenizer, 6)


# --------------------------------------------------------------------- vocabularies


def test_the_bytes_spell_every_text():
    tokenizer = make_vocabulary("bytes", [])
    assert tokenizer.vocab_size == 257
    assert tokenizer.encode("aé") == [97, 0xC3, 0xA9]
    assert tokenizer.decode(range(97, 100)) == "abc"


def test_merges_are_trained_until_the_text_has_no_more():
    texts = ["low lower lowest " * 20]
    small, large = (make_vocabulary(f"bpe:{size}", texts) for size in (260, 5000))
    assert small.vocab_size == 260
    assert 257 < large.vocab_size < 400
    assert large.tokens("low lower") == ["low", " lower"]


def test_the_separator_is_a_token_in_a_text():
    tokenizer = make_vocabulary("bytes", [], separator=True)
    sep = tokenizer.vocab[SEPARATOR]
    assert tokenizer.encode("a<|sep|>b") == [97, sep, 98]
    assert tokenizer.decode([97, sep]) == "a<|sep|>"
    assert sep not in make_vocabulary("bytes", [], separator=False).encode("a<|sep|>b")
    pieces = [(work.piece, work.ids) for work in tokenizer.show_work("a<|sep|> b")]
    assert pieces == [("a", (97,)), ("<|sep|>", (sep,)), (" b", (32, 98))]
    assert tokenizer.vocab[END_OF_TEXT] not in tokenizer.encode(END_OF_TEXT)


def test_parts_are_read_the_same_each_time(tmp_path):
    path = str(pair_file(tmp_path))
    first, second = (read_pairs(path, 0.1, 0.1, seed=3) for _ in range(2))
    assert first == second
    assert first.train != read_pairs(path, 0.1, 0.1, seed=4).train
    for a, b in itertools.combinations((first.train, first.val, first.test), 2):
        assert not {*a} & {*b}


def test_a_text_is_tokenized_in_parts_as_it_is_whole():
    tokenizer = mingpt.load_tokenizer("builtin")
    random = Random(0)
    parts = (
        "a",
        " b",
        "\n",
        "\n\n",
        " ",
        "\t",
        "\u2003",
        "\u0085",
        "don't",
        "12",
        "?!",
        "\u00e9",
        "\u4e2d",
    )
    for _ in range(60):
        text = "".join(random.choices(parts, k=120))
        found = [*chunks(text, characters=3)]
        assert "".join(found) == text
        assert [n for chunk in found for n in tokenizer.encode(chunk)] == tokenizer.encode(text)
    assert len([*chunks("ab\ncd\n" * 50, characters=9)]) > 10


def test_progress_counts_every_character(tmp_path):
    said = []
    (tmp_path / "a.txt").write_text("one two\n" * 400)
    request = TrainingRequest(texts=(str(tmp_path / "a.txt"),), knobs={"block_size": 8})
    parts = read_parts(request)
    tokenizer = mingpt.load_tokenizer("builtin")
    config = GPTConfig(vocab_size=tokenizer.vocab_size, block_size=8)
    make_sequences(
        request, parts, tokenizer, config, lambda done, total: said.append((done, total))
    )
    total = sum(len(text) for texts in parts for text in texts)
    assert said[-1] == (total, total)
