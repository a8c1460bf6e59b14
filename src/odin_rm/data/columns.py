"""Names of fields from the command line: ``--columns prompt=question chosen=answer_a``.

Each is ``new=theirs``: what the rows call ``theirs`` is read as ``new``. A column of the rows that has the new name
already is then data about the row, and not read. ``new=`` with nothing behind it leaves the column ``new`` out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from odin_rm.core.errors import ConfigError, DataError, RowError

_MOST_NAMED = 12


class Columns:
    """A mapping of names.

    Args:
        given: ``new=theirs`` each.

    Raises:
        ConfigError: one is not of that form, or a name is given twice.
    """

    def __init__(self, given: Sequence[str] = ()) -> None:
        self.names: dict[str, str] = {}
        for text in given:
            new, found, theirs = text.partition("=")
            if not found or not new:
                raise ConfigError(f"has '{text}'", where="--columns", fix="Write new=theirs, as in prompt=question.")
            if new in self.names:
                raise ConfigError(f"gives '{new}' twice", where="--columns", fix="Give each name once.")
            self.names[new] = theirs

    def __bool__(self) -> bool:
        return bool(self.names)

    def check(self, row: Mapping[str, Any], source: str) -> None:
        """Hold the names against the first row: a name that it has not is a slip.

        Raises:
            DataError: the row has no such column; lists those that it has.
        """
        for theirs in self.names.values():
            if theirs and theirs not in row:
                known = ", ".join(list(row)[:_MOST_NAMED]) + (", ..." if len(row) > _MOST_NAMED else "")
                what = f"has no column '{theirs}' (it has {known})"
                raise DataError(what, where=source, fix="Correct --columns; each is new=theirs.")

    def but(self, others: Collection[str]) -> list[str]:
        """What was given, without the names of fields that another file has."""
        return [f"{new}={theirs}" for new, theirs in self.names.items() if new not in others]

    def beside(self, row: Mapping[str, Any], source: str, wanted: Collection[str]) -> Columns:
        """The names for a file beside the one they are for: those of its fields, where it has not our own name.

        Raises:
            DataError: its first row has neither.
        """
        fitting = {
            new: theirs
            for new, theirs in self.names.items()
            if new in wanted and not (theirs and theirs not in row and new in row)
        }
        names = Columns([f"{new}={theirs}" for new, theirs in fitting.items()])
        names.check(row, source)
        return names

    def apply(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with the new names; other columns stay as they are."""
        taken = {*self.names, *self.names.values()}
        renamed = {name: value for name, value in row.items() if name not in taken}
        return renamed | {new: row[theirs] for new, theirs in self.names.items() if theirs in row}

    def renamed(self, error: DataError) -> RowError:
        """An error that calls the fields as the rows do."""
        what, fix = error.what, error.fix
        for new, theirs in self.names.items():
            if theirs:
                what, fix = what.replace(f"'{new}'", f"'{theirs}'"), fix.replace(f"'{new}'", f"'{theirs}'")
        return RowError(what, where=error.where, fix=fix)


NO_NAMES = Columns()
"""The rows' own names."""
