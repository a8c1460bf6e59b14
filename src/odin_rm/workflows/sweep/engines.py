"""Where the runs of a sweep happen: processes of this machine, or tasks of a Ray cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odin_rm.core.errors import ConfigError, MissingExtraError, RunInterrupted

WORKER = "odin_rm.cli.sweep_run"
"""The module that is one run."""
PAUSE = 0.1
"""Seconds between two looks at the processes."""
INTERRUPTED = RunInterrupted.exit_code
GRACE = 60.0
"""Seconds that an interrupted run has for saving its state."""


@dataclass(frozen=True)
class Job:
    """A run to be started, here or on another node: its name, the command, and the folder of the sweep."""

    name: str
    command: str
    folder: str
    cwd: str = field(default_factory=os.getcwd)
    worker: str = field(default_factory=lambda: WORKER)

    @property
    def state(self) -> Path:
        """Where the sweep keeps what it knows of its runs."""
        return Path(self.folder) / "state"

    def start(self) -> subprocess.Popen[bytes]:
        """The process, in a session of its own so that Ctrl-C is the sweep's to pass on."""
        words = [sys.executable, "-m", self.worker, self.folder, self.name, self.command]
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(words, cwd=self.cwd, start_new_session=True, **silent)  # type: ignore[call-overload]


def check_engine(name: str) -> None:
    """Refuse an engine that is not there.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    if name == "ray":
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("ray", "ray") from error


def run_locally(jobs: Iterator[Job], workers: int) -> Iterator[tuple[str, int]]:
    """Names and exit codes of runs as they end, ``workers`` of them at a time.

    When the caller is interrupted, so are the runs under way; each may save its state.
    """
    under_way: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while True:
            while len(under_way) < workers and (job := next(jobs, None)) is not None:
                under_way[job.name] = job.start()
            if not under_way:
                return
            ended = {name: process for name, process in under_way.items() if process.poll() is not None}
            for name, process in ended.items():
                del under_way[name]
                yield name, process.returncode
            if not ended:
                time.sleep(PAUSE)
    finally:
        _end(list(under_way.values()))


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_with_ray(jobs: Iterator[Job], workers: int) -> Iterator[tuple[str, int]]:
    """The same through Ray: the cluster that ``RAY_ADDRESS`` names, or one of ``workers`` cores on this machine.

    All nodes must see the sweep's folder under the same path. Runs that are under way when the caller is interrupted
    go on to their end, and count.

    Raises:
        ConfigError: the cluster cannot be reached or started.
    """
    import ray

    here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR", **here)
    except Exception as error:  # Ray's own kinds of failure are many, among them plain exceptions
        what = f"does not start ({(str(error).splitlines() or [type(error).__name__])[0][:200]})"
        raise ConfigError(what, where="--engine ray", fix="Start the cluster, or see to RAY_ADDRESS.") from error
    remote: Any = ray.remote(num_cpus=1, max_retries=0)(run_to_end)
    under_way: dict[Any, str] = {}
    try:
        while True:
            while len(under_way) < workers and (job := next(jobs, None)) is not None:
                under_way[remote.remote(job)] = job.name
            if not under_way:
                return
            (task,), _ = ray.wait(list(under_way), num_returns=1)
            yield under_way.pop(task), ray.get(task)
    finally:
        ray.shutdown()


def run_to_end(job: Job) -> int:
    """Run a job in this process's place; its exit code."""
    return job.start().wait()
