"""mingpt-fetch: what a user sees, and what is then on the disk."""

import json
import re

import pytest
from helpers import known_with
from hub_server import cached, put_in_hub_cache

from mingpt.loading import repositories
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


def snapshot_of(tmp_path, files, name="me/mine"):
    return put_in_hub_cache(tmp_path / "hub", "--".join(("models", *name.split("/"))), files)


def test_fetch_and_what_it_says(fetch, online, tmp_path, files):
    online.add_repository("me/mine", files)
    code, out, err = fetch("me/mine")
    assert (code, err) == (0, "")
    place = tmp_path / "hub" / "models--me--mine" / "snapshots" / ("c" * 40)
    size = f"{sum(map(len, files.values())) / 1e6:.1f} MB"
    assert re.fullmatch(rf"me/mine: 0\.1M parameters, {size}, is now in {place}\n", out)
    online.files.clear()
    code, out, _ = fetch("me/mine")
    assert code == 0
    assert "was already in" in out


def test_several_at_once_and_a_known_name(fetch, online, files, monkeypatch):
    monkeypatch.setitem(repositories.KNOWN, "distilgpt2", known_with(files, "distilgpt2"))
    online.add_repository("distilbert/distilgpt2", files)
    online.add_repository("me/mine", files)
    code, out, _ = fetch("distilgpt2", "me/mine")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["distilgpt2", "me/mine"]
    code, out, _ = fetch("--list")
    rows = [line.split("  ")[0] for line in out.splitlines()]
    assert rows[:3] == ["name", "distilbert/distilgpt2", "me/mine"]


def test_what_transformers_cached_is_not_fetched(fetch, online, tmp_path, files):
    snapshot = snapshot_of(tmp_path, files)
    code, out, _ = fetch("me/mine")
    assert (code, online.requests + online.heads) == (0, [])
    assert out.endswith(f"was already in {snapshot}\n")


@pytest.mark.parametrize("model_type", [None, "mingpt"])
def test_a_configuration_that_is_not_transformers(fetch, online, tmp_path, files, model_type):
    config = json.loads(files["config.json"])
    del config["model_type"]
    config |= {} if model_type is None else {"model_type": model_type}
    snapshot_of(tmp_path, {**files, "config.json": json.dumps(config).encode()})
    assert fetch("me/mine")[0] == 0
    assert "me/mine" in fetch("--list")[1]


# --------------------------------------------------------------------- list


def test_list(fetch, online, tmp_path, files):
    snapshot_of(tmp_path, files)
    snapshot_of(tmp_path, {"config.json": files["config.json"]}, "me/half")
    (tmp_path / "hub" / "version.txt").write_text("1")
    (tmp_path / "hub" / "no-model").mkdir()
    snapshot_of(tmp_path, files, "gpt2")
    llama = {**files, "config.json": json.dumps({"model_type": "llama"}).encode()}
    snapshot_of(tmp_path, llama, "a/llama")
    put_in_hub_cache(tmp_path / "hub", "datasets--a--b", files)
    code, out, err = fetch("--list")
    assert (code, err) == (0, "")
    head, *rows, total = out.splitlines()
    assert head.split() == ["name", "size", "folder"]
    assert [re.split(r"  +", row)[0] for row in rows] == ["gpt2", "me/half", "me/mine"]
    assert ["incomplete" in row for row in rows] == [False, True, False]
    assert total.startswith(f"{tmp_path / 'hub'}, ")
    code, out, _ = fetch("--list", "gpt2")
    assert [line.split("  ")[0] for line in out.splitlines()[1:2]] == ["gpt2"]


def test_list_of_nothing(fetch, online):
    code, out, _ = fetch("--list")
    assert code == 0
    assert len(out.splitlines()) == 2


# --------------------------------------------------------------------- verify


@pytest.mark.parametrize("damaged", [None, "config.json", "model.safetensors"])  # git's hash, SHA
def test_verify(fetch, online, tmp_path, files, damaged):
    snapshot = snapshot_of(tmp_path, files)
    if damaged:
        (snapshot / damaged).resolve().write_bytes(files[damaged][:-1] + b"x")
    code, out, err = fetch("--verify", "me/mine")
    states = dict(line.rsplit(": ", 1) for line in out.splitlines())
    wrong = {path for path, state in states.items() if state == "WRONG"}
    assert len(states) == len(files)
    if damaged is None:
        assert (code, wrong, err) == (0, set(), "")
        assert set(states.values()) == {"intact"}
    else:
        assert (code, wrong) == (2, {f"{snapshot}/{damaged}"})
        assert err.count("\n") == 1
        assert f"not intact: {snapshot}/{damaged}; remove" in err


