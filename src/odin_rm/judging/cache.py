"""The memory of judgements: one SQLite file, keyed by content, so that nothing is asked or paid for twice.

A key is the SHA-256 of the judge's identity (model, address, template, decoding settings, ...) and of the question's
texts in their order. A row is one reply: ``attempt`` 0, or 1 where the first could not be read. Each reply is committed
when it arrives; a process that is killed loses only the calls that were under way. Rows are never replaced.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from odin_rm.core.errors import OutputError
from odin_rm.core.files import PathLike
from odin_rm.core.system import cannot_write, is_full
from odin_rm.evaluation.judgements import Judgement, Question

_TABLE = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    preference REAL,
    reply TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    PRIMARY KEY (key, attempt)
)
"""
_COLUMNS = "preference, reply, prompt_tokens, completion_tokens"

Replies = dict[str, list[Judgement]]
"""Per key all replies so far, in the order of the attempts."""


def question_key(identity: Mapping[str, Any], question: Question) -> str:
    """The key of a question put to a judge."""
    texts = [question.instruction, question.first, question.second]
    return hashlib.sha256(json.dumps([identity, texts], sort_keys=True).encode()).hexdigest()


def read_replies(path: PathLike, keys: Iterable[str]) -> Replies:
    """What a cache holds of some keys; nothing where there is no such file. Makes no file.

    Raises:
        OutputError: the file is no cache of judgements, or another process is writing to it.
    """
    if not Path(path).exists():
        return {}
    try:
        with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=rw", uri=True, timeout=1)) as connection:
            return _select(connection, keys) if connection.execute("SELECT 1 FROM sqlite_master").fetchone() else {}
    except sqlite3.Error as error:
        raise _unusable(path, error) from error


class JudgementCache:
    """An open cache; one process at a time.

    Args:
        path: the SQLite file; made where it is missing.

    Raises:
        OutputError: it cannot be written, is no cache of judgements, or is open in another process.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = path
        try:
            self._connection = sqlite3.connect(path, timeout=1, isolation_level=None)
            # Two runs on one cache would both pay for what neither has recorded yet.
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("BEGIN EXCLUSIVE")
            self._connection.execute(_TABLE)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _unusable(path, error) from error

    def __enter__(self) -> JudgementCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def read(self, keys: Iterable[str]) -> Replies:
        """All replies of some keys."""
        return _select(self._connection, keys)

    def add(self, key: str, attempt: int, judgement: Judgement) -> None:
        """Commit one reply; when this returns, it survives the process.

        Raises:
            OutputError: the disk is full, or the file was changed from outside.
        """
        values = (judgement.preference, judgement.reply, judgement.prompt_tokens, judgement.completion_tokens)
        try:
            self._connection.execute(
                f"INSERT INTO replies (key, attempt, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", (key, attempt, *values)
            )
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error


def _select(connection: sqlite3.Connection, keys: Iterable[str]) -> Replies:
    found: Replies = {}
    for key in keys:
        rows = connection.execute(f"SELECT {_COLUMNS} FROM replies WHERE key = ? ORDER BY attempt", (key,)).fetchall()
        if rows:
            found[key] = [Judgement(*row) for row in rows]
    return found


def _unusable(path: PathLike, error: sqlite3.Error) -> OutputError:
    if "locked" in str(error):
        return OutputError("another process is judging into it", where=str(path), fix="Wait for it, or stop it.")
    if is_full(error):
        return cannot_write(path, error, kept="The judgements in it are kept.")
    fix = "Choose another output folder, or mend the file."
    return OutputError(f"cannot be used as a cache of judgements ({error})", where=str(path), fix=fix)
