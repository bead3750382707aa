"""scripts/tokens.py as a user meets it."""

import json
from dataclasses import asdict

import pytest
from helpers import known_with, make_model

import mingpt
from mingpt import BPETokenizer, TokenizerError
from mingpt.bpe import _CHAR_OF_BYTE
from mingpt.loading import repositories
from mingpt.loading.sources import BUILTIN_DIRECTORY
from mingpt.loading.tokenizer_files import tokenizer_in
from patching import PromptPair
from patching.alignment import align
from patching.cli.common import tables
from patching.cli.common.command import UsageError
from patching.cli.tokens import main, parse_words

JONES = "Michelle Jones was a top-notch student. Michelle"
PAPADOPOULOS = JONES.replace("Jones", "Papadopoulos")
AWKWARD = "東京 cafe\u0301 \u0301 \U0001f469\u200d\U0001f467 tab\t\nline  \x1b[31m <|endoftext|>"


@pytest.fixture(scope="session")
def bytes_only(tmp_path_factory) -> str:
    """Save a model whose tokenizer merges "on" and nothing else."""
    directory = tmp_path_factory.mktemp("bytes")
    vocab = {char: byte for byte, char in _CHAR_OF_BYTE.items()} | {"on": 256}
    tokenizer = BPETokenizer(vocab, [("o", "n")])
    mingpt.save(make_model(vocab_size=257), directory, tokenizer)
    return str(directory)


def said(capsys, *arguments: str) -> str:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_text_is_taken_apart(builtin, capsys):
    _, tokenizer = builtin
    out = cells(said(capsys, "--model=builtin", JONES))
    numbers = tokenizer.encode(JONES)
    assert out[0][:2] == ["tokenizer:", "builtin"]
    assert out[2] == ["text", "1,", str(len(numbers)), "tokens:", *JONES.split()]
    tokens = [token.replace(" ", "␣") for token in tokenizer.tokens(JONES)]
    table = [row[-2:] for row in out[4:] if row[-2].isdigit()]
    assert table == [[str(number), token] for number, token in zip(numbers, tokens, strict=True)]
    (jones,) = (row for row in out if row[:1] == ["␣Jones"])
    assert jones[1:7] == ["20", "4a", "6f", "6e", "65", "73"]
    merges = [tuple(merge.split("+")) for merge in jones[7:-2]]
    symbols = [*"␣Jones"]
    for a, b in merges:  # replay the merges
        at = symbols.index(a)
        assert symbols[at + 1] == b
        symbols[at : at + 2] = [a + b]
    assert symbols == ["␣Jones"]
    ranks = [tokenizer.merges.index(tuple(s.replace("␣", "Ġ") for s in pair)) for pair in merges]
    assert ranks == sorted(ranks)


def test_models_side_by_side(capsys, bytes_only):
    out = said(capsys, "--model=builtin", "--model", bytes_only, "--model=builtin", "Jones won")
    assert "text 1, builtin 2" in out.replace("builtin 3", "builtin 2")
    rows = cells(out)
    (jones,) = (row for row in rows if row[:1] == ["Jones"])
    assert jones.count("o+n") == 2
    assert jones[-2:] == [str(ord("J")), "J"]
    assert [row for row in rows if row == ["256", "on"]]
    assert sum(row[:1] == ["tokenizer:"] for row in rows) == 2  # each model once


