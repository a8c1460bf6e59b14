"""The output folder of a run: whether it is free, ours to replace, or somebody else's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from odin_rm.core.atomic import PathLike
from odin_rm.core.errors import OutputError

# Any of these says that a folder holds a run.
RUN_MARKERS = ("config.yaml", "metrics.jsonl", "model", "policy", "audit.json", "summary.json")
# What an overwritten run leaves behind and the next one must not inherit. Nothing else is ever deleted.
_RUN_FILES = (
    "config.yaml",
    "data_report.json",
    "metrics.jsonl",
    "samples.jsonl",
    "watch.jsonl",
    "audit.json",
    "summary.json",
    "environment.json",
    "report.html",
    "skipped_rows.jsonl",
    "bad_batch_step_*.json",
)
_RUN_FOLDERS = {
    "model": ("config.json", "*.safetensors"),
    "policy": ("config.json", "*.safetensors"),
    "checkpoints": ("checkpoint-*",),
}


def check_run_folder(path: PathLike, *, overwrite: bool, resume: bool) -> Path:
    """Refuse an output folder that cannot be used, before any work is done. Writes nothing.

    Args:
        path: the run folder; it need not exist.
        overwrite: an earlier run there may be replaced.
        resume: the run there is going to be continued.

    Raises:
        OutputError: ``path`` is a file, is not writable, or holds another run and neither flag is set.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise OutputError("is a file, not a folder", where=str(folder), fix="Choose another output folder.")
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError("cannot be written", where=str(folder), fix="Choose another output folder.")
    held = [name for name in RUN_MARKERS if (folder / name).exists()]
    if held and not overwrite and not resume:
        what = f"the output folder already holds another run ({', '.join(held)})"
        fix = "Choose another folder, or pass --overwrite to replace it."
        raise OutputError(what, where=str(folder), fix=fix)
    if overwrite and not resume:
        for name, patterns in _RUN_FOLDERS.items():
            if not _is_ours(folder / name, patterns):
                what = f"'{name}' in the output folder was not written by a run, so it is not overwritten"
                raise OutputError(what, where=str(folder), fix="Choose another output folder.")
    return folder


def claim_run_folder(path: PathLike, *, overwrite: bool, resume: bool) -> Path:
    """Check the run folder (:func:`check_run_folder`), clear an overwritten run's files out of it, and make it.

    Only files and folders that a run writes are deleted, and nothing is deleted or made before every check has passed.

    Returns:
        The folder, which now exists.
    """
    folder = check_run_folder(path, overwrite=overwrite, resume=resume)
    if overwrite and not resume:
        for name in _RUN_FILES:
            for file in folder.glob(name):
                file.unlink()
        for name in _RUN_FOLDERS:
            if (folder / name).is_symlink():
                (folder / name).unlink()
            elif (folder / name).is_dir():
                shutil.rmtree(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot be made ({error.strerror or error})"
        raise OutputError(what, where=str(folder), fix="Choose another output folder.") from error
    return folder


def _is_ours(folder: Path, patterns: tuple[str, ...]) -> bool:
    if not folder.exists():
        return True
    empty = folder.is_dir() and not any(folder.iterdir())
    return empty or any(True for pattern in patterns for _ in folder.glob(pattern))
