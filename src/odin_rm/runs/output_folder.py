"""Output folders: free, ours, half-written or somebody else's; who may write there; what is replaced, and how.

A folder is ours by its mark, ``.odin-rm.json``, which the first write puts there and which names the command; folders
of earlier versions are known by what only they hold. Only files that the mark lists, or that the command's entry in
:data:`KINDS` names, are ever replaced. What else lies in a folder stays.

Two ways of writing keep an old result safe until the new one is complete:

- what is made in one go is built beside the folder and swapped in (:func:`replaced_folder`);
- a run that is trained for days goes into the folder itself, and the earlier run waits in ``.replaced`` until it is
  done (:class:`OutputFolder`).
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from odin_rm.core.atomic import (
    PathLike,
    atomic_write_json,
    json_safe,
    remove_stale_inside,
    staged_folder,
    swap_in,
)
from odin_rm.core.errors import DataError, MachineError, OutputError
from odin_rm.core.lock import WriterLock
from odin_rm.core.ranks import is_main_process
from odin_rm.core.reading import read_json, read_yaml
from odin_rm.core.system import cannot_write, is_full, is_there, shown_path, writing

MARK = ".odin-rm.json"
"""In each output folder: which command made it and, where it was made in one go, the files that it wrote."""
LOCK = ".odin-rm.lock"
REPLACED = ".replaced"
"""In a run folder that is being overwritten: the earlier run, until the new one is complete."""
_RETIRING = ".replaced.part"

_MODEL = (
    "config.json", "generation_config.json", "odin_rm.json", "*.safetensors", "*.safetensors.index.json",
    "adapter_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "chat_template*", "*.model", "README.md", "preprocessor_config.json", "processor_config.json",
    "calibration.json",
)  # fmt: skip
_CHECKPOINTS = ("checkpoint-*", ".checkpoint-*")
_SETTINGS = ("config.yaml", "environment.json")


@dataclass(frozen=True)
class Kind:
    """What a command writes into its output folder.

    Attributes:
        noun: what the folder holds.
        files: names at the top of the folder, as patterns.
        folders: folders in it, each with patterns of what a run writes there.
        family: commands of one family may replace each other's folders.
    """

    noun: str
    files: tuple[str, ...]
    folders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    family: str = ""


_LOGS = ("metrics.jsonl", "data_report.json", "skipped_rows.jsonl")
_POLICY = Kind("another run", (*_SETTINGS, *_LOGS), {"policy": _MODEL, "checkpoints": _CHECKPOINTS}, "run")
_REWARD_FILES = (*_SETTINGS, *_LOGS, "bad_batch_step_*.json")
_REWARD = Kind("another run", _REWARD_FILES, {"model": _MODEL, "checkpoints": _CHECKPOINTS}, "run")
KINDS: dict[str, Kind] = {
    "reward": Kind(
        "another run",
        (*_SETTINGS, *_LOGS, "bad_batch_step_*.json"),
        {"model": _MODEL, "checkpoints": _CHECKPOINTS},
        "run",
    ),
    "sft": _POLICY,
    "dpo": _POLICY,
    "rl": Kind("another run", (*_POLICY.files, "samples.jsonl", "watch.jsonl"), _POLICY.folders, "run"),
    "quickstart": Kind("another run", (*_SETTINGS, "summary.json", "report.html"), family="testbed"),
    "reproduce": Kind("another run", (*_SETTINGS, "summary.json", "report.html"), family="testbed"),
    "audit": Kind("another audit", (*_SETTINGS, "audit.json", "comparison.json", "report.html")),
    "probe": Kind("another probe", ("probe.json", "report.html")),
    "certify": Kind("another certificate", ("certificate.json", "report.html")),
    "best-of-n": Kind("other curves", ("best_of_n.json", "chosen.jsonl", "pairs.jsonl", "report.html")),
    "export": Kind("a model", _MODEL),
    "calibrate": Kind("a folded model", (*_MODEL, "folded.json")),
    "judge": Kind("a comparison", (*_SETTINGS, "annotations.json", "judge.json", "cache.sqlite*")),
    "evaluate": Kind("an evaluation", (*_SETTINGS, "evaluation.json", "win_rates.json"), {"runs": ("*",)}),
    "retention": Kind("measured tasks", (*_SETTINGS, "retention.*"), {"results": ("*",)}),
    "rivals": Kind("a comparison of objectives", (*_SETTINGS, "rivals*", "report.html"), {"cells": ("*",)}),
    "study": Kind("a study", (*_SETTINGS, "annotations.json", "study.json", "study.sqlite*")),
    "pareto": Kind("fronts", ("pareto.*",)),
    "sweep": Kind("a sweep", ("sweep.json", "sweep.csv"), {"state": ("*",), "runs": ("*",)}),
}
_ALONE = ("export", "calibrate")
"""Commands that write into an empty folder only, or into their own."""
_RESULTS = ("model", "policy", "summary.json")
"""What a run that is done has."""
_TELLING = (
    "config.yaml", "metrics.jsonl", "audit.json", "comparison.json", "summary.json", "judge.json", "study.sqlite",
    "pareto.json", "retention.json", "sweep.json", "odin_rm.json", "model", "policy", "checkpoints",
)  # fmt: skip
"""Names that say that a folder holds somebody's results, whoever wrote them."""


