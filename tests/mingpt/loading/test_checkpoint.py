"""Reading and writing model directories: every variant, and every kind of damage."""

import json

import pytest
import torch
from helpers import make_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import mingpt
from mingpt import GPT, CheckpointError, TokenizerError
from mingpt.loading.sources import BUILTIN_DIRECTORY
from mingpt.loading.tokenizer_files import save_tokenizer, tokenizer_in

IDS = torch.tensor([[1, 5, 30, 2, 2, 17]])


@pytest.fixture
def theirs(tmp_path):
    """Return a model whose checkpoint transformers wrote into tmp_path."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=8, vocab_size=40, n_positions=12, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    return model


def rewrite(directory, change) -> None:
    """Load the weights, let `change` work on the dict, write them back."""
    path = directory / "model.safetensors"
    state = {key: tensor.clone() for key, tensor in load_file(path).items()}
    save_file(change(state) or state, path, metadata={"format": "pt"})


def reconfigure(directory, **fields) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def without_prefix(state):
    return {key.removeprefix("transformer."): tensor for key, tensor in state.items()}


def with_masks(state):
    for layer in range(2):
        state[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
        state[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


def with_head(state):
    state["lm_head.weight"] = state["transformer.wte.weight"].clone()


def as_published(state):
    """Rewrite as GPT-2 124M's own file is: no prefix, mask buffers, no lm_head."""
    with_masks(state)
    return without_prefix(state)


@pytest.mark.parametrize(
    "change", [lambda state: None, without_prefix, with_masks, with_head, as_published]
)
def test_file_variants(theirs, tmp_path, change):
    rewrite(tmp_path, change)
    ours = GPT.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS)[0], theirs(IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("wanted", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes(theirs, tmp_path, stored, wanted):
    rewrite(tmp_path, lambda state: {key: t.to(stored) for key, t in state.items()})
    ours = GPT.from_pretrained(tmp_path, dtype=wanted)
    assert {parameter.dtype for parameter in ours.parameters()} == {wanted}
    expected = theirs.transformer.h[0].attn.c_attn.weight.to(stored).to(wanted).t()
    assert torch.equal(ours.transformer.h[0].attn.c_attn.weight, expected)


def test_transformers_reads_what_we_write(tmp_path):
    ours = make_model(n_inner=24, activation="relu", layer_norm_epsilon=1e-4)
    mingpt.save(ours, tmp_path)
    theirs, report = GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(IDS).logits, ours(IDS)[0], rtol=1e-5, atol=1e-5)


def test_round_trip_is_exact(tmp_path):
    ours = make_model()
    mingpt.save(ours, tmp_path)
    again = GPT.from_pretrained(tmp_path)
    assert again.config == ours.config
    assert again.checksum() == ours.checksum()
    assert again.lm_head.weight is again.transformer.wte.weight
    assert again.name == str(tmp_path)


def test_what_changes_nothing_is_passed_over(theirs, tmp_path):
    before = GPT.from_pretrained(tmp_path).config
    reconfigure(tmp_path, use_cache=False, rope_scaling=None, alibi=False, pruned_heads={}, x=3)
    assert GPT.from_pretrained(tmp_path).config == before


def test_data_that_the_file_does_not_align_is_aligned(theirs, tmp_path):
    path = tmp_path / "model.safetensors"
    body = path.read_bytes()
    size = int.from_bytes(body[:8], "little")
    header = body[8 : 8 + size].rstrip() + b" " * (3 - len(body[8 : 8 + size].rstrip()) % 4)
    path.write_bytes(len(header).to_bytes(8, "little") + header + body[8 + size :])
    ours = GPT.from_pretrained(tmp_path)
    assert {parameter.data_ptr() % 4 for parameter in ours.parameters()} == {0}
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS)[0], theirs(IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", [{"bias": False}, {"tie_word_embeddings": False}])
def test_round_trip_of_what_transformers_has_not(tmp_path, fields):
    ours = make_model(**fields)
    mingpt.save(ours, tmp_path)
    again = GPT.from_pretrained(tmp_path)
    assert (again.config, again.checksum()) == (ours.config, ours.checksum())
    if "bias" in fields:  # transformers would add random biases
        with pytest.raises(ValueError, match="mingpt"):
            AutoModelForCausalLM.from_pretrained(tmp_path)


def test_the_shipped_models_configuration_is_written_as_it_is(tmp_path, builtin):
    mingpt.save(builtin[0], tmp_path)
    written = (tmp_path / "config.json").read_bytes()
    assert written == (BUILTIN_DIRECTORY / "config.json").read_bytes()


def test_a_loaded_model_can_be_trained_and_saved_over_itself(tmp_path):
    mingpt.save(make_model(), tmp_path)
    model = GPT.from_pretrained(tmp_path)
    model(IDS, IDS)[1].backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    mingpt.save(model, tmp_path)
    assert GPT.from_pretrained(tmp_path).checksum() == model.checksum()


def test_checksum_sees_every_weight(model):
    before = model.checksum()
    with torch.no_grad():
        model.transformer.h[1].ln_2.bias[3] += 1e-3
    assert model.checksum() != before


def test_load_gives_model_and_tokenizer(tmp_path):
    tokenizer = tokenizer_in(BUILTIN_DIRECTORY)
    mingpt.save(make_model(vocab_size=tokenizer.vocab_size), tmp_path, tokenizer)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "vocab.json",
        "merges.txt",
    }
    model, again = mingpt.load(tmp_path)
    assert not model.training
    assert again.encode("Michelle Jones") == tokenizer.encode("Michelle Jones")


# --------------------------------------------------------------------- refused


def drop(key):
    return lambda state: {k: t for k, t in state.items() if k != key}


