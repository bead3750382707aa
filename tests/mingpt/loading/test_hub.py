"""Fetching a repository into the hub's cache, from a hub of our own that may be hostile."""

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers import ROOT, known_with, make_model
from hub_server import MERGES, ROWS, VOCAB, HubServer, Served, cached, git_sha1, leftovers, sha256

import mingpt
from mingpt import GPT, CheckpointError, DownloadError, TokenizerError
from mingpt.loading import cache, download, hub, repositories
from mingpt.loading.sources import resolve

COMMIT = "c" * 40


@pytest.fixture(scope="module")
def checksum() -> str:
    return make_model(vocab_size=ROWS).checksum()


def path_of(name: str, revision="main", repository="me/mine") -> str:
    return f"/{repository}/resolve/{revision}/{name}"


def change(server, name: str, **how) -> None:
    """Change how a file of me/mine is served, at main and at its commit."""
    for revision in ("main", COMMIT):
        path = path_of(name, revision)
        server.files[path] = dataclasses.replace(server.files[path], **how)


def test_a_repository_is_fetched_once(online, tmp_path, files, checksum):
    online.add_repository("me/mine", files)
    model, tokenizer = mingpt.load("me/mine")
    assert model.checksum() == checksum
    assert model.name == "me/mine"
    assert tokenizer.encode(" Jones")
    assert cached(tmp_path) == ["config.json", "merges.txt", "model.safetensors", "vocab.json"]
    assert leftovers(tmp_path) == []
    online.files.clear()  # from here on, every answer is a 404
    assert mingpt.load("me/mine")[0].checksum() == checksum
    assert mingpt.load("me/mine", offline=True)[0].checksum() == checksum


def test_the_hubs_library_finds_what_was_fetched(online, tmp_path, files):
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    online.add_repository("me/mine", files)
    mingpt.load("me/mine")
    for name, body in files.items():
        found = Path(try_to_load_from_cache("me/mine", name, cache_dir=tmp_path / "hub"))
        is_large = name == "model.safetensors"
        assert found.resolve().name == (sha256(body) if is_large else git_sha1(body))
    scanned = scan_cache_dir(tmp_path / "hub")
    assert not scanned.warnings
    (repository,) = scanned.repos
    assert (repository.repo_id, repository.nb_files) == ("me/mine", len(files))
    assert [commit.refs for commit in repository.revisions] == [{"main"}]


def test_all_files_are_of_the_commit_that_the_first_one_was(online, files):
    online.add_repository("me/mine", files)
    resolve("me/mine").config()
    newer = {**files, "config.json": files["config.json"].replace(b"gelu_new", b"relu")}
    for name, body in newer.items():
        headers = {"X-Repo-Commit": "d" * 40}
        online.files[path_of(name)] = Served(body, etag="git", headers=headers)
    assert mingpt.load("me/mine")[0].config.activation == "gelu_new"
    asked = [path.split("/")[4] for path, _ in online.heads]
    assert asked == ["main", *[COMMIT] * (len(asked) - 1)]


def test_an_architecture_that_is_not_ours_is_refused_before_its_weights_are_fetched(online, files):
    llama = json.dumps({"model_type": "llama"}).encode()
    online.add_repository("me/llama", {**files, "config.json": llama})
    for load in (mingpt.load, GPT.from_pretrained):
        with pytest.raises(CheckpointError, match="model_type = 'llama' is not supported"):
            load("me/llama")
    assert not [path for path, _ in online.heads if "safetensors" in path]


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


def test_tokens_that_were_added_are_fetched_too(online, files):
    added = json.dumps({"<mine>": ROWS - 1}).encode()
    short = {symbol: number for symbol, number in json.loads(VOCAB).items() if number < ROWS - 1}
    online.add_repository(
        "me/mine", {**files, "vocab.json": json.dumps(short).encode(), "added_tokens.json": added}
    )
    change(online, "added_tokens.json", head_failures=[(503, {})] * 3)
    with pytest.raises(DownloadError, match=r"HTTP 503 \(3 tries\)"):
        mingpt.load("me/mine")
    assert mingpt.load("me/mine")[1].token(ROWS - 1) == "<mine>"
    assert mingpt.load("me/mine", offline=True)[1].token(ROWS - 1) == "<mine>"


def test_the_tokenizer_alone_fetches_no_weights(online, tmp_path, files):
    online.add_repository("me/mine", files)
    tokenizer = mingpt.load_tokenizer("me/mine")
    assert cached(tmp_path) == ["config.json", "merges.txt", "vocab.json"]
    online.files.clear()
    again = mingpt.load_tokenizer("me/mine", offline=True)
    assert again.vocab == tokenizer.vocab
    assert again.rows == ROWS


