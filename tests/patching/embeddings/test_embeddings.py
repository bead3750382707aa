"""Embeddings: similarity, components, neighbours, their figures, their file, the command."""

import json

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from mingpt import ConfigError
from patching.cli.embeddings import main
from patching.embeddings.figures import draw_embeddings
from patching.embeddings.request import EmbeddingsRequest
from patching.embeddings.result import Embeddings
from patching.embeddings.run import cosines, look_at_embeddings, principal_components
from patching.errors import DrawingError, EmbeddingsError, PromptError, ResultError

WORDS = ("France", "Italy", "Paris", "Rome")


@pytest.fixture(scope="module")
def found(builtin) -> Embeddings:
    return look_at_embeddings(*builtin, EmbeddingsRequest(WORDS, neighbours=5))


def test_cosines_are_those_of_the_plain_formula(builtin, found):
    model, _ = builtin
    positions = model.transformer.wpe.weight.detach().double().numpy()
    i, j = 3, 70
    a, b = positions[i], positions[j]
    expected = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    assert found.cosine[i, j] == pytest.approx(expected, abs=1e-6)
    assert np.allclose(np.diag(found.cosine), 1)
    assert cosines(torch.zeros(1, 3), torch.ones(2, 3)).tolist() == [[0, 0]]


def test_components_are_those_of_the_covariance():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64) @ torch.diag(
        torch.tensor([5.0, 3, 1, 1, 0.5, 0.1], dtype=torch.float64)
    )
    coordinates, shares = principal_components(x, 2)
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T))
    assert shares.tolist() == pytest.approx(values[::-1][:2] / values.sum())
    for number in range(2):
        expected = (x - x.mean(0)).numpy() @ vectors[:, -1 - number]
        expected *= np.sign(expected[np.abs(expected).argmax()])
        assert np.allclose(coordinates[:, number], expected)


def test_of_one_row_or_none_there_is_no_spread():
    coordinates, shares = principal_components(torch.ones(1, 4), 3)
    assert coordinates.tolist() == [[0.0]]
    assert shares.tolist() == [0]
    assert principal_components(torch.ones(0, 4), 2)[0].shape == (0, 0)


def test_the_nearest_token_is_the_one_with_the_largest_cosine(builtin, found):
    model, tokenizer = builtin
    tokens = model.transformer.wte.weight.detach().double()
    number = tokenizer.encode(" France")[0]
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    near = unit @ unit[number]
    near[number] = -2
    first = found.neighbours[0][0]
    assert first.id == int(near.argmax())
    assert first.cosine == pytest.approx(near.max().item())
    assert first.token == " Paris"  # of the shipped model
    assert [len(of_word) for of_word in found.neighbours] == [5] * 4
    assert all(one.id != number for one in found.neighbours[0])


def test_it_reloads(found, tmp_path):
    again = Embeddings.load(found.save(tmp_path / "x"))
    assert again.neighbours == found.neighbours
    assert np.allclose(again.cosine, found.cosine)
    assert again.to_dict() == found.to_dict()
    assert [*found.to_frame()] == ["word", "rank", "token", "id", "cosine"]
    text = (tmp_path / "x.json").read_text("utf-8").replace('" Paris"', '" Lyon"', 1)
    (tmp_path / "x.json").write_text(text, "utf-8")
    with pytest.raises(ResultError):
        Embeddings.load(tmp_path / "x")


def test_figures(found, tmp_path):
    left, right, _ = draw_embeddings(found, tmp_path / "p.png").axes
    assert np.array_equal(left.images[0].get_array(), found.cosine)
    assert [line.get_ydata()[5] for line in right.get_lines()[:3]] == pytest.approx(
        found.components[5].tolist()
    )
    (axes,) = draw_embeddings(found, tmp_path / "w.png", figure="words").axes
    assert [text.get_text() for text in axes.texts] == [f"␣{word}" for word in WORDS]
    assert imread(tmp_path / "w.png").shape[1] >= 800
    assert draw_embeddings(found, figure="words", title="Mine").axes[0].get_title("left") == "Mine"


@pytest.mark.parametrize("words", [(), ("France",), ("France", "Italy")])
def test_few_words(builtin, words):
    found = look_at_embeddings(*builtin, EmbeddingsRequest(words))
    draw_embeddings(found)
    if len(words) > 1:
        draw_embeddings(found, figure="words")
    else:
        with pytest.raises(DrawingError, match="no figure 'words' here; there are positions"):
            draw_embeddings(found, figure="words")


def test_what_is_refused(builtin):
    with pytest.raises(PromptError, match=r"word 'Zaphod' is \d tokens, not one"):
        look_at_embeddings(*builtin, EmbeddingsRequest(("Zaphod",)))
    with pytest.raises(EmbeddingsError, match="'a' is given twice"):
        EmbeddingsRequest(("a", "b", "a"))
    with pytest.raises(EmbeddingsError, match="201 words; at most 200"):
        EmbeddingsRequest(tuple(map(str, range(201))))
    with pytest.raises(EmbeddingsError, match="components must be at most 8"):
        EmbeddingsRequest(components=9)
    with pytest.raises(ConfigError, match="neighbours must be a whole number"):
        EmbeddingsRequest(neighbours=0)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["--model", "builtin", "--words", *WORDS, "--rows", "2", "--out", "run/"]
    assert main(asked) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[2].split() == [cell for word in WORDS for cell in (f"␣{word}", "cosine")]
    assert lines[3].split()[0] == "␣Paris"
    assert sorted(path.suffix for path in (tmp_path / "run").iterdir()) == [
        ".json", ".png", ".png"
    ]  # fmt: skip
    assert main(["--model", "builtin", "--json", "--quiet", "--out", "p.png"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["paths"] == ["p.png", "p.json"]
    for wrong, message in (
        (["--words", "Zaphod"], "not one: ␣Z"),
        (["--words", "Paris", "Paris"], "'Paris' is given twice"),
        (["--cmap", "nope"], "no colour map 'nope'"),
    ):
        assert main(["--model", "builtin", *wrong, "--out", "x.png"]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
