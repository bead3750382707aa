"""A small training loop: AdamW, warm-up then cosine, clipping, seeds, checkpoints.

It takes batches from any iterator and calls back after each step. The caller
makes the batches and prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mingpt.errors import CheckpointError, ConfigError
from mingpt.files import replacing


@dataclass(frozen=True)
class TrainerConfig:
    """Constants of one training run."""

    steps: int  # optimizer steps in all
    learning_rate: float = 1e-3  # the highest, reached at the end of the warm-up
    final_learning_rate: float = 1e-4  # at the last step, on the cosine
    warmup_steps: int = 100  # linear from 0
    betas: tuple[float, float] = (0.9, 0.95)  # AdamW's moment decay
    weight_decay: float = 0.1  # on matrices only; see `parameter_groups`
    grad_norm_clip: float = 1.0  # largest L2 norm of the whole gradient
    seed: int = 0  # of torch, set when the trainer is made

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 (Loshchilov & Hutter 2017, eq. 5)."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        swing = 0.5 * (1 + math.cos(math.pi * done))
        return self.final_learning_rate + swing * (self.learning_rate - self.final_learning_rate)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's two groups: weights of linear layers, which decay, and all others.

    The others are biases, layer norms, embeddings, and the weight of a linear
    layer that shares it with an embedding.

    Raises:
        ConfigError: a parameter belongs to neither group; the message names it.
    """
    linear: set[int] = set()
    exempt: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, (nn.LayerNorm, nn.Embedding)) or name == "bias":
                exempt.add(id(parameter))
            elif isinstance(module, nn.Linear):
                linear.add(id(parameter))
    named = dict(model.named_parameters())  # a shared parameter appears once
    unknown = [name for name, p in named.items() if id(p) not in linear | exempt]
    if unknown:
        raise ConfigError(f"neither linear, layer norm nor embedding: {', '.join(unknown)}")
    return [
        {
            "params": [p for p in named.values() if id(p) not in exempt],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in named.values() if id(p) in exempt], "weight_decay": 0.0},
    ]


LossFunction = Callable[[nn.Module, Any], Tensor]


def next_token_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the model's own loss on a batch (ids, targets), each (B, T)."""
    return model(*batch)[1]


class Trainer:
    """Trains `model` in place.

    Args:
        model: any module that `loss_function` can call.
        config: the constants.
        batches: yields one batch per step, as `loss_function` takes it.
        loss_function: (model, batch) -> scalar tensor.
        progress: called with (steps done, steps in all) after each step.

    Attributes:
        step: how many steps are done.
        loss: the last step's loss, in nats.
        callbacks: functions, called with the trainer after each step.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainerConfig,
        batches: Iterator[Any],
        *,
        loss_function: LossFunction = next_token_loss,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.model = model
        self.config = config
        self.batches = batches
        self.loss_function = loss_function
        self.progress = progress
        self.callbacks: list[Callable[[Trainer], None]] = []
        self.step = 0
        self.loss = math.nan
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay),
            lr=config.learning_rate,
            betas=config.betas,
        )

    def run(self) -> None:
        """Train from the current step, which is 0 or the restored one, to the last.

        Raises:
            ConfigError: the loss is no longer finite, or the batches end too soon.
        """
        self.model.train()
        while self.step < self.config.steps:
            try:
                batch = next(self.batches)
            except StopIteration:
                raise ConfigError(f"the batches ended at step {self.step}") from None
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate_at(self.step)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss_function(self.model, batch)
            self.loss = loss.item()
            if not math.isfinite(self.loss):  # checked before the weights change
                raise ConfigError(f"the loss is {self.loss} at step {self.step + 1}")
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_norm_clip)
            self.optimizer.step()
            self.step += 1
            if self.progress is not None:
                self.progress(self.step, self.config.steps)
            for callback in self.callbacks:
                callback(self)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint: weights, optimizer, step, configuration, random state."""
        state = {
            "config": asdict(self.config),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: str | Path) -> None:
        """Restore a checkpoint that `save` wrote.

        The batches are not restored: the caller must skip the batches already used.

        Raises:
            CheckpointError: not such a file, or one of another model.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            step, random, optimizer = state["step"], state["torch_rng"], state["optimizer"]
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(optimizer)
            torch.set_rng_state(random)
            self.step = step
        except Exception as error:  # torch.load raises half a dozen unrelated types
            raise CheckpointError(f"{path} is no checkpoint of this trainer: {error}") from None
