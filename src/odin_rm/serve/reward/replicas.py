"""Several replicas of the models behind one queue: a process for each further device.

The server's own process holds the first replica, asks the queue and reads texts; each further one is a process that
gets token ids through a pipe and gives scores back. So one queue sees all texts, the responses to one prompt stay one
tree whatever replica scores them, and scores are remembered once. A replica that dies (out of memory, say) is started
again; its batch is tried again text by text.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from odin_rm.core.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from odin_rm.serve.reward.config import ServeConfig
    from odin_rm.serve.reward.models import ServedModel

Scores = tuple[np.ndarray, np.ndarray | None]
Loader = Callable[["ServeConfig"], "dict[str, ServedModel]"]
_START_SECONDS = 1800


class ReplicaLost(Exception):
    """The process of a replica ended while it scored; it is started again at the next batch."""


class Replica:
    """The models once more, in a process of their own.

    Args:
        config: what the models are loaded by; its ``device`` is where this replica is.
        threads: of the processor that it may use; 0 for torch's own number.
        load: gives the models by name.
    """

    def __init__(self, config: ServeConfig, threads: int, load: Loader) -> None:
        self.config, self.threads, self.load = config, threads, load
        self.process: Any = None
        self.pipe: Connection | None = None

    def start(self) -> None:
        """Begin to load; :meth:`wait` says when that is done."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self.config, self.threads, self.load)
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.pipe = ours

    def wait(self) -> None:
        """Until the models are loaded.

        Raises:
            ModelError: they cannot be.
        """
        assert self.pipe is not None
        fix = "See its messages above, or lower --workers."
        try:
            if not self.pipe.poll(_START_SECONDS):
                raise ModelError(f"is not ready after {_START_SECONDS} s", where=self._name, fix=fix)
            kind, said = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise ModelError("ended before it was ready", where=self._name, fix=fix) from error
        if kind != "ready":
            raise ModelError(f"cannot be loaded ({said})", where=self._name, fix=fix)

    def score(self, model: ServedModel, sequences: Sequence[np.ndarray]) -> Scores:
        """As :meth:`ServedModel.score` of the model of that name.

        Raises:
            ReplicaLost: the process has ended.
            MemoryError: it has no room for these.
            RuntimeError: it failed at them.
        """
        if self.pipe is None:
            self.start()
            try:
                self.wait()
            except ModelError as error:
                self.close()
                raise ReplicaLost(str(error)) from error
        assert self.pipe is not None
        try:
            self.pipe.send((model.name, list(sequences)))
            kind, said = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.close()
            raise ReplicaLost(f"{self._name} ended") from error
        if kind == "memory":
            raise MemoryError(said)
        if kind == "failed":
            raise RuntimeError(said)
        return said

    def close(self) -> None:
        """End the process."""
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    @property
    def _name(self) -> str:
        return f"the replica on {self.config.device or 'the default device'}"


def _work(pipe: Connection, config: ServeConfig, threads: int, load: Loader) -> None:
    """The process: load, then answer until the pipe closes; the server decides when that is, no signal does."""
    import torch

    from odin_rm.model.device import is_out_of_memory

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if threads:
        torch.set_num_threads(threads)
    try:
        models = load(config)
    except Exception as error:
        pipe.send(("broken", " ".join(str(error).split())[:500]))
        return
    pipe.send(("ready", None))
    with suppress(EOFError, OSError):
        while True:
            name, sequences = pipe.recv()
            try:
                answer: tuple[str, Any] = ("scores", models[name].score(sequences))
            except Exception as error:
                kind = "memory" if is_out_of_memory(error) else "failed"
                answer = (kind, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
            pipe.send(answer)


def devices_of(device: str | None, workers: int) -> list[str | None]:
    """Where each replica is: CUDA devices in turn where there are some, else all on the processor.

    Raises:
        ConfigError: one device is named for several replicas.
    """
    import torch

    if workers == 1:
        return [device]
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda":
        return [f"cuda:{number % max(1, torch.cuda.device_count())}" for number in range(workers)]
    if kind != "cpu":
        fix = "Give cpu or cuda, or leave --device out."
        raise ConfigError(f"is '{device}', one place for {workers} workers", where="--device", fix=fix)
    return ["cpu"] * workers


def start_replicas(config: ServeConfig, load: Loader) -> tuple[dict[str, ServedModel], list[Replica]]:
    """The models of this process, and the replicas in others; all load at the same time.

    Raises:
        OdinError: a model cannot be loaded.
    """
    import torch

    places = devices_of(config.device, config.workers)
    on_processor = sum(place in (None, "cpu") for place in places)
    threads = max(1, torch.get_num_threads() // on_processor) if config.workers > 1 and on_processor else 0
    if threads:
        torch.set_num_threads(threads)
    others = [Replica(replace(config, device=place, workers=1), threads, load) for place in places[1:]]
    try:
        for one in others:
            one.start()
        models = load(replace(config, device=places[0], workers=1))
        for one in others:
            one.wait()
    except BaseException:
        for one in others:
            one.close()
        raise
    return models, others
