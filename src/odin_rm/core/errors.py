"""One exception tree. Each error says what is wrong, where, and how to mend it, in one line.

``exit_code`` is what the command line returns: 2 for the user's input or flags, 1 for a machine that cannot go on
(a full disk), 130 for an interrupted run whose state is saved. Anything that is not an ``OdinError`` is our fault and
ends with 1 and a traceback.
"""

from __future__ import annotations


class OdinError(Exception):
    """Base of all errors that a user can mend.

    Args:
        what: what is wrong, without a closing full stop.
        where: the file, row, field, flag or step concerned.
        fix: how to mend it, an imperative sentence.
    """

    exit_code = 2
    raised_on_every_rank = False
    """Of several processes of a run, each one raises this error; the first one tells the user."""

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        if self.fix:
            line = f"{line.rstrip('.')}. {self.fix}"
        return " ".join(line.split())

    def __reduce__(self) -> tuple:
        # Worker processes send their errors home pickled; keyword-only arguments need this to survive.
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(cls: type[OdinError], what: str, where: str, fix: str) -> OdinError:
    return cls(what, where=where, fix=fix)


class DataError(OdinError, ValueError):
    """A file, row or field of the data is unusable."""


class MissingFileError(DataError, FileNotFoundError):
    """There is no such file."""


class RowError(DataError):
    """One row is unusable; the reader may skip it when told to (``--on_bad_row skip``)."""


class ConfigError(OdinError, ValueError):
    """A flag, a config key or a combination of them is wrong."""

    raised_on_every_rank = True


class ModelError(OdinError, ValueError):
    """A model folder or id cannot be used as asked."""


class RewardSourceError(OdinError):
    """A reward source cannot answer, or answers something that is not a reward."""


class RolloutError(OdinError):
    """A rollout engine cannot write, or writes something that is not a response."""


class JudgeError(OdinError):
    """A judge cannot answer; the judgements that it gave before are kept."""


class ExportError(ModelError):
    """The exported model does not give the scores of the original; nothing was written."""


class OutputError(OdinError):
    """The output place cannot be used (it holds another run, is not writable, ...)."""


class MachineError(OutputError):
    """The machine cannot go on: the disk or the memory is full, a device fails. No flag is wrong."""

    exit_code = 1


class CheckpointError(OdinError):
    """A checkpoint does not belong to the run that wants to continue it."""


class NumericalError(OdinError, ArithmeticError):
    """A loss or a score is not finite."""

    raised_on_every_rank = True


class ShapeError(OdinError, ValueError):
    """A tensor argument has the wrong shape, dtype or a non-finite value."""


class MissingExtraError(OdinError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: the module that could not be imported.
        extra: the extra of odin-rm that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package '{package}'", fix=f"In the checkout: pip install '.[{extra}]'")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple:
        return MissingExtraError, (self.package, self.extra)


class RunInterrupted(OdinError):
    """The run was stopped by a signal; its state is saved."""

    exit_code = 130
    raised_on_every_rank = True
