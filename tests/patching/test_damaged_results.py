"""Damaged and altered result files: refused in one line, or the same numbers."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import make_model

from patching import (
    EdgeResult,
    Explanation,
    PathResult,
    PromptPair,
    Question,
    SweepResult,
    draw_explanation,
    draw_heatmap,
    draw_paths,
    explain,
    patch_edges,
    patch_paths,
    patch_sweep,
)
from patching.continuation.request import GenerationSettings
from patching.continuation.result import Continuations
from patching.continuation.run import continue_prompts
from patching.drawing.style import png_bytes
from patching.errors import ResultError
from patching.explanation.request import figures_of
from patching.result_files import CONTENT_CHECKSUM, content_checksum

LOAD: dict[str, Callable] = {
    "sweep": SweepResult.load,
    "explanation": Explanation.load,
    "continuation": Continuations.load,
    "paths": PathResult.load,
    "edges": EdgeResult.load,
}
FEW, MANY = 60, 500  # byte flips of each file


@pytest.fixture(scope="module")
def saved(builtin, tmp_path_factory) -> Path:
    """A folder with the files of one result of each kind."""
    folder = tmp_path_factory.mktemp("saved")
    model = make_model()
    pair = PromptPair.from_ids([5, 9, 11, 3], [5, 9, 22, 3], 11, 22)
    patch_sweep(model, pair, metric="logit_diff,kl", layers=[0, 2]).save(folder / "sweep")
    how = {"metric": "logit_diff,kl"}
    patch_paths(model, pair, receiver="q:2.0,mlp:1", **how).save(folder / "paths")
    patch_edges(model, pair, receivers="q,logits", **how).save(folder / "edges")
    explain(model, Question.from_ids([5, 9, 11], 3, 7)).save(folder / "explanation")
    settings = GenerationSettings(6)
    continue_prompts(*builtin, ["A", "The"], settings, num_samples=2).save(folder / "continuation")
    return folder


def fields_of(result) -> str:
    """Return everything that a result holds, in a form that can be compared."""
    fields = result.to_dict()
    if isinstance(result, Explanation):
        fields |= {n: a.tolist() for n, a in vars(result).items() if isinstance(a, np.ndarray)}
    return json.dumps(fields)


def outcome(kind: str, path: Path) -> str:
    """Return a loaded result's fields, or the line with which it is refused."""
    try:
        return fields_of(LOAD[kind](path))
    except ResultError as error:
        assert "\n" not in str(error)
        assert str(path.parent) in str(error)
        return "refused"


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kind", "flipped", "alone"),
    [
        ("sweep", "sweep.npz", True),
        ("sweep", "sweep.npz", False),
        ("sweep", "sweep.json", False),
        ("paths", "paths.npz", False),
        ("edges", "edges.json", False),
        ("explanation", "explanation.npz", True),
        ("explanation", "explanation.npz", False),
        ("explanation", "explanation.json", False),
        ("continuation", "continuation.json", False),
    ],
)
def test_a_flipped_byte_is_refused_or_changes_nothing(saved, tmp_path, kind, flipped, alone, count):
    """The .npz is tried with its .json beside it, and alone."""
    for file in saved.glob(f"{kind}.*"):
        if not alone or file.name == flipped:
            shutil.copy(file, tmp_path)
    content = (saved / flipped).read_bytes()
    right = fields_of(LOAD[kind](tmp_path / kind))
    numbers = random.Random(f"{flipped} {alone}")
    refused = 0
    for _ in range(count):
        damaged = bytearray(content)
        damaged[numbers.randrange(len(damaged))] ^= 1 << numbers.randrange(8)
        (tmp_path / flipped).write_bytes(damaged)
        found = outcome(kind, tmp_path / kind)
        assert found in ("refused", right)
        refused += found == "refused"
    # Alone, an .npz does not see a change of what zip says beside the content, such as a date.
    assert refused == count if not alone else refused > count / 2