def test_verify_does_not_call_a_file_intact_whose_hash_is_not_known(fetch, online, tmp_path, files):
    snapshot = snapshot_of(tmp_path, files)
    (snapshot / "notes.txt").write_text("mine")
    code, out, err = fetch("--verify")
    assert code == 2
    assert f"{snapshot}/notes.txt: no hash is known" in out
    assert f"not intact: {snapshot}/notes.txt" in err


def test_a_link_out_of_the_cache_does_not_stop_the_verification(fetch, online, tmp_path, files):
    snapshot = snapshot_of(tmp_path, files)
    other = snapshot_of(tmp_path, files, "me/other")
    (tmp_path / "secret").write_text("x")
    (snapshot / "merges.txt").unlink()
    (snapshot / "merges.txt").symlink_to(tmp_path / "secret")
    code, out, _ = fetch("--verify")
    assert code == 2
    assert f"{snapshot}/merges.txt: A LINK OUT OF THE CACHE" in out
    assert f"{other}/merges.txt: intact" in out


def test_verify_misses_what_is_gone(fetch, online, tmp_path, files):
    snapshot = snapshot_of(tmp_path, files)
    other = snapshot_of(tmp_path, files, "me/other")
    (snapshot / "model.safetensors").resolve().unlink()
    code, out, err = fetch("--verify")
    assert code == 2
    assert f"{other}/config.json: intact" in out
    assert "not intact: Blob missing" in err
    assert err.count("\n") == 1
    code, out, _ = fetch("--list")
    assert code == 0
    assert "not listed: Blob missing" in out
    assert "me/other" in out


def test_what_an_interrupted_fetch_left_is_no_damage_and_can_be_removed(
    fetch, online, tmp_path, files
):
    snapshot_of(tmp_path, files)
    blobs = tmp_path / "hub" / "models--openai-community--gpt2-xl" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{'a' * 64}.incomplete").write_bytes(b"x" * 100)
    assert fetch("--list")[0] == fetch("--verify")[0] == 0
    code, out, _ = fetch("--remove", "gpt2-xl")
    assert (code, out) == (0, "removed what an interrupted fetch left of gpt2-xl\n")
    assert not blobs.parent.exists()
    assert cached(tmp_path) == sorted(files)


def test_verify_of_nothing_says_so(fetch, online):
    assert fetch("--verify") == (0, "the cache holds no GPT-2: there is nothing to verify\n", "")


def test_a_built_in_hash_counts_more_than_the_name(fetch, online, tmp_path, files):
    snapshot_of(tmp_path, {"model.safetensors": files["model.safetensors"]}, "gpt2")
    code, out, _ = fetch("--verify")
    assert code == 2
    assert out.count("WRONG") == 1


# --------------------------------------------------------------------- remove


def test_remove(fetch, online, tmp_path, files):
    snapshot = snapshot_of(tmp_path, files)
    (snapshot.parents[1] / "blobs" / "abc.incomplete").write_bytes(b"x")
    snapshot_of(tmp_path, files, "me/other")
    code, out, _ = fetch("--remove", "me/mine")
    assert code == 0
    assert out.startswith("removed me/mine, ")
    assert not (tmp_path / "hub" / "models--me--mine").exists()
    assert cached(tmp_path, "me/other") == sorted(files)


def test_remove_keeps_other_commits_when_they_are_not_gpt2s(fetch, online, tmp_path, files):
    online.add_repository("me/mine", files)
    fetch("me/mine")
    assert fetch("--remove", "me/mine")[0] == 0
    assert fetch("me/mine")[0] == 0  # nothing that is left is in the way


def test_remove_does_not_follow_a_link(fetch, online, tmp_path, files):
    outside = put_in_hub_cache(tmp_path / "outside", "models--me--mine", files)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "models--me--mine").symlink_to(outside.parents[1])
    code, _, err = fetch("--remove", "me/mine")
    assert code == 2
    assert "link out of" in err
    assert (outside / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no model: give its name, or --list"),
        (["--remove"], "no model: give its name"),
        (["builtin"], "builtin is on this machine"),
        (["../x"], "no model '../x'"),
        (["no such"], "no model"),
        (["--verify", "gpt2"], "'gpt2' is not in the cache; there is: nothing"),
        (["--remove", "../../etc"], "is not in the cache"),
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
    assert not (tmp_path / "hub").exists()


def test_the_token_is_in_nothing_that_is_printed(fetch, online, files, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    online.add_repository("me/mine", files)
    for arguments in (["me/mine"], ["me/other"], ["--list"], ["--verify"]):
        assert "hf_secret" not in "".join(map(str, fetch(*arguments)))
