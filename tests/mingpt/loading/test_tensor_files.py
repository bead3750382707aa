"""Checkpoints that torch.save wrote: nanoGPT's, minGPT's, the hub's pytorch_model.bin."""

import json
import os
import pickle
import shutil
import sys
import warnings
import zipfile
from unittest.mock import Mock

import pytest
import torch
from helpers import make_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

import mingpt
from mingpt import GPT, CheckpointError, TokenizerError, memory
from mingpt.loading import state_dict, tensor_files
from mingpt.loading.sources import BUILTIN_DIRECTORY, resolve
from mingpt.loading.tokenizer_files import tokenizer_in

# c_proj is square: its shape does not tell its layout.
SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 16}
IDS = torch.tensor([[1, 5, 30, 2, 2, 17]])
MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def reference(*, bias=True, **fields) -> GPT2LMHeadModel:
    """Return transformers' GPT-2 with random weights; without `bias` its biases are zero."""
    torch.manual_seed(0)
    config = GPT2Config(
        **{**SHAPE, "vocab_size": 40, "n_positions": 12, "bos_token_id": 0, "eos_token_id": 0},
        **fields,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += 0.2 * torch.randn_like(parameter)
            if name.endswith("bias") and not bias:
                parameter.zero_()
    return model


def as_linear(model, *, bias=True) -> dict:
    """Return its weights in nn.Linear's layout, under nanoGPT's and minGPT's names."""
    return {
        name: (tensor.t() if name.endswith(MATRICES) else tensor).clone().contiguous()
        for name, tensor in model.state_dict().items()
        if bias or not name.endswith("bias")
    }


def nanogpt(model, *, bias=True) -> dict:
    """Return a checkpoint as nanoGPT's train.py writes it."""
    state = as_linear(model, bias=bias)
    state["lm_head.weight"] = state["transformer.wte.weight"]
    config = model.config
    sizes = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
    model_args = {**sizes, "block_size": 12, "bias": bias, "dropout": 0.1}
    return {
        "model": state,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
        "model_args": model_args,
        "iter_num": 3,
        "best_val_loss": torch.tensor(2.5),
        "config": {"out_dir": "out", "compile": True},
    }


def mingpt_state(model) -> dict:
    """Return a state dict as minGPT's examples write it, with the masks among the tensors."""
    masks = {
        f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 12, 12).tril() for layer in range(2)
    }
    return {**as_linear(model), **masks}


def same_logits(ours, theirs) -> None:
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS)[0], theirs(IDS).logits, rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------- nanoGPT


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_nanogpt(tmp_path, bias, compiled):
    theirs = reference(bias=bias, activation_function="gelu")
    saved = nanogpt(theirs, bias=bias)
    if compiled:
        saved["model"] = {f"_orig_mod.{name}": t for name, t in saved["model"].items()}
    torch.save(saved, tmp_path / "ckpt.pt")
    ours = GPT.from_pretrained(tmp_path / "ckpt.pt")
    same_logits(ours, theirs)
    assert ours.config.bias is bias
    assert ours.config.resid_pdrop == 0.1
    assert not ours.training
    assert ours.lm_head.weight is ours.transformer.wte.weight


def test_a_file_is_opened_once_for_all_that_is_asked_of_it(tmp_path, monkeypatch):
    torch.save(nanogpt(reference()), tmp_path / "ckpt.pt", _use_new_zipfile_serialization=False)
    opened, load = [], tensor_files.load_torch
    monkeypatch.setattr(tensor_files, "load_torch", lambda path: opened.append(path) or load(path))
    source = resolve(tmp_path / "ckpt.pt")
    assert source.config() is source.checkpoint().config
    GPT.from_pretrained(source)
    assert len(opened) == 1


def test_nanogpts_gelu_is_the_exact_one(tmp_path):
    torch.save(nanogpt(reference(activation_function="gelu")), tmp_path / "ckpt.pt")
    assert GPT.from_pretrained(tmp_path / "ckpt.pt").config.activation == "gelu"
    with pytest.raises(AssertionError):  # the difference is large enough for the test above
        same_logits(GPT.from_pretrained(tmp_path / "ckpt.pt"), reference())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"n_head": 3}, "not divisible"),
        ({"vocab_size": None}, "model_args lacks vocab_size"),
        ({"rotary": True}, "model_args has fields not known here: rotary"),
        ({"n_layer": 3}, "missing: transformer.h.2"),
        ({"n_layer": 1}, "unknown: transformer.h.1"),
        ({"bias": False}, "unknown: transformer.h.0.ln_1.bias"),
        ({"dropout": torch.ones(2)}, "embd_pdrop must be a number"),
        ({"dropout": None}, "embd_pdrop must be a number"),
        ({"block_size": 24}, r"wpe\.weight \(12, 16\) instead of \(24, 16\)"),
    ],
)
def test_a_nanogpt_checkpoint_that_contradicts_itself_is_refused(tmp_path, args, message):
    saved = nanogpt(reference())
    saved["model_args"].update(args)
    torch.save(saved, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=message):
        GPT.from_pretrained(tmp_path / "ckpt.pt")