def put(key, tensor):
    return lambda state: {**state, key: tensor}


NAN = torch.full((8,), torch.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("transformer.h.1.ln_2.bias"), r"missing: transformer\.h\.1\.ln_2\.bias"),
        (
            put("transformer.h.2.ln_1.bias", torch.ones(8)),
            r"unknown: transformer\.h\.2\.ln_1\.bias",
        ),
        (
            put("transformer.h.7.attn.bias", torch.ones(1)),
            r"unknown: transformer\.h\.7\.attn\.bias",
        ),
        (put("wpe.weight", torch.ones(12, 8)), r"given twice: transformer\.wpe\.weight"),
        (put("transformer.ln_f.bias", torch.ones(9)), r"ln_f\.bias \(9,\) instead of \(8,\)"),
        (
            put("transformer.h.0.attn.c_attn.weight", torch.ones(24, 8)),
            r"\(24, 8\) instead of \(8, 24\)",
        ),
        (
            put("lm_head.weight", torch.ones(40, 8)),
            r"lm_head\.weight is not transformer\.wte.* ties",
        ),
        (put("transformer.ln_f.weight", NAN), r"not finite .*transformer\.ln_f\.weight"),
        (put("transformer.ln_f.weight", torch.full((8,), torch.inf)), "not finite"),
        (put("transformer.ln_f.weight", torch.ones(8).long()), r"F64: transformer.*\(I64\)"),
        (put("transformer.ln_f.weight", torch.ones(8).cfloat()), r"F64: transformer.*\(C64\)"),
        (lambda state: {"model.layers.0.q.weight": torch.ones(3)}, "missing.*unknown: model"),
    ],
)
def test_wrong_tensors_are_refused_by_name(theirs, tmp_path, change, message):
    rewrite(tmp_path, change)
    with pytest.raises(CheckpointError, match=message):
        GPT.from_pretrained(tmp_path)


def test_a_long_list_of_culprits_is_cut(theirs, tmp_path):
    reconfigure(tmp_path, n_layer=9)
    with pytest.raises(CheckpointError, match="and 76 more"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "llama"}, "model_type = 'llama'"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder = True is not supported, only False"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map = .* is not supported, only None"),
        ({"rotary_dim": 64}, "rotary_dim = 64"),
        ({"attention_head_type": "multiquery"}, "attention_head_type"),
        ({"n_positions": 0}, "n_positions must be a whole number"),
        ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon must be a number"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"scale_attn_weights": "no"}, "scale_attn_weights must be true or false, not 'no'"),
        ({"reorder_and_upcast_attn": None}, "reorder_and_upcast_attn must be true or false"),
        ({"tie_word_embeddings": False}, r"missing: lm_head\.weight"),
        ({"num_hidden_layers": 3}, "n_layer = 2 and num_hidden_layers = 3 disagree"),
        ({"activation_function": "silu"}, "activation_function 'silu' is unknown"),
        ({"n_head": 3}, "not divisible"),
        ({"n_layer": "two"}, "n_layer"),
        ({"n_layer": True}, "n_layer"),
        ({"n_layer": 10**6}, "tensors for 1000000 layers"),
        ({"n_embd": 10**12}, "n_embd must be a whole number from 1 to 16777216"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon must be a number above 0"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
        ({"embd_pdrop": "a"}, "embd_pdrop"),
        ({"activation_function": ["gelu"]}, "activation"),
    ],
)
def test_unsupported_configurations_are_refused_by_name(theirs, tmp_path, fields, message):
    reconfigure(tmp_path, **fields)
    with pytest.raises(CheckpointError, match=message):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "cannot be read"),
        ("config.json", "[]", "not a JSON object"),
        ("config.json", "[" * 100_000, "cannot be read"),
        ("model.safetensors", "", "no whole safetensors"),
        ("model.safetensors", "<!DOCTYPE html>", "no whole safetensors"),
    ],
)
def test_foreign_files_are_refused(theirs, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_a_truncated_file_is_refused(theirs, tmp_path, kept):
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="no whole safetensors"):
        GPT.from_pretrained(tmp_path)


def test_a_pickle_is_never_opened(theirs, tmp_path):
    torch.save({"x": 1}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no whole safetensors"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_missing_files_are_named(theirs, tmp_path, missing):
    (tmp_path / missing).unlink()
    with pytest.raises(CheckpointError, match=f"holds no {missing}|holds no .*{missing}"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["gpt5", "gpt-nano", "no/such/folder"])
def test_unknown_names_are_refused_with_the_list(name):
    with pytest.raises(
        CheckpointError, match=r"no model .*builtin, gpt2, .*distilgpt2.*owner/name"
    ):
        GPT.from_pretrained(name)


def test_a_model_without_its_tokenizer_is_refused(theirs, tmp_path):
    with pytest.raises(TokenizerError, match="holds no tokenizer"):
        mingpt.load(tmp_path)


def test_a_vocabulary_larger_than_the_embedding_is_refused(theirs, tmp_path):
    save_tokenizer(tokenizer_in(BUILTIN_DIRECTORY), tmp_path)
    with pytest.raises(TokenizerError, match="only 40 rows"):
        mingpt.load(tmp_path)


def test_a_gpt2_sized_model_without_tokenizer_files_has_gpt2s(gpt2_tokenizer, tmp_path):
    mingpt.save(make_model(vocab_size=50257, n_embd=4, n_layer=1), tmp_path)
    _, tokenizer = mingpt.load(tmp_path)
    assert tokenizer.encode(" Jones") == [5437]


def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch):
    model = make_model()
    mingpt.save(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mingpt.loading.tensor_files.save_file", full)
    with pytest.raises(OSError, match="No space"):
        mingpt.save(make_model(seed=1, n_layer=2), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
