"""The result of a continuation: a frozen sequence that is saved, loaded, tabulated and drawn."""

import dataclasses
import hashlib
import json
import math
import os
import pickle
import sys

import pytest

from mingpt import Decoding
from patching.continuation.request import GenerationSettings
from patching.continuation.result import Continuation, Continuations
from patching.continuation.run import continue_prompts
from patching.errors import ResultError
from patching.result_files import saved_checksum

KEYS, DOCTOR = "The keys to the cabinet", "The doctor said that"
DRAWN = GenerationSettings(8, Decoding(1.3, 20, 0.95, 1.1), stop=("dust",))


@pytest.fixture(scope="module")
def result(builtin) -> Continuations:
    return continue_prompts(*builtin, [KEYS, DOCTOR], DRAWN, num_samples=3, seed=3)


@pytest.fixture(scope="module")
def beams(builtin) -> Continuations:
    settings = GenerationSettings(4, num_beams=2, length_penalty=0.5)
    return continue_prompts(*builtin, [KEYS, DOCTOR], settings, num_samples=2)


# --------------------------------------------------------------------- the sequence


def test_it_is_a_sequence_of_the_prompts_samples(result):
    assert len(result) == 2
    assert result.prompts == (KEYS, DOCTOR)
    assert result[1][2].prompt == DOCTOR
    assert result[1][2].sample.seed == 5
    assert result[-1] == result[1]
    assert result[:1] == (result[0],)
    assert [len(samples) for samples in result] == [3, 3]
    assert isinstance(result[0][0], Continuation)
    assert result.versions["dtype"] == "float32"
    assert result.checksum is None  # only the command sets it


def test_it_cannot_be_changed_but_by_replace(result):
    for one, name in ((result, "notes"), (result[0][0], "text")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, name, "")
    with pytest.raises(TypeError):
        result[0] = ()
    assert dataclasses.replace(result, notes=("a",)).notes == ("a",)


def test_it_is_pickled_small_and_without_the_model(builtin):
    result = continue_prompts(*builtin, [KEYS], GenerationSettings(40), num_samples=30)
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    samples = [one.sample for one in result[0]]
    numbers = sum(len(one.prompt) + len(one.ids) + len(one.log_probs) for one in samples)
    texts = sum(
        len(text.encode()) for one in result[0] for text in (one.text, one.prompt, *one.tokens)
    )
    assert len(pickle.dumps(result)) <= 2 * (8 * numbers + texts)


def test_its_repr_is_a_few_lines(result, builtin):
    lines = repr(result).splitlines()
    assert lines[0] == f"Continuations by builtin: 2 prompts, 6 samples; {DRAWN.describe()}"
    assert lines[1].startswith(f"  {KEYS!r} \u2192 {result[0][0].text!r}"[:60])
    assert all(line.endswith(" (+2)") for line in lines[1:])
    many = dataclasses.replace(result, samples=result.samples * 50)
    assert len(repr(many).splitlines()) == 6
    odd = dataclasses.replace(result[0][0], prompt="a\x1b[31m\n" * 99, text="\n" * 999)
    one = repr(dataclasses.replace(result, samples=((odd,),)))
    assert "\x1b" not in one
    assert [len(line) < 140 for line in one.splitlines()] == [True, True]


def test_jupyter_shows_the_first_prompts_samples(result, beams):
    for one in (result, beams):
        assert one._repr_png_().startswith(b"\x89PNG\r\n\x1a\n")
    assert dataclasses.replace(result, samples=())._repr_png_() is None


def test_a_table_has_a_row_for_each_sample(result, beams):
    pytest.importorskip("pandas")
    table = result.to_frame()
    assert [*table.columns] == [
        "model", "prompt", "sample", "seed", "text", "ended", "log_prob", "score", "ids",
        "tokens", "log_probs",
    ]  # fmt: skip
    assert [*table["prompt"]] == [KEYS] * 3 + [DOCTOR] * 3
    assert [*table["sample"]] == [0, 1, 2] * 2
    assert [*table["seed"]] == [3, 4, 5] * 2
    assert table["log_prob"][4] == result[1][1].sample.log_prob
    tokens = table.explode(["ids", "tokens", "log_probs"])
    assert len(tokens) == sum(len(one.tokens) for samples in result for one in samples)
    assert tokens["log_probs"].sum() == pytest.approx(table["log_prob"].sum())
    assert [*beams.to_frame()["score"]] == [one.sample.score for row in beams for one in row]


def test_without_pandas_a_line_says_what_to_install(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ResultError, match=r"^to_frame\(\) needs pandas: pip install pandas$"):
        result.to_frame()


# --------------------------------------------------------------------- files


