"""Run a training request in a folder: evaluate, keep the best weights, stop early, go on.

The folder gets the model (config.json, model.safetensors: the weights with the least
validation loss), its tokenizer, the checkpoint to go on from, and training.json.
"""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mingpt.bpe import BPETokenizer
from mingpt.errors import TrainingError
from mingpt.loading.model_files import load_model, save
from mingpt.memory import enough_memory
from mingpt.model import GPT
from mingpt.trainer import Trainer
from mingpt.training import checkpoint
from mingpt.training.data import (
    MOST_EVALUATED,
    MOST_TESTED,
    Batch,
    Parts,
    Sequences,
)
from mingpt.training.preparation import (
    make_model,
    make_sequences,
    precision_on,
    read_parts,
    trainer_config,
)
from mingpt.training.request import TrainingRequest
from mingpt.training.result import Evaluation, TrainingResult
from mingpt.training.translation import score, translate
from mingpt.version import __version__

OUT_OF_MEMORY = (
    "the memory is not enough: use a smaller batch_size (--batch-size) or block_size"
    " (--block-size), and accumulate more batches (--accumulate)"
)
MOST_TRANSLATED = 500  # pairs of the test part
PARTS = ("train", "val", "test")


@dataclass
class Run:
    """A run on its way, as callers that watch it see it."""

    request: TrainingRequest
    model: GPT
    tokenizer: BPETokenizer
    tokens: dict[str, int]  # part -> its tokens
    history: list[Evaluation] = field(default_factory=list)
    tokens_per_second: float = math.nan
    step: int = 0
    seen: int = 0  # tokens trained on, since the call began
    steps_here: int = 0  # steps done, since the call began


