"""The model against transformers' GPT-2, and against itself."""

import pytest
import torch
from helpers import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from mingpt import GPT, PRESETS, ConfigError, GPTConfig, PatchError
from mingpt.checksum import sample, sha256_of


def reference(seed: int = 0, **fields) -> GPT2LMHeadModel:
    """transformers' GPT-2 with random weights, biases and layer norms included."""
    torch.manual_seed(seed)
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 61, "n_positions": 24}
    model = GPT2LMHeadModel(GPT2Config(**{**shape, "bos_token_id": 0, "eos_token_id": 0, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


SHAPES = [
    {},
    {"n_layer": 1, "n_head": 1, "n_embd": 8},
    {"n_layer": 5, "n_head": 3, "n_embd": 12, "vocab_size": 7},
    {"n_inner": 20, "activation_function": "relu"},
    {"activation_function": "gelu", "layer_norm_epsilon": 1e-3},
    {"activation_function": "gelu_pytorch_tanh", "tie_word_embeddings": False},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    {"reorder_and_upcast_attn": True, "attn_implementation": "eager"},
    {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "n_inner": 24},
]


@pytest.mark.parametrize("fields", SHAPES)
def test_equal_to_transformers(tmp_path, fields):
    theirs = reference(**fields)
    theirs.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(tmp_path)
    assert not ours.training
    V = theirs.config.vocab_size
    ids = torch.randint(V, (3, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ids, labels=ids)
    targets = torch.cat((ids[:, 1:], torch.full((3, 1), -1)), dim=1)
    logits, loss = ours(ids, targets)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.last_logits, expected.logits[:, -1], rtol=1e-5, atol=1e-5)

    greedy = theirs.generate(
        ids[:, :5], max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert ours.generate(ids[:, :5], 12).tolist() == greedy.tolist()


def test_upcast_attention_is_in_float32():
    ids = torch.randint(40, (1, 9), generator=torch.Generator().manual_seed(0))
    for upcast in (True, False):
        model = make_model(reorder_and_upcast_attn=upcast).bfloat16()
        model(ids, record=["q", "k", "pattern"])
        q, k = (model.recording[site].float() for site in ("q", "k"))
        future = torch.ones(9, 9, dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(-2, -1) / 8**0.5).masked_fill(future, float("-inf"))
        exact = scores.softmax(-1).bfloat16()
        assert model.recording["pattern"].dtype == torch.bfloat16
        assert torch.equal(model.recording["pattern"], exact) is upcast


def test_loss_is_none_without_targets_and_the_shape_is_the_same(model):
    ids = torch.randint(40, (2, 6))
    logits, loss = model(ids)
    assert loss is None
    with_loss, loss = model(ids, ids)
    assert logits.shape == with_loss.shape == (2, 6, 40)
    assert loss.shape == ()


def test_minus_one_targets_are_ignored(model):
    ids = torch.randint(40, (2, 6))
    targets = torch.randint(40, (2, 6))
    targets[0, 2:] = -1
    logits, loss = model(ids, targets)
    kept = targets != -1
    torch.testing.assert_close(loss, F.cross_entropy(logits[kept], targets[kept]))


@settings(max_examples=20)
@given(
    n_layer=st.integers(1, 3), n_head=st.integers(1, 4), T=st.integers(1, 10), at=st.integers(0, 9)
)
def test_causality(n_layer, n_head, T, at):
    """A later token changes nothing before it, bit for bit; the token itself does."""
    at %= T
    model = make_model(n_layer=n_layer, n_head=n_head, n_embd=4 * n_head)
    ids = torch.randint(39, (1, T), generator=torch.Generator().manual_seed(T))
    changed = ids.clone()
    changed[0, at] += 1
    before, after = model(ids)[0][0], model(changed)[0][0]
    assert torch.equal(before[:at], after[:at])
    assert (before[at:] != after[at:]).any(-1).all()


def test_batch_and_single_agree():
    model = make_model()
    ids = torch.randint(40, (5, 9))
    together = model(ids)[0]
    for row, logits in zip(ids, together, strict=True):
        alone = model(row[None])[0][0]
        assert (alone - logits).abs().max() <= 1e-5 * logits.abs().max()


def test_dropout_is_for_training_only():
    model = make_model(embd_pdrop=0.5, resid_pdrop=0.5, attn_pdrop=0.5)
    ids = torch.randint(40, (1, 9))
    assert torch.equal(model(ids)[0], model(ids)[0])
    model.train()
    assert not torch.equal(model(ids)[0], model(ids)[0])


def test_lm_head_is_the_embedding():
    model = make_model()
    assert model.lm_head.weight is model.transformer.wte.weight
    names = [name for name, _ in model.named_parameters()]
    assert names[0] == "transformer.wte.weight"
    assert "lm_head.weight" not in names
    assert "transformer.h.2.mlp.c_proj.bias" in names


def test_preset_sizes_are_the_published_ones():
    counts = {}
    for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"):
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in GPT(PRESETS[name]).parameters())
    assert counts == {
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
        "distilgpt2": 81_912_576,
    }


def test_initialisation_is_gpt2s_and_seeded():
    torch.manual_seed(7)
    model = GPT(GPTConfig.preset("gpt-micro", vocab_size=500, initializer_range=0.08))
    torch.manual_seed(7)
    again = GPT(GPTConfig.preset("gpt-micro", vocab_size=500, initializer_range=0.08))
    assert model.checksum() == again.checksum()
    block = model.transformer.h[1]
    assert block.mlp.c_fc.weight.std().item() == pytest.approx(0.08, rel=0.05)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.08 / 8**0.5, rel=0.05)
    assert not block.attn.c_attn.bias.any()
    assert (block.ln_1.weight == 1).all()


# --------------------------------------------------------------------- generate


def test_targets_of_another_shape_are_refused(model):
    with pytest.raises(ConfigError, match=r"targets \(1, 2\) for ids \(1, 3\)"):
        model(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long))


@pytest.mark.parametrize("do_sample", [False, True])
def test_generate_takes_the_likeliest_at_any_low_temperature(model, do_sample):
    ids = torch.randint(40, (2, 5), generator=torch.Generator().manual_seed(0))
    expected = model.generate(ids, 5)
    for temperature in (1e-38, 1e-4):
        assert torch.equal(model.generate(ids, 5, temperature, do_sample), expected)
    half = model.half()
    assert torch.equal(half.generate(ids, 5, 1e-4, do_sample), half.generate(ids, 5))


def test_a_write_to_one_weight_changes_the_checksum(model):
    """To one that is not in the sample of the weights that tells a change through .data."""
    before, weight = model.checksum(), model.transformer.wte.weight
    sampled = sample(weight)
    with torch.no_grad():
        weight[1, 1] += 1
    assert sample(weight) == sampled
    assert model.checksum() != before


def test_a_write_through_data_changes_the_checksum(model):
    before = model.checksum()
    model.transformer.h[0].mlp.c_fc.weight.data.mul_(2)
    assert model.checksum() != before


def test_generate_slides_out_of_the_context(model):
    ids = torch.randint(40, (2, 10))
    out = model.generate(ids, 5)
    assert out.shape == (2, 15)
    for end in range(10, 15):  # each token is the likeliest after the last block_size ones
        window = out[:, max(0, end - 12) : end]
        assert torch.equal(out[:, end], model(window)[0][:, -1].argmax(-1))


def test_generate_one_token_keeps_the_prompts_logits_and_recording(model):
    ids = torch.randint(40, (1, 8))
    expected = model(ids)[0][:, -1]
    model.generate(ids, 1, record=True)
    torch.testing.assert_close(model.last_logits, expected)  # close: one row runs by another kernel
    assert model.activations.shape == (3, 1, 8, 16)


def test_generate_records_the_prompts_forward_only(model):
    ids = torch.randint(40, (1, 6))
    model(ids, record=True)
    expected = model.activations
    model.generate(ids, 4, record=True)
    assert torch.equal(model.activations, expected)


def test_sampling_follows_temperature_and_top_k(model):
    ids = torch.zeros(2000, 1, dtype=torch.long)
    torch.manual_seed(0)
    drawn = model.generate(ids, 1, temperature=0.7, do_sample=True, top_k=3)[:, 1]
    top = (model(ids[:1])[0][0, -1] / 0.7).topk(3)
    assert set(drawn.tolist()) == set(top.indices.tolist())
    shares = torch.stack([(drawn == number).float().mean() for number in top.indices])
    torch.testing.assert_close(shares, top.values.softmax(-1), rtol=0, atol=0.05)
    torch.manual_seed(0)
    again = model.generate(ids, 1, temperature=0.7, do_sample=True, top_k=3)[:, 1]
    assert torch.equal(drawn, again)


def test_generate_patches_every_forward_that_holds_the_prompt(model):
    clean, corrupt = torch.randint(40, (2, 1, 9), generator=torch.Generator().manual_seed(3))
    model(clean, record=True)
    recording = model.activations
    out = model.generate(corrupt, 6, patch=(1, -1))
    last_logits = model.last_logits

    # by hand: the same vector, at the prompt's last position, while 12 tokens hold the prompt
    expected = corrupt
    for _ in range(6):
        window = expected[:, -12:]
        if expected.size(1) <= 12:
            model(window, record=True)
            model.activations[1, :, 8] = recording[1, :, 8]
            model(window, patch=(1, 8))
        else:
            model(window)
        expected = torch.cat((expected, model.last_logits.argmax(-1, keepdim=True)), dim=1)
    assert out.tolist() == expected.tolist()
    torch.testing.assert_close(last_logits, model.last_logits)  # the prompt is out

    model.activations = recording
    unpatched = model.generate(corrupt, 6)
    assert out.tolist() != unpatched.tolist()


def test_generate_with_record_and_patch_reads_the_old_recording(model):
    clean, corrupt = torch.randint(40, (2, 1, 6), generator=torch.Generator().manual_seed(3))
    model(clean, record=True)
    old = model.activations
    expected = model.generate(corrupt, 4, patch=(0, 2))
    assert torch.equal(model.activations, old)
    assert torch.equal(model.generate(corrupt, 4, record=True, patch=(0, 2)), expected)
    assert torch.equal(model.activations[0, :, 2], old[0, :, 2])
    assert not torch.equal(model.activations, old)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_k": 0}, "top_k"),
    ],
)
def test_generate_refuses_bad_settings(model, settings, message):
    with pytest.raises(ConfigError, match=message):
        model.generate(torch.zeros(1, 3, dtype=torch.long), **{"max_new_tokens": 1, **settings})


