"""Results of a sweep: their files, tables, texts and pictures."""

import dataclasses
import hashlib
import json
import math
import pickle
import sys

import numpy as np
import pytest
import torch
from helpers import last

from mingpt import Patch
from mingpt.checksum import sha256_of
from patching import PromptPair, ResultError, SweepError, SweepResult, patch_sweep
from patching.result_files import saved_checksum


def test_next_tokens(model, pair):
    result = patch_sweep(model, pair)
    logits = last(model, pair.corrupt_ids)
    probabilities = logits.double().softmax(0)
    order = logits.argsort(descending=True).tolist()
    table = result.corrupt_next
    assert [row.id for row in table.top] == order[:20]
    assert [row.rank for row in table.top] == [*range(1, 21)]
    assert table.top[3].probability == pytest.approx(probabilities[order[3]].item())
    assert table.foil[0].id == 22
    assert table.foil[0].rank == order.index(22) + 1
    assert table.foil[0].logit == pytest.approx(logits[22].item())
    assert table.target[0].token == "id:11"
    assert result.clean_next != table


@pytest.mark.parametrize("name", ["run", "run.npz", "run.json", "v1.2-run"])
def test_save_and_load(model, pair, tmp_path, name):
    result = patch_sweep(model, pair, layers=[0, 1], metric="logit_diff,kl", direction="noise")
    result = dataclasses.replace(result, notes=("a note",), command={"seed": 3})
    npz, readable = result.save(tmp_path / "sub" / name)
    assert npz.name == name.removesuffix(".npz").removesuffix(".json") + ".npz"
    again = SweepResult.load(npz)
    assert np.array_equal(again.values, result.values, equal_nan=True)
    assert again.values.dtype == result.values.dtype
    assert again.pair == pair
    assert (again.site, again.direction) == ("resid_post", "noise")
    assert [*again.metrics] == ["logit_diff", "kl"]
    assert again.metrics["kl"][1:] == result.metrics["kl"][1:]
    assert again.checksum == model.checksum()
    assert again.clean_next == result.clean_next
    assert again.to_dict() == result.to_dict()
    saved = json.loads(readable.read_text())
    assert saved.pop("npz_sha256") == hashlib.sha256(npz.read_bytes()).hexdigest()
    assert saved.pop("text_sha256") == saved_checksum(npz)
    assert saved == json.loads(json.dumps(result.to_dict()))
    with np.load(npz, allow_pickle=False) as arrays:
        assert {"values", "pair", "metric", "clean_value", "corrupt_value"} <= set(arrays.files)
        assert set(arrays.files) == {
            *result.to_dict(),
            "values_logit_diff",
            "values_kl",
            "content_sha256",
        }
        assert np.array_equal(arrays["values_kl"], result.metrics["kl"].values, equal_nan=True)
        assert arrays["metric"].item() == "logit_diff"
        assert arrays["clean_value"].item() == result.clean_value
    again.save(tmp_path / "again")
    assert SweepResult.load(tmp_path / "again").to_dict() == again.to_dict()


def test_nan_is_null_in_json(model, pair):
    values = patch_sweep(model, pair, layers=[0]).to_dict()["values"]
    assert values[1] == [None] * 7
    assert not any(value is None or math.isnan(value) for value in values[0])


def test_awkward_tokens_survive_saving(model, tmp_path):
    tokens = {1: "\x00", 2: "a\x00", 3: '"\n', 4: "\u202e🙂"}
    pair = PromptPair.from_ids([1, 3], [2, 3], 3, 4, tokens=tokens)
    npz, _ = patch_sweep(model, pair).save(tmp_path / "x")
    assert SweepResult.load(npz).pair == pair


def test_the_weights_are_hashed_once_for_a_model(model, pair, monkeypatch):
    count = []
    monkeypatch.setattr("mingpt.model.sha256_of", lambda n: count.append(1) or sha256_of(n))
    first, second = (patch_sweep(model, pair) for _ in range(2))
    assert len(count) == 1
    assert first.checksum == second.checksum == sha256_of(model.named_parameters())


def test_a_result_stays_what_it_was_when_the_model_changes(model, pair):
    result = patch_sweep(model, pair)
    before = result.to_dict()
    with torch.no_grad():
        model.transformer.ln_f.bias += 1
    assert result.to_dict() == before
    assert result.checksum != model.checksum()


@pytest.mark.parametrize("content", [None, b"", b"not a zip", "foreign"])
def test_what_is_no_result_is_refused(tmp_path, content):
    path = tmp_path / "x.npz"
    if content == "foreign":
        np.savez(path, values=np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ResultError, match="no saved sweep"):
        SweepResult.load(path)


