"""The hub's cache, as transformers fills it: which files are taken, and how they are checked."""

import json
import os
import time

import pytest
import safetensors.torch
import torch
from helpers import known_with, make_model
from hub_server import ROWS, put, put_in_hub_cache, sha256

import mingpt
from mingpt import GPT, CheckpointError, DownloadError
from mingpt.loading import cache, listing, repositories
from mingpt.loading.sources import resolve

MINE = repositories.repository("me/mine")


@pytest.fixture(scope="module")
def checksum() -> str:
    return make_model(vocab_size=ROWS).checksum()


def snapshot_of(tmp_path, files, folder="models--me--mine", commit="a" * 40):
    return put_in_hub_cache(tmp_path / "hub", folder, files, commit)


# --------------------------------------------------------------------- where files are found


def test_what_transformers_cached_is_used_without_the_network(online, tmp_path, files, checksum):
    snapshot_of(tmp_path, files)
    before = sorted(tmp_path.rglob("*"))
    assert mingpt.load("me/mine")[0].checksum() == checksum
    new = set(tmp_path.rglob("*")) - set(before)
    assert [path.name for path in new] == [cache.CHECKED_FILE]
    assert not online.requests + online.heads


@pytest.mark.parametrize("folder", ["models--gpt2", "models--openai-community--gpt2"])
def test_gpt2_is_found_under_either_name(online, tmp_path, files, checksum, monkeypatch, folder):
    right = {name: sha256(files[name]) for name in repositories.KNOWN["gpt2"].sha256}
    monkeypatch.setitem(repositories.KNOWN, "gpt2", known_with(files, "gpt2", sha256=right))
    snapshot_of(tmp_path, files, folder)
    model, tokenizer = mingpt.load("gpt2")
    assert model.checksum() == checksum
    assert model.name == "gpt2"
    assert tokenizer.vocab_size == ROWS
    assert not online.requests


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "model.safetensors"])
def test_another_commit_of_gpt2_with_other_files_is_passed_over(
    offline, tmp_path, files, monkeypatch, name
):
    right = {key: sha256(files[key]) for key in repositories.KNOWN["gpt2"].sha256}
    monkeypatch.setitem(repositories.KNOWN, "gpt2", known_with(files, "gpt2", sha256=right))
    snapshot = snapshot_of(tmp_path, {**files, name: files[name] + b" "}, "models--gpt2")
    with pytest.raises(DownloadError, match="gpt2 has no"):
        mingpt.load("gpt2")
    assert (snapshot / name).read_bytes() == files[name] + b" "  # it is not ours to delete


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
    (refs / "main").unlink()
    os.mkfifo(refs / "main")  # no answer would ever come
    assert taken() == weights["b"]


def test_half_of_the_shards_are_no_model(online, tmp_path, files):
    index = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
    some = {"config.json": files["config.json"], "model.safetensors.index.json": index}
    snapshot_of(tmp_path, {**some, "one.safetensors": files["model.safetensors"]})
    assert not resolve("me/mine").is_here


def test_a_whole_file_comes_before_an_index_without_its_shards(online, tmp_path, files, checksum):
    state = safetensors.torch.load(files["model.safetensors"])
    torch.save(state, tmp_path / "x.bin")
    rest = {k: b for k, b in files.items() if k != "model.safetensors"}
    index = b'{"weight_map": {"x": "x.safetensors"}}'
    more = {"model.safetensors.index.json": index}
    more["pytorch_model.bin"] = (tmp_path / "x.bin").read_bytes()
    snapshot_of(tmp_path, rest | more)
    assert mingpt.load("me/mine", offline=True)[0].checksum() == checksum


def test_a_tokenizer_of_another_commit_is_taken_where_main_has_none(
    online, tmp_path, files, checksum
):
    pair = {name: files[name] for name in ("vocab.json", "merges.txt")}
    snapshot_of(tmp_path, pair)
    rest = {k: b for k, b in files.items() if k not in pair}
    put_in_hub_cache(tmp_path / "hub", "models--me--mine", rest, "b" * 40, main=False)
    assert mingpt.load("me/mine", offline=True)[0].checksum() == checksum
    assert not online.requests


def test_weights_and_tokenizer_are_of_one_commit(online, tmp_path, files):
    """After a push, transformers' tokenizer may be cached from a newer commit than the weights."""
    other = json.dumps({**json.loads(files["vocab.json"]), "zzzz": ROWS - 1}).encode()
    pair = {"config.json": files["config.json"], "vocab.json": other}
    put_in_hub_cache(tmp_path / "hub", "models--me--mine", files, "a" * 40, main=False)
    snapshot_of(tmp_path, {**pair, "merges.txt": files["merges.txt"]}, commit="b" * 40)
    assert "zzzz" not in mingpt.load("me/mine", offline=True)[1].vocab
    assert "zzzz" not in mingpt.load_tokenizer("me/mine", offline=True).vocab


