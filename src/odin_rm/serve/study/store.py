"""The memory of a study: one SQLite file with the pairs, the raters and their ratings.

Each rating is committed before the page hears of it, so a process that is killed loses none that a rater saw as saved.
A pair has one rating per rater; another one replaces it. Every call opens the file anew, which makes threads, several
processes on one study, and a look at the results while it goes on all the same thing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from odin_rm.core.errors import OutputError
from odin_rm.core.files import PathLike, staged_folder
from odin_rm.core.reading import parse_json
from odin_rm.core.system import cannot_write, is_full
from odin_rm.serve.study.design import Choice, Pair, Study

FILE = "study.sqlite"
LONGEST_NAME = 60

_TABLES = """
CREATE TABLE study (content TEXT NOT NULL);
CREATE TABLE pairs (pair INTEGER PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE raters (rater TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE ratings (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    rater TEXT NOT NULL REFERENCES raters,
    pair INTEGER NOT NULL REFERENCES pairs,
    choice TEXT NOT NULL CHECK (choice IN ('a', 'tie', 'b')),
    a_left INTEGER NOT NULL CHECK (a_left IN (0, 1)),
    rated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (rater, pair)
);
"""
_WAIT_SECONDS = 30


@dataclass(frozen=True)
class Rating:
    """One rating.

    Attributes:
        rater: the rater's name as first given.
        pair: the pair's number.
        choice: ``a``, ``b`` or ``tie``.
        a_left: whether ``a`` was shown on the left.
    """

    rater: str
    pair: int
    choice: Choice
    a_left: bool


def rater_key(name: str) -> str | None:
    """What tells raters apart: the name without regard to case and spaces; ``None`` if it is no usable name."""
    key = " ".join(unicodedata.normalize("NFKC", name).split())
    return key.casefold() if 0 < len(key) <= LONGEST_NAME and key.isprintable() else None


class StudyStore:
    """The file of a study.

    Args:
        folder: the study's folder.

    Raises:
        OutputError: there is no such file, or it is none of a study.
    """

    def __init__(self, folder: PathLike) -> None:
        self.path = Path(folder) / FILE
        if not self.path.is_file():
            what = f"holds no study (no {FILE})"
            raise OutputError(what, where=str(folder), fix="Give the --output folder of a study.")
        with self._open() as connection:
            rows = connection.execute("SELECT content FROM study").fetchall()
            pairs = connection.execute("SELECT content FROM pairs ORDER BY pair").fetchall()
        if len(rows) != 1:
            raise OutputError("is no study", where=str(self.path), fix="Choose another folder.")
        self.study = self._read(rows[0][0], [content for (content,) in pairs])

    def _read(self, study: str, pairs: list[str]) -> Study:
        try:
            return Study(**parse_json(study), pairs=[Pair(**parse_json(content)) for content in pairs])
        except (ValueError, TypeError) as error:
            raise OutputError("is no study", where=str(self.path), fix="Choose another folder.") from error

    @classmethod
    def create(cls, folder: PathLike, study: Study) -> StudyStore:
        """Write a new study into a folder, whole or not at all."""
        path = Path(folder) / FILE
        # Texts are kept as JSON because SQLite takes no half characters, which cut-off answers may end in.
        content = {field.name: getattr(study, field.name) for field in dataclasses.fields(study)}
        pairs = [(k, json.dumps(dataclasses.asdict(pair))) for k, pair in enumerate(content.pop("pairs"))]
        with staged_folder(path) as stage:
            cls._fill(stage / FILE, json.dumps(content), pairs)
            os.replace(stage / FILE, path)
        return cls(folder)

    @staticmethod
    def _fill(path: Path, content: str, pairs: list[tuple[int, str]]) -> None:
        with _connected(path) as connection:
            tables = [part for part in _TABLES.split(";") if part.strip()]
            for statement in ("BEGIN EXCLUSIVE", *tables):
                connection.execute(statement)
            connection.execute("INSERT INTO study VALUES (?)", (content,))
            connection.executemany("INSERT INTO pairs VALUES (?, ?)", pairs)
            connection.execute("COMMIT")

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return _connected(self.path)

    def join(self, key: str, name: str) -> None:
        """Make a rater known; the name that was given first stays."""
        with self._open() as connection:
            connection.execute("INSERT OR IGNORE INTO raters VALUES (?, ?)", (key, " ".join(name.split())))

    def knows(self, key: str) -> bool:
        """Whether a rater has joined."""
        with self._open() as connection:
            return connection.execute("SELECT 1 FROM raters WHERE rater = ?", (key,)).fetchone() is not None

    def rate(self, key: str, pair: int, choice: Choice, a_left: bool) -> None:
        """Commit a rating in place of an earlier one of the same pair."""
        with self._open() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO ratings (rater, pair, choice, a_left) VALUES (?, ?, ?, ?)",
                (key, pair, choice, int(a_left)),
            )

    def undo(self, key: str) -> None:
        """Forget the rater's latest rating, if there is one."""
        with self._open() as connection:
            connection.execute(
                "DELETE FROM ratings WHERE number = (SELECT max(number) FROM ratings WHERE rater = ?)", (key,)
            )

    def rated(self, key: str) -> set[int]:
        """The pairs that a rater has rated."""
        with self._open() as connection:
            return {pair for (pair,) in connection.execute("SELECT pair FROM ratings WHERE rater = ?", (key,))}

    def ratings(self) -> list[Rating]:
        """All ratings, by rater in the order of joining, then by pair."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT raters.name, pair, choice, a_left FROM ratings JOIN raters USING (rater) "
                "ORDER BY raters.rowid, pair"
            ).fetchall()
        return [Rating(name, pair, choice, bool(a_left)) for name, pair, choice, a_left in rows]


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            # The default, said aloud: a commit is on the disk before it returns.
            connection.execute("PRAGMA synchronous = FULL")
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        if is_full(error):
            raise cannot_write(path, error, kept="The ratings in it are kept.") from error
        fix = "Choose another output folder, or mend the file."
        raise OutputError(f"cannot be used as a study ({error})", where=str(path), fix=fix) from error
