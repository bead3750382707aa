"""Pairs from files: every family's columns, what is left out, what is refused."""

import json
import subprocess
import sys

import pytest
from helpers import ROOT

from mingpt import BPETokenizer
from mingpt.loading.sources import BUILTIN_DIRECTORY
from mingpt.loading.tokenizer_files import tokenizer_in
from patching.errors import PairsError
from patching.study.pairs_file import read_pairs
from patching.study.rows import listed

IOI = "When {} and {} went to the store, {} gave a drink to"
CLEAN, CORRUPT = IOI.format("Mary", "John", "John"), IOI.format("Mary", "John", "Mary")
OURS = {"clean": CLEAN, "corrupt": CORRUPT, "target": "Mary", "foil": "John"}


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return tokenizer_in(BUILTIN_DIRECTORY)


def id_of(tokenizer, word: str) -> int:
    (number,) = tokenizer.encode(" " + word)
    return number


def write(tmp_path, name: str, rows):
    """Write rows to a file in the format of its suffix; text and bytes as they are."""
    path = tmp_path / name
    if isinstance(rows, bytes):
        path.write_bytes(rows)
    elif isinstance(rows, str):
        path.write_text(rows, encoding="utf-8", newline="")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        between = {".csv": ",", ".tsv": "\t"}[path.suffix]
        quoted = [['"' + str(v).replace('"', '""') + '"' for v in row.values()] for row in rows]
        lines = [between.join(rows[0]), *map(between.join, quoted)]
        path.write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    return path


def eap_ig(tokenizer):
    ids = {"correct_idx": id_of(tokenizer, "Mary"), "incorrect_idx": id_of(tokenizer, "John")}
    return {"": 0, "clean": CLEAN, "corrupted": CORRUPT, "corrupted_hard": "x", **ids}