def test_n_head_may_be_said_again_but_not_otherwise(tmp_path):
    torch.save(nanogpt(reference()), tmp_path / "ckpt.pt")
    assert GPT.from_pretrained(tmp_path / "ckpt.pt", n_head=4)
    with pytest.raises(CheckpointError, match=r"n_head is 4 in .*ckpt\.pt, not 2"):
        GPT.from_pretrained(tmp_path / "ckpt.pt", n_head=2)


def test_a_nanogpt_head_that_is_not_the_embedding_is_refused(tmp_path):
    saved = nanogpt(reference())
    saved["model"]["lm_head.weight"] = saved["model"]["lm_head.weight"] + 1
    torch.save(saved, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="though the configuration ties them"):
        GPT.from_pretrained(tmp_path / "ckpt.pt")


# --------------------------------------------------------------------- minGPT


def nested(**model) -> dict:
    """Return minGPT's config.json, with null for fields that its model fills in later."""
    names = ("model_type", "n_layer", "n_head", "n_embd", "vocab_size", "block_size")
    return {
        "system": {"seed": 3407, "work_dir": "./out"},
        "model": {**dict.fromkeys(names), "embd_pdrop": 0.1, **model},
        "trainer": {"device": "auto"},
    }


@pytest.mark.parametrize(
    "config",
    [
        nested(**SHAPE, vocab_size=40, block_size=12),
        nested(n_head=4),
        nested(model_type="gpt-micro"),  # which has four heads
        nested(model_type="gopher-44m", n_head=4),
        {"n_head": 4},
        {"model_type": "gpt2", "n_head": 4, "n_layer": 2, "activation_function": "gelu_new"},
    ],
)
def test_mingpt_with_a_config_beside_it(tmp_path, config):
    theirs = reference(tie_word_embeddings=False)
    torch.save(mingpt_state(theirs), tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = GPT.from_pretrained(tmp_path / "model.pt")
    same_logits(ours, theirs)
    assert ours.lm_head.weight is not ours.transformer.wte.weight


def test_mingpt_with_n_head_from_the_caller(tmp_path):
    theirs = reference(tie_word_embeddings=False)
    torch.save(mingpt_state(theirs), tmp_path / "model.pt")
    same_logits(GPT.from_pretrained(tmp_path / "model.pt", n_head=4), theirs)
    with pytest.raises(AssertionError):  # the number of heads matters
        same_logits(GPT.from_pretrained(tmp_path / "model.pt", n_head=2), theirs)


def test_a_bare_state_dict_without_a_head_is_tied(tmp_path):
    theirs = reference()
    state = mingpt_state(theirs)
    del state["lm_head.weight"]
    torch.save(state, tmp_path / "model.pt")
    ours = GPT.from_pretrained(tmp_path / "model.pt", n_head=4)
    same_logits(ours, theirs)
    assert ours.lm_head.weight is ours.transformer.wte.weight


@pytest.mark.parametrize(
    ("config", "n_head", "message"),
    [
        (None, None, r"does not say how many attention heads .* give --n-head"),
        (nested(), None, "give --n-head"),
        (nested(model_type="vt"), None, "give --n-head"),
        (nested(model_type=["gpt2"]), None, "give --n-head"),
        ({"model_type": "llama", "n_head": 4}, None, "model_type = 'llama' is not supported"),
        ({"n_head": 4, "add_cross_attention": True}, None, "add_cross_attention = True"),
        ({"n_head": 4, "rotary_dim": 8}, None, "rotary_dim = 8 is not supported, only None"),
        (nested(n_head=4), 2, r"n_head is 4 in .*config\.json, not 2"),
        (nested(n_head=4, n_layer=3), None, r"n_layer is 3 in .*config\.json, 2 in .*model\.pt"),
        (nested(n_head=4, vocab_size=41), None, "vocab_size is 41"),
        (nested(n_head=4, rotary=True), None, "model has fields not known here: rotary"),
        ({"n_head": 3}, None, "not divisible"),
        (["n_head"], None, "not a JSON object"),
    ],
)
def test_mingpt_with_too_little_or_too_much_said_is_refused(tmp_path, config, n_head, message):
    torch.save(mingpt_state(reference(tie_word_embeddings=False)), tmp_path / "model.pt")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        GPT.from_pretrained(tmp_path / "model.pt", n_head=n_head)


def test_a_state_dict_of_something_else_is_refused(tmp_path):
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="holds no GPT"):
        GPT.from_pretrained(tmp_path / "model.pt", n_head=1)


