"""Read a model's configuration from transformers', nanoGPT's or minGPT's files, and write it.

A field that changes what the model computes is either read here or refused by
name; none is ignored. state_dict.py reads the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mingpt.config import FLAGS, PRESETS, GPTConfig
from mingpt.errors import CheckpointError, ConfigError
from mingpt.files import read_text

NAME = "config.json"
MOST_BYTES = 10**7  # of a config.json; usual ones have 1,000

# model_type of files that transformers' GPT-2 can read, and of files that only mingpt can.
_GPT2, _OURS = "gpt2", "mingpt"
# Fields that only files of model_type _OURS have.
_ONLY_OURS = ("bias", "n_kv_head")
# Our field -> the key in transformers' GPT2Config, in the order of the file.
_KEYS = {
    "scale_attn_weights": "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx": "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn": "reorder_and_upcast_attn",
    "tie_word_embeddings": "tie_word_embeddings",
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
_DROPOUTS = ("embd_pdrop", "resid_pdrop", "attn_pdrop")
# transformers accepts these names for the same fields.
_OTHER_NAMES = {
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
}
# Keys that change what is computed, and the only value of each that is supported.
_ONLY_VALUES = {
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "position_embedding_type": "absolute",
    "pruned_heads": {},
    "quantization_config": None,
}
# transformers' other name for the tanh form of GELU.
_ACTIVATION_ALIASES = {"gelu_pytorch_tanh": "gelu_new"}
# Keys of other architectures, which compute something else: refused unless null, false or empty.
_OF_OTHERS = (
    "auto_map",
    "attention_head_type",
    "multi_query",
    "num_key_value_heads",
    "sliding_window",
    "rotary",
    "rotary_dim",
    "rotary_pct",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "alibi",
    "use_alibi",
    "attention_types",
    "parallel_attn",
    "use_parallel_residual",
    "mup_embeddings_scale",
    "mup_output_alpha",
    "mup_width_scale",
    "logits_scale",
)
# minGPT's model_type -> the number of heads, which no tensor's shape shows.
_MINGPT_HEADS = {name: preset.n_head for name, preset in PRESETS.items()} | {
    "openai-gpt": 12,
    "gopher-44m": 16,
}
_NANOGPT_KEYS = ("n_layer", "n_head", "n_embd", "vocab_size", "block_size", "bias", "dropout")
_MINGPT_KEYS = ("model_type", *_NANOGPT_KEYS[:5], *_DROPOUTS)


def read(path: str | Path) -> GPTConfig:
    """Return the configuration in a config.json that transformers or we wrote.

    Raises:
        CheckpointError: the file is missing, is no JSON object, or asks for
            something that is not supported (the message names it).
    """
    return _config(path, _known(path, read_fields(path)), names=_KEYS)


def to_fields(config: GPTConfig) -> dict[str, object]:
    """Return the fields of a config.json, which `read` reads again.

    The model_type is "gpt2" for a model that transformers' GPT-2 can compute. For
    a model without biases, or whose heads share keys and values, it is "mingpt",
    which transformers refuses.
    """
    only_ours = _only_ours(config)
    head = {"model_type": _OURS if only_ours else _GPT2, "add_cross_attention": False}
    values = {key: getattr(config, ours) for ours, key in _KEYS.items()}
    flags = {key: values.pop(key) for key in _KEYS if key in FLAGS}  # named alike in both
    if only_ours:
        return {**head, **flags, **only_ours, **values}
    return {**head, **flags, "architectures": ["GPT2LMHeadModel"], **values}


def _only_ours(config: GPTConfig) -> dict[str, object]:
    """Return the fields that transformers' GPT-2 has no equivalent for."""
    fields: dict[str, object] = {}
    if not config.bias:
        fields["bias"] = False
    if config.kv_heads < config.n_head:
        fields["n_kv_head"] = config.kv_heads
    return fields


def of_nanogpt(path: str | Path, model_args: object) -> GPTConfig:
    """Return the configuration in a nanoGPT checkpoint, whose GELU is the exact one.

    Args:
        path: the checkpoint, named in messages.
        model_args: the checkpoint's entry of that name.

    Raises:
        CheckpointError: `model_args` is no table, or its fields are not nanoGPT's.
    """
    if not isinstance(model_args, dict):
        raise CheckpointError(f"{path}: model_args is no table of fields")
    _refuse_unknown(path, "model_args", model_args, _NANOGPT_KEYS)
    missing = [key for key in _NANOGPT_KEYS[:6] if model_args.get(key) is None]
    if missing:
        raise CheckpointError(f"{path}: model_args lacks {', '.join(missing)}")
    known = {**model_args, "activation": "gelu"}
    dropout = known.pop("dropout", 0.0)
    return _config(path, {**known, **dict.fromkeys(_DROPOUTS, dropout)})