def kind_of(folder: Path) -> str | None:
    """The command that made a folder; ``None`` where no odin-rm did."""
    with suppress(DataError, TypeError, KeyError):
        command = read_json(folder / MARK)["command"]
        return command if command in KINDS else None
    return _kind_of_earlier_version(folder)


def _kind_of_earlier_version(folder: Path) -> str | None:
    """The same for folders without a mark, by what only an odin-rm writes."""

    def has(name: str) -> bool:
        return (folder / name).exists()

    told = _quiet_json(folder / "environment.json").get("packages")
    ours = isinstance(told, dict) and "odin-rm" in told
    if has("study.sqlite"):
        return "study"
    if has("sweep.json") and has("state"):
        return "sweep"
    if has("pareto.json") and "arms" in _quiet_json(folder / "pareto.json"):
        return "pareto"
    if ours and has("config.yaml"):
        if has("audit.json") or has("comparison.json"):
            return "audit"
        if has("results") or has("retention.json"):
            return "retention"
        if {"runs", "baseline", "judge"} <= _quiet_yaml(folder / "config.yaml").keys():
            return "evaluate"
        if has("cache.sqlite") or {"candidate", "baseline", "judge"} <= _quiet_yaml(folder / "config.yaml").keys():
            return "judge"
        if has("summary.json") or "policies" in _quiet_yaml(folder / "config.yaml"):
            return "reproduce"
        return "rl" if has("policy") or has("samples.jsonl") else "reward"
    exported = _quiet_json(folder / "config.json").get("id2label") == {"0": "quality"}
    return "export" if exported and not has("odin_rm.json") else None


def _quiet_json(path: Path) -> dict[str, Any]:
    with suppress(DataError):
        content = read_json(path)
        return content if isinstance(content, dict) else {}
    return {}


def _quiet_yaml(path: Path) -> dict[str, Any]:
    with suppress(DataError):
        content = read_yaml(path)
        return content if isinstance(content, dict) else {}
    return {}


def held_names(folder: Path, command: str) -> list[str]:
    """What of a command's files and folders is in a folder; an empty folder of that name is none."""
    kind = KINDS[command]
    names = _entries(folder)
    held = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in kind.files)]
    return held + [name for name in names if name in kind.folders and _holds(folder / name)]


def has_result(folder: Path) -> bool:
    """Whether a run in the folder has come to its end."""
    there = kind_of(folder)
    return there is not None and any(name in _RESULTS for name in held_names(folder, there))