@pytest.mark.parametrize("kind", LOAD)
def test_a_file_cut_short_is_refused(saved, tmp_path, kind):
    file = saved / (f"{kind}.json" if kind == "continuation" else f"{kind}.npz")
    content = file.read_bytes()
    for end in (0, 1, 10, len(content) // 2, len(content) - 1):
        (tmp_path / file.name).write_bytes(content[:end])
        assert outcome(kind, tmp_path / kind) == "refused"


# --------------------------------------------------------------------- with the right checksum


def altered(path: Path, name: str, value: object) -> None:
    """Put a value into a field of an .npz, or remove it (None), and make the checksum right."""
    with np.load(path) as file:
        arrays = dict(file)
    del arrays[CONTENT_CHECKSUM]
    if value is None:
        del arrays[name]
    else:
        arrays[name] = np.asarray(value)
    np.savez(path, **arrays, **{CONTENT_CHECKSUM: np.asarray(content_checksum(arrays))})


def odd_values(array: np.ndarray) -> list[object]:
    """Return values that a field never has, or seldom."""
    values: list[object] = [None, "", "x", 7, -1, 1.5, [], [1, 2], np.nan, np.zeros((0, 3))]
    values += ["null", "[]", "{}", '{"a": 1}', "[null]", '["x", 3]', "NaN", "1e999", "[" * 5000]
    if array.ndim:
        values += [array[..., :-1], array[None], array.astype(np.complex64), array.astype("U")]
        values += [np.full_like(array, -1), np.zeros_like(array), array.astype(bool)]
        if array.dtype.kind == "f":
            values += [np.full_like(array, one) for one in (np.nan, np.inf, 1e38)]
    elif array.dtype.kind == "U":
        text = array.item()
        values += [text.replace("1", "-1"), text.replace("[", "{"), text.replace('"', "'")]
        values += [text.replace("0", "null"), text.replace(", ", "], ["), text + "\0", text[:-2]]
        values = [value for value in values if not (isinstance(value, str) and value == text)]
    return values


@pytest.mark.parametrize("slowly", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["sweep", "explanation", "paths", "edges"])
def test_an_altered_field_is_refused_or_the_result_can_be_used(saved, tmp_path, kind, slowly):
    """In the plain suite 150 of some 600 to 800 changes are tried, and no figure is drawn."""
    source, path = saved / f"{kind}.npz", tmp_path / f"{kind}.npz"
    with np.load(source) as file:
        arrays = dict(file)
    changes = [
        (name, value)
        for name, array in arrays.items()
        if name != CONTENT_CHECKSUM
        for value in odd_values(array)
    ]
    refused = used = 0
    most = len(changes) if kind in ("sweep", "explanation") else 150
    for name, value in random.Random(0).sample(changes, most if slowly else 150):
        shutil.copy(source, path)
        altered(path, name, value)
        try:
            result = LOAD[kind](path)
        except ResultError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        used += 1
        # Of paths and edges every tenth is drawn, for time.
        use(result, with_figures=slowly and (used % 10 == 0 or kind in ("sweep", "explanation")))
    assert refused > (4 if slowly else 3) * used > 0  # a sample may have more of those used


def use(result, *, with_figures: bool) -> None:
    """Do all that can be done with a loaded result."""
    repr(result)
    json.dumps(result.to_dict(), allow_nan=False)
    result.to_frame()
    if isinstance(result, SweepResult):
        _ = result.axes, result.cells, result.pair.differing
        for metric in result.metrics if with_figures else ():
            png_bytes(draw_heatmap(result, metric=metric))
    elif isinstance(result, PathResult | EdgeResult):
        for metric in result.metrics:
            _ = result.by_sender(metric) if isinstance(result, PathResult) else result.strongest(3)
            if with_figures:
                png_bytes(draw_paths(result, metric=metric))
            if with_figures and isinstance(result, EdgeResult):
                png_bytes(draw_paths(result, metric=metric, figure="circuit"))
    else:
        _ = result.next, result.parts(), result.worst(), result.bars("logit")
        for figure in figures_of(result.methods) if with_figures else ():
            png_bytes(draw_explanation(result, figure=figure))
