"""Run a study's batches on the workers of a Ray cluster, on this machine or on several.

A worker is a Ray actor that holds the model; a batch is a task, which may be run again. The
driver alone gives out batches, and takes their numbers. A batch whose worker dies is given to
another one, and a new worker is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from patching.errors import StudyError
from patching.interrupts import check_interrupted
from patching.prompts import PromptPair
from patching.study.request import StudyRequest, Workers
from patching.sweep.gaussian import Gaussian
from patching.sweep.put import Put

if TYPE_CHECKING:
    from mingpt.model import GPT
    from patching.study.batch import BatchNumbers

BatchPairs = tuple[Sequence[PromptPair], Sequence[Gaussian]]
NEEDS_RAY = "workers are run by Ray: pip install 'patched-mingpt[cluster]' (ray)"
TRIES = 3  # of a batch whose worker dies
IN_FLIGHT = 2  # batches of a worker: the one that runs, and the next
START_SECONDS = 180  # within which a first worker must have started
POLL_SECONDS = 0.5
CONNECT_SECONDS = 10


def run_on_workers(
    model: GPT,
    jobs: Mapping[int, BatchPairs],
    request: StudyRequest,
    workers: Workers,
    put: Put,
) -> Iterator[tuple[int, BatchNumbers]]:
    """Yield each batch's number and its numbers, in the order in which they are done.

    Args:
        jobs: a batch's number -> its pairs, and the noise of each.
        put: what is put in, with the pairs that it is taken from.

    Raises:
        StudyError: Ray is missing or cannot be reached; no worker starts; a batch whose
            worker died several times; a model on a GPU, and workers without one.
        SweepError: as run_batch.
    """
    if model.device.type != "cpu" and not workers.gpus:
        raise StudyError(
            f"the model is on {model.device}, and the workers get no GPU: say gpus_per_worker"
        )
    ray = _import_ray()
    with _cluster(ray, workers):
        pool = _Pool(ray, model, request, workers, deque(jobs), put)
        try:
            while pool.waiting or pool.running:
                check_interrupted()
                pool.give_out(jobs)
                yield from pool.taken()
        finally:
            pool.end()


def _import_ray() -> Any:
    """Return the module ray.

    Raises:
        StudyError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What a task gets when its actor has asked for no GPU; a future default, without a warning.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise StudyError(NEEDS_RAY) from None
    return ray


