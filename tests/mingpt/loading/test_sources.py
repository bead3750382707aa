"""From a name to its files: the order of places, and links that are never followed."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import ROOT, known_with, make_model
from hub_server import (
    MERGES,
    ROWS,
    VOCAB,
    HubServer,
    Served,
    fetched,
    put,
    put_in_hub_cache,
    serve_openai,
    sha256,
)

import mingpt
from mingpt import GPT, CheckpointError, DownloadError, TokenizerError
from mingpt.loading import cache, hub
from mingpt.loading.model_files import gpt2_tokenizer
from mingpt.loading.sources import (
    BUILTIN_DIRECTORY,
    DirectorySource,
    FileSource,
    HubSource,
    gpt2_tokenizer_files,
    resolve,
)


@pytest.fixture(scope="module")
def checksum() -> str:
    return make_model(vocab_size=ROWS).checksum()


# --------------------------------------------------------------------- names


def test_what_a_name_stands_for(tmp_path, files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "run" / "one", files)
    put(tmp_path / "gpt2", files)
    (tmp_path / "x.pt").write_bytes(b"")
    assert resolve("builtin").directory == BUILTIN_DIRECTORY
    assert isinstance(resolve("gpt2"), HubSource)  # a name, even if a folder has it
    assert isinstance(resolve("./gpt2"), DirectorySource)
    assert isinstance(resolve("run/one"), DirectorySource)  # the folder exists
    assert isinstance(resolve("run/two"), HubSource)
    assert isinstance(resolve("x.pt"), FileSource)
    assert isinstance(resolve(tmp_path / "gpt2"), DirectorySource)
    assert resolve("openai-community/gpt2").repository is hub.KNOWN["gpt2"]
    assert resolve("distilgpt2").repository == resolve("distilbert/distilgpt2").repository


@pytest.mark.parametrize(
    "name",
    [
        "..", "../..", "a/..", "../a", "a/../b", "/etc/passwd", "a/b/c", "a//b", "a/", "/a",
        "a/b..c", "a--b/c", "a/b--c", ".a/b", "a/.b", "a/b.", "a b/c", "a\\b/c", "ä/b", "a/b\n",
        "~/x", "a" * 5000, "a\0b", "a/%2e%2e", "a/b?c", "a/b#c", "a/" + "b" * 97, "",
        "no-such-name", "-a/b", "a/-b",
    ],
)  # fmt: skip
def test_a_strange_name_is_no_repository(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert hub.repository(name) is None
    with pytest.raises(CheckpointError, match="no model"):
        resolve(name)


def test_a_path_is_never_a_name(tmp_path):
    for name in ("builtin", "gpt2", "owner/name"):
        with pytest.raises(CheckpointError, match="no model"):
            resolve(tmp_path / name)


def test_a_directory_says_what_it_lacks(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no config\.json, no model\.safetensors or "):
        resolve(str(tmp_path))
    (tmp_path / "ckpt.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is it .*ckpt\.pt that you mean\?"):
        resolve(str(tmp_path))


def test_a_single_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"of single files only \.pt, \.pth"):
        resolve(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("name", ["builtin", "gpt2", "owner/name"])
def test_n_head_is_for_files_that_do_not_say(name):
    with pytest.raises(CheckpointError, match=r"n_head is for a .pt file"):
        resolve(name, n_head=4)


# --------------------------------------------------------------------- from the hub


def test_a_repository_is_fetched_once(online, tmp_path, files, checksum):
    online.add_repository("me/mine", files)
    model, tokenizer = mingpt.load("me/mine")
    assert model.checksum() == checksum
    assert model.name == "me/mine"
    assert tokenizer.encode(" Jones")
    names = ["COMMIT", "SHA256SUMS", "config.json", "merges.txt", "model.safetensors", "vocab.json"]
    assert fetched(tmp_path) == [f"me--mine/{name}" for name in names]
    sums = (tmp_path / "cache/me--mine/SHA256SUMS").read_text()
    assert f"{sha256(files['config.json'])}  config.json\n" in sums
    online.files.clear()  # from here on, every fetch is a 404
    assert mingpt.load("me/mine")[0].checksum() == checksum
    assert mingpt.load("me/mine", offline=True)[0].checksum() == checksum


def test_all_files_are_of_the_commit_that_the_first_one_was(online, files):
    online.add_repository("me/mine", files)
    mingpt.load("me/mine")
    asked = [path for path, _ in online.requests if "/resolve/" in path]
    assert asked[0] == "/me/mine/resolve/main/config.json"
    assert {path.split("/")[4] for path in asked[1:]} == {"c" * 40}


def test_so_they_are_if_the_first_one_came_with_another_run(online, files):
    online.add_repository("me/mine", files)
    resolve("me/mine").config()
    newer = {**files, "config.json": files["config.json"].replace(b"gelu_new", b"relu")}
    for name, body in newer.items():
        online.files[f"/me/mine/resolve/main/{name}"] = Served(body, etag="git")
    assert mingpt.load("me/mine")[0].config.activation == "gelu_new"
    asked = [path.split("/")[4] for path, _ in online.requests if "/resolve/" in path]
    assert asked == ["main", *["c" * 40] * (len(asked) - 1)]


def test_sha256sum_can_check_the_cache(online, tmp_path, files):
    online.add_repository("me/mine", files)
    mingpt.load("me/mine")
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path / "cache/me--mine", check=False
    )
    assert done.returncode == 0


def test_an_architecture_that_is_not_ours_is_refused_before_its_weights_are_fetched(online, files):
    llama = json.dumps({"model_type": "llama"}).encode()
    online.add_repository("me/llama", {**files, "config.json": llama})
    for load in (mingpt.load, GPT.from_pretrained):
        with pytest.raises(CheckpointError, match="model_type = 'llama' is not supported"):
            load("me/llama")
    assert not [path for path, _ in online.requests if "safetensors" in path]


@pytest.mark.parametrize("kind", ["sharded", "bin"])
def test_other_weights_are_found(online, tmp_path, files, checksum, kind):
    from safetensors.torch import load, save

    state = load(files["model.safetensors"])
    files = {name: body for name, body in files.items() if name != "model.safetensors"}
    if kind == "bin":
        torch.save(state, tmp_path / "x.bin")
        files["pytorch_model.bin"] = (tmp_path / "x.bin").read_bytes()
    else:
        shards = {f"model-{n}.safetensors": [*state][n::2] for n in (0, 1)}
        weight_map = {key: shard for shard, keys in shards.items() for key in keys}
        files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
        for shard, keys in shards.items():
            files[shard] = save({key: state[key] for key in keys})
    online.add_repository("me/mine", files)
    assert mingpt.load("me/mine")[0].checksum() == checksum
    assert mingpt.load("me/mine", offline=True)[0].checksum() == checksum


def test_half_of_the_shards_are_no_model(online, tmp_path, files):
    index = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
    put(
        tmp_path / "cache/me--mine",
        {
            "config.json": files["config.json"],
            "model.safetensors.index.json": index,
            "one.safetensors": files["model.safetensors"],
        },
    )
    assert not resolve("me/mine").is_here


@pytest.mark.parametrize("name", ["tokenizer.json", "encoder.json"])
def test_other_tokenizers_are_found(online, files, name):
    files = {key: body for key, body in files.items() if key not in ("vocab.json", "merges.txt")}
    if name == "encoder.json":
        files |= {"encoder.json": VOCAB, "vocab.bpe": MERGES}
    else:
        merges = MERGES.decode().strip().split("\n")[1:]
        model = {"type": "BPE", "vocab": json.loads(VOCAB), "merges": merges}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False}
        fields = {"model": model, "pre_tokenizer": byte_level}
        files["tokenizer.json"] = json.dumps(fields).encode()
    online.add_repository("me/mine", files)
    tokenizer = mingpt.load("me/mine")[1]
    assert tokenizer.encode("Michelle Jones") == mingpt.load("builtin")[1].encode("Michelle Jones")


def test_a_repository_without_a_tokenizer_says_so(online, files):
    online.add_repository("me/mine", {k: b for k, b in files.items() if "vocab" not in k})
    with pytest.raises(TokenizerError, match=r"me--mine has no vocab\.json \+ merges\.txt or tok"):
        mingpt.load("me/mine")
    assert GPT.from_pretrained("me/mine")  # without its tokenizer the model loads


def test_the_tokenizer_alone_fetches_no_weights(online, tmp_path, files):
    online.add_repository("me/mine", files)
    tokenizer = mingpt.load_tokenizer("me/mine")
    names = ["COMMIT", "SHA256SUMS", "config.json", "merges.txt", "vocab.json"]
    assert fetched(tmp_path) == [f"me--mine/{name}" for name in names]
    online.files.clear()
    again = mingpt.load_tokenizer("me/mine", offline=True)
    assert again.vocab == tokenizer.vocab
    assert again.rows == ROWS


def test_gpt2s_tokenizer_needs_its_two_files_and_no_model(online, tmp_path):
    put(tmp_path / "cache", {"encoder.json": VOCAB, "vocab.bpe": MERGES})
    for name in ("gpt2", "gpt2-xl"):
        assert mingpt.load_tokenizer(name, offline=True).rows == 50257
    assert fetched(tmp_path) == ["encoder.json", "vocab.bpe"]
    assert online.requests == []


def test_a_tokenizer_that_transformers_cached_is_enough(online, tmp_path, files):
    names = ("config.json", "vocab.json", "merges.txt")
    put_in_hub_cache(tmp_path / "hub", "models--x--y", {name: files[name] for name in names})
    assert mingpt.load_tokenizer("x/y", offline=True).rows == ROWS
    put_in_hub_cache(tmp_path / "hub", "models--distilgpt2", {k: files[k] for k in names[1:]})
    assert mingpt.load_tokenizer("gpt2", offline=True).encode(" Jones")  # its relative's
    assert not (tmp_path / "cache").exists()  # not copied: the model itself is not here


@pytest.mark.parametrize("name", ["gpt2", "me/mine"])
def test_a_tokenizer_that_is_not_to_be_had_says_so(online, tmp_path, name):
    message = {"gpt2": r"no vocab\.json \+ merges\.txt or tok", "me/mine": r"no config\.json"}[name]
    with pytest.raises(DownloadError, match=message + r".*the network is not to be used"):
        mingpt.load_tokenizer(name, offline=True)
    assert not (tmp_path / "cache").exists()


def test_a_tokenizer_that_does_not_fit_its_model_is_refused_with_it_or_without(tmp_path, files):
    fields = {**json.loads(files["config.json"]), "vocab_size": 9}
    put(tmp_path / "mine", {**files, "config.json": json.dumps(fields).encode()})
    with pytest.raises(TokenizerError, match=r"mine: the tokenizer has \d+ tokens, .* only 9 rows"):
        mingpt.load_tokenizer(tmp_path / "mine")


def test_a_repository_that_is_not_there_says_so(online, tmp_path):
    with pytest.raises(DownloadError, match=r"me--mine has no config\.json, .* has no such file"):
        mingpt.load("me/mine")
    assert not (tmp_path / "cache").exists()


def test_an_error_page_is_not_cached(online, tmp_path, files):
    online.add_repository("me/mine", files)
    page = Served(b"<html>", etag=None, headers={"Content-Type": "text/html"})
    online.files[f"/storage/{sha256(files['model.safetensors'])}"] = page
    with pytest.raises(DownloadError, match=r"model\.safetensors answers with a web page"):
        mingpt.load("me/mine")
    assert not [name for name in fetched(tmp_path) if "safetensors" in name]


def test_without_a_hash_a_file_must_at_least_be_what_its_name_says(online, tmp_path, files):
    for name, body in {"config.json": b"Sorry!", "model.safetensors": b"Sorry!"}.items():
        online.add_repository("me/mine", {**files, name: body})
        for served in online.files.values():
            served.etag = None
        source = resolve("me/mine", verify=False)
        with pytest.raises(DownloadError, match=r"no JSON|no whole safetensors"):
            mingpt.load(source)
    assert not [name for name in fetched(tmp_path) if "safetensors" in name]


def test_a_known_name_needs_nobody_but_the_hub(online, tmp_path, files, checksum, monkeypatch):
    monkeypatch.setitem(hub.KNOWN, "distilgpt2", known_with(files, "distilgpt2"))
    monkeypatch.setattr(hub, "TOKENIZER_URL", "http://127.0.0.1:9/nobody")
    online.add_repository("distilbert/distilgpt2", files)
    model, tokenizer = mingpt.load("distilgpt2")
    assert model.checksum() == checksum
    assert tokenizer.encode(" Jones")
    names = ["COMMIT", "SHA256SUMS", "merges.txt", "model.safetensors", "vocab.json"]
    assert fetched(tmp_path) == [f"distilbert--distilgpt2/{name}" for name in names]
    online.files.clear()
    assert mingpt.load("distilgpt2", offline=True)[0].checksum() == checksum
    assert gpt2_tokenizer().encode(" Jones")  # and so GPT-2's tokenizer is here


def test_a_known_name_has_gpt2s_tokenizer_if_that_is_here(online, tmp_path, files, monkeypatch):
    monkeypatch.setitem(hub.KNOWN, "distilgpt2", known_with(files, "distilgpt2"))
    put(tmp_path / "cache", {"encoder.json": VOCAB, "vocab.bpe": MERGES})
    online.add_repository("distilbert/distilgpt2", files)
    mingpt.load("distilgpt2")
    assert not [path for path, _ in online.requests if "vocab" in path]


def test_gpt2s_tokenizer_alone_comes_from_openai(online, tmp_path, monkeypatch):
    serve_openai(online, monkeypatch)
    assert gpt2_tokenizer().encode(" Jones")
    assert fetched(tmp_path) == ["encoder.json", "vocab.bpe"]
    online.files.clear()
    assert gpt2_tokenizer().encode(" Jones")


def test_gpt2s_tokenizer_is_found_in_the_hubs_cache(online, tmp_path, files, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    put_in_hub_cache(tmp_path / "hub", "models--gpt2", files)
    assert gpt2_tokenizer().encode(" Jones")
    bare = {k: b for k, b in files_of(50304).items() if k in ("config.json", "model.safetensors")}
    put(tmp_path / "mine", bare)
    assert mingpt.load(tmp_path / "mine")[1].is_padding(50300)


def test_a_model_in_our_cache_needs_no_other(online, tmp_path, files, checksum, monkeypatch):
    monkeypatch.setitem(hub.KNOWN, "gpt2-xl", known_with(files, "gpt2-xl"))
    put_in_hub_cache(tmp_path / "hub", "models--distilgpt2", files)
    online.add_repository("openai-community/gpt2-xl", files)
    mingpt.load("gpt2-xl")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert mingpt.load("gpt2-xl", offline=True)[0].checksum() == checksum


def test_a_snapshot_with_nothing_but_a_tokenizer_is_one(online, tmp_path, files, checksum):
    pair = {name: files[name] for name in ("vocab.json", "merges.txt")}
    put_in_hub_cache(tmp_path / "hub", "models--gpt2", pair)
    assert gpt2_tokenizer().encode(" Jones")
    put_in_hub_cache(tmp_path / "hub", "models--x--y", pair)
    rest = {k: b for k, b in files.items() if k not in pair}
    put_in_hub_cache(tmp_path / "hub", "models--x--y", rest, "b" * 40, main=False)
    assert mingpt.load("x/y", offline=True)[0].checksum() == checksum
    assert not online.requests


def test_a_link_out_of_a_cache_does_not_hide_other_models(online, tmp_path, files):
    put_in_hub_cache(tmp_path / "outside", "models--gpt2", files)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "models--gpt2").symlink_to(tmp_path / "outside" / "models--gpt2")
    put_in_hub_cache(tmp_path / "hub", "models--distilgpt2", files)
    assert gpt2_tokenizer().encode(" Jones")
    assert [entry.name for entry in cache.entries()] == ["distilbert/distilgpt2"]
    with pytest.raises(CheckpointError, match="link out of"):
        mingpt.load("gpt2")


def test_a_whole_file_comes_before_an_index_without_its_shards(online, tmp_path, files, checksum):
    state = safetensors.torch.load(files["model.safetensors"])
    torch.save(state, tmp_path / "x.bin")
    rest = {k: b for k, b in files.items() if k != "model.safetensors"}
    index = b'{"weight_map": {"x": "x.safetensors"}}'
    more = {"model.safetensors.index.json": index}
    more["pytorch_model.bin"] = (tmp_path / "x.bin").read_bytes()
    put_in_hub_cache(tmp_path / "hub", "models--x--y", rest | more)
    assert mingpt.load("x/y", offline=True)[0].checksum() == checksum


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer.model", "vocab.txt"])
def test_half_a_tokenizer_or_another_one_is_not_replaced_by_gpt2s(online, tmp_path, name):
    put(tmp_path / "cache", {"encoder.json": VOCAB, "vocab.bpe": MERGES})
    files = files_of(50257)
    put(tmp_path / "mine", {**files, name: VOCAB})
    with pytest.raises(TokenizerError, match="holds no tokenizer"):
        mingpt.load(tmp_path / "mine")
    if name == "vocab.json":  # the half that is asked for first
        online.add_repository("me/mine", {**files, name: VOCAB})
        for _ in range(2):
            with pytest.raises(TokenizerError, match="the repository has no such file"):
                mingpt.load("me/mine")


def test_damaged_files_are_not_taken_over(online, tmp_path):
    put(tmp_path / "cache", {"encoder.json": VOCAB, "vocab.bpe": MERGES[:1000]})
    online.add_repository("me/mine", files_of(50257))
    with pytest.raises(CheckpointError, match=r"encoder\.json is damaged"):  # not OpenAI's, that is
        mingpt.load("me/mine")


def files_of(rows: int) -> dict[str, bytes]:
    """Return the files of a very small model with `rows` embeddings, without a tokenizer."""
    model = make_model(vocab_size=rows, n_embd=2, n_head=1, n_layer=1)
    with tempfile.TemporaryDirectory() as folder:
        mingpt.save(model, folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("rows", [50257, 50304, 50305])
def test_a_repository_without_a_tokenizer_may_have_gpt2s(online, tmp_path, monkeypatch, rows):
    serve_openai(online, monkeypatch)
    online.add_repository("me/mine", files_of(rows))
    if rows == 50305:
        with pytest.raises(TokenizerError, match="the repository has no such file"):
            mingpt.load("me/mine")
        return
    assert mingpt.load("me/mine")[1].is_padding(50256)  # the one served here is smaller
    online.files.clear()
    online.requests.clear()
    assert mingpt.load("me/mine")[1].encode(" Jones")
    assert mingpt.load("me/mine", offline=True)[1].encode(" Jones")
    assert not online.requests  # it lies beside the model now


def test_a_tokenizer_that_was_not_fetched_yet_is_not_taken_to_be_gpt2s(online, tmp_path):
    put(tmp_path / "cache", {"encoder.json": VOCAB, "vocab.bpe": MERGES})
    put(tmp_path / "cache" / "me--mine", files_of(50257))
    with pytest.raises(DownloadError, match="not to be used"):
        mingpt.load("me/mine", offline=True)


def test_weights_here_and_the_tokenizer_there(online, tmp_path, files, checksum):
    ours = {k: b for k, b in files.items() if k in ("config.json", "model.safetensors")}
    put(tmp_path / "cache" / "me--mine", ours)
    put_in_hub_cache(tmp_path / "hub", "models--me--mine", files)
    assert mingpt.load("me/mine", offline=True)[0].checksum() == checksum


def test_tokens_that_were_added_are_fetched_too(online, files):
    added = json.dumps({"<mine>": ROWS - 1}).encode()
    short = {symbol: number for symbol, number in json.loads(VOCAB).items() if number < ROWS - 1}
    online.add_repository(
        "me/mine", {**files, "vocab.json": json.dumps(short).encode(), "added_tokens.json": added}
    )
    added = (
        "/me/mine/resolve/main/added_tokens.json",
        f"/me/mine/resolve/{'c' * 40}/added_tokens.json",
    )
    healthy = online.files[added[1]]
    for path in added:
        online.files[path] = Served(status=503, etag=None)
    with pytest.raises(DownloadError, match="HTTP 503"):
        mingpt.load("me/mine")
    for path in added:
        online.files[path] = healthy
    assert mingpt.load("me/mine")[1].token(ROWS - 1) == "<mine>"
    assert mingpt.load("me/mine", offline=True)[1].token(ROWS - 1) == "<mine>"


def test_gpt2s_own_weights_are_pinned(online, files, monkeypatch):
    gpt2 = hub.KNOWN["gpt2"]
    pin = gpt2.sha256["model.safetensors"]
    assert (len(pin), len(gpt2.revision), gpt2.megabytes) == (64, 40, 548)
    monkeypatch.setitem(hub.KNOWN, "gpt2", known_with(files, "gpt2"))
    online.add_repository("openai-community/gpt2", files, revision=gpt2.revision)
    with pytest.raises(DownloadError, match=f"SHA-256 [0-9a-f]{{64}} instead of {pin}"):
        GPT.from_pretrained("gpt2")


def test_a_token_is_sent_to_the_hub_and_not_to_its_storage(online, files, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", " hf_secret\n")
    online.add_repository("me/mine", files)
    with HubServer() as storage:
        path = f"/storage/{sha256(files['model.safetensors'])}"
        storage.files[path] = online.files.pop(path)
        for served in online.files.values():
            if served.redirect:
                served.redirect = f"{storage.url}{path}"
        mingpt.load("me/mine")
        assert all(headers["Authorization"] == "Bearer hf_secret" for _, headers in online.requests)
        assert ["Authorization" in headers for headers in storage.asked(path)] == [False]


def test_a_strange_endpoint_is_refused(online, monkeypatch):
    strange = ("huggingface.co", "ftp://x", "https://", "file:///etc", "http://[x", "http://a:b@c")
    for address in strange:
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(DownloadError, match="HF_ENDPOINT is no address") as caught:
            mingpt.load("me/mine")
        assert "a:b" not in str(caught.value)


# --------------------------------------------------------------------- offline


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_means_offline(online, tmp_path, files, monkeypatch, how):
    online.add_repository("me/mine", files)
    if how == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("me/mine", "gpt2"):
        with pytest.raises(DownloadError, match=r"--\w+ has no model\.safet.* not to be used"):
            mingpt.load(name, offline=how == "argument")
    assert not online.requests
    assert not (tmp_path / "cache").exists()


def test_without_a_network_the_file_the_place_and_the_way_out_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DownloadError) as caught:
        GPT.from_pretrained("gpt2")
    message = str(caught.value)
    assert "model.safetensors" in message
    assert str(tmp_path / "cache" / "openai-community--gpt2") in message
    assert "'builtin'" in message
    assert "\n" not in message


def test_a_full_cache_needs_no_network_and_is_only_read(tmp_path, files, monkeypatch, checksum):
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(hub.KNOWN, "gpt2-xl", known_with(files, "gpt2-xl"))
    weights = {"model.safetensors": files["model.safetensors"]}
    put(tmp_path / "cache" / "openai-community--gpt2-xl", weights)
    (tmp_path / "cache" / "encoder.json").write_bytes(VOCAB)
    (tmp_path / "cache" / "vocab.bpe").write_bytes(MERGES)
    before = fetched(tmp_path)
    monkeypatch.setattr("mingpt.loading.cache.FileLock", lambda path: pytest.fail("locked"))
    assert mingpt.load("gpt2-xl")[0].checksum() == checksum
    assert fetched(tmp_path) == before


# --------------------------------------------------------------------- the hub's own cache


def test_the_hubs_cache_is_read_and_not_written(online, tmp_path, files, checksum):
    put_in_hub_cache(tmp_path / "hub", "models--me--mine", files)
    before = sorted(tmp_path.rglob("*"))
    assert mingpt.load("me/mine")[0].checksum() == checksum
    assert sorted(tmp_path.rglob("*")) == before
    assert not online.requests


@pytest.mark.parametrize("folder", ["models--gpt2", "models--openai-community--gpt2"])
def test_gpt2_is_found_under_either_spelling(online, tmp_path, files, checksum, folder):
    put_in_hub_cache(tmp_path / "hub", folder, files)
    model, tokenizer = mingpt.load("gpt2")
    assert model.checksum() == checksum
    assert model.name == "gpt2"
    assert tokenizer.vocab_size == ROWS
    assert not online.requests


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"HF_HUB_CACHE": "{0}/a"}, "a"),
        ({"HUGGINGFACE_HUB_CACHE": "{0}/a", "HF_HOME": "{0}/b"}, "a"),
        ({"HF_HOME": "{0}/b"}, "b/hub"),
        ({"XDG_CACHE_HOME": "{0}/c"}, "c/huggingface/hub"),
        ({"HOME": "{0}/d"}, "d/.cache/huggingface/hub"),
        ({"HF_HUB_CACHE": "$SOMEWHERE/e", "SOMEWHERE": "{0}"}, "e"),
        ({"HF_HUB_CACHE": "", "HF_HOME": "{0}/b"}, "b/hub"),
    ],
)
def test_where_the_hubs_cache_is(tmp_path, monkeypatch, variables, place):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert cache.hub_directory() == tmp_path / place


def test_our_cache_comes_before_the_hubs(online, tmp_path, files):
    other = dict(files)
    mingpt.save(make_model(seed=1, vocab_size=ROWS), tmp_path / "other")
    other["model.safetensors"] = (tmp_path / "other" / "model.safetensors").read_bytes()
    put(tmp_path / "cache" / "me--mine", other)
    put_in_hub_cache(tmp_path / "hub", "models--me--mine", files)
    assert mingpt.load("me/mine")[0].checksum() == make_model(seed=1, vocab_size=ROWS).checksum()


def test_which_snapshot_is_taken(online, tmp_path, files):
    root = tmp_path / "hub"
    weights = {}
    for number, name in enumerate("abc"):
        mingpt.save(make_model(seed=number, vocab_size=ROWS), tmp_path / name)
        weights[name] = make_model(seed=number, vocab_size=ROWS).checksum()
        body = (tmp_path / name / "model.safetensors").read_bytes()
        snapshot = put_in_hub_cache(
            root, "models--me--mine", {**files, "model.safetensors": body}, name * 40, main=False
        )
        os.utime(snapshot, (number, number))
    refs = root / "models--me--mine" / "refs"
    refs.mkdir()

    def taken():
        return GPT.from_pretrained("me/mine").checksum()

    assert taken() == weights["c"]  # no ref: the newest
    (refs / "main").write_text("a" * 40)
    assert taken() == weights["a"]  # the ref main
    (root / "models--me--mine/snapshots" / ("a" * 40) / "model.safetensors").unlink()
    assert taken() == weights["c"]  # main is incomplete: the newest complete one
    (root / "models--me--mine/snapshots" / ("c" * 40) / "config.json").unlink()
    assert taken() == weights["b"]
    (refs / "main").write_text("../../../etc")
    assert taken() == weights["b"]


# --------------------------------------------------------------------- links


def test_a_link_out_of_a_cache_is_not_followed(online, tmp_path, files):
    put(tmp_path / "outside", files)
    for name in ("model.safetensors", "config.json", "vocab.json"):
        root = tmp_path / f"hub-{name}"
        snapshot = put_in_hub_cache(root, "models--me--mine", files)
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(tmp_path / "outside" / name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_HUB_CACHE", str(root))
            with pytest.raises(CheckpointError, match=f"{name} is a link out of .*{root.name}"):
                mingpt.load("me/mine")


def test_nor_is_what_only_points_the_way(online, tmp_path, files):
    put(tmp_path / "outside", {"main": b"a" * 40, "index": b'{"weight_map": {"x": "x.bin"}}'})
    config = {"config.json": files["config.json"]}
    snapshot = put_in_hub_cache(tmp_path / "hub", "models--me--mine", config, main=False)
    index = snapshot / "model.safetensors.index.json"
    index.symlink_to(tmp_path / "outside" / "index")
    with pytest.raises(CheckpointError, match=r"index\.json is a link out of"):
        mingpt.load("me/mine")
    index.unlink()
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").symlink_to(tmp_path / "outside" / "main")
    with pytest.raises(CheckpointError, match="main is a link out of"):
        mingpt.load("me/mine")


def test_a_folder_that_is_a_link_out_of_our_cache_is_neither_read_nor_written(
    online, tmp_path, files
):
    put(tmp_path / "outside", files)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "me--mine").symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match="link out of"):
        mingpt.load("me/mine")
    (tmp_path / "outside" / "model.safetensors").unlink()
    (tmp_path / "outside" / "config.json").unlink()
    online.add_repository("me/mine", files)
    with pytest.raises(DownloadError, match="link out of"):
        mingpt.load("me/mine")
    assert not (tmp_path / "outside" / "config.json").exists()


def test_a_tokenizer_that_is_a_link_out_of_our_cache_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    put(tmp_path / "cache", {"vocab.bpe": MERGES})
    put(tmp_path / "outside", {"encoder.json": VOCAB})
    (tmp_path / "cache" / "encoder.json").symlink_to(tmp_path / "outside" / "encoder.json")
    with pytest.raises(CheckpointError, match=r"encoder\.json is a link out of"):
        gpt2_tokenizer_files()


def test_a_cache_that_is_itself_a_link_is_a_cache(online, tmp_path, files, checksum):
    put_in_hub_cache(tmp_path / "elsewhere", "models--me--mine", files)
    (tmp_path / "hub").symlink_to(tmp_path / "elsewhere")
    assert mingpt.load("me/mine")[0].checksum() == checksum


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "x/y.safetensors", 7])
def test_a_shard_lies_beside_its_index(tmp_path, files, shard):
    put(tmp_path / "model", {"config.json": files["config.json"]})
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": shard}}))
    with pytest.raises(CheckpointError, match="no index of shards"):
        GPT.from_pretrained(tmp_path / "model")


def test_a_shard_that_is_a_link_out_of_the_cache_is_not_followed(online, tmp_path, files):
    put(tmp_path / "outside", files)
    index = json.dumps({"weight_map": {"x": "one.safetensors"}}).encode()
    here = {"config.json": files["config.json"], "model.safetensors.index.json": index}
    snapshot = put_in_hub_cache(tmp_path / "hub", "models--me--mine", here)
    (snapshot / "one.safetensors").symlink_to(tmp_path / "outside" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"one\.safetensors is a link out of"):
        GPT.from_pretrained("me/mine")


# --------------------------------------------------------------------- two at once


LOAD = "import sys, mingpt; print(mingpt.load(sys.argv[1])[0].checksum())"


def test_two_processes_at_once_fetch_each_file_once(online, tmp_path, files, checksum):
    online.add_repository("me/mine", files, wait=0.2)
    command = [sys.executable, "-c", LOAD, "me/mine"]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == [checksum] * 2
    storage = f"/storage/{sha256(files['model.safetensors'])}"
    assert len(online.asked(storage)) == 1
    assert all("." not in name.split("/")[1][:1] for name in fetched(tmp_path))
    assert not [*(tmp_path / "cache").glob(".*")]


def test_two_threads_at_once_fetch_each_file_once(online, files, checksum):
    online.add_repository("me/mine", files, wait=0.1)
    together, found = threading.Barrier(2), []

    def load():
        together.wait()
        found.append(mingpt.load("me/mine")[0].checksum())

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [checksum] * 2
    counts = Counter(path for path, _ in online.requests)
    assert max(count for path, count in counts.items() if "added" not in path) == 1


def test_after_kill_9_the_next_run_goes_on(online, tmp_path, files, checksum):
    online.add_repository("me/mine", files)
    storage = online.files[f"/storage/{sha256(files['model.safetensors'])}"]
    storage.drip, storage.piece = 0.05, 1 << 14
    command = [sys.executable, "-c", LOAD, "me/mine"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not any(part.stat().st_size for part in tmp_path.rglob(".model*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert [*(tmp_path / "cache").glob(".*.lock")]
    storage.drip = 0.0
    assert mingpt.load("me/mine")[0].checksum() == checksum
    assert not [name for name in fetched(tmp_path) if "/." in name or name.startswith(".")]
    asked = [headers.get("Range") for path, headers in online.requests if "/storage/" in path]
    assert asked[0] is None
    assert asked[-1].startswith("bytes=")


def test_who_waits_sees_how_far_the_other_one_is(tmp_path, monkeypatch):
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path))
    place, seen, inside = tmp_path / "me--mine", [], threading.Event()

    def first():
        with cache.adding_to(place):
            (place / ".model.safetensors.abc.part").write_bytes(b"x" * 77)
            inside.set()
            while not seen:
                time.sleep(0.01)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10)
    with cache.adding_to(place, lambda *step: seen.append(step)):
        assert seen[0] == (77, 0)
    thread.join()


def test_the_lock_holds_though_its_file_comes_and_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path))
    place = tmp_path / "me--mine"

    def add():
        for _ in range(50):
            with cache.adding_to(place):
                before = int((place / "count").read_text()) if (place / "count").exists() else 0
                time.sleep(0.0001)
                (place / "count").write_text(str(before + 1))

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (place / "count").read_text() == "150"
    assert not [*tmp_path.glob(".*")]


def test_a_cache_that_cannot_be_written_is_one_line(online, tmp_path, files):
    online.add_repository("me/mine", files)
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(DownloadError, match="cannot be written") as caught:
        mingpt.load("me/mine")
    assert "\n" not in str(caught.value)


def test_what_the_hubs_library_would_find_we_find(online, tmp_path, files):
    """Check the layout written above: huggingface_hub itself reads it."""
    from huggingface_hub import try_to_load_from_cache

    put_in_hub_cache(tmp_path / "hub", "models--me--mine", files)
    found = try_to_load_from_cache("me/mine", "model.safetensors", cache_dir=tmp_path / "hub")
    assert found == str(cache.find(hub.repository("me/mine")).directory / "model.safetensors")