def test_a_result_is_frozen(model, pair):
    result = patch_sweep(model, pair, layers=[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.notes = ("changed",)
    assert dataclasses.replace(result, notes=("added",)).notes == ("added",)


def test_it_pickles_to_at_most_twice_its_arrays(builtin):
    model, tokenizer = builtin
    text = " was a top-notch student." * 6
    texts = [f"Michelle {name}{text} Michelle" for name in ("Jones", "Smith")]
    pair = PromptPair.from_text(tokenizer, *texts, "Jones", "Smith")
    metrics = ["logit_diff", "kl", "recovery", "log_prob", "prob_diff", "target_logit"]
    result = patch_sweep(model, pair, site="z", by_position=True, metric=metrics)
    arrays = sum(found.values.nbytes for found in result.metrics.values())
    pickled = pickle.dumps(result)
    assert len(pickled) <= 2 * arrays
    again = pickle.loads(pickled)
    assert again.to_dict() == result.to_dict()
    small = patch_sweep(model, pair, layers=[0], positions=[0])
    # All that is not an array, such as the two tables of tokens, takes some kilobytes.
    assert len(pickle.dumps(small)) < small.values.nbytes + 12_000


def test_the_pair_of_a_result_can_be_swept_again(builtin, tmp_path):
    model, tokenizer = builtin
    pair = PromptPair.from_text(tokenizer, "Mary Jones", "Mary Smith", "Jones", "Smith")
    result = patch_sweep(model, pair)
    assert result.clean_next.top[0].token == tokenizer.token(result.clean_next.top[0].id)
    for one in (result, SweepResult.load(result.save(tmp_path / "x")[0])):
        again = patch_sweep(model, one.pair)
        assert np.array_equal(again.values, result.values)
        assert again.clean_next.top[0].token == f"id:{result.clean_next.top[0].id}"


def test_rows_of_the_tables(model, pair):
    result = patch_sweep(model, pair, rows=3)
    assert (result.rows, len(result.clean_next.top), len(result.corrupt_next.top)) == (3, 3, 3)
    assert len(patch_sweep(model, pair, rows=99).clean_next.top) == 40  # the whole vocabulary
    for rows in (0, -1, 2.5, "3", 2**63):
        with pytest.raises(SweepError, match="rows is a number of tokens, at least 1"):
            patch_sweep(model, pair, rows=rows)


def test_tokens_with_equal_logits_share_a_rank(model, pair):
    with torch.no_grad():
        model.transformer.wte.weight[3] = model.transformer.wte.weight[2]
    table = patch_sweep(model, pair, rows=40).clean_next
    ranks = {row.id: row.rank for row in table.top}
    assert ranks[2] == ranks[3]
    assert table.target[0] == next(row for row in table.top if row.id == 11)


def test_what_is_not_finite_is_null_in_both_files(model, pair, tmp_path):
    result = patch_sweep(model, pair)
    found = result.metrics["logit_diff"]._replace(clean=math.inf, corrupt=math.nan)
    odd = dataclasses.replace(result, metrics={"logit_diff": found})
    npz, readable = odd.save(tmp_path / "x")
    saved = json.loads(readable.read_text(), parse_constant=pytest.fail)
    assert saved["clean_value"] is saved["metrics"]["logit_diff"]["corrupt"] is None
    assert SweepResult.load(npz).clean_value == math.inf


def test_a_file_of_version_0_1(model, pair, tmp_path):
    """A file with the keys that 0.1 wrote, and no other."""
    result = patch_sweep(model, pair, site="v", by_position=True, metric="kl,recovery", heads=[1])
    row = {"rank": 1, "id": 7, "token": "id:7", "logit": 2.5, "probability": 0.5}
    table = {"top": [row], "target": row, "foil": row}
    names = [f.name for f in dataclasses.fields(PromptPair) if f.name != "text_of"]
    structured = {
        "metrics": {name: {"clean": 0.5, "corrupt": 1.5} for name in result.metrics},
        "captions": result.captions,
        "diverging": ["recovery"],
        "pair": {name: getattr(pair, name) for name in names} | {"differing": pair.differing},
        "arguments": {
            "site": "v", "direction": "denoise", "by_position": True, "window": 1,
            "metric": ["kl", "recovery"], "method": "attribution", "max_memory": None,
            "tf32": False, "shared_by": 2, "layers": [0, 1, 2], "heads": [1],
            "positions": [0, 1, 2, 3, 4, 5, 6], "command": {"seed": 3},
        },
        "versions": {"mingpt": "0.1.0", "dtype": "float32"},
        "notes": ["a note"],
        "checksum": None,
        "clean_next": table,
        "corrupt_next": None,
    }  # fmt: skip
    np.savez(
        tmp_path / "old.npz",
        metric="kl", values=result.values, clean_value=0.5, corrupt_value=1.5, site="v",
        direction="denoise", model_name="old", seconds=1.25, created="2025-01-02T03:04:05+00:00",
        top_k=1, values_kl=result.values, values_recovery=result.metrics["recovery"].values,
        **{name: json.dumps(value) for name, value in structured.items()},
    )  # fmt: skip
    old = SweepResult.load(tmp_path / "old")
    assert old.pair == pair
    assert np.array_equal(old.values, result.values, equal_nan=True)
    assert old.metrics["recovery"][1:] == (0.5, 1.5)
    assert (old.method, old.is_approximate, old.shared_by) == ("attribution", True, 2)
    assert (old.layers, old.heads, old.positions) == ((0, 1, 2), (1,), tuple(range(7)))
    assert (old.rows, old.command, old.notes) == (1, {"seed": 3}, ("a note",))
    assert (old.clean_next.top[0].token, old.corrupt_next, old.patches) == ("id:7", None, None)
    assert (old.site, old.direction, old.window, old.by_position) == ("v", "denoise", 1, True)
    assert (old.max_memory, old.tf32, old.checksum, old.seconds) == (None, False, None, 1.25)
    assert (old.model_name, old.created) == ("old", "2025-01-02T03:04:05+00:00")
    assert (old.captions, old.diverging) == (result.captions, ("recovery",))
    assert old.versions == {"mingpt": "0.1.0", "dtype": "float32"}
    again = SweepResult.load(old.save(tmp_path / "new")[0])
    assert again.to_dict() == old.to_dict()


def test_a_tidy_table(model, pair):
    result = patch_sweep(model, pair, metric="recovery,kl", layers=[1, 2], positions=[2, -1])
    table = result.to_frame()
    assert [*table] == ["layer", "position", "clean_token", "corrupt_token", "recovery", "kl"]
    assert len(table) == result.cells == 4
    assert table.layer.tolist() == [1, 1, 2, 2]
    assert table.position.tolist() == [2, 6, 2, 6]
    assert table.clean_token.tolist()[:2] == ["id:11", "id:5"]
    assert table.corrupt_token.tolist()[:2] == ["id:22", "id:5"]
    assert table.kl.tolist() == result.metrics["kl"].values[1:][:, [2, 6]].ravel().tolist()
    heads = patch_sweep(model, pair, site="z").to_frame()
    assert [*heads] == ["layer", "head", "logit_diff"]
    assert len(heads) == 6

    def layer(logits):
        return logits[0]

    assert [*patch_sweep(model, pair, site="z", metric=layer).to_frame()][-1] == "layer_value"


def test_without_pandas_one_line_says_what_to_do(model, pair, monkeypatch):
    result = patch_sweep(model, pair)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ResultError, match=r"^to_frame\(\) needs pandas: pip install pandas$"):
        result.to_frame()


def test_the_repr_is_a_few_lines(model, pair):
    result = patch_sweep(model, pair, positions=[2, 3])
    lines = repr(result).splitlines()
    assert len(lines) == 5
    assert lines[4].startswith("  note: the clean run prefers the foil id:")
    assert lines[0] == (
        "SweepResult of GPT: resid_post, clean into corrupt (denoise), 3 layers x 7 positions,"
        " 6 cells patched"
    )
    assert "id:11" in lines[1]
    change = np.nan_to_num(abs(result.values - result.corrupt_value))
    layer, position = np.unravel_index(change.argmax(), change.shape)
    assert f"the largest change is at layer {layer}, position {position} (" in lines[3]
    assert all(len(line) < 160 for line in lines)
    assert "approximate" in repr(patch_sweep(model, pair, method="attribution"))


def test_nothing_of_a_token_reaches_a_terminal_raw(model):
    tokens = {1: "\x1b[31m", 2: "\x1b[0m", 3: "\n", 4: "b"}
    pair = PromptPair.from_ids([1, 3], [2, 3], 3, 4, tokens=tokens)
    assert "\x1b" not in repr(patch_sweep(model, pair))
    assert len(repr(patch_sweep(model, pair)).splitlines()) == 4


def test_it_shows_itself_in_jupyter_and_writes_nothing(model, pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert patch_sweep(model, pair)._repr_png_().startswith(b"\x89PNG\r\n\x1a\n")
    assert not [*tmp_path.iterdir()]


def test_a_sweep_of_ones_own_patches_says_so(model, pair, tmp_path):
    def whole_block(cell):
        return [Patch(site, cell.layer, cell.position) for site in ("attn_out", "mlp_out")]

    result = patch_sweep(model, pair, patches=whole_block, method="loop")
    again = SweepResult.load(result.save(tmp_path / "x")[0])
    assert again.patches == result.patches == "whole_block"
    assert patch_sweep(model, pair).patches is None
