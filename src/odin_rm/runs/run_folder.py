"""What the training commands share of a run folder: its settings, its checkpoints, going on from one of them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from odin_rm.core.errors import CheckpointError, ConfigError, OdinError, RunInterrupted
from odin_rm.core.files import atomic_write_json, atomic_write_text, environment_record
from odin_rm.core.options import flag_of

_NEVER_WRITTEN = ("hub_token", "local_rank", "disable_tqdm")


def check_required(config: Any, names: Sequence[str], command: str) -> None:
    """Raise :class:`ConfigError` for the first of the named settings that is not given."""
    for name in names:
        if not getattr(config, name):
            flag = next(flag_of(item) for item in fields(config) if item.name == name)
            raise ConfigError("is required", where=f"--{flag}", fix=f"See odin-rm {command} --help.")


def resolve_checkpoint(wanted: str | None, run: Path) -> Path | None:
    """The checkpoint that ``--resume_from_checkpoint`` means, or ``None`` for a new run.

    Args:
        wanted: ``"true"`` for the newest one of the run, a path, or ``None``.
        run: the run folder.

    Raises:
        CheckpointError: there is none.
    """
    if wanted is None or str(wanted).lower() in ("false", "no"):
        return None
    if str(wanted).lower() in ("true", "yes", "last"):
        folder = run / "checkpoints"
        found = last_complete_checkpoint(folder)
        if found is None:
            fix = "Start anew without --resume_from_checkpoint, or check --output."
            raise CheckpointError("there is no checkpoint to go on from", where=str(folder), fix=fix)
        return found
    path = Path(str(wanted))
    if not (path / "trainer_state.json").is_file():
        raise CheckpointError(
            "is not a checkpoint", where=str(path), fix="Give checkpoints/checkpoint-N of a run folder, or 'true'."
        )
    return path


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose last file is there: a run killed while saving leaves a half-written one."""
    if not folder.is_dir():
        return None
    complete = [p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return max(complete, key=lambda p: int(p.name.split("-")[1]), default=None)


def check_same_settings(checkpoint: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Raise :class:`CheckpointError` where a checkpoint comes from other settings."""
    differing = [n for n in sorted(set(ours) | set(theirs)) if ours.get(n) != theirs.get(n)]
    if differing:
        listing = ", ".join(f"{n} ({theirs.get(n)} there, {ours.get(n)} here)" for n in differing[:5])
        raise CheckpointError(
            f"the checkpoint comes from other settings: {listing}",
            where=str(checkpoint),
            fix="Use the settings of the run's config.yaml, or start anew.",
        )


def read_note(checkpoint: Path, file: str, command: str) -> tuple[dict[str, Any], Any]:
    """The settings and the description of the data that a checkpoint was written with.

    Raises:
        CheckpointError: it has no such note.
    """
    try:
        saved = json.loads((checkpoint / file).read_text(encoding="utf-8"))
        return saved["settings"], saved["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "Give checkpoints/checkpoint-N of a run folder."
        raise CheckpointError(f"is not a checkpoint of odin-rm {command}", where=str(checkpoint), fix=fix) from error


def check_state_files(checkpoint: Path, others: Collection[str] = ()) -> None:
    """Refuse a checkpoint with missing or cut-off files; the Trainer would go on without the optimiser's state.

    Args:
        checkpoint: the folder.
        others: further files that must be there.
    """
    for name in ("optimizer.pt", "scheduler.pt", *others):
        path = checkpoint / name
        # torch writes zip archives, whose table of contents is their end.
        sound = path.is_file() if name in others else zipfile.is_zipfile(path)
        if not sound:
            what = f"{name} is {'damaged' if path.exists() else 'missing'}, so the run cannot go on from here"
            raise CheckpointError(what, where=str(checkpoint), fix="Give an earlier checkpoint, or start anew.")


def write_settings(run: Path, config: Any, left_out: Collection[str], checkpoint: Path | None) -> None:
    """``config.yaml`` and ``environment.json``; a run that goes on forgets what was logged after its checkpoint."""
    atomic_write_text(run / "config.yaml", resolved_yaml(config, left_out))
    atomic_write_json(run / "environment.json", environment_record())
    if checkpoint is not None:
        drop_later_lines(run / "metrics.jsonl", int(checkpoint.name.split("-")[1]))


def resolved_yaml(config: Any, left_out: Collection[str]) -> str:
    """The settings as YAML, for ``--config`` and for the config's class; secrets and what is left out are not in it."""
    values = {}
    for item in fields(config):
        if item.init and item.name not in left_out and item.name not in _NEVER_WRITTEN:
            value = getattr(config, item.name)
            value = getattr(value, "value", value)
            if item.name == "report_to" and isinstance(value, list):
                value = ",".join(value)  # as the flag says it
            if not isinstance(value, (bool, int, float, str, list, dict, type(None))):
                value = value.to_dict() if hasattr(value, "to_dict") else str(value)
            if value is not None and not (isinstance(value, (list, dict)) and not value):
                values[item.name] = value
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def drop_later_lines(path: Path, step: int) -> None:
    """Forget what an earlier attempt logged after the checkpoint, so that each step stands once."""
    if path.is_file():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        kept = [line for line in lines if json.loads(line).get("step", 0) <= step]
        atomic_write_text(path, "".join(line + "\n" for line in kept))


def interrupted(signal_name: str, step: int, run: Path) -> RunInterrupted:
    """The error that ends a run whose state is saved."""
    return RunInterrupted(
        f"stopped by {signal_name} after step {step}, the state is saved",
        where=str(run),
        fix=f"Go on with --resume_from_checkpoint true --output {run}",
    )


@contextmanager
def as_config_errors(command: str) -> Iterator[None]:
    """A block that makes a trainer: what the Trainer refuses is the user's setting and becomes one line.

    Raises:
        ConfigError: an optimiser, a tracker or an engine that is asked for is not installed or cannot work.
    """
    try:
        yield
    except (ImportError, RuntimeError, ValueError, NotImplementedError) as error:
        if isinstance(error, OdinError):
            raise
        what = " ".join(str(error).split())[:300]
        raise ConfigError(what, fix=f"See odin-rm {command} --help.") from error
