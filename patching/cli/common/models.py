"""Load the models and tokenizers that a command line names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeVar

from mingpt.errors import DownloadError
from patching.cli.common import threads
from patching.cli.common.command import UsageError
from patching.interrupts import held, tell
from patching.progress import bar

if TYPE_CHECKING:
    import torch

    from mingpt.bpe import BPETokenizer
    from mingpt.loading.sources import Source
    from mingpt.model import GPT

Loaded = TypeVar("Loaded")
DEFAULT_MODEL = "gpt2"


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device, and its tokenizer."""

    model: GPT
    tokenizer: BPETokenizer
    fallback: str | None  # why the shipped model replaces GPT-2; None if it does not


def import_libraries(*, drawing: bool) -> None:
    """Import PyTorch, and matplotlib for `drawing`, before anything else does.

    An interrupt in the middle would end the process inside their C++ code; it waits.

    Raises:
        UsageError: matplotlib refuses a setting, such as the variable MPLBACKEND.
    """
    with held():
        before = threads.prepare()
        import torch  # noqa: F401

        threads.choose(before)
        if drawing:
            try:
                import matplotlib.backends.backend_agg  # noqa: F401
            except ValueError as error:
                raise UsageError(f"matplotlib cannot be used: {error}") from None


def model_names(arguments: SimpleNamespace) -> list[str | None]:
    """Return the names given with --model, each once; [None] if there are none.

    Raises:
        CheckpointError: no model has this name. All names are checked before a model is loaded.
    """
    from mingpt.loading.sources import resolve

    names = list(dict.fromkeys(arguments.model or ()))
    for name in names:
        resolve(name, n_head=arguments.n_head, offline=arguments.offline)
    return names or [None]


def load_model(arguments: SimpleNamespace, name: str | None) -> LoadedModel:
    """Return a model and its tokenizer, with the model on the command line's device.

    Args:
        arguments: the command's options, with those of `model_options`.
        name: the model's name. None (no --model) is GPT-2 124M if it is in a cache
            or can be fetched, else the shipped model.

    Raises:
        UsageError: there is no such device.
        CheckpointError, DownloadError, TokenizerError: see mingpt.load.
    """
    import_libraries(drawing=False)
    import torch

    from mingpt.loading.model_files import load
    from mingpt.loading.sources import resolve

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = find_device(arguments.device, arguments.dtype)
    dtype = getattr(torch, arguments.dtype)
    torch.manual_seed(arguments.seed)
    source = resolve(
        DEFAULT_MODEL if name is None else name,
        n_head=arguments.n_head,
        offline=arguments.offline,
    )
    with bar("loading", quiet=arguments.quiet, in_bytes=True) as progress:

        def loaded(source: Source) -> tuple[GPT, BPETokenizer]:
            return load(source, dtype=dtype, progress=progress)

        if name is not None:
            (model, tokenizer), fallback = loaded(source), None
        else:
            (model, tokenizer), fallback = load_or_builtin(source, loaded, whole=True)
    return LoadedModel(model.to(device), tokenizer, fallback)


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer and the name of its model."""

    name: str
    tokenizer: BPETokenizer
    fallback: str | None  # why the shipped model's replaces GPT-2's; None if it does not


def load_tokenizers(arguments: SimpleNamespace) -> list[LoadedTokenizer]:
    """Return the tokenizer of every --model, without its weights.

    Without --model, return GPT-2's if it is in a cache or can be fetched, else the
    shipped model's.

    Raises:
        CheckpointError, DownloadError, TokenizerError: see mingpt.load_tokenizer.
    """
    import_libraries(drawing=False)  # the module below imports PyTorch
    from mingpt.loading.model_files import load_tokenizer
    from mingpt.loading.sources import BUILTIN, resolve

    names = arguments.model or [DEFAULT_MODEL]
    where = {"n_head": arguments.n_head, "offline": arguments.offline}
    sources = [resolve(name, **where) for name in dict.fromkeys(names)]
    with bar("loading", quiet=arguments.quiet, in_bytes=True) as progress:

        def loaded(source: Source) -> BPETokenizer:
            return load_tokenizer(source, progress=progress)

        if arguments.model:
            return [LoadedTokenizer(source.name, loaded(source), None) for source in sources]
        tokenizer, fallback = load_or_builtin(sources[0], loaded, whole=False)
    return [LoadedTokenizer(DEFAULT_MODEL if fallback is None else BUILTIN, tokenizer, fallback)]


def load_or_builtin(
    source: Source, load: Callable[[Source], Loaded], *, whole: bool
) -> tuple[Loaded, str | None]:
    """Load GPT-2 or its tokenizer, or the shipped model's if GPT-2 cannot be fetched.

    Args:
        source: GPT-2's.
        load: loads the model, or only its tokenizer.
        whole: True if the weights are needed too.

    Returns:
        What `load` returned, and why the shipped model was loaded (None if it was not).
    """
    from mingpt.loading import hub
    from mingpt.loading.repositories import KNOWN
    from mingpt.loading.sources import BUILTIN, HubSource, resolve

    is_here = source.is_here
    if isinstance(source, HubSource) and not whole:
        is_here = source.has_tokenizer
    try:
        if not (is_here or source.offline or hub.is_offline()):
            if whole:
                tell(
                    f"fetching GPT-2 124M, {KNOWN[DEFAULT_MODEL].megabytes} MB, once;"
                    f" --model {BUILTIN} skips it"
                )
            hub.reach()  # fails within a few seconds where there is no network
        return load(source), None
    except DownloadError as error:
        return load(resolve(BUILTIN)), str(error)


def find_device(name: str, dtype: str) -> torch.device:
    """Return the device called `name`; "auto" is the best one there is.

    Raises:
        UsageError: there is no such device, or it cannot compute in `dtype`.
    """
    import torch

    there: dict[str, Callable[[], bool]] = {
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
