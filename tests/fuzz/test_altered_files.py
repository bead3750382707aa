"""Altered files of every kind that is read: refused by one of our errors, or the same content.

A file is altered byte by byte (flipped, cut, moved) or field by field (wrong type, huge,
missing). What is read from it must then be what the original holds, or what an independent
reading of the altered file gives: transformers' field names for a configuration, tokenizers'
BPE for a tokenizer. A checkpoint has no checksum of its numbers. So its bytes are altered
only outside them, or cut.
"""

import dataclasses
import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import altering
import fuzzing
import numpy as np
import pytest
import torch
from helpers import make_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from mingpt import GPT, GPTConfig, MinGPTError, load_tokenizer
from mingpt.loading.model_files import load_model
from patching import Continuations, Explanation, PromptPair, Question, SweepResult
from patching.continuation.run import continue_prompts
from patching.explanation.run import explain
from patching.sweep.run import patch_sweep

pytestmark = pytest.mark.slow  # thousands of files
FEW, FULL = 120, 2_000
IDS = torch.tensor([[1, 5, 30, 2, 2, 17]])
TEXTS = ("the theatre in another hour", "na\xefve \U0001f600 12", "  two\n\nlines\t", "an")
HEADS = 2  # of minGPT's file, which does not say


class Kind(NamedTuple):
    """A kind of file, and how it is read and altered."""

    path: str
    read: Callable[[Path], Any]
    edit: Callable[[random.Random, bytes], bytes]  # alters a field
    says: Callable[[Path, Path], Any] | None = None  # reads it independently; originals beside it
    frail: Callable[[bytes], list[range]] = altering.whole  # where a changed byte must be seen


# --------------------------------------------------------------------- reading


def read_model(path: Path) -> Any:
    """Return configuration and logits of the model that a file belongs to."""
    is_file = path.suffix == ".pt"
    heads = HEADS if path.name == "bare.pt" else None
    model = load_model(path if is_file else path.parent, n_head=heads)
    return _numbers(model)


def _numbers(model: GPT) -> Any:
    with torch.no_grad():
        return dataclasses.asdict(model.config), model.eval()(IDS)[0].numpy().tobytes()


@functools.cache
def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the parameters of the original models, as nanoGPT's file has them."""
    return torch.load(folder / "nano.pt", weights_only=True)["model"]


def _numbers_of(config: dict[str, Any], folder: Path) -> Any:
    model = GPT(GPTConfig(**config))
    model.load_state_dict(_weights(folder))
    return _numbers(model)


def config_says(path: Path, originals: Path) -> Any:
    """Return what the original weights compute with the fields of an altered config.json."""
    ours = {"n_positions": "block_size", "activation_function": "activation"}
    fields = {ours.get(key, key): value for key, value in json.loads(path.read_bytes()).items()}
    known = {field.name for field in dataclasses.fields(GPTConfig)}
    config = {key: value for key, value in fields.items() if key in known}
    return _numbers_of(config, originals)


def nanogpt_says(path: Path, originals: Path) -> Any:
    """Return what the original weights compute with the fields of an altered model_args."""
    said = torch.load(path, weights_only=True)["model_args"]
    dropout = said.pop("dropout", 0.0)
    config = {**said, **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), dropout)}
    return _numbers_of({**config, "activation": "gelu"}, originals)


def read_tokenizer(path: Path) -> Any:
    """Return the ids of some texts, the texts again, and the ids that mingpt-tokens shows."""
    tokenizer = load_tokenizer(path.parent)
    ids = [tokenizer.encode(text) for text in TEXTS]
    works = [tokenizer.show_work(text) for text in TEXTS]
    shown = [[number for piece in work for number in piece.ids] for work in works]
    return ids, list(map(tokenizer.decode, ids)), shown


def tokenizer_says(path: Path, _: Path) -> Any:
    """Return the ids that the package tokenizers gives with an altered file."""
    if path.name == "tokenizer.json":
        model = json.loads(path.read_bytes())["model"]
        vocab, merges = model["vocab"], model["merges"]
    else:
        vocab = json.loads(path.with_name("vocab.json").read_bytes())
        merges = path.with_name("merges.txt").read_text(encoding="utf-8").split("\n")
    pairs = [one.split(" ") if isinstance(one, str) else one for one in merges if one]
    # A pair with an empty symbol never occurs; we ignore it and tokenizers refuses it.
    pairs = [tuple(pair) for pair in pairs if pair[0] != "#version:" and "" not in pair]
    theirs = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ids = [theirs.encode(text).ids for text in TEXTS]
    return ids, list(TEXTS), ids


