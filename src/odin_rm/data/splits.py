"""Which split of a data set a file belongs to, and which of several is meant.

The rules are those of the hub's layouts: ``data/train_prefs-00000-of-00002.parquet`` is a part of ``train_prefs``,
``test.jsonl.gz`` is ``test``, ``mine_train.jsonl`` is ``train``, and so is ``train/0000.parquet``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from odin_rm.core.errors import DataError

DEFAULT = "train"
_WORDS = frozenset(("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"))
"""A name that begins or ends with one of these is that of a split."""
_FILLERS = frozenset(("data", "dataset", "set", "split"))
# Of a name behind which the parts of one split are numbered.
_SHARD = re.compile(r"(?:[-_.]?(?:part|shard|chunk))?[-_.]?\d+(?:-of-\d+)?(?:-[0-9a-f]{8,})?$")
_MOST_NAMED = 8


def choose_files(files: Sequence[Path], folder: Path, split: str | None) -> list[Path]:
    """The files of one split.

    Args:
        files: all data files of the folder.
        folder: the folder.
        split: the one that was named. Without it, it is ``train``, or the only one; where no file has a split in its
            name, all files together.

    Raises:
        DataError: the split is not there, or none was named and it is not clear which is meant; lists what is there.
    """
    split_of = {file: _split_of(file.relative_to(folder)) for file in files}
    wanted = split or DEFAULT
    found = [file for file in files if split_of[file] == wanted]
    if not found and split:
        found = [file for file in files if _stem(file) == split]
    if not found and split:
        inside = [file for file in files if split in file.relative_to(folder).parts[:-1]]
        if inside:  # a folder of that name, which may hold splits of its own
            return choose_files(inside, folder, None)
    if not found and not split and len(set(split_of.values())) == 1:
        found = list(files)
    if not found:
        names = {split_of[file] or _stem(file) for file in files}
        raise missing_split(str(folder), wanted, names, files_of_none=None in split_of.values())
    return found


def missing_split(name: str, wanted: str, known: Iterable[str], *, files_of_none: bool = False) -> DataError:
    """The error of a split that is not there, or that nobody has named where there are several.

    Args:
        name: of the data set.
        wanted: the split that was looked for.
        known: the splits that are there.
        files_of_none: among them are files that have no split in their name.
    """
    names = sorted(known)
    listed = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    example = next((known_name for known_name in names if wanted in known_name), names[0])
    fix = f"Name one of them: '{name}:{example}'."
    if files_of_none:
        fix += " To read all files together, take the split's name out of theirs."
    return DataError(f"has no split '{wanted}' (it has {listed})", where=name, fix=fix)


def _split_of(file: Path) -> str | None:
    """The split that a file's name, or else a folder's, says; ``None`` where neither says one."""
    for name in (_stem(file), *reversed(file.parts[:-1])):
        words = re.split(r"[-_. ]+", name.lower())
        if len(words) > 1 and words[-1] in _FILLERS:
            words.pop()
        if words[0] in _WORDS:
            return words[0] if len(words) == 1 else name.lower()
        if words[-1] in _WORDS:
            return words[-1]
    return None


def _stem(file: Path) -> str:
    """A file's name without suffixes and without the number of its part."""
    name = file.name.removesuffix(".gz").rpartition(".")[0]
    return _SHARD.sub("", name) or name
