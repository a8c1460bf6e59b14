"""The runs of a sweep as jobs of Slurm, handed over by submitit.

A job that was handed over belongs to Slurm: it goes on when the sweep is interrupted or killed. ``state/NAME.job``
holds its number, so that a sweep that goes on waits for it instead of handing in a second one; and even a second one
would only wait for the first, by the lock that each run takes.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from odin_rm.core.errors import ConfigError, MissingExtraError
from odin_rm.core.files import append_bytes, atomic_write_json
from odin_rm.core.reading import read_json
from odin_rm.workflows.sweep.engines import INTERRUPTED, Job, run_to_end

TIMEOUT_MIN = 24 * 60
PAUSE = 0.5
"""Seconds between two looks at the result files; Slurm itself is asked far less often."""

_ON_ITS_WAY = {"PENDING", "RUNNING", "REQUEUED", "COMPLETING", "CONFIGURING", "SUSPENDED", "RESIZING", "READY"}
# Nobody's fault but that of who ended it: the run is started again when the sweep goes on.
_TAKEN_AWAY = ("CANCELLED", "PREEMPTED", "REVOKED")

Engine = Callable[[Iterator[Job], int], Iterator[tuple[str, int]]]


def slurm_engine(settings: Mapping[str, Any]) -> Engine:
    """An engine that hands each run in as a job, ``workers`` of them at a time.

    Args:
        settings: submitit's parameters (``timeout_min``, ``gpus_per_node``, ``slurm_partition``, ...), and ``cluster``:
            ``slurm``, or ``local`` for processes of this machine by the same way, as a trial.

    Raises:
        MissingExtraError: submitit is not installed.
        ConfigError: a parameter that it does not take, or there is no Slurm here.
    """
    with tempfile.TemporaryDirectory() as trial:
        _executor(settings, Path(trial))

    def run(jobs: Iterator[Job], workers: int) -> Iterator[tuple[str, int]]:
        executor: Any = None
        under_way: dict[str, tuple[Job, Any]] = {}
        while True:
            while len(under_way) < workers and (job := next(jobs, None)) is not None:
                executor = executor or _executor(settings, job.state / "slurm")
                under_way[job.name] = job, _known(executor, job) or _submit(executor, job)
            if not under_way:
                return
            ended = [name for name, (_, task) in under_way.items() if task.done()]
            for name in ended:
                yield name, _code(executor, *under_way.pop(name))
            if not ended:
                time.sleep(PAUSE)

    return run


# ---- internals -------------------------------------------------------------------------------------------------------


def _executor(settings: Mapping[str, Any], folder: Path) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise MissingExtraError("submitit", "slurm") from error
    logging.getLogger("submitit").setLevel(logging.ERROR)
    given = {"name": "odin-rm", "timeout_min": TIMEOUT_MIN, **settings}
    for name in ("nodes", "tasks_per_node", "slurm_nodes", "slurm_ntasks_per_node"):
        if given.get(name, 1) != 1:
            raise ConfigError(f"is {given[name]}", where=f"slurm: {name}", fix="A run is one task on one node.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old names, which it takes all the same
            executor = submitit.AutoExecutor(folder=folder, cluster=given.pop("cluster", "slurm"))
            executor.update_parameters(**given)
    except Exception as error:  # asserts, name errors, runtime errors: what submitit says of a setting
        what = " ".join(str(error).split())[:200] or type(error).__name__
        fix = "Give submitit's parameters, on a machine that has sbatch and srun."
        raise ConfigError(f"submitit refuses it ({what})", where="slurm", fix=fix) from error
    return executor


def _submit(executor: Any, job: Job) -> Any:
    try:
        task = executor.submit(run_to_end, job)
    except Exception as error:
        what = " ".join(str(error).split())[-300:] or type(error).__name__
        fix = "See to the settings under slurm in --config."
        raise ConfigError(f"the job cannot be handed in ({what})", where="--engine slurm", fix=fix) from error
    if executor.cluster == "slurm":
        atomic_write_json(job.state / f"{job.name}.job", {"id": task.job_id})
    return task


def _known(executor: Any, job: Job) -> Any:
    """The job that an earlier sweep handed in, while it is on its way."""
    if executor.cluster != "slurm":
        return None  # submitit's local jobs are known to the process that made them alone
    try:
        number = read_json(job.state / f"{job.name}.job")["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    task = executor._executor.job_class(folder=executor.folder, job_id=str(number))
    return task if _state(task, "force") in _ON_ITS_WAY else None


def _state(task: Any, mode: str) -> str:
    """Slurm's word, without what it adds ("CANCELLED by 1000")."""
    return (str(task.watcher.get_state(task.job_id, mode=mode)).split() or ["UNKNOWN"])[0].rstrip("+")


def _code(executor: Any, job: Job, task: Any) -> int:
    """The exit code of a run; why a job has none is noted in the run's log."""
    try:
        return int(task.result())
    except Exception as error:
        state = _state(task, "force") if executor.cluster == "slurm" else "FAILED"
        if state.startswith(_TAKEN_AWAY):
            return INTERRUPTED
        said = (str(error).split("\n") or [type(error).__name__])[0][:200]
        told = f"\nodin-rm sweep: error: job {task.job_id} ended as {state} ({said})\n"
        append_bytes(job.state / f"{job.name}.log", told.encode("utf-8"))
        return 1
