"""The English-Spanish pairs: agreement, what is held out, and the model that is made of them."""

import re
import sys
from random import Random

import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from translation import frames, make, words


def drawn(frame, seed: int) -> tuple[frames.Draw, str, str]:
    d = frames.Draw(Random(seed))
    return d, *frame(d)


def test_there_are_forty_frames_and_each_has_many_pairs():
    assert len(frames.FRAMES) == 40
    for frame in frames.FRAMES:
        assert len({drawn(frame, seed)[1:] for seed in range(40)}) > 30


@pytest.mark.parametrize("number", range(40))
def test_sentences_are_written_as_such(number):
    for seed in range(40):
        _, en, es = drawn(frames.FRAMES[number], seed)
        assert en[0].isupper()
        assert "_" not in en + es
        assert "  " not in en + es
        assert en.endswith("?") == es.endswith("?") == es.startswith("¿")
        assert en.endswith(".") == es.endswith(".")


def test_every_adjective_agrees_with_its_noun():
    """In a noun phrase, all Spanish words have the noun's gender and number."""
    forms = {}
    for noun in words.NOUNS:
        forms[noun[2]] = int(noun[4] == "f")
        forms[noun[3]] = 2 + int(noun[4] == "f")
    tables = (*words.ADJECTIVES, *words.BEFORE)
    checked = 0
    for seed in range(300):
        phrase = frames.Draw(Random(seed)).phrase(2, 0)
        article, noun, *adjectives = phrase.es.split()
        form = forms[noun]
        assert article == ("el", "la", "los", "las")[form]
        for adjective in adjectives:
            allowed = [row[1 + form] for row in tables if adjective in row[1:]]
            assert adjective in allowed
            checked += 1
    assert checked == 600


def test_two_adjectives_change_their_order():
    phrase = frames.Draw(Random(1)).phrase(2, 0)
    english = {row[0]: row for row in words.ADJECTIVES}
    first, second = (english[word] for word in phrase.en.split()[1:3])
    assert phrase.es.split()[2] in second[1:]
    assert phrase.es.split()[3] in first[1:]


@pytest.mark.parametrize(
    ("tense", "person", "spanish"),
    [(0, 0, "busco"), (1, 0, "busqué"), (1, 2, "buscó"), (2, 5, "buscarán")],
)
def test_verbs_are_conjugated(monkeypatch, tense, person, spanish):
    monkeypatch.setattr(words, "VERBS", [one for one in words.VERBS if one[3] == "busc"])
    d = frames.Draw(Random(0))
    monkeypatch.setattr(d.random, "randrange", lambda n: person)
    assert d.verb(tense)[3] == spanish


def test_held_out_combinations_are_in_no_training_pair():
    trained, held = (frames.pairs(400, 0, held_out=one) for one in (False, True))
    assert len({*trained}) == 400
    assert not {*trained} & {*held}
    nouns = {form: noun[0] for noun in words.NOUNS for form in noun[:2]}
    adjectives = {one[0] for one in words.ADJECTIVES}
    # In a bare phrase, the last word is the noun and the adjectives stand before it.
    bare = [en for en, _ in trained if re.fullmatch(r"The \w+ \w+", en)]
    assert len(bare) > 3
    for en in bare:
        _, adjective, noun = en.split()
        if adjective in adjectives:
            assert not frames.is_held_out({(nouns[noun], adjective)})
    share = sum(
        frames.is_held_out({(noun[0], one[0])}) for noun in words.NOUNS for one in words.ADJECTIVES
    )
    assert share / (len(words.NOUNS) * len(words.ADJECTIVES)) == pytest.approx(0.1, abs=0.01)


@pytest.mark.slow
def test_a_small_translator_learns(tmp_path, capsys):
    """A tenth of the steps: far from all is right, and all files are there."""
    assert make.main(["--out", str(tmp_path), "--steps", "300", "--pairs", "6000"]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "pairs.tsv",
        "held-out.tsv",
        "model",
        "gender.png",
        "number.png",
        "scores.json",
    }
    exact = float(re.search(r"held-out.*exact ([\d.]+)", capsys.readouterr().out)[1])
    assert 0.2 < exact < 1