# --------------------------------------------------------------------- hashes


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.json", "merges.txt"])
def test_a_damaged_file_is_deleted_and_refused(online, tmp_path, files, checksum, name):
    online.add_repository("me/mine", files)
    mingpt.load("me/mine")
    blob = next((tmp_path / "hub").rglob(f"snapshots/*/{name}")).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(
        CheckpointError, match=r"instead of \w+; it was deleted, to be fetched agai"
    ):
        mingpt.load("me/mine")
    assert not blob.exists()
    assert mingpt.load("me/mine")[0].checksum() == checksum  # fetched again


def test_a_damaged_configuration_without_weights_is_refused_too(online, tmp_path, files):
    online.add_repository("me/mine", files)
    snapshot = snapshot_of(tmp_path, {"config.json": files["config.json"]}, commit="c" * 40)
    (snapshot / "config.json").resolve().write_bytes(files["config.json"] + b" ")
    with pytest.raises(DownloadError, match=r"config\.json is not the expected file"):
        mingpt.load("me/mine")


def test_every_shard_is_checked(online, tmp_path, files):
    state = safetensors.torch.load(files["model.safetensors"])
    names = [f"model-{n}.safetensors" for n in (0, 1)]
    weight_map = {key: names[number % 2] for number, key in enumerate(state)}
    shards = {
        name: safetensors.torch.save({k: v for k, v in state.items() if weight_map[k] == name})
        for name in names
    }
    rest = {name: body for name, body in files.items() if name != "model.safetensors"}
    index = {"model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()}
    snapshot = snapshot_of(tmp_path, rest | index | shards)
    blob = (snapshot / names[1]).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors is not the expected file"):
        mingpt.load("me/mine")


def test_a_file_is_hashed_once(online, tmp_path, files, monkeypatch):
    snapshot = snapshot_of(tmp_path, files)
    mingpt.load("me/mine")
    hashed = []
    monkeypatch.setattr(cache, "wrong_hash", lambda path, *rest: hashed.append(path))
    mingpt.load("me/mine")
    assert hashed == []
    os.utime((snapshot / "model.safetensors").resolve(), ns=(1, time.time_ns()))
    mingpt.load("me/mine")
    assert len(hashed) == 1  # its time has changed


@pytest.mark.parametrize("digest", ["zz", 7, None, ["a"]])
def test_a_recorded_hash_that_is_none_does_not_count(online, tmp_path, files, digest):
    folder = tmp_path / "hub" / "models--me--mine"
    snapshot = folder / "snapshots" / ("a" * 40)
    put(snapshot, files)
    records = {f"snapshots/{'a' * 40}/{name}": [1, 2, digest] for name in files}
    (folder / cache.CHECKED_FILE).write_text(json.dumps(records))
    with pytest.raises(CheckpointError, match="cannot be checked"):
        mingpt.load("me/mine")
    assert (snapshot / "model.safetensors").read_bytes() == files["model.safetensors"]


@pytest.mark.parametrize("text", ["[]", '{"blobs/x": 1}', "no JSON", "[" * 10**5])
def test_a_list_of_hashed_files_that_cannot_be_read_counts_as_none(online, tmp_path, files, text):
    snapshot = snapshot_of(tmp_path, files)
    (snapshot.parents[1] / cache.CHECKED_FILE).write_text(text)
    assert mingpt.load("me/mine")


def test_a_cache_that_can_only_be_read_is_read(online, tmp_path, files, checksum, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    snapshot_of(tmp_path, files)
    monkeypatch.setattr(cache, "replacing", refuse)
    assert mingpt.load("me/mine")[0].checksum() == checksum


def test_a_cache_without_links_holds_copies_whose_hash_is_kept(
    online, tmp_path, files, checksum, monkeypatch
):
    def refuse(self, target):
        raise OSError(1, "no links here")

    monkeypatch.setattr(cache.Path, "symlink_to", refuse)
    online.add_repository("me/mine", files)
    assert mingpt.load("me/mine")[0].checksum() == checksum
    path = next((tmp_path / "hub").rglob("snapshots/*/model.safetensors"))
    assert not path.is_symlink()
    assert mingpt.load("me/mine", offline=True)[0].checksum() == checksum
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="is not the expected file"):
        mingpt.load("me/mine")


def test_weights_without_a_known_hash_are_refused(online, tmp_path, files):
    put(tmp_path / "hub" / "models--me--mine" / "snapshots" / ("a" * 40), files)
    with pytest.raises(
        CheckpointError, match=r"cannot be checked: .* --remove me/mine\) and fetch"
    ):
        mingpt.load("me/mine")


# --------------------------------------------------------------------- links


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.json"])
def test_a_link_out_of_the_cache_is_not_followed(online, tmp_path, files, name):
    put(tmp_path / "outside", files)
    snapshot = snapshot_of(tmp_path, files)
    (snapshot / name).unlink()
    (snapshot / name).symlink_to(tmp_path / "outside" / name)
    with pytest.raises(CheckpointError, match=f"{name} is a link out of .*hub"):
        mingpt.load("me/mine")
    assert (tmp_path / "outside" / name).exists()


def test_nor_is_an_index_or_a_ref_or_a_shard(online, tmp_path, files):
    put(
        tmp_path / "outside",
        {"main": b"a" * 40, "index": b'{"weight_map": {"x": "x.bin"}}', **files},
    )
    config = {"config.json": files["config.json"]}
    snapshot = put_in_hub_cache(tmp_path / "hub", "models--me--mine", config, main=False)
    index = snapshot / "model.safetensors.index.json"
    index.symlink_to(tmp_path / "outside" / "index")
    with pytest.raises(CheckpointError, match=r"index\.json is a link out of"):
        mingpt.load("me/mine")
    index.unlink()
    index.write_text(json.dumps({"weight_map": {"x": "one.safetensors"}}))
    (snapshot / "one.safetensors").symlink_to(tmp_path / "outside" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"one\.safetensors is a link out of"):
        GPT.from_pretrained("me/mine")
    index.unlink()
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").symlink_to(tmp_path / "outside" / "main")
    with pytest.raises(CheckpointError, match="main is a link out of"):
        mingpt.load("me/mine")


def test_a_folder_that_is_a_link_out_of_the_cache_is_not_written(online, tmp_path, files):
    online.add_repository("me/mine", files)
    (tmp_path / "outside").mkdir()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "models--me--mine").symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match="link out of"):
        mingpt.load("me/mine")
    assert [*(tmp_path / "outside").iterdir()] == []