def test_a_repository_without_a_tokenizer_says_so(online, files):
    online.add_repository("me/mine", {k: b for k, b in files.items() if "vocab" not in k})
    with pytest.raises(TokenizerError, match=r"me--mine has no vocab\.json \+ merges\.txt or tok"):
        mingpt.load("me/mine")
    assert GPT.from_pretrained("me/mine")  # without its tokenizer the model loads


def test_what_the_repository_lacks_is_asked_for_once(online, files):
    online.add_repository("me/mine", files)
    mingpt.load("me/mine")
    assert mingpt.load("me/mine")
    counts = Counter(path for path, _ in online.heads)
    assert counts[path_of("added_tokens.json", COMMIT)] == 1


def test_a_repository_that_is_not_there_says_so(online, tmp_path):
    with pytest.raises(DownloadError, match=r"me--mine has no config\.json, .* has no such file"):
        mingpt.load("me/mine")
    assert not (tmp_path / "hub").exists()


def test_a_known_name_needs_nobody_but_the_hub(online, tmp_path, files, checksum, monkeypatch):
    monkeypatch.setitem(repositories.KNOWN, "distilgpt2", known_with(files, "distilgpt2"))
    monkeypatch.setattr(repositories, "TOKENIZER_URL", "http://127.0.0.1:9/nobody")
    online.add_repository("distilbert/distilgpt2", files)
    model, tokenizer = mingpt.load("distilgpt2")
    assert model.checksum() == checksum
    assert tokenizer.encode(" Jones")
    names = ["merges.txt", "model.safetensors", "vocab.json"]
    assert cached(tmp_path, "distilbert/distilgpt2") == names
    online.files.clear()
    assert mingpt.load("distilgpt2", offline=True)[0].checksum() == checksum


def test_a_wrong_tokenizer_that_the_hub_states_so_names_the_way_out(online, files):
    online.add_repository("me/mine", {**files, "vocab.json": b'{"a": 1}'})
    for _ in range(2):
        with pytest.raises(TokenizerError, match=r"lacks .*; mingpt-fetch --remove me/mine del"):
            mingpt.load("me/mine")


def test_a_404_that_is_not_the_hubs_is_not_remembered(online, files):
    """A wrong address, or another server in the hub's place, must not hide the file for ever."""
    online.add_repository(
        "openai-community/gpt2", files, revision=repositories.KNOWN["gpt2"].revision
    )
    served = dict(online.files)
    online.files.clear()
    gpt2 = repositories.KNOWN["gpt2"]
    for name in ("config.json", "vocab.json"):
        with pytest.raises(DownloadError):
            hub.obtain(gpt2, name)
    online.files.update(served)
    unpinned = dataclasses.replace(gpt2, sha256={})
    assert hub.obtain(unpinned, "config.json").read_bytes() == files["config.json"]


def test_another_commit_than_was_asked_for_is_refused(online, files):
    online.add_repository("me/mine", files)
    resolve("me/mine").config()
    change(online, "vocab.json", headers={"X-Repo-Commit": "d" * 40})
    with pytest.raises(DownloadError, match=f"answers with another commit, {'d' * 40}"):
        mingpt.load("me/mine")


@pytest.mark.parametrize("name", ["vocab.json", "model.safetensors"])
def test_a_blob_that_is_there_already_is_checked(online, tmp_path, files, name):
    online.add_repository("me/mine", files)
    blobs = tmp_path / "hub" / "models--me--mine" / "blobs"
    blobs.mkdir(parents=True)
    honest = sha256(files[name]) if name == "model.safetensors" else git_sha1(files[name])
    (blobs / honest).write_bytes(files[name] + b" ")
    with pytest.raises(DownloadError, match="is not the expected file"):
        mingpt.load("me/mine")
    assert mingpt.load("me/mine")  # the wrong blob was deleted


