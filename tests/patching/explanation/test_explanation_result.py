"""Explanations: their numbers in words, saved, loaded, pickled, as a table and as a picture."""

import dataclasses
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from explanation_definition import ask

from patching import Explanation, Question, SweepResult, draw_explanation, explain, patch_sweep
from patching.drawing.style import png_bytes
from patching.errors import ResultError


def test_the_parts_of_the_difference(model):
    found = explain(model, ask(range(6)))
    assert found.parts() == pytest.approx(
        {
            "attention": found.logit[2].sum(),
            "embeddings": found.initial[0] - found.initial[1],
            "MLPs": (found.mlp[:, 0] - found.mlp[:, 1]).sum(),
            "attention's biases": (found.bias[:, 0] - found.bias[:, 1]).sum(),
            "the final layer norm's bias": found.final_bias[0] - found.final_bias[1],
        },
        rel=1e-5,
    )
    assert sum(found.parts().values()) == pytest.approx(found.logits[0] - found.logits[1], abs=1e-5)
    for scores in (found.next.top, (*found.next.target, *found.next.foil)):
        for score in scores:
            logits = model(torch.arange(6)[None])[0][0, -1]
            assert score.logit == pytest.approx(logits[score.id].item(), abs=1e-5)
            expected = logits.softmax(-1)[score.id].item()
            assert score.probability == pytest.approx(expected, rel=1e-4)
            assert score.rank == 1 + (logits > logits[score.id]).sum()


@pytest.mark.parametrize("methods", ["alti,lens", "direct"])
def test_saved_and_loaded(model, tmp_path, methods):
    found = explain(model, ask(range(5)), methods=methods, rows=3)
    found = dataclasses.replace(found, notes=("a",), command={"seed": 1}, checksum="0")
    npz, readable = found.save(tmp_path / "x")
    assert (npz.name, readable.name) == ("x.npz", "x.json")
    again = Explanation.load(tmp_path / "x")
    for f in dataclasses.fields(Explanation):
        before, after = getattr(found, f.name), getattr(again, f.name)
        assert type(before) is type(after)
        assert np.array_equal(before, after) if isinstance(before, np.ndarray) else before == after
    saved = json.loads(readable.read_text("utf-8"))
    assert [row["id"] for row in saved["next"]["top"]] == found.top_ids.tolist()
    assert saved["next"]["target"][0]["logit"] == found.logits[0]
    assert saved["tokens"] == {str(k): v for k, v in found.tokens.items()}
    assert "rollout" not in saved
    assert (saved["text"], saved["command"]) == (found.text, {"seed": 1})
    for method, bars in saved["bars"].items():
        np.testing.assert_array_equal(np.float32(bars), found.bars(method))
    assert len(saved["bars"]) == (2 if "alti" in methods else 1)
    np.testing.assert_array_equal(saved["alti"], found.alti)


def test_what_is_no_saved_explanation(model, pair, tmp_path):
    (tmp_path / "junk.npz").write_bytes(b"no")
    (tmp_path / "folder.npz").mkdir()
    np.savez_compressed(tmp_path / "packed.npz", ids=np.arange(999))
    np.savez(tmp_path / "damaged.npz", ids=np.arange(999))
    content = bytearray((tmp_path / "damaged.npz").read_bytes())
    content[200:240] = b"\xff" * 40
    (tmp_path / "damaged.npz").write_bytes(content)
    patch_sweep(model, pair).save(tmp_path / "sweep")
    explain(model, ask(range(3))).save(tmp_path / "whole")
    for name, message in (
        ("junk", "it is no .npz file"),
        ("packed", "it is compressed, and `save` compresses nothing"),
        ("damaged", "Bad CRC-32"),
        ("none", "No such file"),
        ("folder", "Is a directory"),
        ("sweep", "it has no field methods"),
    ):
        with pytest.raises(ResultError, match=f"is no saved explanation: .*{message}"):
            Explanation.load(tmp_path / name)
    with pytest.raises(ResultError, match="is no saved sweep: it has no field site"):
        SweepResult.load(tmp_path / "whole")
    with pytest.raises(ResultError, match="is no saved explanation"):
        Explanation.load(".")


EXAMPLE = {
    "text": "This summer, unlike the previous winter, is being extremely",
    "target": "hot",
    "foil": "cold",
}


@pytest.fixture(scope="module")
def summer(builtin) -> Explanation:
    model, tokenizer = builtin
    return explain(model, Question.from_text(tokenizer, **EXAMPLE))


def test_it_is_frozen(summer):
    with pytest.raises(dataclasses.FrozenInstanceError):
        summer.notes = ("a",)
    assert dataclasses.replace(summer, notes=("a",)).notes == ("a",)


def test_a_pickle_holds_little_but_the_arrays_and_no_model(summer):
    _ = summer.next  # cached properties do not count either
    pickled = pickle.dumps(summer)
    arrays = [value for value in vars(summer).values() if isinstance(value, np.ndarray)]
    assert len(pickled) <= 2 * sum(array.nbytes for array in arrays)
    assert b"mingpt.model" not in pickled
    assert b"mingpt.bpe" not in pickled
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again.rollout, summer.rollout)
    assert again.to_dict() == summer.to_dict()


