"""The methods that are compared: the engine, the plain loop, and other tools where installed.

All load the same weights. Like the loop, TransformerLens and nnsight run the whole
model once for each cell.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import torch

from mingpt.config import GPTConfig
from mingpt.loading.model_files import save
from mingpt.model import GPT
from patching.prompts import PromptPair
from patching.sweep.result import SweepResult
from patching.sweep.run import patch_sweep

# GPT-2's ids of "Michelle Jones was a top-notch student. Michelle", of " Jones", " Smith".
EXAMPLE = (48736, 5437, 373, 257, 1353, 12, 1662, 354, 3710, 13, 16738)
JONES, SMITH = 5437, 4176
LOOPS = ("plain loop", "TransformerLens", "nnsight")  # the whole model once for each cell


@dataclass
class Method:
    """A named function from a pair to its grid of logit differences (n_layer, T)."""

    name: str
    sweep: Callable[[PromptPair], np.ndarray]


def sweep(model: GPT, pair: PromptPair, **settings: Any) -> np.ndarray:
    """Return the grid of one of our sweeps; `settings` are patch_sweep's."""
    return cast(SweepResult, patch_sweep(model, pair, **settings)).values


def ours(model: GPT) -> list[Method]:
    """Return the fast sweep and the loop."""
    return [
        Method("fast", lambda pair: sweep(model, pair)),
        Method("plain loop", lambda pair: sweep(model, pair, method="loop")),
    ]


def all_methods(model: GPT, directory: Path, device: torch.device) -> list[Method]:
    """Return our methods and the installed tools', with the weights in `directory`."""
    found = ours(model)
    if importlib.util.find_spec("transformer_lens") is not None:
        found.append(_transformer_lens(directory, device))
    if importlib.util.find_spec("nnsight") is not None:
        found.append(_nnsight(directory, device))
    return found


def made_pair(T: int, vocab_size: int) -> PromptPair:
    """Return a pair that differs at position 1: the example if it has T tokens, or random ids."""
    clean = list(EXAMPLE) if len(EXAMPLE) == T else Random(T).choices(range(vocab_size), k=T)
    at = min(1, T - 1)
    clean[at] = JONES
    corrupt = list(clean)
    corrupt[at] = SMITH
    return PromptPair.from_ids(clean, corrupt, JONES, SMITH)


def write_weights(config: GPTConfig, directory: Path) -> None:
    """Write a GPT-2 of random weights, made by transformers where it is installed."""
    torch.manual_seed(0)
    if importlib.util.find_spec("transformers") is None:
        save(GPT(config), directory)
        return
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    shape = transformers.GPT2Config(
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        vocab_size=config.vocab_size,
        n_positions=config.block_size,
    )
    transformers.GPT2LMHeadModel(shape).save_pretrained(directory)


def _as_batches(pair: PromptPair, device: torch.device) -> list[torch.Tensor]:
    """Return clean and corrupt ids, each (1, T)."""
    return [torch.tensor([pair.ids(run)], device=device) for run in ("clean", "corrupt")]


def _grid(pair: PromptPair, n_layer: int, logits: Callable[[int, int], torch.Tensor]) -> np.ndarray:
    """Return the grid of logit differences, from each cell's patched last-position logits (V,)."""
    cells = []
    for layer in range(n_layer):
        for position in range(len(pair)):
            last = logits(layer, position)
            cells.append(last[pair.foil_ids[0]] - last[pair.target_ids[0]])
    return torch.stack(cells).view(n_layer, len(pair)).cpu().numpy()


def _transformer_lens(directory: Path, device: torch.device) -> Method:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(directory), device=str(device))

    @torch.no_grad()
    def run(pair: PromptPair) -> np.ndarray:
        clean, corrupt = _as_batches(pair, device)
        wanted = [f"blocks.{layer}.hook_resid_post" for layer in range(bridge.cfg.n_layers)]
        _, cache = bridge.run_with_cache(clean, names_filter=wanted)

        def logits(layer: int, position: int) -> torch.Tensor:
            def patch(activation: torch.Tensor, hook: object) -> torch.Tensor:
                activation[:, position] = cache[wanted[layer]][:, position]
                return activation

            out = bridge.run_with_hooks(corrupt, fwd_hooks=[(wanted[layer], patch)])
            return out[0, -1]

        return _grid(pair, bridge.cfg.n_layers, logits)

    return Method("TransformerLens", run)


def _nnsight(directory: Path, device: torch.device) -> Method:
    import nnsight
    from transformers import GPT2LMHeadModel

    model = nnsight.NNsight(GPT2LMHeadModel.from_pretrained(directory).to(device).eval())
    n_layer = len(model.transformer.h)

    @torch.no_grad()
    def run(pair: PromptPair) -> np.ndarray:
        clean, corrupt = _as_batches(pair, device)
        with model.trace(clean):
            kept = nnsight.save([])
            for layer in range(n_layer):
                kept.append(model.transformer.h[layer].output)

        def logits(layer: int, position: int) -> torch.Tensor:
            with model.trace(corrupt):
                model.transformer.h[layer].output[:, position] = kept[layer][:, position]
                out = model.lm_head.output.save()
            return out[0, -1]

        return _grid(pair, n_layer, logits)

    return Method("nnsight", run)