@pytest.mark.parametrize("name", ["blobs", "snapshots"])
def test_a_folder_inside_that_leads_out_of_the_cache_is_not_written(online, tmp_path, files, name):
    online.add_repository("me/mine", files)
    (tmp_path / "outside").mkdir()
    (tmp_path / "hub" / "models--me--mine").mkdir(parents=True)
    (tmp_path / "hub" / "models--me--mine" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(DownloadError, match="is a link out of"):
        mingpt.load("me/mine")
    assert [*(tmp_path / "outside").iterdir()] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "arguments"),
    [  # each is a process that imports PyTorch
        ("HF_HUB_DOWNLOAD_TIMEOUT=abc", ["a"]),
        ("HF_ENDPOINT=http://a:99999", ["a"]),
        ("HF_ENDPOINT=http://a:99999", ["a", "--model=gpt2"]),
        pytest.param("HF_HUB_ETAG_TIMEOUT=x", ["a"], marks=pytest.mark.slow),
        pytest.param("HF_HUB_ETAG_TIMEOUT=x", ["a", "--model=gpt2"], marks=pytest.mark.slow),
        pytest.param("HF_HUB_DOWNLOAD_TIMEOUT=abc", ["a", "--model=gpt2"], marks=pytest.mark.slow),
    ],
)
def test_a_variable_that_the_library_refuses_is_one_line(command, variable, arguments):
    name, value = variable.split("=", 1)
    done = command("tokens", *arguments, HF_HUB_OFFLINE="0", **{name: value})
    assert "Traceback" not in done.stderr
    steps_in = len(arguments) == 1 and name == "HF_ENDPOINT"  # builtin, in place of gpt2
    assert done.returncode == (0 if steps_in else 2)
    assert len(done.stderr.splitlines()) == (0 if steps_in else 1)


# --------------------------------------------------------------------- what files are checked by


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.json", "merges.txt"])
def test_another_file_than_the_hub_states_is_refused(online, tmp_path, files, name):
    online.add_repository("me/mine", files)
    wrong = files[name][:-1] + bytes([files[name][-1] ^ 1])
    if name == "model.safetensors":
        online.files[f"/storage/{sha256(files[name])}"].body = wrong
    else:
        honest = online.files[path_of(name)].stated()["ETag"].strip('"')
        change(online, name, body=wrong, etag=honest)
    with pytest.raises(DownloadError, match=r"is not the expected file: \S+ \S+ .*instead of"):
        mingpt.load("me/mine")
    assert name not in cached(tmp_path)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "etag", [None, "abc", "../../../../evil", "d41d8cd98f00b204e9800998ecf8427e"]
)
def test_without_a_hash_a_file_is_refused(online, tmp_path, files, etag):
    online.add_repository("me/mine", files)
    change(online, "model.safetensors", redirect=None, etag=etag, linked=False)
    with pytest.raises(DownloadError, match="states no commit, or no hash"):
        mingpt.load("me/mine")
    assert "model.safetensors" not in cached(tmp_path)


@pytest.mark.parametrize("commit", ["", "../../../evil", "main", "C" * 40])
def test_without_a_commit_a_file_is_refused(online, tmp_path, files, commit):
    online.add_repository("me/mine", files)
    change(online, "config.json", headers={"X-Repo-Commit": commit})
    with pytest.raises(DownloadError, match="states no commit, or no hash"):
        mingpt.load("me/mine")
    assert not [path for path in tmp_path.rglob("*") if path.name == "evil"]
    assert cached(tmp_path) == []


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.json", "merges.txt", "config.json"])
def test_gpt2s_own_files_are_pinned(online, tmp_path, files, monkeypatch, name):
    gpt2 = repositories.KNOWN["gpt2"]
    assert {len(pin) for pin in gpt2.sha256.values()} == {64}
    assert (len(gpt2.revision), gpt2.megabytes) == (40, 548)
    right = {key: sha256(files[key]) for key in gpt2.sha256}
    pinned = known_with(files, "gpt2", sha256={**right, name: gpt2.sha256[name]})
    monkeypatch.setitem(repositories.KNOWN, "gpt2", pinned)
    online.add_repository("openai-community/gpt2", files, revision=gpt2.revision)
    with pytest.raises(
        DownloadError, match=f"SHA-256 [0-9a-f]{{64}} instead of {pinned.sha256[name]}"
    ):
        hub.obtain(pinned, name)
    assert name not in cached(tmp_path, "openai-community/gpt2")
    monkeypatch.setitem(repositories.KNOWN, "gpt2", known_with(files, "gpt2", sha256=right))
    assert mingpt.load("gpt2")


def test_an_error_page_is_not_cached(online, tmp_path, files):
    online.add_repository("me/mine", files)
    page = Served(b"<html>", etag=None, headers={"Content-Type": "text/html"})
    online.files[f"/storage/{sha256(files['model.safetensors'])}"] = page
    with pytest.raises(DownloadError, match="answers with a web page"):
        mingpt.load("me/mine")
    assert "model.safetensors" not in cached(tmp_path)