def _holds(path: Path) -> bool:
    return not path.is_dir() or any(path.iterdir())


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def check_output_folder(
    path: PathLike, command: str, *, overwrite: bool = False, resume: bool = False, others: tuple[str, ...] = ()
) -> Path:
    """Refuse an output folder that cannot be used, before any work is done. Writes nothing.

    Args:
        path: the folder; it need not exist.
        command: who is going to write it.
        overwrite: an earlier result of the same kind may be replaced.
        resume: what is there is going to be continued.
        others: further names that the command is going to write.

    Raises:
        OutputError: ``path`` is a file, cannot be written, is being written by another process, holds something of
            another kind or of somebody else, or holds a result and neither flag is set.
    """
    folder = Path(path)
    try:
        if "\0" in os.fspath(folder):
            raise OutputError("holds a NUL byte", where=shown_path(folder), fix="Choose another output folder.")
        if is_there(folder) and not folder.is_dir():
            kind = "is a file, not a folder" if folder.exists() else "is a link that leads nowhere"
            raise OutputError(kind, where=shown_path(folder), fix="Choose another output folder.")
        existing = folder.absolute()
        while not existing.exists():
            existing = existing.parent
    except OSError as error:
        raise cannot_write(folder, error) from error
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError("cannot be written", where=shown_path(folder), fix="Choose another output folder.")
    if not folder.is_dir():
        return folder
    for lock in (folder / LOCK, _lock_beside(folder)):
        WriterLock(lock, folder).refuse_others()
    _check_kind(folder, command, overwrite=overwrite, resume=resume, others=others)
    return folder


def _check_kind(folder: Path, command: str, *, overwrite: bool, resume: bool, others: tuple[str, ...]) -> None:
    there, kind = kind_of(folder), KINDS[command]
    if there is None:
        alone = _entries(folder)[:4] if command in _ALONE else []
        foreign = dict.fromkeys(
            [*alone, *held_names(folder, command), *(n for n in (*_TELLING, *others) if _there(folder, n))]
        )
        if foreign:
            what = f"the output folder holds {', '.join(foreign)}, which odin-rm did not write there"
            what += ", so nothing in it is replaced"
            raise OutputError(what, where=shown_path(folder), fix="Choose another folder.")
        return
    if there != command and (not kind.family or KINDS[there].family != kind.family):
        held = held_names(folder, there)
        what = f"the output folder holds another run (odin-rm {there}: {', '.join(held[:4]) or 'begun'})"
        raise OutputError(what, where=shown_path(folder), fix="Choose another folder.")
    held = held_names(folder, there)
    if held and not overwrite and not resume:
        what = f"the output folder already holds {KINDS[there].noun} ({', '.join(held[:6])})"
        fix = "Choose another folder, or pass --overwrite to replace it."
        raise OutputError(what, where=shown_path(folder), fix=fix)


def _there(folder: Path, name: str) -> bool:
    return (folder / name).exists() and _holds(folder / name)


def _lock_beside(folder: Path) -> Path:
    return folder.absolute().parent / f".{folder.absolute().name[:200]}.odin-rm.lock"


# ---- written in place ------------------------------------------------------------------------------------------------


class OutputFolder:
    """A folder that a command writes while it works. As a context it gives the lock back at the end.

    Args:
        path: the folder.
        command: who writes.
        overwrite: an earlier result may be replaced; it waits in ``.replaced`` until :meth:`complete`.
    """

    def __init__(self, path: PathLike, command: str, *, overwrite: bool = False) -> None:
        self.path, self.command, self.overwrite = Path(path), command, overwrite
        self._lock = WriterLock(self.path / LOCK, self.path)

    def check(self, *, resume: bool = False) -> Path:
        """See :func:`check_output_folder`; of several processes of a run, the first one looks.

        It alone takes the lock and gives it back. Another one that looked would find the lock of the run before, where
        one program makes several.
        """
        if is_main_process():
            check_output_folder(self.path, self.command, overwrite=self.overwrite, resume=resume)
        return self.path

    def claim(self, *, resume: bool = False, again: bool = False, results: tuple[str, ...] = ()) -> Path:
        """Check, take the lock, make the folder and its mark, and move an earlier result out of the way.

        Args:
            resume: what is there is continued.
            again: what is there was never complete and is made anew.
            results: with ``resume``, files that are going to be made anew; the old ones wait in ``.replaced``.

        Raises:
            OutputError: as of :meth:`check`.
        """
        again = again and not has_result(self.path)
        check_output_folder(self.path, self.command, overwrite=self.overwrite, resume=resume or again)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.take()
            _undo_retiring(self.path)
            _check_kind(self.path, self.command, overwrite=self.overwrite, resume=resume or again, others=())
            remove_stale_inside(self.path)
            if not resume and (self.overwrite or again) and kind_of(self.path) is not None:
                self._make_room(keep=not again)
            if resume and any((self.path / name).exists() for name in results):
                _delete(self.path / REPLACED)
                _retire(self.path, [self.path / name for name in results if (self.path / name).exists()])
            mark_folder(self.path, self.command)
        return self.path

    def _make_room(self, *, keep: bool) -> None:
        there = kind_of(self.path)
        assert there is not None
        if keep and has_result(self.path):
            _delete(self.path / REPLACED)  # of an overwrite that a kill has ended right before its own end
        if keep and not (self.path / REPLACED).exists():
            _retire(self.path, _ours_in(self.path, there))
        else:  # what is there was never complete
            for path in _ours_in(self.path, there):
                _delete(path)
        for name in KINDS[there].folders:
            with suppress(OSError):
                (self.path / name).rmdir()  # where nothing is left

    def complete(self) -> None:
        """The new result is there: what it replaces goes."""
        _delete(self.path / REPLACED)

    def tidy(self) -> None:
        """Remove what a kill right after the end has left; nothing else is done to a result that is complete."""
        with writing(self.path), self._lock:
            remove_stale_inside(self.path)
            self.complete()

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.give()


