"""What the training commands share of a run folder: its settings, its checkpoints, going on from one of them."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from odin_rm.core.errors import CheckpointError, ConfigError, DataError, OdinError, RunInterrupted
from odin_rm.core.files import atomic_write_json, atomic_write_text, dump_json, environment_record
from odin_rm.core.options import flag_of
from odin_rm.core.ranks import is_main_process
from odin_rm.core.reading import read_json, read_lines, read_text
from odin_rm.core.system import writing
from odin_rm.runs.checkpoints import TRAINER_STATE, find_checkpoint, is_auto, step_of
from odin_rm.runs.output_folder import OutputFolder, has_result

log = logging.getLogger(__name__)
_SAID_AT_THE_END = ("finished", "train_runtime")
_NEVER_WRITTEN = ("hub_token", "local_rank", "disable_tqdm")


def check_required(config: Any, names: Sequence[str], command: str) -> None:
    """Raise :class:`ConfigError` for the first of the named settings that is not given."""
    for name in names:
        if not getattr(config, name):
            flag = next(flag_of(item) for item in fields(config) if item.name == name)
            raise ConfigError("is required", where=f"--{flag}", fix=f"See odin-rm {command} --help.")


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
        saved = read_json(checkpoint / file)
        return dict(saved["settings"]), saved["data"]
    except (ValueError, KeyError, TypeError) as error:
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
        drop_later_lines(run / "metrics.jsonl", step_of(checkpoint))


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
    """Forget what an earlier attempt logged after the checkpoint, so that each step stands once.

    A line that a kill has cut is no line; what is said at the end of a run is said again when it ends again.
    """
    if path.is_file():
        rows = [row for row in read_lines(path) if row.get("step", 0) <= step]
        kept = [row for row in rows if not any(name in row for name in _SAID_AT_THE_END)]
        atomic_write_text(path, "".join(dump_json(row) + "\n" for row in kept))


def keep_lines(path: Path, most: int | None) -> int:
    """Forget all lines of a log but the first ``most``, where that many are known; the number of lines that it has."""
    if not path.is_file():
        return 0
    rows = read_lines(path)
    if most is not None and most < len(rows):
        rows = rows[:most]
        atomic_write_text(path, "".join(dump_json(row) + "\n" for row in rows))
    return len(rows)


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


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        output: its folder.
        checkpoint: what it goes on from, or ``None``.
        auto: whether ``--resume_from_checkpoint auto`` was asked for, which begins where nothing is to be gone on from.
    """

    output: OutputFolder
    checkpoint: Path | None
    auto: bool

    @classmethod
    def find(cls, output: OutputFolder, wanted: str | None, state_file: str = TRAINER_STATE) -> Start:
        """Find the checkpoint, and refuse a folder that cannot be used.

        Raises:
            CheckpointError: there is no checkpoint although there must be.
            OutputError: as of :func:`odin_rm.runs.output_folder.check_output_folder`.
        """
        checkpoint, auto = find_checkpoint(wanted, output.path, state_file), is_auto(wanted)
        output.check(resume=checkpoint is not None or auto)
        return cls(output, checkpoint, auto)

    def verified(self, check: Callable[[Path], None]) -> Start:
        """The same if the checkpoint belongs to this run; with ``auto`` and ``--overwrite`` a new beginning if not.

        Args:
            check: raises :class:`CheckpointError` where it does not.
        """
        if self.checkpoint is None:
            return self
        try:
            check(self.checkpoint)
        except CheckpointError as error:
            if not (self.auto and self.output.overwrite):
                raise
            if is_main_process():
                log.warning("beginning anew, as --overwrite asks: %s", error.what)
            return replace(self, checkpoint=None, auto=False)
        return self

    def nothing_left(self, config: Any, left_out: Collection[str]) -> bool:
        """Whether ``auto`` finds the run done by the same settings, so that nothing is left to do."""
        run = self.output.path
        if not (self.auto and has_result(run) and _is_finished(run)):
            return False
        try:
            there = read_text(run / "config.yaml")
        except DataError:
            return False
        done = there == resolved_yaml(config, left_out)
        if done and is_main_process():
            self.output.tidy()
            log.info("the run in %s is done already, by the same settings", run)
        return done

    def claim(self) -> None:
        """Make the folder ready to be written; the main process only."""
        self.output.claim(resume=self.checkpoint is not None, again=self.auto and self.checkpoint is None)
        with writing(self.output.path):
            (self.output.path / "checkpoints").mkdir(exist_ok=True)


def _is_finished(run: Path) -> bool:
    try:
        rows = read_lines(run / "metrics.jsonl")
    except DataError:
        return False
    return bool(rows) and bool(rows[-1].get("finished"))
