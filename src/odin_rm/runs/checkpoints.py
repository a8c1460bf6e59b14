"""Checkpoints of a run: which one to go on from, whether it is sound, and how a Trainer's own are made so.

``digests.json`` is the last file of a checkpoint and holds size and SHA-256 of the others, so that a kill while saving,
a cut file and a flipped bit are seen before anything is loaded. Checkpoints of earlier versions have none; of them the
archives' own checksums and the readability of the rest are all that can be asked.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from odin_rm.core.atomic import atomic_write_json, remove_stale_inside
from odin_rm.core.errors import CheckpointError, DataError
from odin_rm.core.ranks import is_main_process
from odin_rm.core.reading import opened, parse_json, read_json
from odin_rm.core.system import writing

DIGESTS = "digests.json"
TRAINER_STATE = "trainer_state.json"
"""The file without which a folder is no checkpoint of a ``transformers.Trainer``."""
OPEN_LOG = "open_log.json"
BEST = "checkpoint-best"
GO_ON = "Go on from the last checkpoint with --resume_from_checkpoint auto."
AUTO, NEWEST, NONE = "auto", ("true", "yes", "last"), ("false", "no")

log = logging.getLogger(__name__)


def is_auto(wanted: str | None) -> bool:
    """Whether ``--resume_from_checkpoint`` says ``auto``."""
    return wanted is not None and str(wanted).lower() == AUTO


def find_checkpoint(wanted: str | None, run: Path, state_file: str = TRAINER_STATE) -> Path | None:
    """The checkpoint that ``--resume_from_checkpoint`` means, or ``None`` for a new run.

    Args:
        wanted: ``auto`` or ``true`` for the newest sound one of the run, a path, or ``None``.
        run: the run folder.
        state_file: the file without which a folder is no checkpoint of this kind.

    Raises:
        CheckpointError: there is none although there must be, or the one that is named is damaged.
    """
    if wanted is None or str(wanted).lower() in NONE:
        return None
    if str(wanted).lower() not in (AUTO, *NEWEST):
        path = Path(str(wanted))
        if not (path / state_file).is_file():
            fix = "Give checkpoints/checkpoint-N of a run folder, or 'true'."
            raise CheckpointError("is not a checkpoint", where=str(path), fix=fix)
        if (damage := find_damage(path, state_file)) is not None:
            fix = "Give an earlier checkpoint, 'true' for the newest sound one, or start anew."
            raise CheckpointError(f"{damage}, so the run cannot go on from here", where=str(path), fix=fix)
        return path
    folder = run / "checkpoints"
    _restore_replaced(folder)
    damaged: list[str] = []
    for path in reversed(numbered_checkpoints(folder)):
        damage = find_damage(path, state_file)
        if damage is None:
            if damaged and is_main_process():
                log.warning("going on from %s; damaged and left out: %s", path.name, "; ".join(damaged))
            return path
        damaged.append(f"{path.name} ({damage})")
    if is_auto(wanted):
        if damaged and is_main_process():
            log.warning("beginning again, for no checkpoint is sound: %s", "; ".join(damaged))
        return None
    what = f"there is no checkpoint to go on from{': ' if damaged else ''}{'; '.join(damaged[:3])}"
    fix = "Start anew without --resume_from_checkpoint, or check --output."
    raise CheckpointError(what, where=str(folder), fix=fix)


def numbered_checkpoints(folder: Path) -> list[Path]:
    """The folders ``checkpoint-N``, the oldest first."""
    numbered = [p for p in folder.glob("checkpoint-*") if p.name.partition("-")[2].isdecimal() and p.is_dir()]
    return sorted(numbered, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint, by its name.

    Raises:
        CheckpointError: the name says none.
    """
    number = checkpoint.name.rpartition("-")[2]
    if not number.isdecimal():
        fix = "Give checkpoints/checkpoint-N of a run folder."
        raise CheckpointError("its name does not say a step", where=str(checkpoint), fix=fix)
    return int(number)


def _restore_replaced(folder: Path) -> None:
    """Undo a kill between the two moves of a checkpoint that was replaced."""
    for old in folder.glob(".checkpoint-*.old"):
        if not (place := folder / old.name[1:].removesuffix(".old")).exists():
            os.replace(old, place)


# ---- soundness -------------------------------------------------------------------------------------------------------


def write_digests(checkpoint: Path) -> None:
    """Write ``digests.json`` of a complete checkpoint."""
    remove_stale_inside(checkpoint)
    files = {name: _digest(checkpoint / name) for name in _files(checkpoint)}
    atomic_write_json(checkpoint / DIGESTS, {"files": files})


def _files(checkpoint: Path) -> list[str]:
    found = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != DIGESTS)
    return sorted(str(path.relative_to(checkpoint)) for path in found)


