"""From files to a model and back: load, save, from_pretrained."""

import subprocess
import sys

import pytest
from helpers import ROOT, make_model

import mingpt
from mingpt import GPT, BPETokenizer
from mingpt.loading.model_files import load_model


@pytest.mark.parametrize("module", ["mingpt.model", "mingpt.bpe"])
def test_the_core_imports_nothing_that_reads_files(module):
    code = f"import sys, {module}; print([m for m in sys.modules if m.startswith('mingpt.load')])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_a_subclass_loads_itself(tmp_path):
    class Mine(GPT):
        pass

    mingpt.save(make_model(), tmp_path)
    assert type(Mine.from_pretrained(tmp_path)) is Mine
    assert type(GPT.from_pretrained(tmp_path)) is type(load_model(tmp_path)) is GPT


def test_save_writes_the_tokenizer_where_one_is_given(builtin, tmp_path):
    model, tokenizer = builtin
    mingpt.save(model, tmp_path / "both", tokenizer)
    mingpt.save(model, tmp_path / "model")
    names = {"config.json", "model.safetensors"}
    assert {path.name for path in (tmp_path / "model").iterdir()} == names
    again, same = mingpt.load(tmp_path / "both")
    assert again.checksum() == model.checksum()
    assert (same.vocab, same.merges) == (tokenizer.vocab, tokenizer.merges)


def test_a_tokenizer_never_looks_for_files():
    with pytest.raises(TypeError, match="vocab"):
        BPETokenizer()
