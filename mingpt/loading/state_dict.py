"""Turn a file's tensors into a model's parameters.

Every tensor of the file must be used exactly once and every parameter filled
exactly once; otherwise an error lists the names that break this rule.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from mingpt.errors import CheckpointError
from mingpt.loading.tensor_files import KINDS, Container, Header
from mingpt.memory import lack

# GPT-2's files store these matrices as (in, out), like transformers' Conv1D;
# nn.Linear stores (out, in).
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_PREFIX = "transformer."
_COMPILED = "_orig_mod."  # what torch.compile puts before every name
HEAD = "lm_head.weight"
EMBEDDING = "transformer.wte.weight"
# Bytes of the file that are mapped at a time. Where tensors have to be copied, this is
# the memory that loading takes at its peak beside the parameters.
PORTION = 1 << 25


def read(
    container: Container,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    *,
    is_conv1d: bool,
) -> dict[str, Tensor]:
    """Return the tensors of a file by our parameter names.

    The file's names may lack "transformer.", and may begin with torch.compile's
    "_orig_mod.". The causal-mask buffers of old files are ignored, and so is
    the copy of a tied lm_head.weight.

    Args:
        container: the file.
        shapes: every parameter to fill and its shape; lm_head.weight is among
            them only if it is not tied to the embedding.
        dtype: of the returned tensors. Where the file has the same dtype, they
            are views of the mapped file.
        is_conv1d: True if the file's matrices are (in, out); their transposed
            views are returned, without a copy.

    Raises:
        CheckpointError: tensors are missing, unknown, given twice, of another
            shape or not finite; they have to be copied, and the machine's free
            memory is not enough; or a tied lm_head.weight differs from the
            embedding.
    """
    headers = container.headers()
    name_of = _match(container, headers, shapes, is_conv1d)
    _check_memory(container, [headers[key] for key in name_of], dtype)
    state, wrong = {}, []
    for keys in _portions(name_of, headers):
        for key, tensor in container.tensors(keys).items():
            name, tensor = name_of[key], _fitting(tensor, dtype)
            if tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
                wrong.append(name)
            state[name] = tensor.t() if is_conv1d and name.endswith(_TRANSPOSED) else tensor
    if wrong:
        raise CheckpointError(f"{container.path}: not finite (in {dtype}): {_listed(wrong)}")
    _check_tied(container, headers, name_of)
    return {name: state[name] for name in shapes}


def sizes(container: Container) -> dict[str, int]:
    """Return the fields of GPTConfig that the shapes of a GPT's tensors determine.

    Raises:
        CheckpointError: the tensors are not a GPT's.
    """
    shape_of = {_name(key): header.shape for key, header in container.headers().items()}
    try:
        vocab_size, n_embd = shape_of[EMBEDDING]
        block_size, _ = shape_of["transformer.wpe.weight"]
        inner, _ = shape_of["transformer.h.0.mlp.c_fc.weight"]
    except (KeyError, ValueError):
        raise CheckpointError(
            f"{container.path} holds no GPT: wte, wpe or the first MLP is missing"
        ) from None
    layers = {key.split(".")[2] for key in shape_of if key.startswith("transformer.h.")}
    return {
        "n_layer": len(layers),
        "n_embd": n_embd,
        "vocab_size": vocab_size,
        "block_size": block_size,
        "n_inner": inner,
    }


def conv1d(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's parameters as transformers stores them: matrices (in, out), on the CPU."""
    turned = {name: t.t() if name.endswith(_TRANSPOSED) else t for name, t in state.items()}
    return {name: tensor.cpu().contiguous() for name, tensor in turned.items()}


def _match(
    container: Container,
    headers: Mapping[str, Header],
    shapes: Mapping[str, tuple[int, ...]],
    is_conv1d: bool,
) -> dict[str, str]:
    """Return file key -> parameter name; check that each is used once, and its shape and type."""
    masks = {
        name.replace("attn.c_attn.weight", f"attn.{mask}")
        for name in shapes
        if name.endswith("attn.c_attn.weight")
        for mask in ("bias", "masked_bias")
    }
    name_of, unknown, misshapen, foreign = {}, [], [], []
    for key, header in headers.items():
        name = _name(key)
        if name in shapes:
            name_of[key] = name
            wanted = shapes[name]
            if is_conv1d and name.endswith(_TRANSPOSED):
                wanted = wanted[::-1]
            if header.kind not in KINDS:
                foreign.append(f"{key} ({header.kind})")
            elif header.shape != wanted:
                misshapen.append(f"{key} {header.shape} instead of {wanted}")
        elif name not in masks and name != HEAD:
            unknown.append(key)
    filled = Counter(name_of.values())
    complaints = {
        "missing": [name for name in shapes if name not in filled],
        "given twice": [name for name, times in filled.items() if times > 1],
        "unknown": unknown,
        "of another shape than the configuration says": misshapen,
        f"of another type than {', '.join(KINDS)}": foreign,
    }
    complaints = {what: culprits for what, culprits in complaints.items() if culprits}
    if complaints:
        lines = (f"{what}: {_listed(culprits)}" for what, culprits in complaints.items())
        raise CheckpointError(f"{container.path} does not fit the model; {'; '.join(lines)}")
    return name_of


def _check_memory(container: Container, headers: Iterable[Header], dtype: torch.dtype) -> None:
    """Raise CheckpointError if the copies that `_fitting` makes need more memory than is free."""
    copied = (one for one in headers if KINDS[one.kind] != dtype or not one.is_mappable)
    need = sum(dtype.itemsize * math.prod(one.shape) for one in copied)
    missing = lack(need)
    if missing is not None:
        kind = str(dtype).removeprefix("torch.")
        raise CheckpointError(f"{container.path} in {kind} {missing}")


def _name(key: str) -> str:
    """Return our parameter's name for a file's key."""
    key = key.removeprefix(_COMPILED)
    return key if key == HEAD or key.startswith(_PREFIX) else _PREFIX + key


def _portions(keys: Iterable[str], headers: Mapping[str, Header]) -> Iterator[list[str]]:
    """Yield the keys in groups of at most PORTION bytes or one tensor, the largest first.

    The largest come first, while few parameters are in memory, to keep the peak low.
    """
    portion: list[str] = []
    for key in sorted(keys, key=lambda key: -headers[key].nbytes):
        if portion and sum(headers[one].nbytes for one in (*portion, key)) > PORTION:
            yield portion
            portion = []
        portion.append(key)
    yield portion


def _fitting(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `tensor` in `dtype`, aligned and contiguous; `tensor` itself if it is so."""
    if tensor.dtype != dtype:
        return tensor.to(dtype)
    # Safetensors files from before 2023, GPT-2's own among them, do not align their data.
    if tensor.data_ptr() % tensor.element_size():
        return tensor.clone()
    return tensor.contiguous()


def _check_tied(
    container: Container, headers: Mapping[str, Header], name_of: Mapping[str, str]
) -> None:
    """Check that a tied lm_head.weight in the file equals the embedding."""
    copies = [key for key in headers if _name(key) == HEAD and key not in name_of]
    for key in copies:
        embedding = next(key for key, name in name_of.items() if name == EMBEDDING)
        both = container.tensors([key, embedding])
        if not torch.equal(both[key], both[embedding]):
            raise CheckpointError(
                f"{container.path}: {key} is not {EMBEDDING}, though the configuration"
                " ties them (tie_word_embeddings)"
            )


def _listed(names: list[str], most: int = 8) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