def test_the_table_of_tokens(summer, model):
    table = summer.to_frame()
    assert [*table] == ["position", "token", "logit", "alti_logit"]
    assert table["position"].tolist() == [*range(11)]
    assert table["token"].tolist()[:3] == ["This", " summer", ","]
    for method in ("logit", "alti-logit"):
        np.testing.assert_array_equal(table[method.replace("-", "_")], summer.bars(method))
    only = explain(model, ask(range(5)), methods="direct").to_frame()
    assert [*only] == ["position", "token", "logit"]


def test_without_pandas_the_table_is_one_line(summer, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    with pytest.raises(ResultError) as caught:
        summer.to_frame()
    assert str(caught.value) == "to_frame() needs pandas: pip install pandas"


def test_it_shows_itself_in_a_few_lines_and_as_a_picture(summer, model):
    lines = repr(summer).splitlines()
    assert len(lines) == 3
    assert EXAMPLE["text"] in lines[0]
    assert "logit(␣hot) - logit(␣cold) = 8.69" in lines[1]
    assert "11 tokens; methods alti, alti-logit, lens, direct; model builtin" in lines[2]
    assert summer._repr_png_() == png_bytes(draw_explanation(summer, figure="alti-logit"))
    for methods, shown in (("logit,alti", "logit"), ("direct,lens", "lens")):
        found = explain(model, ask(range(4)), methods=methods)
        picture = found._repr_png_()
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        assert picture == png_bytes(draw_explanation(found, figure=shown))


def test_a_prompts_line_ends_and_escape_codes_do_not_reach_the_terminal(model):
    question = Question("a\n\x1b[31m" + "b" * 200, (1, 2), 3, 4)
    lines = repr(explain(model, question)).splitlines()
    assert len(lines) == 3
    assert lines[0].isprintable()
    assert len(lines[0]) < 120


def old_file(path, prompts: int) -> None:
    """Write a file of version 0.1: prompts of T = 2 tokens, L = 1, nh = 2, k = 2."""
    B = (prompts,) if prompts > 1 else ()
    shapes = {
        "logits": (2,), "probabilities": (2,), "top_logits": (2,), "top_probabilities": (2,),
        "heads": (2, 1, 2), "initial": (2,), "mlp": (1, 2), "bias": (1, 2), "final_bias": (2,),
        "error": (2,), "tolerance": (2,), "logit": (3, 2), "logit_layers": (3, 1, 2),
        "alti_logit": (3, 2), "alti_logit_layers": (3, 1, 2), "contributions": (1, 2, 2),
        "rollout": (1, 2, 2),
    }  # fmt: skip
    numbers = np.random.default_rng(0)
    arrays = {name: numbers.random((*B, *shape), np.float32) for name, shape in shapes.items()}
    whole = {"ids": (2,), "target": (), "foil": (), "ranks": (2,), "top_ids": (2,)}
    arrays |= {name: np.ones((*B, *shape), np.int64) for name, shape in whole.items()}
    structured = {
        "methods": ["alti", "alti-logit"], "texts": ["to to"] * prompts, "tokens": {"1": " to"},
        "model_name": "builtin", "versions": {"mingpt": "0.1.0", "device": "cpu"},
        "seconds": 0.5, "created": "2025-01-01T00:00:00+00:00", "notes": ["a note"],
        "arguments": {"seed": 0}, "checksum": None,
    }  # fmt: skip
    saved = {name: json.dumps(value) for name, value in structured.items()}
    np.savez(path, **arrays, **saved)


def test_a_file_of_version_0_1_is_read(tmp_path):
    old_file(tmp_path / "old.npz", prompts=1)
    found = Explanation.load(tmp_path / "old")
    assert (found.text, found.target, found.foil) == ("to to", 1, 1)
    assert found.methods == ("alti", "alti-logit")
    assert found.tokens == {1: " to"}
    assert found.notes == ("a note",)
    assert found.lens_ids is None
    assert (found.command, found.checksum, found.seconds) == ({"seed": 0}, None, 0.5)
    assert found.bars().shape == (2,)
    assert repr(found).startswith("Explanation of 'to to'")
    found.save(tmp_path / "new")
    with np.load(tmp_path / "old.npz") as before, np.load(tmp_path / "new.npz") as after:
        np.testing.assert_array_equal(found.rollout, before["rollout"])
        assert {*before} - {*after} == {"texts", "arguments"}
        assert {*after} - {*before} == {
            "text", "command", "content_sha256", "ablated",
        }  # fmt: skip
        for name in {*before} & {*after}:
            np.testing.assert_array_equal(before[name], after[name])


def test_a_file_of_version_0_1_of_several_prompts_is_refused(tmp_path):
    old_file(tmp_path / "old.npz", prompts=2)
    with pytest.raises(ResultError) as caught:
        Explanation.load(tmp_path / "old")
    assert str(caught.value) == (
        f"{tmp_path / 'old'} explains 2 prompts in one file, as version 0.1 could;"
        " explain the prompts again and save each explanation in a file of its own"
    )


def test_a_file_of_version_0_1_of_a_batch_of_one_prompt_is_read(tmp_path):
    old_file(tmp_path / "old.npz", prompts=1)
    with np.load(tmp_path / "old.npz") as saved:
        arrays = {name: saved[name] for name in saved}
    batch = {name: one if one.dtype.kind == "U" else one[None] for name, one in arrays.items()}
    np.savez(tmp_path / "batch.npz", **batch)
    found, expected = (Explanation.load(tmp_path / name) for name in ("batch", "old"))
    assert found.to_dict() == expected.to_dict()