# --------------------------------------------------------------------- the tokenizer beside it


def test_a_tokenizer_beside_the_file_is_the_models(tmp_path):
    shutil.copy(BUILTIN_DIRECTORY / "vocab.json", tmp_path)
    shutil.copy(BUILTIN_DIRECTORY / "merges.txt", tmp_path)
    rows = tokenizer_in(tmp_path).vocab_size + 10
    torch.save(nanogpt(reference_of(rows)), tmp_path / "ckpt.pt")
    _, tokenizer = mingpt.load(tmp_path / "ckpt.pt")
    assert tokenizer.encode(" Jones")
    assert tokenizer.is_padding(rows - 1)


def reference_of(vocab_size: int) -> GPT2LMHeadModel:
    config = GPT2Config(**SHAPE, vocab_size=vocab_size, n_positions=12, bos_token_id=0)
    return GPT2LMHeadModel(config)


def test_nanogpts_padded_vocabulary_is_gpt2s(gpt2_tokenizer, tmp_path):
    torch.save(nanogpt(reference_of(50304)), tmp_path / "ckpt.pt")
    _, tokenizer = mingpt.load(tmp_path / "ckpt.pt")
    assert tokenizer.encode(" Jones") == [5437]
    assert tokenizer.token(50300) == "<pad:50300>"
    assert tokenizer.token(50256) == "<|endoftext|>"


def test_a_file_without_a_tokenizer_is_refused(tmp_path):
    torch.save(nanogpt(reference()), tmp_path / "ckpt.pt")
    with pytest.raises(TokenizerError, match="holds no tokenizer"):
        mingpt.load(tmp_path / "ckpt.pt")


# --------------------------------------------------------------------- pytorch_model.bin, shards


def to_bin(directory, **how) -> None:
    path = directory / "model.safetensors"
    torch.save(load_file(path), directory / "pytorch_model.bin", **how)
    path.unlink()


@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_model_bin(tmp_path, legacy):
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    to_bin(tmp_path, _use_new_zipfile_serialization=not legacy)
    same_logits(GPT.from_pretrained(tmp_path), theirs)
    halved = GPT.from_pretrained(tmp_path, dtype=torch.float16)
    assert {parameter.dtype for parameter in halved.parameters()} == {torch.float16}


def test_safetensors_come_before_bin(tmp_path):
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    same_logits(GPT.from_pretrained(tmp_path), theirs)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("size", ["2KB", "8KB"])
def test_shards(tmp_path, size, suffix):
    theirs = reference()
    theirs.save_pretrained(tmp_path, max_shard_size=size)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    if suffix == "bin":
        index = tmp_path / "model.safetensors.index.json"
        text = index.read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        (tmp_path / "pytorch_model.bin.index.json").write_text(text)
        for shard in shards:
            torch.save(load_file(shard), tmp_path / f"pytorch_{shard.stem}.bin")
        for path in (index, *shards):
            path.unlink()
    same_logits(GPT.from_pretrained(tmp_path), theirs)