def _ours_in(folder: Path, command: str) -> list[Path]:
    """The paths in a folder that a command has written; folders of models without what others put there."""
    found: list[Path] = []
    for name in held_names(folder, command):
        path = folder / name
        patterns = KINDS[command].folders.get(name)
        if patterns is None or path.is_symlink() or not path.is_dir():
            found.append(path)
        else:
            found += [path / one for one in _entries(path) if any(fnmatch.fnmatchcase(one, p) for p in patterns)]
    return found


def _retire(folder: Path, paths: list[Path]) -> None:
    """Move an earlier result to ``.replaced``; a kill in between is undone at the next start."""
    aside = folder / _RETIRING
    aside.mkdir()
    for path in paths:
        place = aside / path.relative_to(folder)
        place.parent.mkdir(exist_ok=True)
        os.rename(path, place)
    os.rename(aside, folder / REPLACED)


def _undo_retiring(folder: Path) -> None:
    aside = folder / _RETIRING
    if not aside.is_dir():
        return
    for root, _, files in os.walk(aside, topdown=False):
        inside = Path(root)
        place = folder / inside.relative_to(aside)
        place.mkdir(exist_ok=True)
        for name in files:
            if not (place / name).exists():
                os.rename(inside / name, place / name)
        with suppress(OSError):
            inside.rmdir()