def test_a_log_in_page_in_place_of_the_hub_is_named(online, tmp_path):
    online.files[path_of("config.json")] = Served(
        b"<html>", etag=None, headers={"Content-Type": "text/html"}
    )
    with pytest.raises(DownloadError, match="it is no hub, or a log-in page"):
        mingpt.load("me/mine")
    assert not (tmp_path / "hub" / "models--me--mine" / "blobs").exists()


# --------------------------------------------------------------------- what may go wrong


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {}, "HTTP 401: there is no such repository, or a private one; HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, "HTTP 403: the repository is gated"),
        (404, {"X-Error-Code": "RepoNotFound"}, "HTTP 404: there is no such repository"),
        (404, {"X-Error-Code": "EntryNotFound"}, "the repository has no such file"),
        (404, {}, "the repository has no such file"),
        (451, {}, "HTTP 451; nor is there"),
        (500, {}, r"HTTP 500 \(3 tries\)"),
        (429, {"Retry-After": "86400"}, r"HTTP 429 \(3 tries\)"),
        (503, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 -0000"}, r"HTTP 503 \(3 tries\)"),
    ],
)
def test_what_the_hub_refuses_is_one_line(online, tmp_path, files, status, headers, message):
    online.add_repository("me/mine", files)
    change(online, "config.json", head_failures=[(status, headers)] * 9)
    with pytest.raises(DownloadError, match=message) as caught:
        mingpt.load("me/mine")
    assert "\n" not in str(caught.value)
    assert len(online.heads) == (3 if "tries" in message else 1)


def test_a_silent_hub_costs_seconds(online, files, monkeypatch):
    monkeypatch.setattr(hub, "SECONDS_TO_ANSWER", 0.3)
    monkeypatch.setattr(hub, "SECONDS_TO_REACH", 0.3)
    online.add_repository("me/mine", files)
    change(online, "config.json", head_wait=3)
    online.files[""] = online.files["/"] = Served(head_wait=3)
    started = time.monotonic()
    for ask in (lambda: mingpt.load("me/mine"), hub.reach):
        with pytest.raises(DownloadError, match=r"does not answer within 0\.3 s|time-out"):
            ask()
    assert time.monotonic() - started < 2


def test_a_look_up_of_a_name_that_does_not_end_costs_seconds(online):
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"does not answer within 0\.2 s"):
        hub._within(0.2, lambda: time.sleep(3))
    assert time.monotonic() - started < 2


def test_an_unreachable_hub_costs_no_time(online, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    for ask in (lambda: mingpt.load("me/mine"), hub.reach):
        with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9 cannot be reached: \w+"):
            ask()
    assert time.monotonic() - started < 2


def test_whoever_answers_at_all_is_reached(online):
    hub.reach()


def test_a_stalled_transfer_costs_seconds_and_goes_on_later(online, tmp_path, files, monkeypatch):
    monkeypatch.setattr(download, "SECONDS_TO_STALL", 0.1)
    online.add_repository("me/mine", files)
    storage = online.files[f"/storage/{sha256(files['model.safetensors'])}"]
    storage.drip, storage.burst = 3, 1000
    started = time.monotonic()
    with pytest.raises(DownloadError, match="has stalled"):
        mingpt.load("me/mine")
    assert time.monotonic() - started < 3
    storage.drip = 0
    assert mingpt.load("me/mine")
    ranges = [headers.get("Range") for path, headers in online.requests if "/storage/" in path]
    assert ranges[-1] not in (None, "bytes=0-")
    assert leftovers(tmp_path) == []


# --------------------------------------------------------------------- the token


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
        sent = [*online.heads, *online.requests]
        assert len(sent) > 5
        assert {_sent(headers) for _, headers in sent} == {"Bearer hf_secret"}
        assert [_sent(headers) for headers in storage.asked(path)] == [None]
        assert storage.heads == []


def _sent(headers: dict) -> str | None:
    return {name.lower(): value for name, value in headers.items()}.get("authorization")


@pytest.mark.parametrize("token", ["hf_sec\nret", "hf_secr\u00e9t\u2028"])
def test_a_strange_token_is_in_no_message(online, files, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    online.add_repository("me/mine", files)
    change(online, "config.json", head_failures=[(403, {})])
    with pytest.raises(DownloadError, match="HF_TOKEN") as caught:
        mingpt.load("me/mine")
    assert "hf_sec" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["huggingface.co", "ftp://x", "https://", "file:///etc", "http://[x", "http://a:b@c"]
)
def test_a_strange_endpoint_is_refused(online, monkeypatch, address):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    with pytest.raises(DownloadError, match="HF_ENDPOINT is no address") as caught:
        mingpt.load("me/mine")
    assert "a:b" not in str(caught.value)


# --------------------------------------------------------------------- offline


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_means_offline(online, tmp_path, files, monkeypatch, how):
    from huggingface_hub import constants

    online.add_repository("me/mine", files)
    if how == "environment":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("me/mine", "gpt2"):
        with pytest.raises(DownloadError, match=r"--\w+ has no model\.safet.* forbids using"):
            mingpt.load(name, offline=how == "argument")
    assert not online.requests + online.heads
    assert not (tmp_path / "hub").exists()


def test_without_a_network_the_file_the_place_and_the_way_out_are_named(offline, tmp_path):
    with pytest.raises(DownloadError) as caught:
        GPT.from_pretrained("gpt2")
    message = str(caught.value)
    assert "model.safetensors" in message
    assert str(tmp_path / "hub" / "models--openai-community--gpt2") in message
    assert "'builtin'" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["gpt2", "me/mine"])