def read_prompts(path: Path) -> list[str]:
    """Return the prompts that mingpt-generate reads from a file."""
    argv = ["--model", "builtin", "--prompts", str(path), "--greedy", "--max-new-tokens", "1"]
    ran = fuzzing.run_in_process("generate", [*argv, "--json", "--quiet"])
    problem = fuzzing.problem_of("generate", [*argv, "--json"], ran)
    assert problem is None, problem
    if ran.code == 2:
        raise MinGPTError(ran.err)
    return [json.loads(line)["prompt"] for line in ran.out.splitlines()]


def prompts_say(path: Path, _: Path) -> list[str]:
    """Return the prompts in an altered file."""
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    lines = [line.removesuffix("\r") for line in lines if line.strip()]
    if path.suffix == ".jsonl":
        values = [json.loads(line) for line in lines]
        lines = [one["prompt"] if isinstance(one, dict) else one for one in values]
    return list(dict.fromkeys(lines))


def plain(value: Any) -> Any:
    """Return a result as nested lists that can be compared, arrays by their bytes."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, value.tobytes()]
    if dataclasses.is_dataclass(value):
        return [(f.name, plain(getattr(value, f.name))) for f in dataclasses.fields(value)]
    if isinstance(value, dict):
        return [(key, plain(one)) for key, one in value.items()]
    return [plain(one) for one in value] if isinstance(value, list | tuple) else repr(value)


def difference(old: Any, new: Any, place: str = "") -> str | None:
    """Describe the first difference of two contents, with the way to it."""
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        steps = (f"{place}/{one[0]}" if isinstance(one, tuple) else place for one in old)
        parts = map(difference, old, new, steps)
        return next((one for one in parts if one is not None), None)
    return None if old == new else f"{place} {str(old)[:100]} -> {str(new)[:100]}"


def loaded(load: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Return a function that loads a result and makes it comparable."""
    return lambda path: plain(load(path))


KINDS = (
    Kind("plain/config.json", read_model, altering.edit_json, config_says),
    Kind("plain/model.safetensors", read_model, altering.edit_header, None, altering.header),
    Kind("sharded/model-1.safetensors", read_model, altering.edit_header, None, altering.header),
    Kind("sharded/model.safetensors.index.json", read_model, altering.edit_json),
    Kind("torch/pytorch_model.bin", read_model, altering.edit_torch, None, altering.not_tensors),
    Kind("legacy/pytorch_model.bin", read_model, altering.edit_torch, None, altering.not_tensors),
    Kind("nano.pt", read_model, altering.edit_torch, nanogpt_says, altering.not_tensors),
    Kind("bare.pt", read_model, altering.edit_torch, None, altering.not_tensors),
    Kind("plain/vocab.json", read_tokenizer, altering.edit_json, tokenizer_says),
    Kind("plain/merges.txt", read_tokenizer, altering.edit_lines, tokenizer_says),
    Kind("plain/added_tokens.json", read_tokenizer, altering.edit_json, tokenizer_says),
    Kind("torch/tokenizer.json", read_tokenizer, altering.edit_json, tokenizer_says),
    Kind("sweep.npz", loaded(SweepResult.load), altering.edit_npz),
    Kind("sweep.json", loaded(SweepResult.load), altering.edit_json),
    Kind("explanation.npz", loaded(Explanation.load), altering.edit_npz),
    Kind("explanation.json", loaded(Explanation.load), altering.edit_json),
    Kind("continuations.json", loaded(Continuations.load_all), altering.edit_json),
    Kind("prompts.txt", read_prompts, altering.edit_lines, prompts_say),
    Kind("prompts.jsonl", read_prompts, altering.edit_lines, prompts_say),
)


# --------------------------------------------------------------------- running a case


@functools.cache
def _original(kind: Kind, folder: Path) -> Any:
    return kind.read(folder / "originals" / kind.path)