FAMILIES = {
    "ours.csv": lambda t: [OURS],
    "ours.tsv": lambda t: [OURS],
    "eap_ig.csv": lambda t: [eap_ig(t)],
    "feature_circuits.jsonl": lambda t: [
        {
            "clean_prefix": CLEAN, "patch_prefix": CORRUPT,
            "clean_answer": " Mary", "patch_answer": " John", "case": "x",
        }
    ],
    "autocircuit.json": lambda t: {
        "seq_labels": ["a"],
        "prompts": [
            {"clean": CLEAN, "corrupt": CORRUPT, "answers": [" Mary"], "wrong_answers": [" John"]}
        ],
    },
    "acdc.jsonl": lambda t: [
        {
            "clean_prompt": CLEAN, "corrupt_prompt": CORRUPT,
            "correct": "Mary", "incorrect": "John",
        }
    ],
    "mib.jsonl": lambda t: [
        {
            "prompt": CLEAN,
            "metadata": {"indirect_object": "Mary", "subject": "John", "random_c": "Anna"},
            "abc_counterfactual": {"prompt": "x"},
            "s2_io_flip_counterfactual": {"prompt": CORRUPT},
        }
    ],
    "viewer.json": lambda t: {"rows": [{"row_idx": 0, "row": OURS}]},
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_columns_gives_the_same_pair(tokenizer, tmp_path, name):
    pairs, report = read_pairs(tokenizer, write(tmp_path, name, FAMILIES[name](tokenizer)))
    (pair,) = pairs
    assert (pair.clean_text, pair.corrupt_text) == (CLEAN, CORRUPT)
    assert (pair.target_tokens, pair.foil_tokens) == ((" Mary",), (" John",))
    assert (report.rows, report.pairs, report.left_out) == (1, 1, ())
    assert report.lengths == {len(pair): 1} and report.positions == dict.fromkeys(pair.differing, 1)


def test_further_columns_are_kept_beside_their_pairs(tokenizer, tmp_path):
    other = {**OURS, "clean": CLEAN.replace("drink", "book"), "corrupt": CORRUPT, "template": "B"}
    unequal = {**OURS, "corrupt": CORRUPT + " the", "template": "U"}
    rows = [{**OURS, "template": "A"}, unequal, other]
    pairs, report = read_pairs(tokenizer, write(tmp_path, "pairs.csv", rows))
    assert pairs.columns == {"template": ("A", "B")} and pairs.places == (2, 4)
    assert pairs[1:].columns == {"template": ("B",)} and pairs[1:][0] is pairs[1]
    assert report.spaced == ("Mary", "John") and report.kept == ("template",)
    assert report.differing == {1: 1, 2: 1}


def test_a_chosen_column_comes_before_the_aliases(tokenizer, tmp_path):
    rows = [{**OURS, "corrupt": "Mary", "abc": CORRUPT}]
    path = write(tmp_path, "pairs.csv", rows)
    pairs, report = read_pairs(tokenizer, path, columns={"corrupt": "abc"})
    assert pairs[0].corrupt_text == CORRUPT and report.columns["corrupt"] == "abc"
    with pytest.raises(PairsError, match="no column 'abd'; found clean, corrupt"):
        read_pairs(tokenizer, path, columns={"corrupt": "abd"})


@pytest.mark.parametrize("written", [["Mary", "Anna"], "['Mary', 'Anna']", '["Mary", "Anna"]'])
def test_answers_can_be_sets(tokenizer, tmp_path, written):
    path = write(tmp_path, "pairs.jsonl", [{**OURS, "target": written}])
    assert read_pairs(tokenizer, path)[0][0].target_tokens == (" Mary", " Anna")


def test_rows_that_cannot_be_used_are_left_out_and_counted(tokenizer, tmp_path):
    changes = [
        {},
        {"corrupt": CORRUPT + " the"},
        {"corrupt": CLEAN},
        {"target": "Zaphod"},
        {"target": ""},
        {"clean": ""},
        {"foil": "Mary"},
        {"clean": CLEAN * 2, "corrupt": CORRUPT * 2},
        {},
    ]
    path = write(tmp_path, "pairs.csv", [OURS | change for change in changes])
    pairs, report = read_pairs(tokenizer, path, most_tokens=16)
    assert [*pairs.places] == [2]
    assert {one.reason: one.places for one in report.left_out} == {
        "prompts of unequal lengths": (3,),
        "the same prompt twice": (4,),
        "an answer of several tokens": (5,),
        "no target": (6,),
        "an empty prompt": (7,),
        "a token that is target and foil at once": (8,),
        "longer than the 16 tokens that the model reads": (9,),
        "the same pair as an earlier row": (10,),
    }
    assert "  left out: 1, the same pair as an earlier row (line 10)" in report.lines()
    with pytest.raises(PairsError, match=r"8 of 9 rows cannot be used: .*\(line 3\)"):
        read_pairs(tokenizer, path, most_tokens=16, strict=True)


def test_no_row_that_can_be_used_is_an_error(tokenizer, tmp_path):
    path = write(tmp_path, "pairs.csv", [{**OURS, "target": "Zaphod"}] * 30)
    with pytest.raises(PairsError, match=r"no row can be used: .* \(lines 2, .*, 21 and 10 more\)"):
        read_pairs(tokenizer, path)


MALFORMED = {
    "empty": ("x.csv", "", "is empty"),
    "blank": ("x.csv", " \n\n", "is empty"),
    "no rows": ("x.csv", "clean,corrupt,target\n", "has no rows"),
    "fields": ("x.csv", "clean,corrupt,target\n1,2\n1,2,3\n1\n", "lines 2 and 4: 1, 2 fields"),
    "quote": ("x.csv", 'clean,corrupt,target\n"a,b,c\n', "line 2: unexpected end of data"),
    "twice": ("x.csv", "clean,clean\n1,2\n", "two columns are called clean"),
    "semicolons": ("x.csv", "clean;target\na;b\n", "found clean;target; needed clean .*; corrupt"),
    "one prompt": ("x.csv", "clean,target\na,b\n", r"found clean, target; needed corrupt \(or"),
    "latin-1": ("x.csv", "clean,corrupt\né".encode("latin-1"), r"line 2: not UTF-8 \(byte 0xe9\)"),
    "not JSON": ("x.jsonl", '{"clean": 1}\n{"clean": }\n', "line 2: not JSON"),
    "a list": ("x.jsonl", "[1]\n", "line 1: not a JSON object"),
    "deep": ("x.json", "[" * 100_000, "not JSON"),
    "number": ("x.json", "3", "no list of rows"),
    "no list": ("x.json", '{"a": 1}', "no list of rows; a JSON object holds it under prompts"),
    "of numbers": ("x.json", "[1]", "row 1: not a JSON object"),
    "a number as prompt": ("x.json", json.dumps([{**OURS, "clean": 3}]), "row 1: the clean"),
    "a number as answer": ("x.json", json.dumps([{**OURS, "target": 3}]), "row 1: an answer"),
    "a broken set": ("x.json", json.dumps([{**OURS, "target": "['a"}]), "no list of answers"),
    "suffix": ("x.txt", "clean", "ends in .csv, .tsv, .jsonl, .json"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_files_that_are_not_what_they_should_be_are_refused_in_one_line(tokenizer, tmp_path, case):
    name, content, message = MALFORMED[case]
    with pytest.raises(PairsError, match=message) as refused:
        read_pairs(tokenizer, write(tmp_path, name, content))
    assert "\n" not in str(refused.value) and name in str(refused.value)


def test_missing_files_and_folders_are_refused(tokenizer, tmp_path):
    with pytest.raises(PairsError, match="is missing"):
        read_pairs(tokenizer, tmp_path / "x.csv")
    (tmp_path / "y.csv").mkdir()
    with pytest.raises(PairsError, match="a folder"):
        read_pairs(tokenizer, tmp_path / "y.csv")


def test_ids_are_decoded_shown_and_those_of_another_model_refused(tokenizer, tmp_path):
    row = eap_ig(tokenizer)
    _, report = read_pairs(tokenizer, write(tmp_path, "a.csv", [row]))
    assert report.decoded["correct_idx"] == [f"{row['correct_idx']} ␣Mary"]
    with pytest.raises(PairsError, match="another model's vocabulary: no token has the id 50000"):
        read_pairs(tokenizer, write(tmp_path, "b.csv", [row | {"correct_idx": 50000}]))
    with pytest.raises(PairsError, match=r"they read 65 b \(1 of 1 are no whole words\)"):
        read_pairs(tokenizer, write(tmp_path, "c.csv", [row | {"correct_idx": 65}]))
    beside = {**row, "correct": "Anna"}
    del beside["incorrect_idx"]
    path = write(tmp_path, "d.csv", [beside | {"incorrect_idx": 1.5}])
    with pytest.raises(PairsError, match=r"line 2: '1\.5' is no token id"):
        read_pairs(tokenizer, path)
    path = write(tmp_path, "e.csv", [beside])
    with pytest.raises(PairsError, match="line 2 has 'Anna' under correct"):
        read_pairs(tokenizer, path, columns={"target": "correct_idx"})


def test_years_give_sets_of_two_digit_tokens(gpt2_tokenizer, tmp_path):
    clean, corrupt = (f"The war lasted from the year 17{yy} to the year 17" for yy in ("32", "01"))
    row = {"clean": clean, "corrupted": corrupt, "correct_idx": 32}
    (pair,), report = read_pairs(gpt2_tokenizer, write(tmp_path, "years.csv", [row]))
    assert pair.target_tokens == tuple(f"{yy:02d}" for yy in range(33, 100))
    assert pair.foil_tokens == tuple(f"{yy:02d}" for yy in range(33))
    written = {"clean": clean, "corrupt": corrupt, "answers": ["33"], "wrong_answers": ["32"]}
    (pair,), report = read_pairs(gpt2_tokenizer, write(tmp_path, "a.json", {"prompts": [written]}))
    assert pair.target_tokens == ("33",) and not report.spaced
    assert "answers of digits go on with the number" in "".join(report.notes)


def test_years_need_tokens_of_two_digits(tokenizer, tmp_path):
    clean, corrupt = (f"The war lasted from the year 17{yy} to the year 17" for yy in ("32", "01"))
    row = {"clean": clean, "corrupted": corrupt, "label": 32}
    with pytest.raises(PairsError, match="not one token each"):
        read_pairs(tokenizer, write(tmp_path, "years.csv", [row]))


def test_roles_come_from_marks_or_from_a_column(tokenizer, tmp_path):
    marked = "When {IO:Mary} and {S1:John} went to the {{store}}, {S2:John} gave a drink to"
    corrupt = marked.replace("{S2:John}", "{S2:Mary}")
    plain = marked.replace("{IO:Mary}", "Mary").replace("{S1:John}", "John")
    plain = plain.replace("{S2:John}", "John").replace("{{", "{").replace("}}", "}")
    path = write(tmp_path, "marks.jsonl", [{**OURS, "clean": marked, "corrupt": corrupt}])
    pairs, _ = read_pairs(tokenizer, path, roles="marks")
    assert pairs[0].clean_text == plain
    (roles,) = pairs.roles
    named = {role: [pairs[0].clean_tokens[i] for i in at] for role, at in roles.items()}
    assert named == {"IO": [" Mary"], "S1": [" John"], "S2": [" John"]}
    assert roles["S2"] == pairs[0].differing

    for cell in ("IO:1 S1:3-4 end:-1", '{"IO": 1, "S1": [3, 4], "end": -1}'):
        path = write(tmp_path, "column.csv", [{**OURS, "at": cell}])
        pairs, report = read_pairs(tokenizer, path, roles="at")
        assert pairs.roles == ({"IO": (1,), "S1": (3, 4), "end": (len(pairs[0]) - 1,)},)
    path = write(tmp_path, "object.jsonl", [{**OURS, "at": {"IO": 1, "S1": [3]}}])
    pairs, report = read_pairs(tokenizer, path, roles="at")
    assert pairs.roles == ({"IO": (1,), "S1": (3,)},) and report.kept == ()


@pytest.mark.parametrize(
    ("clean", "message"),
    [
        ("When {IO:Mary and", "the brace at character 5 is no mark"),
        ("When {IO: } and", "has no word"),
        ("{A:Ma}{B:ry} Jones", "has two roles, A and B"),
    ],
)
def test_marks_that_mark_nothing_are_refused(tokenizer, tmp_path, clean, message):
    path = write(tmp_path, "marks.jsonl", [{**OURS, "clean": clean, "corrupt": "Anna Jones"}])
    with pytest.raises(PairsError, match=f"line 1: .*{message}"):
        read_pairs(tokenizer, path, roles="marks")


def test_roles_need_their_column_and_positions_that_are_there(tokenizer, tmp_path):
    path = write(tmp_path, "pairs.csv", [{**OURS, "at": "IO:99"}])
    with pytest.raises(PairsError, match="no column 'roles'; found clean"):
        read_pairs(tokenizer, path, roles="roles")
    with pytest.raises(PairsError, match="line 2: position 99 is out of range"):
        read_pairs(tokenizer, path, roles="at")


def test_places_are_listed_up_to_twenty():
    assert listed([3]) == "line 3"
    assert listed([3, 7], "row") == "rows 3 and 7"
    assert listed(range(23)).endswith("18, 19 and 3 more")


def test_pairs_are_read_and_made_without_the_slow_imports():
    code = (
        "import sys, patching.study.pairs_file, patching.study.generators.make,"
        " patching.study.request, patching.study.result, patching.study.summary;"
        " print({'torch', 'scipy', 'pandas', 'pyarrow', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
