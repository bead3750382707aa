"""The training loop: schedule, decay groups, reproducibility, accumulation."""

import itertools
from dataclasses import replace

import pytest
import torch
from helpers import make_model
from torch import nn

from mingpt import ConfigError, GPTConfig
from mingpt.model import GPT
from mingpt.trainer import Trainer, TrainerConfig, parameter_groups

CONFIG = TrainerConfig(steps=12, learning_rate=3e-3, warmup_steps=3, seed=5)


def batches(start: int = 0):
    """Return random ids that depend only on the step."""
    for step in itertools.count(start):
        ids = torch.randint(40, (4, 9), generator=torch.Generator().manual_seed(step))
        yield ids[:, :-1], ids[:, 1:]


def fresh() -> GPT:
    return make_model(resid_pdrop=0.1)


def test_learning_rate_warms_up_and_follows_a_cosine():
    config = TrainerConfig(steps=110, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10)
    rates = [config.learning_rate_at(step) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)  # half-way: the mean of highest and last
    assert rates[110] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_only_matrices_decay():
    model = fresh()
    decay, no_decay = (group["params"] for group in parameter_groups(model, 0.1))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {names[id(parameter)].split(".", 3)[-1] for parameter in decay}
    assert decaying == {
        "attn.c_attn.weight",
        "attn.c_proj.weight",
        "mlp.c_fc.weight",
        "mlp.c_proj.weight",
    }
    assert len(decay) + len(no_decay) == len(names)


def test_a_parameter_of_an_unknown_kind_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv1d(1, 1, 1))
    with pytest.raises(ConfigError, match=r"embedding: 1\.weight$"):
        parameter_groups(model, 0.1)


def test_it_learns_and_is_reproducible():
    def train():
        torch.manual_seed(0)
        model = GPT(GPTConfig.preset("gpt-nano", vocab_size=10, block_size=8))
        row = torch.arange(9).repeat(4, 1)
        trainer = Trainer(
            model,
            TrainerConfig(steps=60, learning_rate=1e-2, warmup_steps=5),
            itertools.repeat((row[:, :-1], row[:, 1:])),
        )
        trainer.run()
        return model, trainer.loss

    first, loss = train()
    second, _ = train()
    assert loss < 0.3  # from log 10 = 2.3
    assert first.checksum() == second.checksum()


def test_batches_that_end_are_told():
    trainer = Trainer(fresh(), CONFIG, itertools.islice(batches(), 7))
    with pytest.raises(ConfigError, match="batches ended at step 7"):
        trainer.run()
    assert trainer.step == 7


def test_accumulated_batches_are_one_large_batch():
    """Two batches of 4 rows make the gradient of one batch of 8."""

    def trained(accumulate: int):
        model = make_model(embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)
        config = replace(CONFIG, steps=1, accumulate=accumulate)
        trainer = Trainer(model, config, parts(accumulate))
        trainer.run()
        return model.transformer.wte.weight.grad, trainer.loss

    def parts(accumulate: int):
        for first, second in zip(batches(), batches(100), strict=False):
            both = [torch.cat(pair) for pair in zip(first, second, strict=True)]
            yield from (first, second) if accumulate == 2 else (both,)

    (one, loss), (two, mean) = trained(1), trained(2)
    assert torch.allclose(one, two, atol=1e-6)
    assert loss == pytest.approx(mean, abs=1e-5)


def test_a_callback_can_stop_a_run_which_then_goes_on():
    trainer = Trainer(fresh(), CONFIG, batches())

    def stop(trainer):
        trainer.is_stopped = trainer.step == 5

    trainer.callbacks.append(stop)
    trainer.run()
    assert trainer.step == 5
    trainer.run()
    assert trainer.step == CONFIG.steps


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be"),
        ({"accumulate": 0}, "accumulate must be"),
        ({"learning_rate": -1.0}, "learning_rate must be"),
        ({"final_learning_rate": 1.0}, "from 0 to learning_rate"),
        ({"weight_decay": -0.1}, "weight_decay must be"),
    ],
)
def test_constants_out_of_range_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        TrainerConfig(**{"steps": 5, **fields})


def test_callbacks_and_progress_see_every_step():
    steps, losses = [], []
    trainer = Trainer(fresh(), CONFIG, batches(), progress=lambda *step: steps.append(step))
    trainer.callbacks.append(lambda trainer: losses.append(trainer.loss))
    trainer.run()
    assert steps == [(n, 12) for n in range(1, 13)]
    assert len(losses) == 12
    assert all(torch.isfinite(torch.tensor(losses)))


def test_the_gradient_is_clipped():
    model = nn.Linear(1, 1, bias=False)
    trainer = Trainer(
        model,
        TrainerConfig(steps=1, grad_norm_clip=0.5),
        iter([None]),
        loss_function=lambda model, batch: 1e6 * model.weight.sum(),
    )
    trainer.run()
    assert model.weight.grad.norm().item() == pytest.approx(0.5)


def test_a_loss_that_is_not_finite_stops_the_run():
    trainer = Trainer(
        nn.Linear(1, 1),
        CONFIG,
        itertools.repeat(None),
        loss_function=lambda model, batch: model.weight.sum() * torch.nan,
    )
    before = trainer.model.weight.detach().clone()
    with pytest.raises(ConfigError, match="loss is nan at step 1"):
        trainer.run()
    assert torch.equal(trainer.model.weight, before)
