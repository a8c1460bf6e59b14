"""The one interface of all judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from odin_rm.evaluation.judgements import Judgement, Question

Record = Callable[[int, Judgement], None]
"""Takes a question's position and its judgement, as soon as there is one."""


class Judge(Protocol):
    """Says which of two answers is better.

    Attributes:
        name: what to call it in tables.
        ask_again: whether asking the same question again can give another reply.
    """

    name: str
    ask_again: bool

    def identity(self) -> dict[str, Any]:
        """Everything beside the texts that a judgement depends on: plain JSON, part of every key of the cache."""
        ...

    def prepare(self, questions: Sequence[Question]) -> None:
        """Get ready (load, look for the key); refuse here what cannot work, before anything is written or paid.

        Raises:
            OdinError: the questions cannot be put to this judge.
        """
        ...

    def judge(self, questions: Sequence[Question], record: Record) -> None:
        """Judge each question and record it at once; one that cannot be judged is simply not recorded.

        Raises:
            JudgeError: the judge has stopped answering. What was recorded stays.
        """
        ...
