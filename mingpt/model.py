"""A GPT-2 whose forward pass records its activations and can be patched.

The design follows minGPT: one file, read from top to bottom, with GPT-2's own
parameter names. It adds two keyword arguments of `GPT.forward`, `record` and
`patch`. The pass hands every named activation (sites.py) to a `tap`, which may
keep a copy, and goes on with what the tap returns.

Shapes, here and in the whole project:
    B batch, T tokens, C = n_embd, nh = n_head, hs = C / nh, V = vocab_size,
    nkv = n_kv_head: nh, unless several heads share their keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.checks import check_ids, check_positive, check_whole, finite, widened
from mingpt.checksum import sample, sha256_of
from mingpt.config import GPTConfig
from mingpt.errors import ConfigError, PatchError
from mingpt.linear import Linear, by_shared_heads
from mingpt.sites import (
    DEFAULT_SITE,
    LayerTap,
    PatchLike,
    ResolvedPatch,
    Tap,
    Taps,
    resolve_patches,
    sites_to_record,
    untouched,
)

if TYPE_CHECKING:
    from mingpt.kvcache import KVCache


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position reads itself and the positions before it.

    Vaswani et al. 2017, "Attention Is All You Need", eq. 1, with a causal mask.
    Keys and values may have fewer heads than queries; query head h then reads
    head h // (nh / nkv) (Ainslie et al. 2023, arXiv 2305.13245, section 2.2).
    The softmax is written out, so that a run that records or patches is bit for
    bit the run that does not.
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.n_head, self.kv_heads = config.n_head, config.kv_heads
        self.head_size = config.head_size
        kv_size = config.kv_heads * config.head_size
        self.sizes = (config.n_embd, kv_size, kv_size)  # of q, k and v in c_attn's output
        # Attention scores are divided by this.
        self.divisor = math.sqrt(config.head_size) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.divisor *= layer + 1
        self.upcast = config.reorder_and_upcast_attn  # half-precision scores in float32
        self.c_attn = Linear(config.n_embd, sum(self.sizes), bias=config.bias)
        self.c_proj = Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.attn_dropout = nn.Dropout(config.attn_pdrop)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, future: Tensor, tap: Tap = untouched) -> Tensor:
        """Return what attention adds to x (B, T, C); `future` (T, T) is True for later keys."""
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.sizes, dim=-1)  # (B, T, C) and twice (B, T, nkv hs)
        q = tap("q", self.heads(q))  # (B, nh, T, hs)
        k, v = tap("k", self.heads(k)), tap("v", self.heads(v))  # (B, nkv, T, hs)
        scores = self.scores(q, k).masked_fill(future, float("-inf"))  # (B, nh, T, T)
        pattern = tap("pattern", scores.softmax(dim=-1).to(q.dtype))  # (B, nh, T, T), rows sum to 1
        z = tap("z", self.mix(self.attn_dropout(pattern), v))  # (B, nh, T, hs), each head's output
        return self.resid_dropout(self.c_proj(z.transpose(1, 2).reshape(B, T, C)))

    def heads(self, x: Tensor) -> Tensor:
        """Return the view (..., n, T, hs) of (..., T, n hs): q, k, v or z head by head."""
        return x.unflatten(-1, (-1, self.head_size)).transpose(-3, -2)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Return scores (..., nh, queries, T) of q (..., nh, queries, hs), k (..., nkv, T, hs)."""
        if self.upcast:
            wide = torch.promote_types(q.dtype, torch.float32)
            q, k = q.to(wide), k.to(wide)
        return by_shared_heads(q, k.transpose(-2, -1)) / self.divisor

    def mix(self, pattern: Tensor, v: Tensor) -> Tensor:
        """Return z (..., nh, queries, hs) of pattern (..., nh, queries, T), v (..., nkv, T, hs)."""
        return by_shared_heads(pattern, v)


class MLP(nn.Module):
    """The position-wise network of a block: C -> inner_size -> C."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, config.inner_size, bias=config.bias)
        known = {"gelu_new": nn.GELU(approximate="tanh"), "gelu": nn.GELU(), "relu": nn.ReLU()}
        self.act = known[config.activation]
        self.c_proj = Linear(config.inner_size, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the MLP adds to the stream: (B, T, C) -> (B, T, C)."""
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class Block(nn.Module):
    """resid_pre -> + attention -> resid_mid -> + MLP -> resid_post."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = _layer_norm(config)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = _layer_norm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, future: Tensor, tap: Tap = untouched) -> Tensor:
        """Return the stream as it leaves the block: (B, T, C) -> (B, T, C)."""
        x = x + tap("attn_out", self.attn(self.ln_1(x), future, tap))
        x = tap("resid_mid", x)
        return x + tap("mlp_out", self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    """The parts of a GPT under GPT-2's own names: embeddings, blocks, final layer norm."""

    h: Sequence[Block]  # an nn.ModuleList, whose entries type checkers take for any Module

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.wte = _embedding(config.vocab_size, config.n_embd)
        self.wpe = _embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.h = cast(Sequence[Block], blocks)
        self.ln_f = _layer_norm(config)


