"""A command run many times: over a grid, over random draws, or over both.

The output folder holds ``runs/NAME/`` (what each run writes), ``state/NAME.yaml`` (its settings), ``state/NAME.log``
(what it said), ``state/NAME.json`` (its end) and ``sweep.json`` (the table of all runs).

A run ends when it has written its own ``state/NAME.json``; that file alone says whether it is to be run. It holds for
``kill -9`` of the sweep, of a run, or of both: what had ended is not run again, what had not is run from the start, and
a run that outlived its sweep is waited for.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from odin_rm.core.errors import ConfigError, OutputError, RunInterrupted
from odin_rm.core.files import atomic_write_json, atomic_write_text, dump_json
from odin_rm.core.lock import file_lock
from odin_rm.core.names import place_name
from odin_rm.core.progress import Progress
from odin_rm.core.reading import read_bytes, read_json
from odin_rm.core.system import writing
from odin_rm.runs.output_folder import mark_folder
from odin_rm.workflows.sweep.config import RUN, SweepConfig, as_number
from odin_rm.workflows.sweep.engines import INTERRUPTED, Job, check_engine, run_locally, run_with_ray
from odin_rm.workflows.sweep.slurm import slurm_engine

OUTPUT = "output"
"""What every command calls its output."""
OLD_OUTPUT = "output_dir"
"""What commands that train called it before; settings of a sweep may still say so."""

_LONGEST_NAME = 80
_ENGINES = {"local": run_locally, "ray": run_with_ray}

Settings = dict[str, Any]


@dataclass(frozen=True)
class SweepRun:
    """One run: its name, what it varies, all its settings."""

    name: str
    varied: Settings
    settings: Settings


def plan_runs(config: SweepConfig) -> list[SweepRun]:
    """All runs in order. The same point has the same name in every sweep of this folder.

    Raises:
        ConfigError: two runs are the same.
    """
    runs: dict[str, SweepRun] = {}
    for point in itertools.product(*config.grid.values()):
        for drawn in draw_points(config.random):
            varied = dict(zip(config.grid, point, strict=True)) | drawn
            settings = config.base | varied
            digest = hashlib.sha256(dump_json([config.command, sorted(settings.items())]).encode()).hexdigest()[:8]
            words = "_".join(f"{name}={_short(value)}" for name, value in varied.items())
            name = f"{re.sub(r'[^A-Za-z0-9_=.+-]', '-', words)[:_LONGEST_NAME]}-{digest}"
            if name in runs:
                raise ConfigError(f"two runs have the settings {words}", fix="Give each value once.")
            folder = str(Path(config.output) / "runs" / name)
            whole = settings if OLD_OUTPUT in settings else {OUTPUT: RUN} | settings
            runs[name] = SweepRun(name, varied, {key: _filled(value, folder) for key, value in whole.items()})
    return list(runs.values())


def draw_points(random: Settings) -> list[Settings]:
    """The draws of a ``random`` section; more samples keep those before. One empty draw where there is no section."""
    if not random:
        return [{}]
    rng = np.random.default_rng(random.get("seed", 0))
    return [{name: _draw(how, rng) for name, how in random["fields"].items()} for _ in range(random["samples"])]


def run_sweep(config: SweepConfig, known_fields: Collection[str]) -> Settings:
    """Run all that is not done, within the budget.

    Args:
        config: what to run.
        known_fields: names that the command takes.

    Returns:
        The content of ``sweep.json``: ``command``; counts of ``done``, ``failed`` and ``waiting``; ``runs``, each with
        ``name``, ``status``, ``varied``, ``folder``, ``seconds`` and ``error`` (one line, where it failed).

    Raises:
        OdinError: a field that the command does not have, an unusable folder, no Ray, no Slurm.
        RunInterrupted: stopped by a signal; runs that had ended stay ended.
    """
    unknown = [
        name for name in (*config.base, *config.grid, *config.random.get("fields", {})) if name not in known_fields
    ]
    if unknown:
        what = f"odin-rm {config.command} has no field '{unknown[0]}'"
        raise ConfigError(what, where="--config", fix=f"See odin-rm {config.command} --help.")
    runs = plan_runs(config)
    folder = Path(config.output)
    engine = slurm_engine(config.slurm) if config.engine == "slurm" else _ENGINES[config.engine]
    check_engine(config.engine)
    _claim(folder)
    with file_lock(folder / "state" / ".lock") as mine:
        if not mine:
            raise OutputError("another sweep is under way there", where=str(folder), fix="Wait for it, or end it.")
        ends = {run.name: read_end(folder, run.name) for run in runs}
        again = [name for name, end in ends.items() if config.retry_failed and end is not None and end["code"] != 0]
        for name in again:
            (folder / "state" / f"{name}.json").unlink()
        waiting = [run for run in runs if ends[run.name] is None or run.name in again]
        jobs = _jobs(config, folder, waiting[: config.max_runs])
        _write_table(config, folder, runs)
        try:
            with Progress("runs", len(runs), done=len(runs) - len(waiting)) as bar:
                for name, code in engine(jobs, config.workers):
                    _note_kill(folder, name, code)
                    _write_table(config, folder, runs)
                    bar.advance()
        except KeyboardInterrupt as stop:
            table = _write_table(config, folder, runs)
            what = f"{len(runs) - table['waiting']} of {len(runs)} runs have ended"
            raise RunInterrupted(what, where=str(folder), fix="Run the same command again to go on.") from stop
        return _write_table(config, folder, runs)


def read_end(folder: Path, name: str) -> Settings | None:
    """What a run wrote when it ended: ``code`` and ``seconds``; ``None`` for one that has not.

    Raises:
        OutputError: somebody wrote something else there.
    """
    path = folder / "state" / f"{name}.json"
    try:
        end = read_json(path)
        return {"code": int(end["code"]), "seconds": end["seconds"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "Delete it; the run is then made again."
        raise OutputError("is not what a run notes at its end", where=str(path), fix=fix) from error


# ---- internals -------------------------------------------------------------------------------------------------------


def _draw(how: Any, rng: np.random.Generator) -> Any:
    if isinstance(how, list):
        return how[int(rng.integers(len(how)))]
    low, high = as_number(how["low"]), as_number(how["high"])
    if how.get("log"):
        drawn = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    else:
        drawn = float(rng.uniform(low, high))
    # A range between whole numbers, both ends included, is one of whole numbers.
    whole = type(how["low"]) is int and type(how["high"]) is int
    return min(int(how["high"]), max(int(how["low"]), round(drawn))) if whole else float(f"{drawn:.6g}")


def _short(value: Any) -> str:
    return place_name(value) if isinstance(value, str) and "/" in value else str(value)


def _filled(value: Any, folder: str) -> Any:
    return value.replace(RUN, folder) if isinstance(value, str) else value


def _claim(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "state").is_dir():
        raise OutputError("holds something else than a sweep", where=str(folder), fix="Choose another folder.")
    with writing(folder):
        for name in ("runs", "state"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    mark_folder(folder, "sweep")


def _jobs(config: SweepConfig, folder: Path, runs: list[SweepRun]) -> Iterator[Job]:
    """What is to be started, one after the other, while there is time."""
    end = time.monotonic() + 3600 * (math.inf if config.max_hours is None else config.max_hours)
    for run in runs:
        if time.monotonic() >= end:
            return
        state = folder / "state" / run.name
        atomic_write_text(state.with_name(f"{run.name}.yaml"), yaml.safe_dump(run.settings, sort_keys=False))
        yield Job(run.name, config.command, str(folder.absolute()))


def _note_kill(folder: Path, name: str, code: int) -> None:
    """A run that was killed could not note its own end; an interrupted one has not ended."""
    if code != INTERRUPTED and read_end(folder, name) is None:
        atomic_write_json(folder / "state" / f"{name}.json", {"code": code, "seconds": None})


def _row(folder: Path, run: SweepRun) -> Settings:
    end = read_end(folder, run.name)
    status = "waiting" if end is None else "done" if end["code"] == 0 else "failed"
    return {
        "name": run.name,
        "status": status,
        "varied": run.varied,
        "folder": f"runs/{run.name}",
        "seconds": end and end["seconds"],
        "error": _error(folder, run.name, end["code"]) if end and status == "failed" else None,
    }


def _error(folder: Path, name: str, code: int) -> str:
    """The line by which a run ended."""
    if code < 0:
        return f"killed by signal {-code}"
    log = folder / "state" / f"{name}.log"
    lines = read_bytes(log).decode("utf-8", "replace").split("\n") if log.is_file() else []
    said = [line.strip() for line in lines if line.strip()]
    ours = [line for line in said if re.match(r"odin-rm \S+: error: ", line)]
    # Before the request to report a bug stands the exception itself.
    bug = [line for line in said if not line.startswith("odin-rm ")]
    return (ours or bug or [f"ended with code {code}"])[-1][:500]


def _write_table(config: SweepConfig, folder: Path, runs: list[SweepRun]) -> Settings:
    rows = [_row(folder, run) for run in runs]
    counts = {status: sum(row["status"] == status for row in rows) for status in ("done", "failed", "waiting")}
    table = {"command": config.command, **counts, "runs": rows}
    atomic_write_json(folder / "sweep.json", table)
    return table