def test_it_is_saved_and_loaded(result, beams, tmp_path):
    whole = dataclasses.replace(
        result, notes=("a note",), command={"model": ["builtin"]}, checksum="ab"
    )
    for one, name in ((whole, "x.json"), (beams, "y")):
        path = one.save(tmp_path / name)
        assert path == (tmp_path / name).with_suffix(".json")
        assert Continuations.load(tmp_path / name) == one
        saved = json.loads(path.read_text())
        assert saved.pop("text_sha256") == saved_checksum(path)
        assert saved == one.to_dict()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "y.json"]


def test_several_results_are_saved_in_one_file(result, beams, tmp_path):
    other = dataclasses.replace(result, model_name="other", checksum="cd")
    path = Continuations.save_all(tmp_path / "x.json", [result, beams, other], counts=[1])
    fields = json.loads(path.read_text())
    assert fields["counts"] == [1]
    assert [*fields] == ["command", "models", "results", "counts", "values", "text_sha256"]
    assert [model["name"] for model in fields["models"]] == ["builtin", "other"]
    loaded = Continuations.load_all(path)
    assert loaded[:2] == [result, beams]
    assert loaded[2] == other
    with pytest.raises(ResultError, match=r"holds 3 results, .* Continuations\.load_all$"):
        Continuations.load(path)


def test_samples_that_are_alike_stay_apart(result, beams, tmp_path):
    """Two results with the same settings and prompts, and a prompt that comes twice."""
    twice = dataclasses.replace(beams, samples=(beams[0], beams[0]))
    path = Continuations.save_all(tmp_path / "x.json", [twice, twice, result, result])
    assert Continuations.load_all(path) == [twice, twice, result, result]


def test_equal_settings_are_one_object_after_loading(result, tmp_path):
    loaded = Continuations.load(result.save(tmp_path / "x"))
    assert {id(one.settings) for samples in loaded for one in samples} == {id(loaded.settings)}


def refusal(path) -> str:
    """Return the message with which a file is refused: one line."""
    with pytest.raises(ResultError) as refused:
        Continuations.load_all(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_is_no_saved_continuation(result, tmp_path):
    path = result.save(tmp_path / "x.json")
    text = path.read_text()
    for damaged in ("", "[]", "3", '{"values": [{}]}', '{"values": 3}', "[" * 9999, "\udc80"):
        path.write_bytes(damaged.encode(errors="surrogateescape"))
        assert refusal(path).startswith(f"{path} is no saved continuation: ")
    changed = "it was changed after it was saved"
    for damaged in (
        text.replace('"seed": 4', '"seed": 9'),
        text + " ",
        text.replace("text_s", "u"),
    ):
        path.write_text(damaged)
        assert changed in refusal(path)
    assert "No such file" in refusal(tmp_path / "y.json")
    os.mkfifo(tmp_path / "pipe.json")
    assert "no regular file" in refusal(tmp_path / "pipe.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["values"][0].update(seed="x"), "values.seed is 'x', not a whole number"),
        (lambda f: f["values"][0].update(ended=7), "values.ended is 7, not one of length, end"),
        (lambda f: f["values"][0].update(ids=[-1]), "values.ids is -1, not a whole number"),
        (lambda f: f["values"][0].update(ids=[2**63]), "values.ids is 9223372036854775808, not"),
        (lambda f: f["values"][0]["ids"].append(3), "ids and tokens of values do not agree"),
        (lambda f: f["values"][0]["tokens"].pop(), "ids and tokens of values do not agree"),
        (lambda f: f["values"][0].update(log_prob=-1), "log_prob and log_probs of values do not"),
        (lambda f: f["values"][0].update(prompt="a"), "results and prompt of values do not agree"),
        (
            lambda f: f["values"][0]["settings"].update(top_p=0.5),
            "results and settings of values do not agree",
        ),
        (lambda f: f["values"][0]["settings"].update(length_penalty=math.nan), "it holds NaN"),
        (lambda f: f["values"][0]["settings"].update(greedy=0), "settings.greedy is 0, not true"),
        (lambda f: f["values"][0]["settings"].update(top_k=0), "settings.top_k is 0, not a whole"),
        (
            lambda f: [v["settings"].update(temperature=-1.0) for v in f["values"]],
            "temperature must be a number above 0, not -1.0",
        ),
        (lambda f: f["values"][0]["settings"].pop("stop"), "has no field values.settings.stop"),
        (lambda f: f["results"][0].update(samples=[3, 2]), "results and values do not agree"),
        (lambda f: f["results"][0].update(samples=[0, 6]), "results.samples is 0, not a whole"),
        (lambda f: f["results"][0].update(model=7), "results and models do not agree"),
        (lambda f: f["models"][0].update(notes="abc"), "models.notes is 'abc', not a list"),
        (lambda f: f["models"][0].update(versions={"a": 1}), "versions.a is 1, not a text"),
        (lambda f: f.update(command=[]), "command is [], not a dictionary"),
    ],
)
def test_a_field_that_was_changed_with_the_checksum_is_refused(result, tmp_path, change, message):
    path = result.save(tmp_path / "x.json")
    fields = json.loads(path.read_text())
    del fields["text_sha256"]
    change(fields)
    body = json.dumps(fields).removesuffix("}").encode()
    signature = hashlib.sha256(body).hexdigest()
    path.write_bytes(body + b',\n"text_sha256": "' + signature.encode() + b'"\n}\n')
    assert message in refusal(path)