class GPT(nn.Module):
    """GPT-2 (Radford et al. 2019) with `record` and `patch`.

    Attributes:
        config: its shape.
        name: the name or path it was loaded by; "GPT" if it was built by hand.
        recording: the last recording, site -> (n_layer, B, ...), as mingpt.sites says.
        activations: the recording of resid_post (n_layer, B, T, C), or None.
        last_logits: the last forward's logits at its last position (B, V), or None.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.name = "GPT"
        self.recording: dict[str, Tensor] = {}
        self.last_logits: Tensor | None = None
        self._checksum: tuple[object, str] | None = None  # (parameters' state, hash)
        self.transformer = Transformer(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie_weights()
        self._init_weights()

    def tie_weights(self) -> None:
        """Make the embedding's parameter the unembedding's too, if the configuration ties them."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    def _init_weights(self) -> None:
        """Draw the weights by GPT-2's scheme: normal matrices, zero biases.

        c_proj is drawn sqrt(2 n_layer) times smaller: each block adds to the
        residual stream twice, and so the stream keeps its size.
        """
        if self.transformer.wte.weight.is_meta:
            return  # a model without storage is given its weights by the loader
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=std / math.sqrt(2 * self.config.n_layer))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""
        return self.transformer.wte.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.transformer.wte.weight.dtype

    @property
    def activations(self) -> Tensor | None:
        """The recording of resid_post, the stream after each block (n_layer, B, T, C), or None."""
        return self.recording.get(DEFAULT_SITE)

    @activations.setter
    def activations(self, recorded: Tensor | None) -> None:
        self.recording = {} if recorded is None else {DEFAULT_SITE: recorded}

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        *,
        record: bool | str | Iterable[str] = False,
        patch: PatchLike | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return next-token logits, and the loss if targets are given.

        Args:
            idx: token ids (B, T), 1 <= T <= block_size. An id >= vocab_size raises
                PyTorch's own error: a check here would make CUDA wait.
            targets: the next tokens (B, T), already shifted; -1 is ignored.
            record: True keeps a copy of the residual stream after every block in
                `activations`; a site's name, or several, keep those in `recording`.
                With False the last recording stays as it is.
            patch: (layer, position): once block `layer` has produced its output,
                replace the vector at `position` by the recorded one. A Patch does so at
                any site, by the recording or a value of its own; a list is applied in
                order. Negative numbers count from the end. With `record` too, the
                patch is read from the previous recording, which the run then replaces.

        Returns:
            logits (B, T, V) in the model's dtype, and the mean cross-entropy in nats or
            None. `last_logits` keeps a copy of the last position's.

        Raises:
            ConfigError: ids that are no (B, T) integers, or too many; targets of another shape.
            PatchError: see mingpt.sites.resolve_patches.
        """
        check_ids(idx, self.config.block_size)
        if targets is not None and targets.shape != idx.shape:
            raise ConfigError(f"targets {tuple(targets.shape)} for ids {tuple(idx.shape)}")
        logits = self._run(idx, sites_to_record(record), self.resolve(idx, patch))
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        return logits, loss

    def next_logits(
        self, idx: Tensor, cache: KVCache | None = None, *, patches: Sequence[ResolvedPatch] = ()
    ) -> Tensor:
        """Return the next token's logits alone (B, V): forward's last position.

        Args:
            idx: token ids (B, T); with a cache, the ids after the cached tokens.
            cache: keys and values of the tokens before; those of `idx` are added.
            patches: already checked, by `resolve`.

        Raises:
            ConfigError: as `forward`; or no room in the cache.
        """
        return self._run(idx, (), patches, cache, slice(-1, None))[:, 0]

    def _run(
        self,
        idx: Tensor,
        record: Sequence[str],
        patches: Sequence[ResolvedPatch],
        cache: KVCache | None = None,
        positions: slice = slice(None),
    ) -> Tensor:
        """Run the transformer: ids (B, T) -> logits (B, T, V), or those of `positions`."""
        taps = Taps(record, patches)
        x = self.stream(idx, taps.tap, cache)  # (B, T, C)
        logits = self.lm_head(self.transformer.ln_f(x[:, positions]))  # (B, T, V)
        # Set last, so that a forward that fails leaves both as they were.
        if record:
            self.recording = {site: torch.stack(xs) for site, xs in taps.recorded.items()}
        self.last_logits = logits[:, -1].detach().clone()  # (B, V)
        return logits

    def stream(self, idx: Tensor, tap: LayerTap, cache: KVCache | None = None) -> Tensor:
        """Return the residual stream after the last block (B, T, C), before ln_f.

        Args:
            idx: as in `forward`.
            tap: called as tap(layer, site, x) with every named activation, in the order
                of the pass, which goes on with what it returns.
            cache: as in `next_logits`. The tap sees the new tokens' activations;
                keys and values are cached as it returns them.
        """
        check_ids(idx, self.config.block_size)
        T, before = idx.size(1), 0
        if cache is not None:
            cache.check_room(*idx.shape)
            before, tap = cache.length, cache.after(tap)
        keys = torch.arange(before + T, device=idx.device)
        future = keys > keys[before:, None]  # (T, before + T)
        x = self.embed(idx, keys[before:])  # (B, T, C)
        for layer, block in enumerate(self.transformer.h):
            tap_layer = partial(tap, layer)
            x = block(tap_layer("resid_pre", x), future, tap_layer)  # (B, T, C)
            x = tap_layer("resid_post", x)
        if cache is not None:
            cache.length += T
        return x

    def embed(self, idx: Tensor, position: Tensor) -> Tensor:
        """Return token plus position embeddings (..., C) of ids and positions that broadcast."""
        return self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(position))

    def resolve(self, idx: Tensor, patch: PatchLike | None) -> list[ResolvedPatch]:
        """Check patches of a run of `idx` (B, T); see mingpt.sites.resolve_patches."""
        if patch is None:
            return []
        return resolve_patches(patch, self.recording, self.config, idx, self.transformer.wte.weight)

    @torch.no_grad()
    def generate(
        self,
        idx: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        do_sample: bool = False,
        top_k: int | None = None,
        *,
        record: bool | str | Iterable[str] = False,
        patch: PatchLike | None = None,
    ) -> Tensor:
        """Append tokens to each sequence (B, T): minGPT's loop, one forward a token, no cache.

        mingpt.generate (cache, seeds, places to stop) is tested equal to this definition.
        A sequence longer than block_size is read through its last block_size tokens.

        Args:
            do_sample: draw by PyTorch's global generator; False takes the likeliest token.
            top_k: draw from the k likeliest tokens only; None: from all.
            record: as in `forward`, of the first forward, which reads the prompt alone.
            patch: as in `forward`; applied in every forward that reads the whole prompt.

        Returns:
            ids (B, T + max_new_tokens).

        Raises:
            ConfigError, PatchError: as `forward`; or a number out of its range.
            GenerationError: logits that are not finite.
        """
        limit, sites = self.config.block_size, sites_to_record(record)
        check_whole("max_new_tokens", max_new_tokens, 0)
        check_whole("top_k", 1 if top_k is None else top_k, 1)
        check_positive("temperature", temperature)
        if patch is not None and idx.size(-1) > limit:
            raise PatchError(f"the prompt has {idx.size(-1)} tokens, the model reads {limit}")
        check_ids(idx[..., -limit:], limit)
        patches = self.resolve(idx, patch)
        for step in range(max_new_tokens):
            is_whole = idx.size(1) <= limit  # if not, the prompt's first tokens are cut off
            logits = self._run(idx[:, -limit:], () if step else sites, patches if is_whole else [])
            logits = widened(finite(logits[:, -1]))  # (B, V)
            token = logits.argmax(dim=-1, keepdim=True)  # (B, 1), the likeliest
            if do_sample:
                scores = (logits - logits.gather(1, token)) / temperature  # at most 0: no overflow
                if top_k is not None:
                    least = scores.topk(min(top_k, scores.size(-1))).values[:, -1:]  # (B, 1)
                    scores = scores.masked_fill(scores < least, float("-inf"))
                token = torch.multinomial(F.softmax(scores, dim=-1), num_samples=1)
            idx = torch.cat((idx, token), dim=1)
        return idx

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **settings: Any) -> GPT:
        """Return a model with trained weights: see mingpt.loading.model_files.load_model."""
        from mingpt.loading.model_files import load_model

        return load_model(name_or_path, model_class=cls, **settings)

    def checksum(self) -> str:
        """Return the parameters' SHA-256 (hex), cached until PyTorch or a sample tells a change."""
        if any(parameter.is_inference() for parameter in self.parameters()):
            return sha256_of(self.named_parameters())  # they have no _version to compare
        state = [(p.data_ptr(), p.dtype, p._version, sample(p)) for p in self.parameters()]
        if self._checksum is None or self._checksum[0] != state:
            self._checksum = (state, sha256_of(self.named_parameters()))
        return self._checksum[1]


def _layer_norm(config: GPTConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon, bias=config.bias)


def _embedding(rows: int, width: int) -> nn.Embedding:
    """Return an embedding whose weights are still to be drawn or assigned.

    nn.Embedding(rows, width) would draw them at once; for a model without
    storage that makes PyTorch load its compiler, which takes a second.
    """
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)
