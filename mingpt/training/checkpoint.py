"""The checkpoint of a run: one safetensors file, so that it is whole or absent.

It holds the weights, the optimizer's tensors and the random state; its header holds the
step, the request and the history as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mingpt.errors import CheckpointError
from mingpt.files import check_readable, replacing
from mingpt.loading import tensor_files
from mingpt.trainer import Trainer

NAME = "checkpoint.safetensors"
HEADER = "mingpt.training"  # key of the header's JSON


def save_checkpoint(trainer: Trainer, path: Path, more: dict[str, Any]) -> None:
    """Write a trainer's state.

    Args:
        more: JSON values to keep beside it.
    """
    tensors = {f"model.{name}": p.detach() for name, p in trainer.model.named_parameters()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{number}.{key}"] = torch.as_tensor(value)
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    header = {HEADER: json.dumps({**more, "step": trainer.step})}
    with replacing(path) as temporary:
        tensor_files.write(tensors, temporary, header)


def read_header(path: Path) -> dict[str, Any]:
    """Return the JSON values of a checkpoint, without its tensors.

    Raises:
        CheckpointError: the file is missing, or is no checkpoint of a run.
    """
    check_readable(path, CheckpointError)
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {})[HEADER])
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no checkpoint of a training run: {error}") from None
    if not (isinstance(found, dict) and type(found.get("step")) is int):
        raise CheckpointError(f"{path} is no checkpoint of a training run: it has no step")
    return found


def restore_checkpoint(trainer: Trainer, path: Path) -> None:
    """Give a trainer the weights, the optimizer's state, the step and the random state.

    Raises:
        CheckpointError: the file is damaged, or of another model.
    """
    step = read_header(path)["step"]
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _restore(trainer, tensors)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit this run: {error}") from None
    trainer.step = step


def _restore(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(trainer.model.named_parameters())
    saved = {name.partition(".")[2]: x for name, x in tensors.items() if name.startswith("model.")}
    if {name: x.shape for name, x in saved.items()} != {n: p.shape for n, p in parameters.items()}:
        raise ValueError("its weights have other names or shapes")
    state: dict[int, dict[str, Tensor]] = {}
    for name, x in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = x
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