def test_a_log_probability_below_all_floats_is_null_in_the_file(result, beams, tmp_path):
    """Logits of float32 that are 6e38 apart have such a log-probability."""
    for whole in (result, beams):
        first = whole[0][0]
        sample = dataclasses.replace(
            first.sample,
            log_probs=(-math.inf, *first.sample.log_probs[1:]),
            score=None if first.sample.score is None else -math.inf,
        )
        samples = (dataclasses.replace(first, sample=sample), *whole[0][1:])
        odd = dataclasses.replace(whole, samples=(samples, whole[1]))
        path = odd.save(tmp_path / "x.json")
        saved = json.loads(path.read_text(), parse_constant=pytest.fail)["values"][0]
        assert saved["log_prob"] is saved["log_probs"][0] is saved["score"] is None
        assert Continuations.load(path) == odd


def test_characters_that_turn_a_line_are_escaped_in_the_file(result, tmp_path):
    odd = dataclasses.replace(result, model_name="\u202e\x9b31m\udcff", notes=("ñandú 模型",))
    samples = tuple(
        tuple(dataclasses.replace(one, model_name=odd.model_name) for one in row) for row in result
    )
    odd = dataclasses.replace(odd, samples=samples)
    path = odd.save(tmp_path / "x.json")
    text = path.read_bytes().decode()
    assert all(line.isprintable() for line in text.split("\n"))
    assert "ñandú 模型" in text
    assert Continuations.load(path) == odd


# --------------------------------------------------------------------- files of version 0.1


def saved_by_01(model: str, prompt: str, seed: int, temperature: float) -> dict:
    """Return a sample as version 0.1 wrote it."""
    return {
        "model": model, "prompt": prompt, "text": " are on", "ids": [530, 456],
        "tokens": [" are", " on"], "log_probs": [-2.09808349609375e-05, -2.2046127319335938],
        "log_prob": -2.2046337127685547, "score": None, "ended": "length", "seed": seed,
        "prompt_ids": [286, 2057],
        "settings": {
            "temperature": temperature, "top_k": None, "top_p": None, "repetition_penalty": 1.0,
            "max_new_tokens": 2, "greedy": False, "num_beams": None, "length_penalty": 1.0,
            "stop": [],
        },
    }  # fmt: skip


def test_the_commands_files_of_version_01_are_read(tmp_path):
    values = [
        saved_by_01(model, prompt, seed, temperature)
        for model in ("builtin", "other")
        for temperature in (0.5, 1.0)
        for prompt in (KEYS, "A")
        for seed in (3, 4)
    ]
    models = [
        {"name": name, "checksum": name * 2, "notes": [f"a note on {name}"],
         "versions": {"mingpt": "0.1.0", "dtype": "float32"}}
        for name in ("builtin", "other")
    ]  # fmt: skip
    arguments = {"model": ["builtin", "other"], "seed": 3, "num_samples": 2}
    fields = {"arguments": arguments, "models": models, "counts": [], "values": values}
    (tmp_path / "old.json").write_text(json.dumps(fields))
    results = Continuations.load_all(tmp_path / "old.json")
    assert [(one.model_name, one.settings.decoding.temperature) for one in results] == [
        ("builtin", 0.5), ("builtin", 1.0), ("other", 0.5), ("other", 1.0)
    ]  # fmt: skip
    for one in results:
        assert one.prompts == (KEYS, "A")
        assert [[sample.sample.seed for sample in samples] for samples in one] == [[3, 4]] * 2
        assert one.checksum == one.model_name * 2
        assert one.notes == (f"a note on {one.model_name}",)
        assert one.versions == {"mingpt": "0.1.0", "dtype": "float32"}
        assert one.command == arguments
        assert one.created == ""
    assert [one.to_dict() for one in results[0][0]] == values[:2]


def test_the_librarys_files_of_version_01_are_read(tmp_path):
    """They hold the samples and any other fields that the caller passed."""
    values = [saved_by_01("m", KEYS, seed, 1.0) for seed in (0, 1)]
    (tmp_path / "old").write_text(json.dumps({"versions": {"a": "b"}, "values": values}))
    result = Continuations.load(tmp_path / "old")
    assert [one.text for one in result[0]] == [" are on"] * 2
    assert (result.model_name, result.checksum, result.versions) == ("m", None, {})
    assert result.command is None