def test_generate_refuses_to_patch_a_prompt_longer_than_the_context(model):
    ids = torch.zeros(1, 13, dtype=torch.long)
    model(ids[:, :12], record=True)
    with pytest.raises(PatchError, match="13 tokens, the model reads 12"):
        model.generate(ids, 1, patch=(0, 0))


# --------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_layer": 0}, "n_layer"),
        ({"n_embd": 10, "n_head": 3}, "not divisible"),
        ({"vocab_size": 2.5}, "vocab_size"),
        ({"activation": "swish"}, "swish.*gelu_new"),
        ({"attn_pdrop": 1.0}, "attn_pdrop"),
        ({"n_inner": 0}, "n_inner"),
    ],
)
def test_bad_configurations_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        GPTConfig(**fields)


def test_unknown_preset_is_refused_with_the_list():
    with pytest.raises(ConfigError, match=r"gpt3.*gpt2-xl.*gpt-nano"):
        GPTConfig.preset("gpt3")


@pytest.mark.parametrize(
    "ids",
    [
        torch.zeros(3, dtype=torch.long),
        torch.zeros(1, 3),
        torch.zeros(1, 0, dtype=torch.long),
        torch.zeros(0, 3, dtype=torch.long),
        torch.zeros(1, 13, dtype=torch.long),
    ],
)
def test_bad_ids_are_refused(model, ids):
    with pytest.raises(ConfigError, match="ids"):
        model(ids)


def test_a_stream_checks_its_ids_too(model):
    for ids in (torch.arange(3), torch.zeros(1, 13, dtype=torch.long), torch.ones(1, 2)):
        with pytest.raises(ConfigError, match="ids"):
            model.stream(ids, lambda layer, site, x: x)


def test_a_matrix_of_one_column_has_a_checksum_whatever_its_stride():
    numbers = torch.arange(4.0)
    odd = torch.as_strided(numbers, (4, 1), (1, 7))
    assert odd.is_contiguous()
    assert sha256_of([("a", odd)]) == sha256_of([("a", numbers[:, None].clone())])


@pytest.mark.parametrize(
    ("ids", "hint"),
    [
        ("a text", r"not str 'a text': pass tokenizer\(text\)"),
        ([1, 2], r"not list \[1, 2\]: pass torch\.tensor\(\[ids\]\)"),
        (torch.arange(3), r"\(3,\): pass ids\[None\]"),
    ],
)
def test_what_is_no_ids_is_answered_with_what_to_pass(model, ids, hint):
    with pytest.raises(ConfigError, match=hint):
        model(ids)
