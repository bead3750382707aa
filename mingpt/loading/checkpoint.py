"""Open a model on disk: its configuration, and its tensors, which are read later.

There are two kinds: a directory as transformers writes it, and a single file as
torch.save writes it for nanoGPT or minGPT. The first holds transposed matrices,
the second does not; the shape of a square matrix does not show which. sources.py
finds the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mingpt.config import GPTConfig
from mingpt.errors import CheckpointError
from mingpt.files import contained, replacing
from mingpt.loading import config_json, state_dict, tensor_files
from mingpt.loading.tensor_files import Container
from mingpt.memory import enough_memory

# The files that may hold a directory's tensors; `weights_in` chooses one.
WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TORCH_SUFFIXES = (".pt", ".pth")


@dataclass(frozen=True)
class Checkpoint:
    """A configuration, and the tensors that go with it."""

    config: GPTConfig
    container: Container
    is_conv1d: bool  # matrices are stored as in transformers' Conv1D, not as in nn.Linear

    def __post_init__(self) -> None:
        # Checked here, because building a model of millions of layers would never end.
        tensors = len(self.container.headers())
        if self.config.n_layer > tensors + 1000:
            raise CheckpointError(
                f"{self.container.path} does not fit the model: {tensors} tensors"
                f" for {self.config.n_layer} layers"
            )

    def read(self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return every parameter that `shapes` names: see state_dict.read.

        Raises:
            CheckpointError: tensors do not fit, are not finite, or need more memory
                than there is.
        """
        with enough_memory(CheckpointError(f"{self.container.path}: out of memory")):
            return state_dict.read(self.container, shapes, dtype, is_conv1d=self.is_conv1d)


def of_directory(
    directory: Path, *, preset: GPTConfig | None = None, root: Path | None = None
) -> Checkpoint:
    """Return the checkpoint in a directory.

    Args:
        directory: holds config.json and one of WEIGHTS_FILES.
        preset: the configuration to use where there is no config.json.
        root: the folder that every file must be in after links are followed;
            None allows any place.

    Raises:
        CheckpointError: files are missing, damaged or outside `root`, or the
            configuration is not supported.
    """
    check_directory(directory, preset=preset)
    config = config_in(directory, preset=preset, root=root)
    weights = weights_in(directory, root) or directory / WEIGHTS_FILES[0]
    container = tensor_files.open_container(contained(weights, root), root)
    return Checkpoint(config, container, is_conv1d=True)


def check_directory(directory: Path, *, preset: GPTConfig | None = None) -> None:
    """Check that a directory holds a model.

    Args:
        preset: the configuration, if no config.json is needed.

    Raises:
        CheckpointError: configuration or weights are missing.
    """
    lacking = []
    if preset is None and not (directory / config_json.NAME).is_file():
        lacking.append(config_json.NAME)
    if weights_in(directory) is None:
        lacking.append(" or ".join(WEIGHTS_FILES))
    if lacking:
        files = sorted(path for suffix in TORCH_SUFFIXES for path in directory.glob(f"*{suffix}"))
        hint = f"; is it {files[0]} that you mean?" if files else ""
        raise CheckpointError(
            f"{directory} is no model directory: it holds no {', no '.join(lacking)}{hint}"
        )


def config_in(
    directory: Path, *, preset: GPTConfig | None = None, root: Path | None = None
) -> GPTConfig:
    """Return the configuration in a directory; arguments and errors as of_directory's."""
    path = directory / config_json.NAME
    if preset is not None and not path.is_file():
        return preset
    return config_json.read(contained(path, root))


def weights_in(directory: Path, root: Path | None = None) -> Path | None:
    """Return the first of WEIGHTS_FILES whose tensors are complete.

    Where none is complete, return the first that exists; None if there is none.

    Raises:
        CheckpointError: an index of shards is outside `root`.
    """
    paths = [directory / name for name in WEIGHTS_FILES if (directory / name).is_file()]
    return next((path for path in paths if _is_whole(path, root)), paths[0] if paths else None)


def weights_complete(directory: Path, root: Path) -> bool:
    """Return True if a cached directory has all tensors, every shard included.

    Raises:
        CheckpointError: an index of shards is outside `root`.
    """
    path = weights_in(directory, root)
    return path is not None and _is_whole(path, root)


def files_of(weights: Path | None) -> list[Path]:
    """Return the files that a directory's weights are in: one, or an index and its shards.

    Raises:
        CheckpointError: the index is no index of shards.
    """
    if weights is None:
        return []
    shards = tensor_files.shard_names(weights) if weights.suffix == ".json" else []
    return [weights, *(weights.with_name(name) for name in shards)]


def _is_whole(path: Path, root: Path | None) -> bool:
    """Return True for a single file, or an index whose shards all exist."""
    if path.suffix != ".json":
        return True
    contained(path, root)
    try:
        return all(path.with_name(name).is_file() for name in tensor_files.shard_names(path))
    except CheckpointError:
        return False


def of_file(path: Path, n_head: int | None = None) -> Checkpoint:
    """Return the checkpoint in a .pt file: nanoGPT's, or a bare state dict, as minGPT saves it.

    Args:
        n_head: the number of attention heads, if the file does not say.

    Raises:
        CheckpointError: the file is damaged or of neither kind, or nothing says
            how many attention heads there are.
    """
    loaded = tensor_files.load_torch(path)
    if isinstance(loaded, dict) and {"model", "model_args"} <= loaded.keys():
        config = config_json.of_nanogpt(path, loaded["model_args"])
        if n_head not in (None, config.n_head):
            raise CheckpointError(f"n_head is {config.n_head} in {path}, not {n_head}")
        container = tensor_files.TorchFile(path, "model", loaded)
        return Checkpoint(config, container, is_conv1d=False)
    if not tensor_files.is_state_dict(loaded):
        raise CheckpointError(
            f"{path} is neither nanoGPT's checkpoint (model and model_args) nor a bare state dict"
        )
    container = tensor_files.TorchFile(path, loaded=loaded)
    tied = not any(key.endswith(state_dict.HEAD) for key in loaded)
    config = config_json.of_mingpt(path, state_dict.sizes(container), tied=tied, n_head=n_head)
    return Checkpoint(config, container, is_conv1d=False)


def write(directory: str | Path, config: GPTConfig, state: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors.

    Args:
        directory: created if it is not there.
        state: parameters by name, with the shapes that Checkpoint.read returns.
    """
    directory = Path(directory)
    # Both files are complete before either of them is moved into place.
    with replacing(directory / config_json.NAME) as config_path:
        fields = json.dumps(config_json.to_fields(config), indent=2)
        config_path.write_text(fields + "\n", encoding="utf-8")
        with replacing(directory / WEIGHTS_FILES[0]) as weights_path:
            tensor_files.write(state_dict.conv1d(state), weights_path, {"format": "pt"})