def _delete(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def mark_folder(folder: Path, command: str) -> None:
    """Make a folder known as one that a command writes."""
    _write_mark(folder, {"command": command})


def _write_mark(folder: Path, content: dict[str, Any]) -> None:
    atomic_write_json(folder / MARK, {"made_by": "odin-rm", **content})


# ---- made in one go --------------------------------------------------------------------------------------------------


def command_note(command: str, config: Any) -> str:
    """What tells one command line from another: a digest of the command and all its settings."""
    settings = json.dumps([command, json_safe(asdict(config))], sort_keys=True)
    return hashlib.sha256(settings.encode("utf-8", "surrogatepass")).hexdigest()


def was_cut_short(path: PathLike, note: str) -> bool:
    """Whether a kill has ended the very same command while it made a folder or a file, at whatever moment.

    What stands there then, complete or not, is that command's to replace, without ``--overwrite``.
    """
    try:
        return WriterLock(_lock_beside(Path(path)), path).left_note() == note
    except ValueError:  # a path with a NUL byte, which the check refuses
        return False


@contextmanager
def writer_of(path: PathLike, note: str = "") -> Iterator[None]:
    """Be the only one that makes a folder, or a file, in one go, from the check to the end.

    Args:
        path: the folder or file.
        note: of :func:`command_note`, for the same command after a kill or a full disk.

    Raises:
        OutputError: another process is at it, or the place cannot be written.
    """
    target = Path(path)
    lock = WriterLock(_lock_beside(target), target, note)
    made: list[Path] = []
    try:
        with writing(target):
            made = [folder for folder in target.absolute().parents if not folder.exists()]
            target.absolute().parent.mkdir(parents=True, exist_ok=True)
            lock.take()
        yield
    except BaseException as error:
        # The machine failed after the output was in its place: the same command finishes it, as after a kill.
        if note and (isinstance(error, MachineError) or is_full(error)) and is_there(target):
            lock.leave()
        else:
            _let_go(lock, made)
        raise
    if not is_there(target):
        _let_go(lock, made)
    else:
        lock.give()  # the last thing that is done: up to it the same command may finish what a kill has cut short


def _let_go(lock: WriterLock, made: list[Path]) -> None:
    """Give a lock back and take away the folders that were made for nothing."""
    lock.give()
    for folder in made:
        try:
            folder.rmdir()
        except OSError:
            break


@contextmanager
def replaced_folder(path: PathLike, command: str) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that takes its place when the block ends well.

    What of the old folder is not the command's is carried over. A kill at any moment leaves the old folder or the new
    one. Whether the old one may be replaced has been checked (:func:`check_output_folder`).

    Raises:
        OutputError: the place cannot be written, or a file of somebody else has the name of one of ours.
    """
    target = Path(path).absolute()
    with staged_folder(target) as stage:
        yield stage
        with writing(target):
            files = sorted(str(file.relative_to(stage)) for file in stage.rglob("*") if not file.is_dir())
            _write_mark(stage, {"command": command, "files": files})
            if target.is_dir():
                _carry_over(target, stage, _written_by(target))
            _swap(stage, target)


@contextmanager
def replaced_model(path: PathLike) -> Iterator[Path]:
    """The same for the model in a run folder: what lies beside its own files there stays."""
    target = Path(path).absolute()
    with staged_folder(target) as stage:
        yield stage
        with writing(target):
            if target.is_dir():
                own = {n for n in _entries(target) if any(fnmatch.fnmatchcase(n, p) for p in _MODEL)}
                _carry_over(target, stage, own)
            swap_in(stage, target)


def _written_by(folder: Path) -> set[str]:
    """The files in a folder, as paths within it, that the command which made it has written."""
    listed = _quiet_json(folder / MARK).get("files")
    if isinstance(listed, list):
        return {str(name) for name in listed}
    there = kind_of(folder)
    ours = set(held_names(folder, there)) if there else set()
    if there == "audit":  # of several models, in folders of their names
        comparison = _quiet_json(folder / "comparison.json").get("models")
        if isinstance(comparison, list):
            ours |= {str(p.relative_to(folder)) for p in folder.glob("*/audit.json")}
    if there == "pareto":
        figures = _quiet_json(folder / "pareto.json").get("figures")
        for stem in figures if isinstance(figures, dict) else ():
            ours |= {f"{stem}.{suffix}" for suffix in ("png", "svg", "json")}
    return ours


def _carry_over(old: Path, new: Path, ours: set[str]) -> None:
    """Let everything in the old folder that is not ours stand in the new one too, by links to the same content."""
    for root, folders, files in os.walk(old):
        inside = Path(root)
        for name in [*files, *(f for f in folders if (inside / f).is_symlink())]:
            path = inside / name
            within = str(path.relative_to(old))
            if within in ours or within in (MARK, LOCK):
                continue
            place = new / within
            if place.exists() or place.is_symlink():
                what = f"'{within}' in it was not written by odin-rm, so it is not replaced"
                raise OutputError(what, where=shown_path(old), fix="Move it away, or choose another output folder.")
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, place, follow_symlinks=False)
            except OSError:
                shutil.copy2(path, place, follow_symlinks=False)
        for name in folders:
            path = inside / name
            if not path.is_symlink() and not any(path.iterdir()):
                (new / path.relative_to(old)).mkdir(parents=True, exist_ok=True)


def _swap(stage: Path, target: Path) -> None:
    """Swap folders, or move file by file where the folder itself must stay: a mount, or where the user stands."""
    stays = os.path.ismount(target) or (target.is_dir() and Path.cwd().is_relative_to(target.resolve()))
    if not stays:
        swap_in(stage, target)
        return
    old = _written_by(target)
    new = [path for path in sorted(stage.rglob("*")) if not path.is_dir()]
    for path in sorted(new, key=lambda path: path.name == MARK):
        place = target / path.relative_to(stage)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)
    for within in old - {str(path.relative_to(stage)) for path in new}:
        _delete(target / within)
