"""A GPT-2 whose forward pass can record its residual stream and be patched.

The design follows minGPT: one file, read from top to bottom, with GPT-2's own
parameter names. What is added is two keyword arguments of `GPT.forward`,
`record` and `patch`; everything else in the project is built on those two.
Files are not this module's business (see checkpoint.py and pretrained.py), nor
are sweeps and plots (see the package `patching`).

Shapes, here and in the whole project:
    B batch, T tokens, C = n_embd, nh = n_head, hs = C / nh, V = vocab_size.
"""

from __future__ import annotations

import hashlib
import math
import operator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt import checkpoint
from mingpt.config import GPTConfig
from mingpt.download import Progress
from mingpt.errors import ConfigError, PatchError
from mingpt.indices import from_the_end
from mingpt.pretrained import resolve


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position reads itself and those before it.

    Vaswani et al. 2017, "Attention Is All You Need", eq. 1, with a causal mask.
    The softmax is written out and is the same code in every run, so that a run
    that records or patches is bit for bit the run that does not.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.attn_dropout = nn.Dropout(config.attn_pdrop)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, future: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C); `future` (T, T) is True where a key may not be read."""
        B, T, C = x.size()
        q, k, v = (
            part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, nh, T, hs)
            for part in self.c_attn(x).split(C, dim=2)
        )
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))  # (B, nh, T, T)
        pattern = F.softmax(scores.masked_fill(future, float("-inf")), dim=-1)
        z = self.attn_dropout(pattern) @ v  # (B, nh, T, hs)
        z = z.transpose(1, 2).reshape(B, T, C)  # heads side by side
        return self.resid_dropout(self.c_proj(z))


class MLP(nn.Module):
    """The position-wise network of a block: C -> inner_size -> C."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.inner_size)
        self.act = {
            "gelu_new": nn.GELU(approximate="tanh"),
            "gelu": nn.GELU(),
            "relu": nn.ReLU(),
        }[config.activation]
        self.c_proj = nn.Linear(config.inner_size, config.n_embd)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class Block(nn.Module):
    """resid_pre -> + attention -> resid_mid -> + MLP -> resid_post."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, future: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x), future)
        return x + self.mlp(self.ln_2(x))


@dataclass(frozen=True)
class _ResolvedPatch:
    """A patch that has been checked: what to write, and where."""

    layer: int  # in [0, n_layer)
    position: int  # in [0, T) of the recorded run
    vector: Tensor  # (B, C)


class GPT(nn.Module):
    """GPT-2 (Radford et al. 2019) with `record` and `patch`.

    Attributes:
        config: the shape it was built with.
        name: what it was loaded as; "GPT" for one that was built by hand.
        activations: None, or the last recording (n_layer, B, T, C): the
            residual stream after each block (resid_post).
        last_logits: None, or the last forward's logits at its last position
            (B, V).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.name = "GPT"
        self.activations: Tensor | None = None
        self.last_logits: Tensor | None = None
        self.transformer = nn.ModuleDict(
            {
                "wte": _embedding(config.vocab_size, config.n_embd),
                "wpe": _embedding(config.block_size, config.n_embd),
                "drop": nn.Dropout(config.embd_pdrop),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie_weights()
        self._init_weights()

    def tie_weights(self) -> None:
        """Make the unembedding the very parameter that the embedding is."""
        self.lm_head.weight = self.transformer.wte.weight

    def _init_weights(self) -> None:
        """GPT-2's scheme: normal weights, zero biases, and c_proj scaled down.

        Each block adds to the residual stream twice, so its output projections
        are drawn 1 / sqrt(2 n_layer) smaller to keep the stream's size.
        """
        if self.transformer.wte.weight.is_meta:
            return  # a model without storage is about to be given its weights
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=std / math.sqrt(2 * self.config.n_layer))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    # ------------------------------------------------------------- the forward pass

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        *,
        record: bool = False,
        patch: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Next-token logits, and the loss if targets are given.

        Args:
            idx: token ids (B, T), 1 <= T <= block_size. That they are below
                vocab_size is not checked here, which on CUDA would wait for the
                device: PyTorch's IndexError, or a device assert.
            targets: the next tokens (B, T), already shifted; -1 is ignored.
            record: keep the residual stream after every block, as a copy, in
                `activations`. A forward without it leaves the last recording.
            patch: (layer, position): once block `layer` has produced its
                output, replace the vector at `position` by the one in the last
                recording. Negative numbers count from the end. With `record`
                too, the patch is read from the previous recording, which the
                patched run then replaces.

        Returns:
            logits (B, T, V) in the model's dtype, and the mean cross-entropy in
            nats (or None). `last_logits` keeps a copy of the last position's.

        Raises:
            ConfigError: ids that are no (B, T) integer tensor, or too many;
                targets of another shape.
            PatchError: nothing recorded, a recording of another shape, dtype or
                device, or a layer or position out of range.
        """
        self._check_ids(idx)
        if targets is not None and targets.shape != idx.shape:
            raise ConfigError(f"targets {tuple(targets.shape)} for ids {tuple(idx.shape)}")
        resolved = None if patch is None else self._resolve_patch(idx, patch)
        logits = self._run(idx, record, resolved)
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        return logits, loss

    def _run(self, idx: Tensor, record: bool, patch: _ResolvedPatch | None) -> Tensor:
        """The transformer itself: ids (B, T) -> logits (B, T, V)."""
        T = idx.size(1)
        position = torch.arange(T, device=idx.device)
        future = torch.ones(T, T, dtype=torch.bool, device=idx.device).triu(1)
        x = self.transformer.wte(idx) + self.transformer.wpe(position)  # (B, T, C)
        x = self.transformer.drop(x)
        recorded = []
        for layer, block in enumerate(self.transformer.h):
            x = block(x, future)  # (B, T, C)
            if patch is not None and patch.layer == layer:
                x = x.clone()
                x[:, patch.position] = patch.vector
            if record:
                recorded.append(x.detach().clone())
        logits = self.lm_head(self.transformer.ln_f(x))  # (B, T, V)
        # Only now, so that a forward that fails leaves both as they were.
        if record:
            self.activations = torch.stack(recorded)  # (n_layer, B, T, C)
        self.last_logits = logits[:, -1].detach().clone()  # (B, V)
        return logits

    def _check_ids(self, idx: Tensor) -> None:
        if idx.dim() != 2 or idx.dtype not in (torch.int64, torch.int32):
            raise ConfigError(
                f"ids must be an integer tensor (B, T), not {idx.dtype} {tuple(idx.shape)}"
            )
        B, T = idx.shape
        if B < 1 or not 1 <= T <= self.config.block_size:
            raise ConfigError(
                f"ids are {B} x {T}; the model reads at least one sequence"
                f" of 1 to {self.config.block_size} tokens"
            )

    def _resolve_patch(self, idx: Tensor, patch: tuple[int, int]) -> _ResolvedPatch:
        if self.activations is None:
            raise PatchError("nothing is recorded: run a forward with record=True first")
        try:
            layer, position = (operator.index(number) for number in patch)
        except (TypeError, ValueError):
            raise PatchError(f"a patch is (layer, position), not {patch!r}") from None
        like = self.transformer.wte.weight
        wanted = (self.config.n_layer, *idx.shape, self.config.n_embd)
        found = tuple(self.activations.shape)
        if found != wanted:
            raise PatchError(
                "the recording has another shape (n_layer, B, T, C):"
                f" recorded {found}, this run {wanted}"
            )
        if (self.activations.dtype, self.activations.device) != (like.dtype, like.device):
            raise PatchError(
                f"the recording is {self.activations.dtype} on {self.activations.device},"
                f" the model is {like.dtype} on {like.device}: record again"
            )
        layer = from_the_end("layer", layer, self.config.n_layer, PatchError)
        position = from_the_end("position", position, idx.size(1), PatchError)
        return _ResolvedPatch(layer, position, self.activations[layer, :, position].clone())

    # ------------------------------------------------------------- generation

    @torch.no_grad()
    def generate(
        self,
        idx: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        do_sample: bool = False,
        top_k: int | None = None,
        *,
        record: bool = False,
        patch: tuple[int, int] | None = None,
    ) -> Tensor:
        """Append `max_new_tokens` tokens to each sequence, one at a time.

        Args:
            idx: the prompts (B, T). Once a sequence is longer than block_size,
                the model reads its last block_size tokens.
            max_new_tokens: how many to append, at least 0.
            temperature: logits are divided by it; above 0.
            do_sample: draw from the distribution (torch's global generator)
                instead of taking the likeliest token.
            top_k: keep only the k likeliest tokens; None keeps all.
            record: record the first forward, which reads the prompt alone.
            patch: (layer, position) of the prompt, applied in every forward
                whose window still holds the whole prompt.

        Returns:
            ids (B, T + max_new_tokens). Call `eval()` first: in training mode
            dropout is active here too.

        Raises:
            ConfigError: a bad temperature, top_k or max_new_tokens.
            PatchError: as `forward`; or a prompt longer than block_size.
        """
        if max_new_tokens < 0:
            raise ConfigError(f"max_new_tokens must be at least 0, not {max_new_tokens}")
        if not temperature > 0:
            raise ConfigError(f"temperature must be above 0, not {temperature}")
        if top_k is not None and top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {top_k}")
        limit = self.config.block_size
        self._check_ids(idx[:, -limit:])
        resolved = None
        if patch is not None:
            if idx.size(1) > limit:
                raise PatchError(f"the prompt has {idx.size(1)} tokens, the model reads {limit}")
            resolved = self._resolve_patch(idx, patch)
        for step in range(max_new_tokens):
            window = idx[:, -limit:]
            holds_prompt = idx.size(1) <= limit
            logits = self._run(window, record and step == 0, resolved if holds_prompt else None)
            logits = logits[:, -1] / temperature  # (B, V)
            if top_k is not None:
                kth = torch.topk(logits, min(top_k, logits.size(-1))).values[:, [-1]]
                logits = logits.masked_fill(logits < kth, float("-inf"))
            if do_sample:
                chosen = torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)
            else:
                chosen = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
            idx = torch.cat((idx, chosen), dim=1)
        return idx

    # ------------------------------------------------------------- weights

    @classmethod
    def from_pretrained(
        cls,
        name_or_directory: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        progress: Progress | None = None,
    ) -> GPT:
        """A model with trained weights, on the CPU, in eval mode.

        Args:
            name_or_directory: "builtin", a published preset ("gpt2", ...,
                fetched once into the cache), or a directory with config.json
                and model.safetensors as transformers writes them.
            dtype: of the parameters, whatever the file holds.
            progress: called with (bytes done, bytes in all) while fetching.

        Raises:
            CheckpointError: unknown name, or files that are missing, damaged,
                not finite, or do not fit the configuration key for key.
            DownloadError: the weights could not be fetched.
        """
        source = resolve(name_or_directory)
        weights = source.weights(progress)
        config = source.config()
        checkpoint.check_file(weights, config)
        with torch.device("meta"):  # no storage: the file's tensors become the parameters
            model = cls(config)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        state = checkpoint.read_weights(weights, shapes, dtype)
        model.load_state_dict(state, strict=False, assign=True)
        model.tie_weights()
        model.name = source.name
        return model.eval()

    def save_pretrained(self, directory: str | Path, tokenizer: object | None = None) -> None:
        """Write config.json and model.safetensors, as transformers' GPT-2 reads them.

        Args:
            directory: created if it is not there.
            tokenizer: a BPETokenizer whose vocab.json and merges.txt go beside.
        """
        state = {name: parameter.detach() for name, parameter in self.named_parameters()}
        checkpoint.write(directory, self.config, state)
        if tokenizer is not None:
            tokenizer.save(directory)

    def checksum(self) -> str:
        """SHA-256 (hex) over every parameter's name, dtype, shape and bytes."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.named_parameters()):
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
            # Through bytes, because NumPy has no bfloat16.
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()


def _embedding(rows: int, width: int) -> nn.Embedding:
    """An embedding whose weights are still to be drawn or assigned.

    nn.Embedding(rows, width) would draw them at once; for a model without
    storage that makes PyTorch load its compiler, which takes a second.
    """
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)