def test_a_tokenizer_that_is_not_to_be_had_says_so(offline, tmp_path, name):
    message = {"gpt2": r"no vocab\.json \+ merges\.txt or tok", "me/mine": r"no config\.json"}[name]
    with pytest.raises(DownloadError, match=message + r".*forbids using the network"):
        mingpt.load_tokenizer(name)
    assert not (tmp_path / "hub").exists()


# --------------------------------------------------------------------- two at once


LOAD = "import sys, mingpt; print(mingpt.load(sys.argv[1])[0].checksum())"


@pytest.mark.slow
def test_two_processes_at_once_fetch_each_file_once(online, tmp_path, files, checksum):
    online.add_repository("me/mine", files, wait=0.2)
    command = [sys.executable, "-c", LOAD, "me/mine"]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == [checksum] * 2
    assert len(online.asked(f"/storage/{sha256(files['model.safetensors'])}")) == 1
    assert leftovers(tmp_path) == []


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
    # The library itself asks for a list of its own, once in each thread.
    counts = Counter(
        path for path, _ in online.requests if "/me/mine" in path or "/storage" in path
    )
    assert len(counts) > 3
    assert max(counts.values()) == 1


@pytest.mark.slow
def test_after_kill_9_the_next_run_goes_on(online, tmp_path, files, checksum):
    online.add_repository("me/mine", files)
    storage = online.files[f"/storage/{sha256(files['model.safetensors'])}"]
    storage.drip, storage.piece = 0.3, 1 << 14
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, "me/mine"], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while not any(part.stat().st_size for part in tmp_path.rglob("*.incomplete")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    storage.drip = 0.0
    assert mingpt.load("me/mine")[0].checksum() == checksum
    assert leftovers(tmp_path) == []
    asked = [headers.get("Range") for path, headers in online.requests if "/storage/" in path]
    assert asked[0] is None
    assert asked[-1].startswith("bytes=")


def test_without_a_cache_that_can_be_written_the_shipped_model_steps_in(command, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = command("tokens", "a", HF_HUB_CACHE=str(tmp_path / "file"), HF_HUB_OFFLINE="0",
                   HF_ENDPOINT="http://127.0.0.1:9")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "tokenizer: builtin" in done.stdout


def test_a_cache_that_cannot_be_written_is_one_line(online, tmp_path, files):
    online.add_repository("me/mine", files)
    (tmp_path / "hub").write_text("in the way")
    with pytest.raises(DownloadError, match="cannot be written") as caught:
        mingpt.load("me/mine")
    assert "\n" not in str(caught.value)


def test_who_waits_sees_how_far_the_other_one_is(online, tmp_path):
    place, seen, inside = tmp_path / "hub" / "models--me--mine", [], threading.Event()
    (place / "blobs").mkdir(parents=True)

    def first():
        with cache.locked(place, "x"):
            (place / "blobs" / "x.incomplete").write_bytes(b"x" * 77)
            inside.set()
            while not seen:
                time.sleep(0.01)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10)
    with cache.locked(place, "x", lambda *step: seen.append(step)):
        assert seen[0] == (77, 0)
    thread.join()


def test_a_lock_that_another_process_holds_and_does_nothing_is_not_waited_for(
    online, tmp_path, monkeypatch
):
    monkeypatch.setattr(cache, "SECONDS_FOR_ANOTHER", 0.3)
    place = tmp_path / "hub" / "models--me--mine"
    with (
        cache.locked(place, "x"),
        pytest.raises(DownloadError, match=r"another process holds .*x\.lock and has fetched"),
        cache.locked(place, "x"),  # a lock belongs to an open file: it waits in this process too
    ):
        pass
