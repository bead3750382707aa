"""Families of pairs: counted, drawn without repeats, and read back as they were made."""

import json
from itertools import permutations

import pytest

from mingpt import BPETokenizer
from mingpt.loading.sources import BUILTIN_DIRECTORY
from mingpt.loading.tokenizer_files import tokenizer_in
from patching.errors import PairsError
from patching.study.generators.design import Design, Draw
from patching.study.generators.make import FAMILIES, make_pairs, write_rows
from patching.study.pairs_file import read_pairs

IN_GRAMMAR = [name for name, family in FAMILIES.items() if family.in_grammar]


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return tokenizer_in(BUILTIN_DIRECTORY)


def check_family(tokenizer, tmp_path, name: str, suffix: str) -> None:
    made = make_pairs(name, tokenizer, 25, seed=3)
    path = write_rows(tmp_path / f"pairs.{suffix}", made.rows)
    pairs, report = read_pairs(tokenizer, path, roles="roles", strict=True)
    assert len(pairs) == 25 and made.distinct > 25
    assert report.kept == ("template",)
    for pair, row, roles in zip(pairs, made.rows, pairs.roles, strict=True):
        assert (pair.clean_text, pair.corrupt_text) == (row["clean"], row["corrupt"])
        answers = [row[what] for what in ("target", "foil")]
        spelt = [[token.strip() for token in ids] for ids in (pair.target_tokens, pair.foil_tokens)]
        assert spelt == [one if isinstance(one, list) else [one] for one in answers]
        assert all(at for at in roles.values()) and "{" not in pair.clean_text


@pytest.mark.parametrize("name", IN_GRAMMAR)
def test_families_of_the_grammar_are_read_back_on_builtin(tokenizer, tmp_path, name):
    check_family(tokenizer, tmp_path, name, "csv")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_read_back_with_gpt2s_tokens(gpt2_tokenizer, tmp_path, name):
    suffix = ("csv", "tsv", "jsonl", "json")[list(FAMILIES).index(name) % 4]
    check_family(gpt2_tokenizer, tmp_path, name, suffix)


def test_the_seed_decides_the_pairs(tokenizer):
    first, again, other = (make_pairs("ioi", tokenizer, 30, seed=seed).rows for seed in (1, 1, 2))
    assert first == again and first != other
    assert len({json.dumps(row) for row in first}) == 30


def test_the_number_of_distinct_pairs_is_exact():
    design = Design(
        (Draw(("a", "b"), "xyz"), Draw(("c",), (0, 1))),
        lambda drawn: {"clean": "{a}{b}{c}".format(**drawn)},
    )
    every = {f"{a}{b}{c}" for a, b in permutations("xyz", 2) for c in (0, 1)}
    assert design.count == 12 == len(every)
    assert {design.at(index)["clean"] for index in range(12)} == every
    assert {row["clean"] for row in design.sample(12, "seed")} == every
    assert len({row["clean"] for row in design.sample(5, "seed")}) == 5
    with pytest.raises(PairsError, match="there are 12 distinct pairs, fewer than 13"):
        design.sample(13, "seed")


@pytest.mark.parametrize("corrupt", ["swap", "new"])
@pytest.mark.parametrize("order", ["ABBA", "BABA"])
def test_the_indirect_object_is_asked_for_in_both_orders(tokenizer, tmp_path, order, corrupt):
    made = make_pairs("ioi", tokenizer, 10, order=order, corrupt=corrupt, template=0)
    path = write_rows(tmp_path / "ioi.csv", made.rows)
    pairs, report = read_pairs(tokenizer, path, roles="roles")
    assert report.is_uniform and report.differing == {1 if corrupt == "swap" else 3: 10}
    for pair, roles in zip(pairs, pairs.roles, strict=True):
        named = {role: pair.clean_tokens[at[0]] for role, at in roles.items()}
        assert (named["IO"], named["S1"], named["S2"]) == (
            *pair.target_tokens, *pair.foil_tokens, *pair.foil_tokens,
        )  # fmt: skip
        assert (roles["IO"] < roles["S1"]) == (order == "ABBA")
        if corrupt == "swap":
            assert pair.differing == roles["S2"]
            assert pair.corrupt_tokens[roles["S2"][0]] == pair.target_tokens[0]
        else:
            assert pair.differing == tuple(sorted(roles["IO"] + roles["S1"] + roles["S2"]))
            assert not {*pair.corrupt_tokens} & {*pair.target_tokens, *pair.foil_tokens}


def test_the_shipped_model_knows_its_families(builtin):
    """The target is likelier than the foil after nearly every clean prompt, and not otherwise."""
    model, tokenizer = builtin
    for name in IN_GRAMMAR:
        right = 0
        for row in make_pairs(name, tokenizer, 10, seed=1).rows:
            target, foil = (tokenizer.encode(" " + row[what])[0] for what in ("target", "foil"))
            clean, corrupt = (
                model(tokenizer(row[what]))[0][0, -1] for what in ("clean", "corrupt")
            )
            right += bool(clean[target] > clean[foil]) + bool(corrupt[foil] > corrupt[target])
        assert right >= 18, name


@pytest.mark.parametrize(
    ("name", "n", "settings", "message"),
    [
        ("io", 1, {}, "no family 'io'; there are ioi, agreement"),
        ("ioi", 0, {}, "1 or more, not 0"),
        ("ioi", 1, {"length": 3}, "ioi has no setting 'length'; it has order, corrupt, template"),
        ("ioi", 1, {"order": "AB"}, "ABBA, BABA or both, not 'AB'"),
        ("ioi", 1, {"corrupt": "x"}, "swap or new, not 'x'"),
        ("ioi", 1, {"template": 9}, "ioi: there are templates 0 to 8, not 9"),
        ("opposites", 10**6, {}, "opposites: there are 8,640 distinct pairs, fewer than 1,000,000"),
        ("greater-than", 1, {}, "greater-than: two digits are not one token each"),
        ("induction", 1, {"length": 1}, "2 to 500 words, not 1"),
        ("induction", 1, {"length": 500}, "has 482 plain words; 501 are needed"),
    ],
)
def test_what_cannot_be_made_is_refused(tokenizer, name, n, settings, message):
    with pytest.raises(PairsError, match=message):
        make_pairs(name, tokenizer, n, **settings)


def test_a_tokenizer_that_cuts_the_words_is_refused():
    bytes_only = BPETokenizer(
        {symbol: n for n, symbol in enumerate(tokenizer_in(BUILTIN_DIRECTORY).vocab) if n < 256}, []
    )
    with pytest.raises(PairsError, match="ioi: only 0 of 184 names are one token each"):
        make_pairs("ioi", bytes_only, 1)


def test_rows_are_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(PairsError, match=r"ends in \.csv"):
        write_rows(tmp_path / "x.txt", [{"clean": "a"}])
    with pytest.raises(TypeError):
        write_rows(tmp_path / "x.jsonl", [{"clean": "a"}, {"clean": object()}])
    assert [*tmp_path.iterdir()] == []
