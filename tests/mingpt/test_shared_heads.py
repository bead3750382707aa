"""Multi-query and grouped-query attention: heads that share their keys and values."""

import json

import numpy as np
import pytest
import torch
from helpers import make_model
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTBigCodeConfig, GPTBigCodeForCausalLM

from mingpt import GPT, CheckpointError, ConfigError, GPTConfig, Patch, PatchError
from mingpt.loading.model_files import save
from mingpt.sites import HEAD_SITES
from mingpt.trainer import Trainer, TrainerConfig
from patching import Question, SweepResult, explain, patch_sweep
from patching.sweep.figures import title_lines

SHAPE = {"n_head": 4, "n_kv_head": 2, "n_embd": 16}


def ids(*shape: int) -> Tensor:
    return torch.randint(40, shape, generator=torch.Generator().manual_seed(0))


def written_out(model: GPT) -> GPT:
    """Return the same model with a copy of keys and values for each query head."""
    full = GPT(GPTConfig(**{**vars(model.config), "n_kv_head": None}))
    each = model.config.n_head // model.config.kv_heads
    state = {}
    for name, parameter in model.state_dict().items():
        if ".c_attn." in name:
            q, k, v = parameter.split(model.transformer.h[0].attn.sizes)
            k, v = (
                part.unflatten(0, (model.config.kv_heads, -1))
                .repeat_interleave(each, dim=0)
                .flatten(0, 1)
                for part in (k, v)
            )
            parameter = torch.cat((q, k, v))
        state[name] = parameter
    full.load_state_dict(state)
    return full.to(model.lm_head.weight.dtype).eval()


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_it_is_attention_with_the_shared_heads_written_out(n_kv_head):
    model = make_model(**{**SHAPE, "n_kv_head": n_kv_head}).double()
    torch.testing.assert_close(model(ids(3, 9))[0], written_out(model)(ids(3, 9))[0])


def test_multi_query_is_transformers_gpt_bigcode():
    """GPTBigCode stores nn.Linear weights: all queries, then the one key and the one value."""
    torch.manual_seed(0)
    config = GPTBigCodeConfig(
        n_layer=2, n_head=4, n_embd=16, vocab_size=40, n_positions=12, n_inner=64,
        multi_query=True, initializer_range=0.3, attn_implementation="eager",
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    theirs = GPTBigCodeForCausalLM(config).double().eval()
    ours = make_model(n_layer=2, n_head=4, n_kv_head=1).double()
    state = {k: v for k, v in theirs.state_dict().items() if not k.endswith(".attn.bias")}
    ours.load_state_dict(state)
    # GPTBigCode's softmax is always in float32.
    torch.testing.assert_close(ours(ids(2, 9))[0], theirs(ids(2, 9)).logits, rtol=0, atol=1e-5)


def test_as_many_as_query_heads_is_the_ordinary_model():
    plain, named = make_model(n_head=4), make_model(n_head=4, n_kv_head=4)
    assert torch.equal(plain(ids(2, 9))[0], named(ids(2, 9))[0])


def test_it_trains():
    model = make_model(**SHAPE)
    before = model.transformer.h[0].attn.c_attn.weight.detach().clone()

    def batches():
        while True:
            yield ids(4, 9)[:, :-1], ids(4, 9)[:, 1:]

    loss = model(ids(4, 9)[:, :-1], ids(4, 9)[:, 1:])[1].item()
    trainer = Trainer(model, TrainerConfig(steps=30, learning_rate=1e-2, warmup_steps=2), batches())
    trainer.run()
    assert trainer.loss < 0.7 * loss
    q, k, v = (model.transformer.h[0].attn.c_attn.weight - before).split((16, 8, 8))
    assert all(part.abs().max() > 1e-3 for part in (q, k, v))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_head": 4, "n_kv_head": 3}, "n_head 4 is not divisible by n_kv_head 3"),
        ({"n_head": 4, "n_kv_head": 8}, "n_head 4 is not divisible by n_kv_head 8"),
        ({"n_kv_head": 0}, "n_kv_head must be a whole number from 1"),
        ({"n_kv_head": 2.0}, "n_kv_head must be a whole number from 1"),
    ],
)
def test_heads_that_do_not_divide_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        GPTConfig(n_embd=16, **{"n_head": 4, **fields})


