"""The model or the tokenizer that a command line names, loaded onto its device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mingpt.errors import DownloadError
from patching.cli.common.command import UsageError
from patching.cli.common.progress import Bars

if TYPE_CHECKING:
    import torch

    from mingpt.bpe import BPETokenizer
    from mingpt.loading.sources import HubSource, Source
    from mingpt.model import GPT

Loaded = TypeVar("Loaded")
DEFAULT_MODEL = "gpt2"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and why it is not the one that was hoped for (or None)."""

    model: GPT
    tokenizer: BPETokenizer
    fallback: str | None


def model_names(arguments: argparse.Namespace) -> list[str | None]:
    """Those of a --model that may be given several times, each once; [None] without any.

    Raises:
        CheckpointError: one of which it is clear, before any is loaded, that it is no model.
    """
    from mingpt.loading.sources import resolve

    names = [*dict.fromkeys(arguments.model or ())]
    for name in names:
        resolve(name, n_head=arguments.n_head, offline=arguments.offline)
    return names or [None]


def load_model(arguments: argparse.Namespace, name: str | None, bars: Bars) -> LoadedModel:
    """The model of that name, on the command line's device.

    None, without --model, is GPT-2 124M if it is in the cache or can be fetched,
    else the shipped model, with the reason.

    Raises:
        UsageError: a device that is not there.
        MinGPTError: as mingpt.load.
    """
    import torch

    from mingpt.loading.model_files import load
    from mingpt.loading.sources import resolve

    device = find_device(arguments.device, arguments.dtype)
    dtype = getattr(torch, arguments.dtype)
    if not 0 <= arguments.seed < 2**63:
        raise UsageError(f"--seed must be from 0 to 2**63 - 1, not {arguments.seed}")
    torch.manual_seed(arguments.seed)
    source = resolve(
        DEFAULT_MODEL if name is None else name,
        n_head=arguments.n_head,
        offline=arguments.offline,
    )
    with bars.bar("fetching", in_bytes=True) as progress:

        def loaded(source: Source) -> tuple[GPT, BPETokenizer]:
            return load(source, dtype=dtype, progress=progress)

        if name is not None:
            (model, tokenizer), fallback = loaded(source), None
        else:
            (model, tokenizer), fallback = or_builtin(source, loaded, whole=True)
    return LoadedModel(model.to(device), tokenizer, fallback)


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, the name of its model, and why it is not the one hoped for (or None)."""

    name: str
    tokenizer: BPETokenizer
    fallback: str | None


def load_tokenizers(arguments: argparse.Namespace, bars: Bars) -> list[LoadedTokenizer]:
    """Those of every --model, without the models; without any as `load_model`.

    Raises:
        MinGPTError: as mingpt.load_tokenizer.
    """
    from mingpt.loading.model_files import load_tokenizer
    from mingpt.loading.sources import BUILTIN, resolve

    names = arguments.model or [DEFAULT_MODEL]
    where = {"n_head": arguments.n_head, "offline": arguments.offline}
    sources = [resolve(name, **where) for name in dict.fromkeys(names)]
    with bars.bar("fetching", in_bytes=True) as progress:

        def loaded(source: Source) -> BPETokenizer:
            return load_tokenizer(source, progress=progress)

        if arguments.model:
            return [LoadedTokenizer(source.name, loaded(source), None) for source in sources]
        tokenizer, fallback = or_builtin(sources[0], loaded, whole=False)
    return [LoadedTokenizer(DEFAULT_MODEL if fallback is None else BUILTIN, tokenizer, fallback)]


def or_builtin(
    source: HubSource, load: Callable[[Source], Loaded], *, whole: bool
) -> tuple[Loaded, str | None]:
    """What `load` makes of GPT-2, or where that is not to be had, of the shipped model, and why.

    Args:
        whole: the weights are needed too.
    """
    from mingpt.loading import hub
    from mingpt.loading.download import reach
    from mingpt.loading.sources import BUILTIN, resolve

    is_here = source.is_here if whole else source.has_tokenizer
    try:
        if not (is_here or source.offline or hub.is_offline()):
            if whole:
                print(
                    f"fetching GPT-2 124M, {hub.KNOWN[DEFAULT_MODEL].megabytes} MB, once;"
                    f" --model {BUILTIN} skips it",
                    file=sys.stderr,
                )
            reach(hub.endpoint())  # once: no network is to cost a few seconds at most
        return load(source), None
    except DownloadError as error:
        return load(resolve(BUILTIN)), str(error)


def find_device(name: str, dtype: str) -> torch.device:
    """The device called `name`, "auto" resolved.

    Raises:
        UsageError: it is not there, or has no arithmetic in `dtype`.
    """
    import torch

    there = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        name = next(kind for kind, is_there in there.items() if is_there())
    if not there[name]():
        raise UsageError(f"--device {name}: this machine, or this build of PyTorch, has none")
    if name == "mps" and dtype == "float64":
        raise UsageError("--dtype float64: mps has no float64; use --device cpu")
    return torch.device(name)