@contextlib.contextmanager
def _cluster(ray: Any, workers: Workers) -> Iterator[None]:
    """Connect to the cluster, or start one on this machine, unless the caller has done so.

    Raises:
        StudyError: there is none at the address.
    """
    if ray.is_initialized():
        yield
        return
    if workers.ray not in (None, "auto"):
        _check_reachable(str(workers.ray))
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if workers.ray is None:
        # Ray would count what other programs leave free; the caller has said how many.
        settings |= {"num_cpus": workers.count, "include_dashboard": False}
    try:
        ray.init(address=workers.ray or "local", **settings)
    except Exception as error:
        where = "this machine" if workers.ray is None else f"{workers.ray!r:.100}"
        reason = " ".join(str(error).split())[:200]
        raise StudyError(f"no Ray cluster can be had at {where}: {reason}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Connect to an address once: Ray itself would try for minutes.

    Raises:
        StudyError: it is no host:port, or nothing answers there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise StudyError(f"a Ray cluster's address is auto or host:port, not {address!r:.100}")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError(f"no Ray cluster answers at {address!r:.100}: {reason}") from None


class _Worker:
    """A Ray actor: holds the model, and runs batches."""

    def __init__(self, weights: dict[str, Any], request: dict[str, Any], threads: int) -> None:
        """Build the model; on CUDA if this worker was given a GPU."""
        import torch

        from mingpt.model import GPT
        from patching.sweep.put_values import PutValues

        if threads:
            torch.set_num_threads(threads)
        with torch.device("meta"):
            model = GPT(weights["config"])
        model.load_state_dict(weights["state"], assign=True)
        model.tie_weights()
        model.name = weights["name"]
        if model.checksum() != weights["checksum"]:
            raise RuntimeError("this worker has got other weights than the driver sent")
        self.model = model.to("cuda" if weights["on_cuda"] else "cpu").eval()
        self.request = StudyRequest.from_dict(request)
        self.source = PutValues(self.model, weights["put"])

    def ready(self) -> int:
        """Return the process's number; the first call waits until the model is there."""
        return os.getpid()

    def run(self, pairs: Sequence[PromptPair], noise: Sequence[Gaussian]) -> BatchNumbers:
        """Return a batch's numbers."""
        from patching.study.batch import run_batch

        return run_batch(self.model, pairs, self.request, self.source, noise)


@dataclass(eq=False)
class _Handle:
    """The driver's view of a worker."""

    actor: Any
    batches: int = 0  # in flight
    process: int = 0  # its number, once it has started


@dataclass(eq=False)
class _Pool:
    """The workers, the batches that wait, and the tasks that run."""

    ray: Any
    model: GPT
    request: StudyRequest
    workers: Workers
    waiting: deque[int]
    put: Put
    running: dict[Any, tuple[int, _Handle]] = field(default_factory=dict)  # task -> its batch
    starting: dict[Any, _Handle] = field(default_factory=dict)  # task -> the worker it waits for
    idle_since: float = field(default_factory=time.monotonic)  # when a worker was last there

    def __post_init__(self) -> None:
        self.handles: list[_Handle] = []
        self.failures: dict[int, int] = {}
        count = min(self.workers.count, len(self.waiting))
        cores = os.cpu_count() or 1
        # On one machine the workers share its cores; elsewhere Ray's own setting counts.
        self.threads = max(1, cores // count) if self.workers.ray is None else 0
        self.weights = self.ray.put(
            {
                "config": self.model.config,
                "name": self.model.name,
                "state": {k: v.detach().cpu() for k, v in self.model.state_dict().items()},
                "checksum": self.model.checksum(),
                "on_cuda": self.workers.gpus > 0,
                "put": replace(
                    self.put, pairs=tuple(one.without_tokenizer() for one in self.put.pairs)
                ),
            }
        )
        self.actor = self.ray.remote(num_cpus=1, num_gpus=self.workers.gpus)(_Worker)
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        handle = _Handle(self.actor.remote(self.weights, self.request.to_dict(), self.threads))
        self.starting[handle.actor.ready.remote()] = handle

    def give_out(self, jobs: Mapping[int, BatchPairs]) -> None:
        """Give waiting batches to workers that have less than IN_FLIGHT."""
        for _ in range(IN_FLIGHT):
            for handle in self.handles:
                if self.waiting and handle.batches < IN_FLIGHT:
                    number = self.waiting.popleft()
                    handle.batches += 1
                    self.running[handle.actor.run.remote(*jobs[number])] = (number, handle)

    def taken(self) -> Iterator[tuple[int, BatchNumbers]]:
        """Wait for tasks, yield the batches that are done, and replace workers that died.

        Raises:
            StudyError: no worker has started for START_SECONDS, or a batch failed too often.
        """
        tasks = [*self.running, *self.starting]
        done, _ = self.ray.wait(tasks, num_returns=1, timeout=POLL_SECONDS)
        if self.handles:
            self.idle_since = time.monotonic()
        elif time.monotonic() - self.idle_since > START_SECONDS:
            raise StudyError(
                f"no worker started within {START_SECONDS} s: the cluster has"
                f" {self.ray.available_resources().get('CPU', 0):g} CPUs that are free"
            )
        for task in done:
            if task in self.starting:
                self._started(task)
                continue
            number, handle = self.running.pop(task)
            handle.batches -= 1
            try:
                yield number, self.ray.get(task)
            except self.ray.exceptions.RayTaskError as error:  # raised by run_batch itself
                raise error.cause from None
            except self.ray.exceptions.RayError as error:  # its worker or node died
                self._lost(number, handle, error)

    def _started(self, task: Any) -> None:
        handle = self.starting.pop(task)
        try:
            handle.process = self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:
            raise StudyError(f"a worker cannot begin: {error.cause}") from None
        except self.ray.exceptions.RayError as error:
            self.failures[-1] = self.failures.get(-1, 0) + 1
            if self.failures[-1] > TRIES * self.workers.count:
                raise StudyError(f"workers cannot be started: {_line(error)}") from None
            self._start()
            return
        self.handles.append(handle)

    def _lost(self, number: int, handle: _Handle, error: Exception) -> None:
        """Let a batch wait again, and replace the worker that died with it."""
        self.failures[number] = self.failures.get(number, 0) + 1
        if self.failures[number] >= TRIES:
            raise StudyError(
                f"batch {number} failed {TRIES} times, as its worker died: {_line(error)}"
            ) from None
        self.waiting.appendleft(number)
        if handle in self.handles:  # its other batch has not said so yet
            self.handles.remove(handle)
            self._start()

    def end(self) -> None:
        """End every worker, also in the middle of a batch."""
        for handle in [*self.handles, *self.starting.values()]:
            with contextlib.suppress(Exception):
                self.ray.kill(handle.actor)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