def train(
    request: TrainingRequest,
    directory: str | Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    tokenizing: Callable[[int, int], None] | None = None,
    started: Callable[[Run], None] = lambda run: None,
    evaluated: Callable[[Run], None] = lambda run: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train a model, and return the result, which is also saved in the folder.

    Args:
        request: what to train. A run that goes on needs the one that it began with.
        directory: gets the model and all other files; created if it is not there.
        resume: go on from the folder's checkpoint. On the same machine with the same number of
            threads, the weights are bit for bit those of a run that was not interrupted.
        device: to train on.
        progress: called with (steps done, steps in all).
        tokenizing: called before, with (characters tokenized, characters in all).
        started: called before the first step.
        evaluated: called after each evaluation, with the model in eval mode.
        should_stop: asked after each step; True saves a checkpoint and ends the run.

    Raises:
        TrainingError: texts that cannot be read or are too short; the folder holds another run,
            or none to go on with.
        ConfigError: the loss is no longer finite.
        CheckpointError: the checkpoint is damaged, or the model to go on from cannot be read.
    """
    directory = Path(directory)
    path = directory / checkpoint.NAME
    _check_folder(directory, path, resume=resume)
    header = checkpoint.read_header(path) if resume else {}
    request = replace(request, precision=precision_on(request, torch.device(device)))
    parts = read_parts(request)
    if resume and header.get("checksum") != parts.checksum:
        raise TrainingError(f"{path} was made with other texts: the files have changed")
    run, trainer, sequences = _prepared(request, parts, device, progress, tokenizing)
    if resume:
        checkpoint.restore_checkpoint(trainer, path)
        run.history = [Evaluation(**one) for one in header["history"]]
    run.step = trainer.step
    session = _Session(run, trainer, sequences[1], parts.checksum, path, evaluated, should_stop)
    session.losses = list(header.get("losses", []))
    started(run)
    for part in directory.glob(".*.part*"):  # of a run that was killed while it wrote
        part.unlink(missing_ok=True)
    with enough_memory(TrainingError(OUT_OF_MEMORY)):
        session.go()
        return _finish(run, session, sequences[2], parts)


class _Session:
    """The callbacks of a trainer: evaluations, checkpoints, and the ends of a run."""

    def __init__(
        self,
        run: Run,
        trainer: Trainer,
        val: Sequences,
        checksum: str,
        path: Path,
        evaluated: Callable[[Run], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self.run, self.trainer, self.val, self.checksum = run, trainer, val, checksum
        self.path, self.evaluated, self.should_stop = path, evaluated, should_stop
        self.losses: list[float] = []  # of the steps since the last evaluation
        self.ended = "steps"
        self.seconds = 0.0  # of training, without evaluations
        trainer.callbacks.append(self._after_step)

    def go(self) -> None:
        """Train to the end, or until a callback stops it."""
        if self._is_patience_over():  # a run that had ended, and is asked to go on
            self.ended = "patience"
            return
        if self.run.request.start is not None and not self.run.history:
            self._evaluate()  # the weights to go on from are kept unless others are better
        self._since = time.perf_counter()
        self.trainer.run()

    def _after_step(self, trainer: Trainer) -> None:
        run, request = self.run, self.run.request
        self.losses.append(trainer.loss)
        run.step = trainer.step
        run.steps_here += 1
        is_last = trainer.step == request.step_count
        if trainer.step % request.interval == 0 or is_last:
            self.seconds += time.perf_counter() - self._since
            if self.seconds:
                run.tokens_per_second = run.seen / self.seconds
            self._evaluate()
            if self._is_patience_over():
                self.ended, trainer.is_stopped = "patience", True
            self._since = time.perf_counter()
        if self.should_stop() and not (is_last or trainer.is_stopped):
            self.ended, trainer.is_stopped = "interrupted", True
            self._save()

    def _evaluate(self) -> None:
        """Measure the validation loss, keep the weights if they are the best, save a checkpoint."""
        run, trainer = self.run, self.trainer
        val_loss, _ = mean_loss(run.model, self.val, run.request, MOST_EVALUATED)
        if not math.isfinite(val_loss):
            raise TrainingError(
                f"the validation loss is {val_loss} at step {trainer.step}: try a smaller"
                " learning_rate (--learning-rate)"
            )
        rate = trainer.config.learning_rate_at(max(trainer.step - 1, 0))
        train_loss = sum(self.losses) / len(self.losses) if self.losses else None
        is_best = all(val_loss < one.val_loss for one in run.history)
        run.history.append(Evaluation(trainer.step, train_loss, val_loss, rate))
        self.losses = []
        if is_best:
            save(run.model, self.path.parent, run.tokenizer)
        self._save()
        # What a caller does with the model (such as draw samples) must not change the run.
        random = torch.get_rng_state()
        run.model.eval()
        self.evaluated(run)
        run.model.train()
        torch.set_rng_state(random)

    def _is_patience_over(self) -> bool:
        history, patience = self.run.history, self.run.request.patience
        if not (patience and history):
            return False
        best = min(range(len(history)), key=lambda number: history[number].val_loss)
        return len(history) - 1 - best >= patience

    def _save(self) -> None:
        more = {
            "request": self.run.request.to_dict(),
            "history": [asdict(one) for one in self.run.history],
            "losses": self.losses,
            "checksum": self.checksum,
        }
        checkpoint.save_checkpoint(self.trainer, self.path, more)


# --------------------------------------------------------------------- the parts of a run


def saved_request(directory: str | Path) -> TrainingRequest:
    """Return the request of the run in a folder.

    Raises:
        CheckpointError: the checkpoint is damaged.
        TrainingError: the folder holds no run, or its request cannot be read.
    """
    path = Path(directory) / checkpoint.NAME
    _check_folder(path.parent, path, resume=True)
    header = checkpoint.read_header(path)
    return TrainingRequest.from_dict(header.get("request", {}))


def mean_loss(
    model: GPT, sequences: Sequences, request: TrainingRequest, most: int
) -> tuple[float, int]:
    """Return the mean loss of a part in nats a token, and the number of tokens it is over."""
    device, was_training = model.device, model.training
    loss_of = loss_function(request.precision)
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for ids, targets in sequences.all(request.rows, most):
            read = int((targets >= 0).sum())
            total += loss_of(model, (ids.to(device), targets.to(device))).item() * read
            count += read
    model.train(was_training)
    return total / count, count


def _prepared(
    request: TrainingRequest,
    parts: Parts,
    device: torch.device | str,
    progress: Callable[[int, int], None] | None,
    tokenizing: Callable[[int, int], None] | None,
) -> tuple[Run, Trainer, list[Sequences]]:
    """Return the run before its first step, its trainer, and the tokens of each part."""
    model, tokenizer = make_model(request, parts, device)
    sequences = make_sequences(request, parts, tokenizer, model.config, tokenizing)
    counts = [one.n_tokens for one in sequences]
    run = Run(request, model, tokenizer, dict(zip(PARTS, counts, strict=True)))
    trainer = Trainer(
        model,
        trainer_config(request),
        _batches(sequences[0], request, device, run),
        loss_function=loss_function(request.precision),
        progress=progress,
    )
    return run, trainer, sequences


def _check_folder(directory: Path, path: Path, *, resume: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise TrainingError(f"{directory} is not a folder")
    if resume and not path.is_file():
        raise TrainingError(f"{directory} holds no run to go on with: there is no {path.name}")
    if not resume and path.exists():
        raise TrainingError(
            f"{directory} holds a run already: go on with it (--resume), or choose another folder"
        )
    others = ("config.json", "model.safetensors")
    if not (resume or path.exists()) and any((directory / name).exists() for name in others):
        raise TrainingError(f"{directory} holds a model already: choose another folder")


def _batches(
    sequences: Sequences, request: TrainingRequest, device: torch.device | str, run: Run
) -> Iterator[Batch]:
    """Yield the batches of each step from the run's own step on."""
    number = None
    while True:
        if number is None:
            number = run.step * request.accumulate
        ids, targets = sequences.batch(number, request.rows, request.seed)
        number += 1
        run.seen += ids.numel()
        yield ids.to(device), targets.to(device)


def loss_function(precision: str) -> Callable[[nn.Module, Batch], Tensor]:
    """Return the loss of a batch: the mean over the tokens that count, in nats."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        ids, targets = batch
        context = (
            torch.autocast(ids.device.type, dtype=torch.bfloat16)
            if precision == "bfloat16"
            else contextlib.nullcontext()
        )
        with context:
            logits, _ = model(ids)
        # In float32 whatever the products are: a loss in bfloat16 has two digits.
        return nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1
        )

    return loss


def _finish(run: Run, session: _Session, test: Sequences, parts: Parts) -> TrainingResult:
    """Measure the best weights on the test part, and save the result."""
    directory = session.path.parent
    found: dict[str, Any] = {}
    if session.ended != "interrupted" and run.history:
        best = load_model(directory).to(run.model.device)
        exact = replace(run.request, precision="float32")
        loss, _ = mean_loss(best, test, exact, MOST_TESTED)
        found = {"test_loss": loss, "test_bytes_per_token": test.n_bytes / test.n_scored}
        if run.request.pairs is not None:
            pairs = [line.split("\t") for line in parts.test[:MOST_TRANSLATED]]
            sources, targets = zip(*pairs, strict=True)
            found["translation"] = score(translate(best, run.tokenizer, sources), targets)
    result = TrainingResult(
        request=run.request,
        history=tuple(run.history),
        ended=session.ended,
        n_parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        vocab_size=run.model.config.vocab_size,
        tokens=run.tokens,
        checksum=parts.checksum,
        tokens_per_second=run.tokens_per_second,
        versions={
            "mingpt": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "device": str(run.model.device),
            "threads": str(torch.get_num_threads()),
        },
        **found,
    )
    if result.history:
        result.save(directory)
    return result