def test_a_missing_shard_is_named(tmp_path):
    reference().save_pretrained(tmp_path, max_shard_size="8KB")
    shard = min(tmp_path.glob("model-*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} is missing"):
        GPT.from_pretrained(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    reference().save_pretrained(tmp_path, max_shard_size="8KB")
    first, second = sorted(tmp_path.glob("model-*.safetensors"))[:2]
    save_file({**load_file(second), **load_file(first)}, second)
    with pytest.raises(CheckpointError, match="two of its files hold"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_a_broken_index_is_refused(tmp_path, index):
    reference().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="no index of shards"):
        GPT.from_pretrained(tmp_path)


# --------------------------------------------------------------------- never unpickled


class Bomb:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["ckpt.pt", "pytorch_model.bin", "pytorch_model-1.bin"])
def test_code_in_a_file_is_not_run(tmp_path, name, legacy):
    reference().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    bomb = Bomb(tmp_path / "boom")
    new = {"_use_new_zipfile_serialization": not legacy}
    torch.save({"model": bomb, "model_args": {}}, tmp_path / name, **new)
    if name == "pytorch_model-1.bin":
        index = {"weight_map": {"x": name}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="nothing is ever unpickled"):
        GPT.from_pretrained(tmp_path / name if name == "ckpt.pt" else tmp_path)
    assert not (tmp_path / "boom").exists()
    torch.load(tmp_path / name, weights_only=False)
    assert (tmp_path / "boom").exists()  # plain unpickling does run it


def test_a_plain_pickle_is_not_run(tmp_path):
    (tmp_path / "ckpt.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(CheckpointError):
        GPT.from_pretrained(tmp_path / "ckpt.pt")
    assert not (tmp_path / "boom").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_nobody_is_told_to_try_it_unsafely(tmp_path):
    script = torch.jit.script(torch.nn.Linear(2, 2))
    script.save(tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="nothing is ever unpickled") as caught:
        GPT.from_pretrained(tmp_path / "ckpt.pt")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("version", ["2.5.1", "2.6.0+cpu", "2.9.9"])
def test_a_pytorch_that_can_be_tricked_does_not_read_such_files(tmp_path, monkeypatch, version):
    torch.save(nanogpt(reference()), tmp_path / "ckpt.pt")
    monkeypatch.setattr(tensor_files.torch, "__version__", version)
    with pytest.raises(CheckpointError, match=r"only read with PyTorch 2\.10 or newer"):
        GPT.from_pretrained(tmp_path / "ckpt.pt")


# --------------------------------------------------------------------- damaged


@pytest.mark.parametrize("kept", [0, 4, 100, -1000, -1])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file_is_refused(tmp_path, kept, legacy):
    path = tmp_path / "ckpt.pt"
    torch.save(nanogpt(reference()), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"ckpt\.pt is no ") as caught:
        GPT.from_pretrained(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "saved",
    [
        {"config": {}, "step": 3, "model": {}, "optimizer": {}},  # our own trainer's
        {},
        [torch.ones(3)],
        torch.ones(3),
        {"model": {"x": 3}, "model_args": {}},
        {"model": {}, "model_args": []},
        {"a": torch.ones(2), 3: torch.ones(2)},
    ],
)
def test_something_else_is_refused(tmp_path, saved):
    torch.save(saved, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"ckpt\.pt"):
        GPT.from_pretrained(tmp_path / "ckpt.pt", n_head=1)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.full((16,), torch.nan), "not finite"),
        (torch.ones(16).long(), r"ln_f\.weight \(torch\.int64\)"),
        (torch.ones(16).to_sparse(), r"ln_f\.weight \(no plain tensor\)"),
        (torch.ones(16, device="meta"), r"ln_f\.weight \(no plain tensor\)"),
        ("nested", "no plain tensor"),
        (
            torch.ones(1).expand(16),
            r"ln_f\.weight has the shape \(16,\), .* holds 1 numbers for it",
        ),
        (torch.ones(16, 2)[:, 0], None),
    ],
)
def test_strange_tensors(tmp_path, tensor, message):
    if isinstance(tensor, str):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is a prototype
            tensor = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])
    saved = nanogpt(reference())
    saved["model"]["transformer.ln_f.weight"] = tensor
    torch.save(saved, tmp_path / "ckpt.pt")
    if message is None:
        assert GPT.from_pretrained(tmp_path / "ckpt.pt").transformer.ln_f.weight.is_contiguous()
        return
    with pytest.raises(CheckpointError, match=message):
        GPT.from_pretrained(tmp_path / "ckpt.pt")


def test_a_small_file_cannot_declare_a_large_model(tmp_path):
    """Every tensor is one number, stretched to a shape that fits the configuration."""
    wide = 2**14
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": wide, "vocab_size": 40, "block_size": 12}
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in GPT(mingpt.GPTConfig(**sizes)).named_parameters()}
    state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    saved = {"model": state, "model_args": {**sizes, "bias": True, "dropout": 0.0}}
    torch.save(saved, tmp_path / "ckpt.pt")
    assert (tmp_path / "ckpt.pt").stat().st_size < 20_000
    with pytest.raises(CheckpointError, match=r"wte\.weight has the shape \(40, 16384\)"):
        GPT.from_pretrained(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    "name", ["bytearray", "torch Tensor", "torch FloatTensor", "torch.storage UntypedStorage"]
)
def test_a_pickle_cannot_ask_for_memory(tmp_path, monkeypatch, name, legacy):
    class Asking:
        def __reduce__(self):
            module, _, last = name.rpartition(" ")
            return getattr(sys.modules[module or "builtins"], last), (5 * 10**9,)

    saved = nanogpt(reference())
    saved["config"]["more"] = Asking()
    torch.save(saved, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=not legacy)
    monkeypatch.setattr(torch, "load", Mock(wraps=torch.load))
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values"):
        GPT.from_pretrained(tmp_path / "ckpt.pt")
    assert not torch.load.called