def test_a_cache_that_is_itself_a_link_is_a_cache(online, tmp_path, files, checksum):
    put_in_hub_cache(tmp_path / "elsewhere", "models--me--mine", files)
    (tmp_path / "hub").symlink_to(tmp_path / "elsewhere")
    assert mingpt.load("me/mine")[0].checksum() == checksum


def test_a_blob_may_link_into_the_librarys_shared_store(online, tmp_path, files, checksum):
    snapshot = snapshot_of(tmp_path, files)
    blob = snapshot.parents[1] / "blobs" / sha256(files["model.safetensors"])
    shared = tmp_path / "hub" / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    assert mingpt.load("me/mine")[0].checksum() == checksum


# --------------------------------------------------------------------- listing


def test_a_link_out_of_the_cache_does_not_hide_other_models(online, tmp_path, files):
    put_in_hub_cache(tmp_path / "outside", "models--gpt2", files)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "models--gpt2").symlink_to(tmp_path / "outside" / "models--gpt2")
    put_in_hub_cache(tmp_path / "hub", "models--distilgpt2", files)
    entries, warnings = listing.entries()
    assert "distilgpt2" in [entry.name for entry in entries]
    assert warnings == []
    states = {entry.name: set(listing.verify(entry).values()) for entry in entries}
    assert states == {"distilgpt2": {listing.INTACT}, "gpt2": {listing.LINK}}
    with pytest.raises(CheckpointError, match="link out of"):
        mingpt.load("gpt2")


def test_a_pipe_in_place_of_a_ref_does_not_block_the_list(online, tmp_path, files):
    snapshot = snapshot_of(tmp_path, files)
    (snapshot.parents[1] / "refs" / "main").unlink()
    os.mkfifo(snapshot.parents[1] / "refs" / "main")
    with pytest.raises(CheckpointError, match="main is no file: delete it"):
        listing.entries()
    (snapshot.parents[1] / "refs" / "main").rename(tmp_path / "pipe")
    data = put_in_hub_cache(tmp_path / "hub", "datasets--a--b", files, main=False)
    (data.parents[1] / "refs").mkdir()
    (tmp_path / "pipe").rename(data.parents[1] / "refs" / "main")
    with pytest.raises(CheckpointError, match="main is no file: delete it"):
        listing.entries()
