"""mingpt-fetch: what a user sees, and what is then on the disk."""

import json
import re

import pytest
from helpers import known_with
from hub_server import (
    MERGES,
    VOCAB,
    HubServer,
    fetched,
    put,
    put_in_hub_cache,
    sha256,
)

from mingpt.loading import hub
from patching.cli.fetch import main


@pytest.fixture
def fetch(capsys, monkeypatch, tmp_path):
    """Run the command in an empty folder; return its exit code, stdout and stderr."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def run(*arguments):
        code = main(arguments)
        return code, *capsys.readouterr()

    return run


def test_fetch_and_what_it_says(fetch, online, tmp_path, files):
    online.add_repository("me/mine", files)
    code, out, err = fetch("me/mine")
    assert (code, err) == (0, "")
    place = tmp_path / "cache" / "me--mine"
    size = f"{sum(map(len, files.values())) / 1e6:.1f} MB"
    assert re.fullmatch(rf"me/mine: 0\.1M parameters, {size}, is now in {place}\n", out)
    online.files.clear()
    code, out, _ = fetch("me/mine")
    assert code == 0
    assert "was already in" in out


def test_several_at_once_and_a_known_name(fetch, online, tmp_path, files, monkeypatch):
    monkeypatch.setitem(hub.KNOWN, "distilgpt2", known_with(files, "distilgpt2"))
    put(tmp_path / "cache", {"encoder.json": VOCAB, "vocab.bpe": MERGES})
    online.add_repository("distilbert/distilgpt2", files)
    online.add_repository("me/mine", files)
    code, out, _ = fetch("distilgpt2", "me/mine")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["distilgpt2", "me/mine"]
    code, out, _ = fetch("--list")
    rows = [line.split("  ")[0] for line in out.splitlines()]
    assert rows[:4] == ["name", "distilbert/distilgpt2", "gpt2-tokenizer", "me/mine"]


def test_what_the_hubs_cache_has_is_not_fetched(fetch, online, tmp_path, files):
    snapshot = put_in_hub_cache(tmp_path / "hub", "models--me--mine", files)
    code, out, _ = fetch("me/mine")
    assert (code, online.requests) == (0, [])
    assert out.endswith(f"was already in {snapshot}\n")


@pytest.mark.parametrize("model_type", [None, "mingpt"])
def test_a_configuration_that_is_not_transformers(fetch, online, tmp_path, files, model_type):
    config = json.loads(files["config.json"])
    del config["model_type"]
    config |= {} if model_type is None else {"model_type": model_type}
    changed = {**files, "config.json": json.dumps(config).encode()}
    put_in_hub_cache(tmp_path / "hub", "models--me--mine", changed)
    assert fetch("me/mine")[0] == 0
    assert "me/mine" in fetch("--list")[1]


def test_what_a_killed_run_left_is_not_counted(fetch, online, tmp_path, files):
    put(tmp_path / "cache" / "me--mine", {**files, ".model.safetensors.abc.part": b"x" * 10**7})
    code, out, _ = fetch("--verify")
    assert code == 0
    assert ".part" not in out
    size = f"{sum(map(len, files.values())) / 1e6:.1f} MB"
    assert f"me/mine  {size}" in fetch("--list")[1]


def test_list(fetch, online, tmp_path, files):
    put(tmp_path / "cache" / "me--mine", files)
    put(tmp_path / "cache" / "me--half", {"config.json": files["config.json"]})
    put(tmp_path / "cache" / "no-model", {"x": b""})
    put_in_hub_cache(tmp_path / "hub", "models--gpt2", files)
    llama = {**files, "config.json": json.dumps({"model_type": "llama"}).encode()}
    put_in_hub_cache(tmp_path / "hub", "models--a--llama", llama)
    code, out, err = fetch("--list")
    assert (code, err) == (0, "")
    head, *rows, ours, hubs = out.splitlines()
    assert head.split() == ["name", "size", "cache", "folder"]
    assert [re.split(r"  +", row)[::2] for row in rows] == [
        ["me/half", "ours, incomplete"],
        ["me/mine", "ours"],
        ["openai-community/gpt2", "the hub's"],
    ]
    assert ours.startswith(f"our cache: {tmp_path / 'cache'}, ")
    assert hubs == f"the hub's: {tmp_path / 'hub'}"
    code, out, _ = fetch("--list", "gpt2")
    assert [line.split("  ")[0] for line in out.splitlines()[1:2]] == ["openai-community/gpt2"]


def test_list_of_nothing(fetch, online):
    code, out, _ = fetch("--list")
    assert code == 0
    assert len(out.splitlines()) == 3


def test_verify_misses_what_is_gone(fetch, online, tmp_path, files):
    online.add_repository("me/mine", files)
    fetch("me/mine")
    (tmp_path / "cache" / "me--mine" / "model.safetensors").unlink()
    code, out, err = fetch("--verify")
    assert code == 2
    assert "model.safetensors: MISSING" in out
    assert "model.safetensors; remove the model and fetch it again" in err


@pytest.mark.parametrize("damaged", [None, "config.json", "model.safetensors"])
def test_verify(fetch, online, tmp_path, files, damaged):
    online.add_repository("me/mine", files)
    fetch("me/mine")
    place = tmp_path / "cache" / "me--mine"
    (place / "notes.txt").write_text("mine")
    if damaged:
        body = (place / damaged).read_bytes()
        (place / damaged).write_bytes(body[:-1] + b"x")
    code, out, err = fetch("--verify", "me/mine")
    states = dict(line.rsplit(": ", 1) for line in out.splitlines())
    assert states.pop(f"{place}/notes.txt") == "no hash is known"
    wrong = {path for path, state in states.items() if state == "WRONG"}
    assert len(states) == 4
    if damaged is None:
        assert (code, wrong, err) == (0, set(), "")
    else:
        assert (code, wrong) == (2, {f"{place}/{damaged}"})
        assert err.count("\n") == 1
        assert f"damaged or missing: {place}/{damaged}; remove" in err


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])  # by SHA-256, by git's SHA-1
def test_verify_reads_the_hubs_cache_too(fetch, online, tmp_path, files, name):
    snapshot = put_in_hub_cache(tmp_path / "hub", "models--me--mine", files)
    code, out, _ = fetch("--verify")
    assert code == 0
    assert out.count(": intact\n") == len(files)
    (snapshot / name).resolve().write_bytes(files[name][:-1] + b"!")
    code, out, _ = fetch("--verify")
    assert code == 2
    assert f"{snapshot / name}: WRONG" in out


def test_a_pin_counts_more_than_what_was_noted(fetch, online, tmp_path, files):
    weights = files["model.safetensors"]
    sums = f"{sha256(weights)}  model.safetensors\n".encode()
    put(tmp_path / "cache" / "openai-community--gpt2", {"model.safetensors": weights})
    (tmp_path / "cache" / "openai-community--gpt2" / "SHA256SUMS").write_bytes(sums)
    (tmp_path / "cache" / "encoder.json").write_bytes(VOCAB)
    code, out, _ = fetch("--verify")
    assert code == 2
    assert out.count("WRONG") == 2


def test_remove(fetch, online, tmp_path, files):
    put(tmp_path / "cache" / "me--mine", files)
    put(tmp_path / "cache" / "me--other", files)
    (tmp_path / "cache" / "encoder.json").write_bytes(VOCAB)
    code, out, _ = fetch("--remove", "me/mine", "gpt2-tokenizer")
    assert code == 0
    assert out.startswith("removed me/mine, ")
    assert {name.split("/")[0] for name in fetched(tmp_path)} == {"me--other"}
    assert not [*(tmp_path / "cache").glob(".*")]


def test_remove_never_touches_the_hubs_cache(fetch, online, tmp_path, files):
    put_in_hub_cache(tmp_path / "hub", "models--me--mine", files)
    before = sorted(tmp_path.rglob("*"))
    code, _, err = fetch("--remove", "me/mine")
    assert code == 2
    assert "the hub's own library's, and not ours to delete" in err
    put(tmp_path / "cache" / "me--mine", files)
    assert fetch("--remove", "me/mine")[0] == 0  # ours alone
    assert [path for path in before if not path.exists()] == []


def test_remove_does_not_follow_a_link(fetch, online, tmp_path, files):
    put(tmp_path / "outside", files)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "me--mine").symlink_to(tmp_path / "outside")
    code, _, err = fetch("--remove", "me/mine")
    assert code == 2
    assert "link out of" in err
    assert (tmp_path / "outside" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no model: give its name, or --list"),
        (["--remove"], "no model: give its name"),
        (["--no-verify"], "no model: give its name"),
        (["builtin"], "builtin is on this machine"),
        (["../x"], "no model '../x'"),
        (["no such"], "no model"),
        (["--verify", "gpt2"], "'gpt2' is in no cache; there is: nothing"),
        (["--remove", "../../etc"], "is in no cache"),
        (["--list", "--verify"], "--list and --verify do not go together"),
        (["me/mine", "builtin"], "builtin is on this machine"),
        (["me/mine"], "the repository has no such file; nor is there a directory or file"),
    ],
)
def test_bad_input_is_one_line(fetch, online, tmp_path, arguments, message):
    code, out, err = fetch(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("mingpt-fetch: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "cache").exists()


def test_no_verify_takes_what_has_no_hash(fetch, online, files):
    online.add_repository("me/mine", files)
    for served in online.files.values():
        served.etag = None
    code, _, err = fetch("me/mine")
    assert code == 2
    assert "states no hash to check the file by; mingpt-fetch --no-verify" in err
    assert fetch("--no-verify", "me/mine")[0] == 0


def test_the_token_is_in_nothing_that_is_printed(fetch, online, files, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    online.add_repository("me/mine", files)
    with HubServer() as other:
        other.files = {path: served for path, served in online.files.items() if "storage" in path}
        for arguments in (["me/mine"], ["me/other"], ["--list"], ["--verify"]):
            assert "hf_secret" not in "".join(map(str, fetch(*arguments)))