def _digest(path: Path) -> list[Any]:
    with opened(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return [file.tell(), digest]


def find_damage(checkpoint: Path, state_file: str = TRAINER_STATE) -> str | None:
    """What is wrong with the files of a checkpoint, in a few words; ``None`` where it is sound."""
    if not (checkpoint / state_file).is_file():
        return "it was not saved to its end"
    if not (checkpoint / DIGESTS).exists():
        return _damage_of_earlier_version(checkpoint)
    try:
        noted = dict(read_json(checkpoint / DIGESTS)["files"])
        for name, (size, digest) in sorted(noted.items()):
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size or _digest(path)[1] != digest:
                return f"{name} is damaged"
    except (DataError, KeyError, TypeError, ValueError):
        return f"{DIGESTS} is damaged"
    return None


def _damage_of_earlier_version(checkpoint: Path) -> str | None:
    for name in _files(checkpoint):
        path = checkpoint / name
        try:
            if path.suffix == ".json":
                read_json(path)
            elif path.suffix == ".safetensors":
                _check_safetensors(path)
            elif path.suffix in (".pt", ".pth") and zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is not None:
                        return f"{name} is damaged"
            elif path.suffix in (".pt", ".pth"):
                return f"{name} is damaged"
        except (DataError, OSError, ValueError, zipfile.BadZipFile, struct.error):
            return f"{name} is damaged"
    return None


def _check_safetensors(path: Path) -> None:
    """Raise ValueError where the file is shorter or longer than its header says."""
    with opened(path) as file:
        (size,) = struct.unpack("<Q", file.read(8))
        if size > 100 * 2**20:
            raise ValueError("no header")
        header = parse_json(file.read(size))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    if 8 + size + max(ends, default=0) != path.stat().st_size:
        raise ValueError("cut")


# ---- a Trainer's own -------------------------------------------------------------------------------------------------


class SoundCheckpoints:
    """Goes before a ``transformers.Trainer`` among the bases: its checkpoints get digests, and a full disk one line.

    They also hold what the next log will average, for steps before a checkpoint that is made between two logs.
    """

    args: Any
    state: Any

    def open_figures(self) -> Any:
        """The trainer's own figures of the steps since the last log, as JSON has them."""
        return None

    def take_up_figures(self, figures: Any) -> None:
        """Go on from :meth:`open_figures`."""

    @property
    def all_steps_taken(self) -> bool:
        """Whether nothing is left to train.

        The Trainer asks after a step only, so a run that goes on from its last checkpoint in the middle of an epoch
        would take one step more.
        """
        return bool(self.state.global_step >= self.state.max_steps)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """As the Trainer's; nothing once all steps are taken."""
        if self.all_steps_taken:
            return [], None
        saved: Any = super()
        found: tuple[list[Any], Any] = saved.get_batch_samples(epoch_iterator, num_batches, device)
        return found

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; a run that goes on takes up its open log."""
        trainer: Any = self
        if isinstance(resume_from_checkpoint, str) and (note := Path(resume_from_checkpoint) / OPEN_LOG).is_file():
            trainer.add_callback(_open_log_callback(trainer, read_json(note)))
        saved: Any = super()
        return saved.train(resume_from_checkpoint, *args, **kwargs)

    def _write_open_log(self, folder: Path) -> None:
        from transformers.trainer_pt_utils import nested_gather

        trainer: Any = self
        loss = nested_gather(trainer._tr_loss, self.args.parallel_mode).mean().item()
        if self.args.should_save:
            last = trainer._globalstep_last_logged
            note = {"loss": loss, "last_logged": last, "figures": self.open_figures()}
            atomic_write_json(folder / OPEN_LOG, note)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        saved: Any = super()
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with _whole_or_gone(folder, self.args.should_save):
            if self.args.should_save:
                (folder / DIGESTS).unlink(missing_ok=True)
            saved._save_checkpoint(model, trial)
            self._write_open_log(folder)
            if self.args.world_size > 1:
                import torch

                torch.distributed.barrier()  # other processes write their random states
            if self.args.should_save:
                write_digests(folder)


def _open_log_callback(trainer: Any, note: Any) -> Any:
    from transformers import TrainerCallback

    class TakeUp(TrainerCallback):
        """At the beginning of training, for before it the Trainer sets its sums to 0."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer._tr_loss += note["loss"] or 0.0
            trainer._total_loss_scalar -= note["loss"] or 0.0  # the mean at the end is of the steps from here on
            trainer._globalstep_last_logged = note["last_logged"]
            if note["figures"] is not None:
                trainer.take_up_figures(note["figures"])

    return TakeUp()


@contextmanager
def _whole_or_gone(folder: Path, mine: bool) -> Iterator[None]:
    try:
        with writing(folder, kept=GO_ON):
            yield
    except Exception:
        if mine:
            shutil.rmtree(folder, ignore_errors=True)
        raise