# --------------------------------------------------------------------- on disk


def test_it_is_saved_as_ours_and_transformers_refuses_it(tmp_path):
    model = make_model(**SHAPE)
    save(model, tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert (fields["model_type"], fields["n_kv_head"]) == ("mingpt", 2)
    assert "architectures" not in fields
    again = GPT.from_pretrained(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(ids(2, 9))[0], model(ids(2, 9))[0])
    with pytest.raises(ValueError, match="mingpt"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_one_for_each_query_head_is_saved_as_gpt2(tmp_path):
    save(make_model(n_head=4, n_kv_head=4), tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["model_type"] == "gpt2"
    assert "n_kv_head" not in fields
    AutoModelForCausalLM.from_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**fields, "n_kv_head": 4}))  # 4 is the default
    assert GPT.from_pretrained(tmp_path).config.kv_heads == 4


def test_gpt2_that_claims_shared_heads_is_refused(tmp_path):
    save(make_model(**SHAPE), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"mingpt"', '"gpt2"'))
    with pytest.raises(CheckpointError, match=r"config\.json: n_kv_head = 2 is not supported"):
        GPT.from_pretrained(tmp_path)


# --------------------------------------------------------------------- patching


def test_recordings_have_as_many_heads_as_there_are():
    model = make_model(**SHAPE)
    model(ids(2, 9), record=[*HEAD_SITES])
    heads = {site: model.recording[site].size(2) for site in HEAD_SITES}
    assert heads == {"z": 4, "q": 4, "k": 2, "v": 2, "pattern": 4}
    with pytest.raises(PatchError, match="head 2 is out of range"):
        model(ids(2, 9), patch=Patch("k", layer=0, head=2))


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("site", HEAD_SITES)
def test_the_fast_sweep_is_the_loop(pair, site, by_position):
    model = make_model(**SHAPE).double()
    for direction in ("denoise", "noise"):
        asked = {"site": site, "by_position": by_position, "direction": direction}
        fast, loop = (patch_sweep(model, pair, method=m, **asked) for m in ("fast", "loop"))
        heads = 2 if site in "kv" else 4
        assert fast.values.shape == (3, heads, 7)[: fast.values.ndim]
        np.testing.assert_allclose(fast.values, loop.values, rtol=0, atol=1e-9)
        assert np.abs(fast.values - fast.corrupt_value).max() > 1e-3  # patching changes something


@pytest.mark.parametrize("site", ["k", "v"])
def test_a_patched_head_is_all_that_share_it_at_once(pair, site):
    """In the model with copies, heads 0 and 1 both read the key and value head 0."""
    model = make_model(**SHAPE).double()
    full = written_out(model)
    clean, corrupt = (torch.tensor([run]) for run in (pair.clean_ids, pair.corrupt_ids))
    for one in (model, full):
        one(clean, record=site)
    here, _ = model(corrupt, patch=Patch(site, 1, head=0))
    there, _ = full(corrupt, patch=[Patch(site, 1, head=0), Patch(site, 1, head=1)])
    torch.testing.assert_close(here, there)


def test_results_and_figures_say_so(pair, tmp_path):
    model = make_model(**SHAPE)
    result = patch_sweep(model, pair, site="v")
    result.save(tmp_path / "v")
    said = "v of a head, all positions at once (2 heads, each read by 2 query heads)"
    for one in (result, SweepResult.load(tmp_path / "v")):
        assert one.shared_by == 2
        assert said in title_lines(one, [])[0]
    for plain in (patch_sweep(model, pair, site="z"), patch_sweep(make_model(), pair, site="v")):
        assert plain.shared_by == 1
        assert "query heads" not in title_lines(plain, [])[0]


def test_attribution_has_their_heads_too(pair):
    result = patch_sweep(make_model(**SHAPE), pair, site="k", method="attribution")
    assert result.values.shape == (3, 2)
    assert np.isfinite(result.values).all()


def test_explanations_are_those_of_the_model_written_out():
    model = make_model(**SHAPE).double()
    question = Question.from_ids(ids(9), 3, 7)
    here, there = (explain(one, question) for one in (model, written_out(model)))
    for name in ("heads", "alti_logit", "rollout", "lens_ids"):
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), rtol=0, atol=1e-9)
