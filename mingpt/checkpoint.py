"""A model directory as transformers writes it: config.json and model.safetensors.

This module knows the format, and nothing of where files come from
(pretrained.py) or what the model computes (model.py). The one rule it keeps:
every tensor of the file is used exactly once and every parameter is filled
exactly once, or an error lists the culprits.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mingpt.config import GPTConfig
from mingpt.errors import CheckpointError, ConfigError
from mingpt.files import replacing

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

# Our field -> the key in transformers' GPT2Config.
_CONFIG_KEYS = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_inner": "n_inner",
    "activation": "activation_function",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "embd_pdrop": "embd_pdrop",
    "resid_pdrop": "resid_pdrop",
    "attn_pdrop": "attn_pdrop",
    "initializer_range": "initializer_range",
}
# Keys that change what the model computes, and the only value that is built here.
_REQUIRED_VALUES = {
    "model_type": "gpt2",
    "add_cross_attention": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "tie_word_embeddings": True,
}
# transformers' other name for the tanh form of GELU.
_ACTIVATION_ALIASES = {"gelu_pytorch_tanh": "gelu_new"}

# The matrices that GPT-2's files hold as (in, out), transformers' Conv1D,
# where nn.Linear holds (out, in).
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_DTYPES = ("F16", "BF16", "F32", "F64")
_PREFIX = "transformer."
_HEAD = "lm_head.weight"
_EMBEDDING = "transformer.wte.weight"


def read_config(directory: str | Path) -> GPTConfig:
    """The GPTConfig that `directory`/config.json describes.

    Raises:
        CheckpointError: the file is missing, is no JSON object, or asks for
            something that is not built here (named).
    """
    path = Path(directory) / CONFIG_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    for key, wanted in _REQUIRED_VALUES.items():
        if fields.get(key, wanted) != wanted:
            raise CheckpointError(
                f"{path}: {key} = {fields[key]!r} is not supported, only {wanted!r}"
            )
    known = {ours: fields[key] for ours, key in _CONFIG_KEYS.items() if key in fields}
    activation = known.get("activation")
    if isinstance(activation, str):
        known["activation"] = _ACTIVATION_ALIASES.get(activation, activation)
    try:
        return GPTConfig(**known)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def read_weights(
    path: str | Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of a GPT-2 safetensors file, by our parameter names.

    Keys may come with or without "transformer."; the causal-mask buffers of
    old files are passed over, and so is a copy of the tied lm_head.weight.

    Args:
        path: the .safetensors file.
        shapes: every parameter to fill and its shape, lm_head left out.
        dtype: of the tensors returned.

    Raises:
        CheckpointError: not a whole safetensors file; tensors that are
            missing, unknown, given twice or of another shape; an lm_head that
            is not the embedding; values that are not finite.
    """
    path = Path(path)
    with _opened(path) as file:
        headers = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        target_of = _match(path, headers, shapes)
        state = {name: _tensor(file, key, dtype) for key, name in target_of.items()}
        if _HEAD in headers and not torch.equal(_tensor(file, _HEAD, dtype), state[_EMBEDDING]):
            raise CheckpointError(f"{path}: {_HEAD} is not tied to {_EMBEDDING}: not supported")
    wrong = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise CheckpointError(f"{path}: not finite (in {dtype}): {_listed(wrong)}")
    return state


def check_file(path: Path, config: GPTConfig | None = None) -> None:
    """Whether `path` is a whole safetensors file, by its header and its size.

    With a `config`, also whether its n_layer is beyond all measure: asked before
    a model is built, which would then take for ever. `read_weights` does the rest.

    Raises:
        CheckpointError: not such a file, or such a config.
    """
    with _opened(path) as file:
        tensors = len(file.keys())
    if config is not None and config.n_layer > tensors + 1000:
        raise CheckpointError(
            f"{path} does not fit the model: {tensors} tensors for {config.n_layer} layers"
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open safetensors file; what is wrong with it as CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no whole safetensors file: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def write(directory: str | Path, config: GPTConfig, state: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors; `state` as `read_weights` returns it."""
    directory = Path(directory)
    fields = {key: getattr(config, ours) for ours, key in _CONFIG_KEYS.items()}
    fields = {**_REQUIRED_VALUES, "architectures": ["GPT2LMHeadModel"], **fields}
    tensors = {name: _conv1d(name, tensor).cpu().contiguous() for name, tensor in state.items()}
    # Both are complete before either takes its place.
    with replacing(directory / CONFIG_FILE) as config_path:
        config_path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        with replacing(directory / WEIGHTS_FILE) as weights_path:
            save_file(tensors, weights_path, metadata={"format": "pt"})


def _match(
    path: Path, headers: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """File key -> parameter name, once every key and every parameter is accounted for.

    `headers` holds what safetensors says of a tensor without reading it.
    """
    masks = {
        name.replace("attn.c_attn.weight", f"attn.{mask}")
        for name in shapes
        if name.endswith("attn.c_attn.weight")
        for mask in ("bias", "masked_bias")
    }
    target_of, unknown, misshapen, foreign = {}, [], [], []
    for key, header in headers.items():
        shape, kind = tuple(header.get_shape()), header.get_dtype()
        name = key if key.startswith(_PREFIX) else _PREFIX + key
        if name in shapes:
            target_of[key] = name
            wanted = shapes[name][::-1] if name.endswith(_TRANSPOSED) else shapes[name]
            if shape != wanted:
                misshapen.append(f"{key} {shape} instead of {wanted}")
            if kind not in _DTYPES:
                foreign.append(f"{key} ({kind})")
        elif name not in masks and key != _HEAD:
            unknown.append(key)
    filled = Counter(target_of.values())
    complaints = {
        "missing": [name for name in shapes if name not in filled],
        "given twice": [name for name, times in filled.items() if times > 1],
        "unknown": unknown,
        "of another shape than the configuration says": misshapen,
        f"of another type than {', '.join(_DTYPES)}": foreign,
    }
    complaints = {what: culprits for what, culprits in complaints.items() if culprits}
    if complaints:
        lines = (f"{what}: {_listed(culprits)}" for what, culprits in complaints.items())
        raise CheckpointError(f"{path} does not fit the model; {'; '.join(lines)}")
    return target_of


def _tensor(file: safe_open, key: str, dtype: torch.dtype) -> Tensor:
    return _conv1d(key, file.get_tensor(key)).to(dtype).contiguous()


def _conv1d(name: str, tensor: Tensor) -> Tensor:
    """Between nn.Linear's (out, in) and Conv1D's (in, out): the same turn both ways."""
    return tensor.t() if name.endswith(_TRANSPOSED) else tensor


def _listed(names: list[str], most: int = 8) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