@pytest.mark.parametrize("change", ["compressed", "large"])
def test_a_zip_that_unpacks_to_more_than_it_holds_is_refused(tmp_path, monkeypatch, change):
    torch.save(nanogpt(reference()), tmp_path / "good.pt")
    if change == "large":
        monkeypatch.setattr(tensor_files, "MOST_PICKLE_BYTES", 100)
        (tmp_path / "good.pt").rename(tmp_path / "ckpt.pt")
    else:
        with (
            zipfile.ZipFile(tmp_path / "good.pt") as good,
            zipfile.ZipFile(tmp_path / "ckpt.pt", "w", zipfile.ZIP_DEFLATED) as packed,
        ):
            for record in good.infolist():
                packed.writestr(record.filename, good.read(record))
    monkeypatch.setattr(torch, "load", Mock(wraps=torch.load))
    with pytest.raises(CheckpointError, match="no whole PyTorch file"):
        GPT.from_pretrained(tmp_path / "ckpt.pt")
    assert not torch.load.called


@pytest.mark.parametrize("place", ["length", "data"])
def test_a_record_that_was_changed_is_refused(tmp_path, place):
    """PyTorch itself finds a mapped tensor by a header that it does not check."""
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(100.0)}, path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        (record,) = [one for one in archive.infolist() if one.filename.endswith("/data/0")]
    at = {
        "length": record.header_offset + 28,
        "data": data.index(torch.arange(100.0).numpy().tobytes()),
    }
    data[at[place]] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is no whole PyTorch file"):
        tensor_files.load_torch(path)


@pytest.mark.parametrize("legacy", [True, False])
def test_memory_that_runs_out_while_loading_is_one_line(tmp_path, monkeypatch, legacy):
    torch.save(
        nanogpt(reference()), tmp_path / "ckpt.pt", _use_new_zipfile_serialization=not legacy
    )
    for error in (MemoryError(), RuntimeError("[enforce fail] can't allocate memory: 1 bytes")):
        for place, name in ((torch, "load"), (state_dict, "_fitting")):
            with monkeypatch.context() as patch:
                patch.setattr(place, name, Mock(side_effect=error))
                with pytest.raises(CheckpointError, match=r"ckpt\.pt: out of memory$"):
                    GPT.from_pretrained(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_copies_that_do_not_fit_are_refused_before_they_are_made(tmp_path, monkeypatch, suffix):
    reference().save_pretrained(tmp_path)
    if suffix == "bin":
        to_bin(tmp_path)
    monkeypatch.setattr(memory, "free_bytes", lambda device=None: 10_000)
    monkeypatch.setattr(state_dict, "_fitting", Mock(wraps=state_dict._fitting))
    with pytest.raises(
        CheckpointError, match=r"in float64 needs about 0\.1 MB of memory, and 0\.0 MB"
    ):
        GPT.from_pretrained(tmp_path, dtype=torch.float64)
    assert not state_dict._fitting.called
    assert GPT.from_pretrained(tmp_path).dtype == torch.float32  # mapped: it needs no memory


def test_sizes_far_beyond_the_file_build_no_model(tmp_path):
    reference().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    large = {"n_embd": 2**24, "n_positions": 2**24, "vocab_size": 2**24, "n_inner": 2**24}
    for change in (*({name: size} for name, size in large.items()), large):
        (tmp_path / "config.json").write_text(json.dumps(fields | change))
        with pytest.raises(CheckpointError, match="of another shape than the configuration says"):
            GPT.from_pretrained(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", ["model-00002-of-00003.safetensors", "model.bin", "ckpt.pt"])
def test_a_pipe_is_no_file_of_weights(tmp_path, name):
    os.mkfifo(tmp_path / name)  # opening it would wait for a writer for ever
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: it is a pipe"):
        tensor_files.one_file(tmp_path / name).headers()


def test_training_what_was_loaded_leaves_the_file_alone(tmp_path):
    mingpt.save(make_model(), tmp_path)
    torch.save(nanogpt(reference()), tmp_path / "ckpt.pt")
    for path in (tmp_path, tmp_path / "ckpt.pt"):
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        model = GPT.from_pretrained(path)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
        assert GPT.from_pretrained(path).checksum() != model.checksum()
