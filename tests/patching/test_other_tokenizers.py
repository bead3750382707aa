"""Tokenizers of other kinds: a WordPiece that the tests train, and files that are none."""

import json

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from mingpt.errors import TokenizerError
from patching import other_tokenizers, other_tokenizers_process
from patching.cli.tokens import main
from patching.other_tokenizers import OtherTokenizer

TEXTS = ["the keys to the cabinet are here", "the key is there"] * 20


@pytest.fixture
def wordpiece(tmp_path):
    """The path of a WordPiece tokenizer, which knows no capital Z."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]", "[CLS]"])
    core.train_from_iterator(TEXTS, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", core.token_to_id("[CLS]"))]
    )
    core.enable_padding(length=32)  # which says nothing of how a text is cut
    core.enable_truncation(2)
    core.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_wordpiece_cuts_a_text_as_its_package_does(wordpiece):
    found = OtherTokenizer.load(wordpiece)
    assert (found.kind, found.size) == (
        "WordPiece",
        Tokenizer.from_file(str(wordpiece)).get_vocab_size(),
    )
    text = "The keys Zoo"
    tokens = found.encode(text)
    assert [text[one.start : one.end].lower() for one in tokens] == ["", "the", "keys", "zoo"]
    assert [one.token for one in tokens] == ["[CLS]", "the", "keys", "[UNK]"]
    assert [one.is_unknown for one in tokens] == [False, False, False, True]
    assert [found.token(one.id) for one in tokens] == ["[CLS]", "the", "keys", "[UNK]"]
    assert found.token(10**9) is found.token(-1) is found.token(2**40) is None


def test_the_command_shows_them_side_by_side_and_swaps_ids(wordpiece, capsys):
    words = ["--model", "builtin", "--tokenizer", str(wordpiece), "--swap-ids", "the keys"]
    assert main([*words, "--json"]) == 0
    streams = capsys.readouterr()
    ours, other = json.loads(streams.out)["side_by_side"][0]
    assert (ours["name"], other["kind"]) == ("builtin", "WordPiece")
    assert other["tokens"] == ["[CLS]", "the", "keys"]
    there = sum(number < 60 for number in ours["ids"])
    assert f"{len(ours['ids'])} ids of builtin read with the vocabulary of" in streams.err
    assert f": {there} there, 0 the same token" in streams.err
    assert "3 ids of" in streams.err
    assert "(none)" in streams.err


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"model": 3}', '{"model": {}}', "[" * 10**5,
     '{"model": {"type": "WordPiece", "vocab": {"a": -1}}}',
     '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": ["a b"]}}'],
)  # fmt: skip
def test_a_file_that_is_no_tokenizer_is_refused_in_one_line(tmp_path, capsys, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(TokenizerError, match=r"is no tokenizer\.json"):
        OtherTokenizer.load(tmp_path / "x.json")
    assert main(["--model", "builtin", "--tokenizer", f"{tmp_path}/x.json", "a"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


PANICS = {  # in the package's code, which prints a trace
    "the file": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "the text": {"post_processor": {"type": "TemplateProcessing", "pair": [], "special_tokens": {},
                 "single": [{"Sequence": {"id": "B", "type_id": 0}}]}},
}  # fmt: skip


@pytest.mark.parametrize("name", PANICS)
def test_a_panic_of_the_package_is_one_line(wordpiece, capfd, name):
    fields = {**json.loads(wordpiece.read_text()), **PANICS[name]}
    wordpiece.write_text(json.dumps(fields))
    assert main(["--model", "builtin", "--tokenizer", str(wordpiece), "a"]) == 2
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    reason = {"the file": "parse precompiled_charsmap", "the text": "index out of bounds"}[name]
    assert str(wordpiece) in err
    assert reason in err


def test_a_file_that_takes_too_long_or_ends_the_process_is_an_error(
    wordpiece, tmp_path, monkeypatch
):
    longer = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 1000}
    fields = json.loads(wordpiece.read_text())
    fields["normalizer"] = {"type": "Sequence", "normalizers": [longer] * 9}
    wordpiece.write_text(json.dumps(fields))
    tokenizer = OtherTokenizer.load(wordpiece)
    monkeypatch.setattr(other_tokenizers, "SECONDS", 0.3)
    with pytest.raises(TokenizerError, match=r"cannot cut this text: it took more than 0\.3 s"):
        tokenizer.encode("eee")
    (tmp_path / "dies.py").write_text("import os; os.abort()")
    monkeypatch.setattr(other_tokenizers, "_PROCESS", tmp_path / "dies.py")
    monkeypatch.setattr(other_tokenizers, "SECONDS", 30)
    with pytest.raises(TokenizerError, match="broke down, or needed more than 4 GB"):
        OtherTokenizer.load(wordpiece)


def test_unigrams_unknown_token_is_known_by_its_id(tmp_path):
    model = {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.0]], "unk_id": 0}
    content = {"version": "1.0", "added_tokens": [], "model": model}
    (tmp_path / "u.json").write_text(json.dumps(content))
    tokens = OtherTokenizer.load(tmp_path / "u.json").encode("ab")
    assert [(one.id, one.is_unknown) for one in tokens] == [(1, False), (0, True)]


def test_more_tokens_than_anyone_reads_are_refused(wordpiece, monkeypatch):
    monkeypatch.setattr(other_tokenizers_process, "MOST_TOKENS", 2)
    with pytest.raises(ValueError, match="makes 3 tokens, more than 2"):
        other_tokenizers_process.answer_to(wordpiece.read_text(), "the key")


def test_without_the_package_the_command_says_what_to_install(wordpiece, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["--model", "builtin", "--tokenizer", str(wordpiece), "a"]) == 2
    assert "pip install tokenizers" in capsys.readouterr().err
