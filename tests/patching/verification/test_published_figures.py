"""Published figures: the same numbers by hooks on transformers' GPT-2, and wrong ones refused."""

import copy
import json

import hooked_gpt2 as hooks
import numpy as np
import published_by_hooks as published
import pytest

from mingpt.loading.model_files import load_model
from patching.verification.checks.table import CHECKS, check_figure
from patching.verification.published import FOLDER, read_figures


@pytest.fixture(scope="module")
def theirs():
    return hooks.make_model()


@pytest.fixture(scope="module")
def model(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("random-gpt2")
    theirs.save_pretrained(folder)
    return load_model(folder)


@pytest.fixture(scope="module")
def file(theirs):
    return published.make_file(theirs)


def rows_of(model, file, tmp_path):
    (tmp_path / "figures.json").write_text(json.dumps(file), encoding="utf-8")
    return [check_figure(one, model) for one in read_figures("gpt2", long=True, folder=tmp_path)]


def test_every_kind_of_figure_equals_the_hooks(model, file, tmp_path):
    rows = rows_of(model, file, tmp_path)
    assert {figure["kind"] for figure in file["figures"]} == {*CHECKS}
    assert [row for row in rows if not row.ok] == []
    assert len(rows) == len(file["figures"])
    assert all(
        figure["what"] == row.what for figure, row in zip(file["figures"], rows, strict=True)
    )


def turned(values):
    """Return the other sign of a number, a nested list, or a dictionary."""
    if isinstance(values, dict):
        return {name: turned(value) for name, value in values.items()}
    return [turned(one) for one in values] if isinstance(values, list) else -values


NUMBERS = ("values", "clean", "corrupt", "recoveries", "logits", "probabilities", "centred_logits")


def with_sign(file):
    for figure in file["figures"]:
        for name in NUMBERS:
            if name in figure:
                figure[name] = turned(figure[name])
        if figure["kind"] == "cells":  # two signs cancel in corrupt - recovery (corrupt - clean)
            figure["recoveries"] = turned(figure["recoveries"])


def with_transposed_pairs(file):
    for pair in file["pairs"].values():
        pair["clean"], pair["corrupt"] = pair["corrupt"], pair["clean"]


def with_answers_exchanged(file):
    for pair in file["pairs"].values():
        pair["target"], pair["foil"] = pair["foil"], pair["target"]


def with_layers_shifted(file):
    for figure in file["figures"]:
        values = figure.get("values")
        if figure["kind"] in ("sweep", "head_scores", "direct") and np.ndim(values):
            figure["values"] = np.roll(values, 1, axis=0).tolist()
        for cell in figure.get("cells", []):
            if figure["kind"] == "put_in":
                cell[0] = (cell[0] + 1) % hooks.L
        if figure["kind"] == "cells":
            figure["cells"] = [[[(c[0] + 1) % hooks.L, c[1]] for c in figure["cells"][0]]]


def without_bos(file):
    for pair in file["pairs"].values():
        pair["clean"], pair["corrupt"] = pair["clean"][1:], pair["corrupt"][1:]
    file["prompts"]["start"] = []
    for figure in file["figures"]:
        if "prompt" in figure:
            figure["prompt"] = figure["prompt"][1:]


BY_PAIR = {"sweep", "cells", "unpatched", "put_in", "pattern", "direct"}


@pytest.mark.parametrize(
    ("wrong", "kinds"),
    [
        (with_sign, {*CHECKS} - {"probabilities"}),
        (with_transposed_pairs, BY_PAIR),
        (with_answers_exchanged, BY_PAIR - {"pattern"}),
        (with_layers_shifted, {"sweep", "cells", "put_in", "head_scores", "direct"}),
    ],
)
def test_a_wrong_figure_is_named(model, file, tmp_path, wrong, kinds):
    """Each figure of these kinds is off; where averages do not change, it is said below."""
    file = copy.deepcopy(file)
    wrong(file)
    rows = rows_of(model, file, tmp_path)
    held = {
        figure["what"]
        for figure, row in zip(file["figures"], rows, strict=True)
        if figure["kind"] in kinds and row.ok
    }
    if wrong is with_answers_exchanged:  # recovery of foil and target is the same
        held -= {f["what"] for f in file["figures"] if f.get("unit") == "recovery"}
        held -= {"three cells"}
    if wrong is with_layers_shifted:  # single numbers have no layers
        held -= {"embeddings", "token embedding", "position embedding", "zeroed"}
    assert held == set()


def test_without_bos_every_figure_of_a_prompt_is_off(model, file, tmp_path):
    """Positions move by one, so grids by position have another shape, which is refused."""
    file = copy.deepcopy(file)
    without_bos(file)
    kept = []
    for figure in file["figures"]:
        if figure["kind"] in ("pattern", "head_scores", "put_in", "cells"):
            continue
        values = figure.get("values", 0)
        if isinstance(values, dict) or np.shape(values)[-1:] != (published.T,):
            kept.append(figure)
    file["figures"] = kept
    rows = rows_of(model, file, tmp_path)
    assert [row.what for row in rows if row.ok] == []
    assert len(rows) > 20


def test_a_mean_of_recoveries_is_no_ratio_of_means(theirs, model, file, tmp_path):
    file = copy.deepcopy(file)
    wrong = published.recovery(theirs, "resid_pre", average=published.mean_of_recoveries)
    (figure,) = [one for one in file["figures"] if one["what"] == "resid_pre"]
    figure["values"] = wrong.tolist()
    file["figures"] = [figure]
    (row,) = rows_of(model, file, tmp_path)
    assert not row.ok


def test_next_tokens_sees_a_likelier_token_of_ours(model, file, tmp_path):
    """The published ids leave out the likeliest token: the numbers agree, the order does not."""
    file = copy.deepcopy(file)
    figure = next(one for one in file["figures"] if one["what"] == "logits")
    figure["ids"], figure["logits"] = figure["ids"][1:], figure["logits"][1:]
    file["figures"] = [figure]
    (row,) = rows_of(model, file, tmp_path)
    assert not row.ok
    assert row.place[0] == 1


# --------------------------------------------------------------------- the project's own files

SHAPES = {"gpt2": (12, 12), "gpt2-xl": (48, 25)}


def test_the_published_files():
    paths = sorted(FOLDER.glob("*.json"))
    assert sum(path.stat().st_size for path in paths) <= 400_000
    for path in paths:
        data = json.loads(path.read_text(encoding="utf-8"))
        assert data["source"]
        assert data["where"]
        assert data["licence"]
        n_layer, n_head = SHAPES[data["model"]]
        for figure in data["figures"]:
            assert figure["kind"] in CHECKS
            assert figure["float32"] > 0
            check_shape(data, figure, n_layer, n_head)


def check_shape(data, figure, n_layer, n_head):
    """Check a sweep's shape, and the cells that must have a known value."""
    if figure["kind"] != "sweep":
        return
    values = np.array(figure["values"])
    pairs = [data["pairs"][name] for name in figure["pairs"]]
    T = len(pairs[0]["clean"])
    heads = figure["site"] in ("z", "q", "k", "v", "pattern")
    if "layers" in figure or "position" in figure or "sum_heads" in figure:
        return
    shape = (n_layer, n_head) if heads else (n_layer,)
    assert values.shape == (shape if heads and not figure.get("by_position") else (*shape, T))
    if figure["unit"] == "recovery" and (not heads or figure.get("by_position")):
        first = min(i for pair in pairs for i in range(T) if pair["clean"][i] != pair["corrupt"][i])
        assert not values[..., :first].any(), figure["what"]
    if figure["site"] == "resid_post" and figure.get("method", "fast") == "fast":
        ends = [
            other["clean"][0]
            for other in data["figures"]
            if other["kind"] == "unpatched" and other["pairs"] == figure["pairs"]
        ]
        clean = 1.0 if figure["unit"] == "recovery" else ends[0]
        assert values[-1, -1] == pytest.approx(clean, abs=2e-6)


def test_files_of_gpt2_are_complete():
    what = " ".join(figure.what for figure in read_figures("gpt2", long=True))
    wanted = (
        "course's table", "Michelle", "21-token", "variants", "interpolated", "another cell",
        "store pair", "stream", "heads", "induction", "greater-than", "terms",
    )  # fmt: skip
    assert [words for words in wanted if words not in what] == []
    assert len(read_figures("gpt2")) == len(read_figures("gpt2", long=True)) - 1
    assert any("Eiffel" in figure.what for figure in read_figures("gpt2-xl"))
    assert read_figures("distilgpt2") == []


def test_the_greater_than_prompts_are_those_of_the_source():
    """Its example: "The contract lasted from the year 1352 to the year 13"."""
    from patching.verification.checks.logits import prompt_batches

    (figure,) = [one for one in read_figures("gpt2", long=True) if one.kind == "mean"]
    batches = list(prompt_batches(figure.shared["prompts"], "clean"))
    prompts = [prompt for part, _ in batches for prompt in part]
    assert len(prompts) == 1000
    assert prompts[0] == [50256, 464, 2775, 15436, 422, 262, 614, 1511, 4309, 284, 262, 614, 1511]
    corrupt = next(iter(prompt_batches(figure.shared["prompts"], "corrupt")))[0][0]
    assert corrupt == [*prompts[0][:8], 486, *prompts[0][9:]]
