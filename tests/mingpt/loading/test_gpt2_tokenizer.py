"""GPT-2's own tokenizer, for models that come without one: where its files are found."""

import json
import tempfile
from pathlib import Path

import pytest
from helpers import make_model
from hub_server import (
    MERGES,
    VOCAB,
    Served,
    cached,
    git_sha1,
    leftovers,
    put,
    put_in_hub_cache,
    serve_openai,
)

import mingpt
from mingpt import DownloadError, TokenizerError
from mingpt.loading import repositories
from mingpt.loading.gpt2_tokenizer import gpt2_tokenizer_files
from mingpt.loading.model_files import gpt2_tokenizer

GPT2 = repositories.KNOWN["gpt2"]


@pytest.fixture
def openai(online, monkeypatch):
    """A hub and OpenAI's storage, which serve the builtin model's vocabulary as GPT-2's."""
    serve_openai(online, monkeypatch)
    hashes = dict(
        zip(("vocab.json", "merges.txt"), repositories.TOKENIZER_SHA256.values(), strict=True)
    )
    known = {**GPT2.sha256, **hashes}
    monkeypatch.setitem(repositories.KNOWN, "gpt2", replaced(known))
    return online


def replaced(sha256):
    import dataclasses

    return dataclasses.replace(GPT2, sha256=sha256)


def files_of(rows: int) -> dict[str, bytes]:
    """Return the files of a very small model with `rows` embeddings, without a tokenizer."""
    model = make_model(vocab_size=rows, n_embd=2, n_head=1, n_layer=1)
    with tempfile.TemporaryDirectory() as folder:
        mingpt.save(model, folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_it_comes_from_openai_into_the_hubs_cache(openai, tmp_path):
    assert gpt2_tokenizer().encode(" Jones")
    assert cached(tmp_path, "openai-community/gpt2") == ["merges.txt", "vocab.json"]
    assert leftovers(tmp_path) == []
    place = tmp_path / "hub" / "models--openai-community--gpt2"
    vocab = place / "snapshots" / GPT2.revision / "vocab.json"
    assert vocab.resolve() == place / "blobs" / git_sha1(VOCAB)  # as the hub names it
    openai.files.clear()
    assert gpt2_tokenizer().encode(" Jones")
    assert gpt2_tokenizer(offline=True).encode(" Jones")


def test_another_file_than_openais_is_refused(openai, tmp_path):
    openai.files["/openai/vocab.bpe"] = Served(MERGES + b"x y\n", etag=None)
    with pytest.raises(DownloadError, match=r"vocab\.bpe is not the expected file: SHA-256"):
        gpt2_tokenizer()
    assert cached(tmp_path, "openai-community/gpt2") == ["vocab.json"]


@pytest.mark.parametrize("rows", [50257, 50304, 50305])
def test_a_repository_without_a_tokenizer_may_have_gpt2s(openai, tmp_path, rows):
    openai.add_repository("me/mine", files_of(rows))
    if rows == 50305:
        with pytest.raises(TokenizerError, match="the repository has no such file"):
            mingpt.load("me/mine")
        return
    assert mingpt.load("me/mine")[1].is_padding(50256)  # the one served here is smaller
    openai.files.clear()
    openai.requests.clear()
    openai.heads.clear()
    assert mingpt.load("me/mine")[1].encode(" Jones")
    assert mingpt.load("me/mine", offline=True)[1].encode(" Jones")
    assert not openai.requests + openai.heads  # that it has none of its own is noted


def test_a_directory_without_a_tokenizer_may_have_gpt2s(openai, tmp_path):
    put(tmp_path / "mine", files_of(50304))
    assert mingpt.load(tmp_path / "mine")[1].is_padding(50300)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer.model", "vocab.txt"])
def test_half_a_tokenizer_or_another_one_is_not_replaced_by_gpt2s(openai, tmp_path, name):
    files = files_of(50257)
    put(tmp_path / "mine", {**files, name: VOCAB})
    with pytest.raises(TokenizerError, match="holds no tokenizer"):
        mingpt.load(tmp_path / "mine")
    if name == "vocab.json":  # the half that is asked for first
        openai.add_repository("me/mine", {**files, name: VOCAB})
        for _ in range(2):
            with pytest.raises(TokenizerError, match="the repository has no such file"):
                mingpt.load("me/mine")


def test_a_tokenizer_that_was_not_fetched_yet_is_not_taken_to_be_gpt2s(openai, tmp_path):
    gpt2_tokenizer()
    put_in_hub_cache(tmp_path / "hub", "models--me--mine", files_of(50257))
    with pytest.raises(DownloadError, match="forbids using"):
        mingpt.load("me/mine", offline=True)


@pytest.mark.parametrize("name", ["gpt2", "gpt2-xl"])
def test_the_models_with_a_short_name_share_it(openai, tmp_path, name):
    gpt2_tokenizer()
    openai.requests.clear()
    assert mingpt.load_tokenizer(name, offline=True).rows == 50257
    assert openai.requests == []


@pytest.mark.parametrize("is_gpt2s", [True, False])
def test_a_relatives_tokenizer_counts_if_it_is_gpt2s(openai, tmp_path, files, is_gpt2s):
    files = files if is_gpt2s else {**files, "vocab.json": files["vocab.json"] + b" "}
    put_in_hub_cache(tmp_path / "hub", "models--distilgpt2", files)
    if is_gpt2s:
        assert gpt2_tokenizer(offline=True).encode(" Jones")
    else:  # a mirror's, for example
        with pytest.raises(DownloadError, match="has no vocab"):
            gpt2_tokenizer(offline=True)


def test_a_cache_that_cannot_be_written_is_one_line(openai, tmp_path):
    (tmp_path / "hub").write_text("in the way")
    with pytest.raises(DownloadError, match="cannot be written"):
        gpt2_tokenizer()


# --------------------------------------------------------------------- MINGPT_GPT2_TOKENIZER


def test_a_folder_may_be_named_for_tests(openai, tmp_path, monkeypatch):
    put(tmp_path / "mine", {"encoder.json": VOCAB, "vocab.bpe": MERGES})
    monkeypatch.setenv("MINGPT_GPT2_TOKENIZER", str(tmp_path / "mine"))
    assert gpt2_tokenizer_files()[0] == tmp_path / "mine" / "encoder.json"
    assert mingpt.load_tokenizer("gpt2", offline=True).encode(" Jones")
    assert not openai.requests
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"there is no .*encoder\.json"),
        ({"encoder.json": VOCAB}, r"there is no .*vocab\.bpe"),
        (
            {"encoder.json": VOCAB, "vocab.bpe": MERGES + b" "},
            r"vocab\.bpe is not GPT-2's: SHA-256",
        ),
        ({"encoder.json": json.dumps({"a": 1}).encode()}, r"encoder\.json is not GPT-2's: SHA-256"),
    ],
)
def test_its_files_are_checked(openai, tmp_path, monkeypatch, files, message):
    put(tmp_path / "mine", files)
    monkeypatch.setenv("MINGPT_GPT2_TOKENIZER", str(tmp_path / "mine"))
    with pytest.raises(TokenizerError, match=message):
        gpt2_tokenizer()


def test_the_hub_and_openai_have_the_same_files():
    names = dict(zip(repositories.TOKENIZER_FILES, repositories.TOKENIZER_SHA256, strict=True))
    assert names == repositories.TOKENIZER_FILES
    for name, file in names.items():
        assert GPT2.sha256[name] == repositories.TOKENIZER_SHA256[file]