def test_json_holds_all_of_it(builtin, capsys, bytes_only):
    texts = [JONES, PAPADOPOULOS]
    more = ["--json", "--suggest= Smith ,Smith,Ng", "--model=builtin", f"--model={bytes_only}"]
    assert main([*more, *texts]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["texts"] == texts
    assert [one["name"] for one in found["tokenizers"]] == ["builtin", bytes_only]
    for one, tokenizer in zip(
        found["tokenizers"], (builtin[1], tokenizer_in(bytes_only)), strict=True
    ):
        assert one["fallback"] is None
        for text, view in zip(texts, one["texts"], strict=True):
            data = "".join(piece["data"] for piece in view["pieces"])
            assert bytes.fromhex(data).decode() == text
            ids = [number for piece in view["pieces"] for number in piece["ids"]]
            assert ids == tokenizer.encode(text)
            assert view["n_tokens"] == len(ids)
            merges = {tuple(pair) for piece in view["pieces"] for pair in piece["merges"]}
            assert merges <= {*tokenizer.merges}
        rows = align(*map(tokenizer.encode, texts))
        (beside,) = one["alignments"]
        assert beside["texts"] == [0, 1]
        assert beside["rows"] == [asdict(row) for row in rows]
        assert not beside["equally_long"]
        smith, ng = one["suggestions"]
        assert smith["prompt"] == texts[0].replace("Jones", "Smith")
        assert smith["n_tokens"] == len(smith["ids"]) == len(tokenizer.encode(smith["prompt"]))
        # "Jones" is one token for builtin and four for `bytes_only`; "Smith" is five there.
        assert smith["fits"] == (one["name"] == "builtin")
        assert not ng["fits"] or len(tokenizer.encode("Ng")) == len(tokenizer.encode("Jones"))
    assert "words in place of Papadopoulos" in err


def test_two_texts_and_what_patching_would_say(builtin, capsys):
    _, tokenizer = builtin
    smith = JONES.replace("Jones", "Smith")
    out = said(capsys, "--model=builtin", JONES, smith, PAPADOPOULOS)
    pair = PromptPair.from_text(tokenizer, JONES, smith, "Jones", "Smith")
    shown = tables.pair_table(pair).replace(" clean   ", " text 1  ").replace("corrupt", "text 2")
    assert cells(shown) == cells(out.split("a pair for mingpt-patch\n")[1].split("\n\n")[0])
    assert cells(shown)[0] == ["pos", "id", "text", "1", "id", "text", "2"]
    n, longer = len(pair), len(tokenizer.encode(PAPADOPOULOS))
    assert f"builtin: text 1 and text 2 have {n} tokens each, 1 of them different: a pair" in out
    assert (
        f"text 1 has {n} tokens, text 3 {longer}, {longer - n} more:"
        " mingpt-patch needs equally many"
    ) in out
    assert "--suggest finds, in a list of words" in out
    out = said(capsys, "--model=builtin", PAPADOPOULOS, JONES, "--quiet")
    assert f"{n}, {longer - n} fewer" in out
    assert len(out.splitlines()) == 4
    out = said(capsys, "--model=builtin", JONES, JONES)
    assert "are the same" in out
    assert "--suggest" not in out


def test_options_may_stand_anywhere_and_texts_begin_with_a_dash(capsys):
    for arguments in (
        ["a", "--model=builtin", "-3", "--quiet", "- b"],
        ["a", "--quiet", "-3", "--model", "builtin", "- b"],
        ["--quiet", "--model=builtin", "--", "a", "-3", "- b"],
    ):
        lines = said(capsys, *arguments).splitlines()
        assert [line.rsplit(": ", 1)[1] for line in lines[1:4]] == ["a", "-3", "- b"]
    lines = said(capsys, "--quiet", "--model=builtin", "-", "--", "--x", "--quiet").splitlines()
    assert [line.rsplit(": ", 1)[1] for line in lines[1:4]] == ["-", "--x", "--quiet"]


def test_words_from_a_list_and_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("\ufeffSmith\n\n  Zimmermann \nSmith\r\nBrown\nJones\n")
    (tmp_path / "names").write_text("Mary Ann,x\n")
    assert parse_words("names.txt") == ["Smith", "Zimmermann", "Brown", "Jones"]
    assert parse_words("./names") == parse_words("names") == ["Mary Ann,x"]
    assert parse_words(" a, b c,,a") == ["a", "b c"]
    assert parse_words("x" * 5000 + ",y")[1] == "y"
    out = said(capsys, "--model=builtin", "--suggest", "names.txt", JONES, PAPADOPOULOS)
    assert (
        "words in place of Papadopoulos:\nbuiltin: 2 of 4 fit (1 too long, 1 same as clean)" in out
    )
    fitting = [row[:2] for row in cells(out)[-3:]]
    assert fitting == [["word", "builtin"], ["Smith", "fits"], ["Brown", "fits"]]
    assert JONES.replace("Jones", "Brown") in out.splitlines()[-1]
    out = said(capsys, "--model=builtin", "--suggest=Zimmermann", JONES, PAPADOPOULOS)
    assert out.endswith("builtin: 0 of 1 fit (1 too long)\n")


def test_nothing_reaches_the_terminal_raw(monkeypatch, capsys):
    for columns in ("20", "80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        out = said(capsys, "--model=builtin", AWKWARD, AWKWARD + "=" * 99)
        assert all(char.isprintable() or char == "\n" for char in out)
        assert "◌\u0301" in out
        assert "\\xe6" in out
        assert "␣\\n" not in out.split("piece")[0]
        assert not [line for line in out.splitlines() if line != line.rstrip()]
    monkeypatch.setenv("COLUMNS", "80")
    out = said(capsys, "--model=builtin", JONES, PAPADOPOULOS)
    table = out.split("\n\n")[1].splitlines()[1:]
    assert 70 < max(map(tables.width, table)) <= 80
    assert "\u2026" not in out
    rows = cells(said(capsys, "--model=builtin", "=" * 99))
    assert sum("3d" in row for row in rows) == 4  # only 4 lines of its bytes are shown, of 13
    assert sum("\u2026" in row for row in rows) == 1


def test_side_by_side_the_models_share_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    models = ["--model=builtin", f"--model={BUILTIN_DIRECTORY}"]
    out = said(capsys, *models, PAPADOPOULOS.replace("Michelle", "Christopher"))
    table = out.split("\n\n")[1].splitlines()[1:]
    assert 100 < max(map(tables.width, table)) <= 120


def test_without_a_network_the_shipped_tokenizer_steps_in_and_says_so(capsys, offline):
    out = said(capsys, "Jones", "--quiet").splitlines()
    assert out[0].startswith("tokenizer: builtin (")
    assert "in place of gpt2: " in out[0]
    assert main(["Jones", "--model=gpt2"]) == 2
    assert "forbids using the network" in capsys.readouterr().err


def test_the_tokenizer_is_fetched_without_the_weights_and_once(online, files, monkeypatch, capsys):
    monkeypatch.setitem(
        repositories.KNOWN, "gpt2", known_with(files, "gpt2", revision="main", sha256={})
    )
    online.add_repository("openai-community/gpt2", files)
    assert main(["Jones", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert (out.split(" (")[0], err) == ("tokenizer: gpt2", "")
    assert not [path for path, _ in online.requests if "safetensors" in path]
    online.requests.clear()
    online.heads.clear()
    assert said(capsys, "Jones", "--quiet") == out
    assert online.requests + online.heads == []  # not even to ask if there is a network


def test_gpt2s_tokenizer_needs_no_weights(gpt2_tokenizer, capsys):
    for model in ([], ["--model=gpt2"]):
        out = said(
            capsys, *model, "--offline", JONES, PAPADOPOULOS, "--suggest=Smith,Zyzzyva,Brown"
        )
        assert out.startswith("tokenizer: gpt2 (50257 tokens, 50000 merges)\n")
        assert "gpt2: clean has 11 tokens, corrupt 13, 2 more: mingpt-patch needs" in out
        assert ["1", "14185", "␣Pap"] in [row[-3:] for row in cells(out)]
        assert gpt2_tokenizer.encode(" Jones") == [5437]
        assert "5437  ␣Jones" in out
        assert "2 of 3 fit" in out


BAD_INPUT = {
    "no text": ([], "no text: give one or more"),
    "empty": (["a", ""], "text 2 is empty"),
    "no Unicode": (["a\udcff"], "text 1 is not valid Unicode: 'a\\udcff'"),
    "one text to suggest for": (["a", "--suggest=b"], "takes two texts, clean and corrupt, not 1"),
    "three": (["a", "b", "c", "--suggest=b"], "takes two texts, clean and corrupt, not 3"),
    "no difference": (["a", "a", "--suggest=b"], "the clean and corrupt prompts are the same"),
    "nothing to replace": (["a", "a b", "--suggest=b"], "has 'b' where the other has nothing"),
    "no words": (["a", "b", "--suggest="], "--suggest '' contains no word"),
    "only commas": (["a", "b", "--suggest=, ,"], "contains no word"),
    "no file": (["a", "b", "--suggest=x.txt"], "x.txt cannot be read: No such file"),
    "a folder": (["a", "b", "--suggest=./"], "cannot be read: Is a directory"),
    "a device": (["a", "b", "--suggest=/dev/zero"], "/dev/zero is neither a file nor a pipe"),
    "empty file": (["a", "b", "--suggest=empty"], "--suggest empty is empty"),
    "latin-1": (["a", "b", "--suggest=latin.txt"], "latin.txt is not UTF-8 text"),
    "model": (["a", "--model=gpt9"], "no model 'gpt9'"),
    "one of two models": (["a", "--model=builtin", "--model=gpt9"], "no model 'gpt9'"),
    "heads": (["a", "--n-head=4"], "--n-head is for a .pt file"),
    "unknown option": (["a", "--clean=x"], "No such option"),
    "words that are no Unicode": (["a", "b", "--suggest=\udcff"], "'\\udcff': the text is not"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("José".encode("latin-1"))
    arguments, message = BAD_INPUT[name]
    if not any(argument.startswith("--model") for argument in arguments):
        arguments = [*arguments, "--model=builtin"]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mingpt-tokens: error: ")
    assert len(err.splitlines()) == 1
    assert message in err


def test_bad_words_are_the_commands_fault_and_bad_prompts_the_librarys():
    with pytest.raises(UsageError, match="no word"):
        parse_words(",")
    with pytest.raises(TokenizerError, match="not valid Unicode"):
        mingpt.load_tokenizer("builtin").show_work("\udcff")