def run(number: int, folder: Path) -> fuzzing.Problem | None:
    """Alter one file and read it."""
    draw, kind = fuzzing.random_of(number), KINDS[number % len(KINDS)]
    original = _original(kind, folder)
    path = folder / "work" / kind.path
    shutil.rmtree(folder / "work", ignore_errors=True)
    shutil.copytree(folder / "originals", folder / "work")
    data = path.read_bytes()
    if draw.random() < 0.5:
        changed = altering.altered_bytes(draw, data, [part for part in kind.frail(data) if part])
    else:
        changed = kind.edit(draw, data)
    path.write_bytes(changed)
    try:
        found = kind.read(path)
    except MinGPTError as error:
        return None if str(error) else fuzzing.Problem(f"{kind.path}: an error without a word", "")
    if found == original or found == _said(kind, path, folder / "originals"):
        return None
    pairs = enumerate(zip(data, changed, strict=False))
    at = next((at for at, (old, new) in pairs if old != new), len(data))
    details = [
        f"from byte {at} on {data[at : at + 20]!r} became {changed[at : at + 20]!r}",
        f"read: {difference(original, found)}",
    ]
    return fuzzing.Problem(f"{kind.path}: read, and differs", "\n".join(details))


def _said(kind: Kind, path: Path, originals: Path) -> Any:
    """Return what an altered file says by an independent reading; None if nobody can tell."""
    try:
        return None if kind.says is None else kind.says(path, originals)
    except Exception:  # of many types, some of other libraries
        return None


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder whose subfolder `originals` holds a file of every kind."""
    there = tmp_path / "originals"
    size = fuzzing.small_tokenizer(there / "tokenizer")
    model = make_model(n_layer=2, n_embd=4, vocab_size=size + 1, block_size=24)
    fuzzing.save_model(model, there / "plain", there / "tokenizer")
    (there / "plain" / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": size}))
    tensors = load_file(there / "plain" / "model.safetensors")
    for name in ("sharded", "torch", "legacy"):
        shutil.copytree(there / "plain", there / name)
        (there / name / "model.safetensors").unlink()
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    index: dict[str, str] = {}
    for number, half in enumerate(halves, 1):
        name = f"model-{number}.safetensors"
        save_file({key: tensors[key] for key in half}, there / "sharded" / name)
        index |= dict.fromkeys(half, name)
    (there / "sharded" / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    )
    torch.save(tensors, there / "torch" / "pytorch_model.bin")
    torch.save(
        tensors, there / "legacy" / "pytorch_model.bin", _use_new_zipfile_serialization=False
    )
    _write_tokenizer_json(there / "torch")
    fuzzing.save_nanogpt(model, there / "nano.pt")
    torch.save(model.state_dict(), there / "bare.pt")
    _write_results(model, load_tokenizer(there / "plain"), there)
    (there / "prompts.txt").write_text("The keys\n The cabinet \n\nna\xefve\r\n", encoding="utf-8")
    (there / "prompts.jsonl").write_text('"The keys"\n{"prompt": "The \\u00e9", "n": 1}\n')
    return tmp_path


def _write_tokenizer_json(folder: Path) -> None:
    """Replace vocab.json and merges.txt by a tokenizer.json of the package tokenizers."""
    theirs = Tokenizer(models.BPE.from_file(f"{folder}/vocab.json", f"{folder}/merges.txt"))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.add_special_tokens(["<|endoftext|>"])
    theirs.save(f"{folder}/tokenizer.json")
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        (folder / name).unlink()


def _write_results(model: GPT, tokenizer: Any, folder: Path) -> None:
    pair = PromptPair.from_text(tokenizer, "an hour", "in hour", "id:40", "id:50")
    patch_sweep(model, pair, metric="logit_diff,kl").save(folder / "sweep")
    question = Question.from_text(tokenizer, "an hour", "id:40", "id:50")
    explain(model, question).save(folder / "explanation")
    result = continue_prompts(model, tokenizer, ["an hour", "in"], num_samples=2)
    Continuations.save_all(folder / "continuations", [result, result])


def test_no_altered_file_is_misread(folder):
    """A file is refused with one of our errors, or holds what it held or now says."""
    fuzzing.check_problems(
        __file__, fuzzing.run_cases(run, folder, fuzzing.numbers(few=FEW, full=FULL))
    )