def of_mingpt(path: Path, sizes: Mapping[str, int], *, tied: bool, n_head: int | None) -> GPTConfig:
    """Return the configuration of a bare state dict, whose GELU is the tanh form.

    Args:
        path: the checkpoint. A config.json beside it, minGPT's or in
            transformers' spelling, gives what no tensor's shape shows.
        sizes: the fields that the tensors' shapes determine.
        tied: the file has no lm_head.weight.
        n_head: the number of attention heads, if the caller knows it.

    Raises:
        CheckpointError: nothing says how many heads there are, or two sources
            disagree.
    """
    beside = path.with_name(NAME)
    known: dict[str, Any] = {}
    if beside.is_file():
        known = _mingpt_fields(beside)
    if n_head is not None and known.setdefault("n_head", n_head) != n_head:
        raise CheckpointError(f"n_head is {known['n_head']} in {beside}, not {n_head}")
    if "n_head" not in known:
        raise CheckpointError(
            f"{path} does not say how many attention heads the model has, and no tensor's shape"
            f" does: give --n-head (n_head=), or {NAME} beside it"
        )
    for name, size in sizes.items():
        if known.get(name, size) != size:
            raise CheckpointError(f"{name} is {known[name]} in {beside}, {size} in {path}")
    return _config(path, {"tie_word_embeddings": tied, **known, **sizes})


def is_gpt2(fields: Mapping[str, object]) -> bool:
    """Return True if a config.json's model_type is GPT-2's or ours, or is left out."""
    return fields.get("model_type", _GPT2) in (_GPT2, _OURS)


def read_fields(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        CheckpointError: the file cannot be read, or holds no JSON object.
    """
    path = Path(path)
    text = read_text(path, MOST_BYTES, CheckpointError)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return fields


def _mingpt_fields(path: Path) -> dict[str, Any]:
    """Return our fields in a config.json, without those that are null, as minGPT writes some."""
    fields = read_fields(path)
    if not isinstance(fields.get("model"), dict):
        return _known(path, {key: value for key, value in fields.items() if value is not None})
    fields = fields["model"]
    _refuse_unknown(path, "model", fields, _MINGPT_KEYS)
    known = {key: value for key, value in fields.items() if value is not None}
    model_type = str(known.pop("model_type", None))
    if model_type in _MINGPT_HEADS:
        known.setdefault("n_head", _MINGPT_HEADS[model_type])
    return known


def _known(path: str | Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Return our fields from transformers' fields, which may have either of two names.

    Raises:
        CheckpointError: another field changes what is computed, or two names of
            one field disagree.
    """
    if not is_gpt2(fields):
        raise CheckpointError(
            f"{path}: model_type = {fields['model_type']!r} is not supported, only {_GPT2!r}"
        )
    for key, wanted in {**_ONLY_VALUES, **dict.fromkeys(_OF_OTHERS)}.items():
        if fields.get(key, wanted) != wanted and (wanted is not None or fields[key]):
            raise CheckpointError(
                f"{path}: {key} = {fields[key]!r} is not supported, only {wanted!r}"
            )
    fields = dict(fields)
    for other, key in _OTHER_NAMES.items():
        if other in fields and fields.setdefault(key, fields[other]) != fields[other]:
            raise CheckpointError(
                f"{path}: {key} = {fields[key]!r} and {other} = {fields[other]!r} disagree"
            )
    known = {ours: fields[key] for ours, key in _KEYS.items() if key in fields}
    activation = known.get("activation")
    if isinstance(activation, str):
        known["activation"] = _ACTIVATION_ALIASES.get(activation, activation)
    if fields.get("model_type") == _OURS:
        return known | {key: fields[key] for key in _ONLY_OURS if key in fields}
    shared = fields.get("n_kv_head")
    if shared not in (None, known.get("n_head", GPTConfig.n_head)):
        raise CheckpointError(
            f"{path}: n_kv_head = {shared!r} is not supported where model_type is {_GPT2!r},"
            f" only where it is {_OURS!r}"
        )
    return known


def _refuse_unknown(path: str | Path, where: str, fields: dict, known: tuple[str, ...]) -> None:
    unknown = [str(key) for key in fields if key not in known]
    if unknown:
        raise CheckpointError(f"{path}: {where} has fields not known here: {', '.join(unknown)}")


def _config(
    path: str | Path, known: dict[str, Any], names: Mapping[str, str] | None = None
) -> GPTConfig:
    """Return the configuration; errors use the file's own `names` (our field -> its key)."""
    try:
        return GPTConfig(**known)
    except (ConfigError, TypeError) as error:
        field, space, rest = str(error).partition(" ")
        raise CheckpointError(f"{path}: {(names or {}).get(field, field)}{space}{rest}") from None
