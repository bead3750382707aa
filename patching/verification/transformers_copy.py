"""The same model in transformers, where it is installed: an independent GPT-2."""

from __future__ import annotations

from typing import Any

from mingpt.loading import config_json, state_dict
from mingpt.model import GPT
from patching.errors import VerificationError


class NotCheckedError(VerificationError):
    """An identity that cannot be checked here; the message says why."""


def transformers_copy(model: GPT) -> Any:
    """Return transformers' GPT2LMHeadModel with the weights of `model`, in eval mode.

    Raises:
        NotCheckedError: transformers is not installed, or its GPT-2 has no such architecture.
    """
    fields: dict[str, Any] = config_json.to_fields(model.config)
    if fields["model_type"] != "gpt2":
        raise NotCheckedError("transformers' GPT-2 has no such architecture")
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError:
        raise NotCheckedError("transformers is not installed") from None
    # The ids of GPT-2, which are the default, cause a warning where the vocabulary is smaller.
    fields |= {"bos_token_id": None, "eos_token_id": None}
    theirs: Any = GPT2LMHeadModel(GPT2Config(**fields))
    theirs.to(model.device, model.dtype)
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    theirs.load_state_dict(state_dict.conv1d(state), strict=False)
    theirs.tie_weights()
    return theirs.eval()
