"""From a name to its source: names, directories and files; nothing is fetched."""

import json
import subprocess
import sys

import pytest
from helpers import ROOT
from hub_server import put

import mingpt
from mingpt import GPT, CheckpointError, TokenizerError
from mingpt.loading import repositories
from mingpt.loading.sources import (
    BUILTIN_DIRECTORY,
    DirectorySource,
    FileSource,
    HubSource,
    resolve,
)

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
    assert resolve("openai-community/gpt2").repository is repositories.KNOWN["gpt2"]
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
    assert repositories.repository(name) is None
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


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "x/y.safetensors", 7])
def test_a_shard_lies_beside_its_index(tmp_path, files, shard):
    put(tmp_path / "model", {"config.json": files["config.json"]})
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": shard}}))
    with pytest.raises(CheckpointError, match="no index of shards"):
        GPT.from_pretrained(tmp_path / "model")


def test_a_tokenizer_that_does_not_fit_its_model_is_refused_with_it_or_without(tmp_path, files):
    fields = {**json.loads(files["config.json"]), "vocab_size": 9}
    put(tmp_path / "mine", {**files, "config.json": json.dumps(fields).encode()})
    with pytest.raises(TokenizerError, match=r"mine: the tokenizer has \d+ tokens, .* only 9 rows"):
        mingpt.load_tokenizer(tmp_path / "mine")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["builtin", "here"])
def test_what_is_on_this_machine_needs_no_library_of_the_hub(tmp_path, files, name):
    put(tmp_path / "here", files)
    code = "import sys, mingpt; mingpt.load(sys.argv[1]); print('huggingface_hub' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, name if name == "builtin" else str(tmp_path / name)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"


def test_a_path_that_may_not_be_looked_at_says_so(tmp_path, monkeypatch):
    def refuse(path, **how):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mingpt.loading.sources.Path.stat", refuse)
    with pytest.raises(CheckpointError, match=r"no model '/root/x': Permission denied$"):
        resolve("/root/x")


def test_a_circle_of_links_says_so(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(CheckpointError, match=r"loop': Too many levels of symbolic links$"):
        resolve(str(tmp_path / "loop"))
