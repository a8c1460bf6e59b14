"""What was read of the things that a page compares. ``results.reader`` fills these from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import RunPoint

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Response:
    """One response.

    Attributes:
        prompt: as text.
        response: as text.
        tokens: response tokens, where they are known.
        quality, length_reward, held_out: rewards of it, where they are known.
        ended: whether it ended by itself, where that is known.
        step: of the run that wrote it.
        watched: written to the prompts of the watch, which are the same at each look.
    """

    prompt: str
    response: str
    tokens: int | None = None
    quality: float | None = None
    length_reward: float | None = None
    held_out: float | None = None
    ended: bool | None = None
    step: int | None = None
    watched: bool = False

    @property
    def length(self) -> int:
        """Tokens, or characters where tokens are unknown."""
        return len(self.response) if self.tokens is None else self.tokens


@dataclass(frozen=True)
class Described:
    """Something with settings: its ``config.yaml`` and ``environment.json``, empty where it has none."""

    name: str
    settings: Settings = field(default_factory=dict)
    environment: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingRun(Described):
    """A run folder of ``reward``, ``rl``, ``sft`` or ``dpo``.

    Attributes:
        kind: ``reward``, ``rl`` or ``policy`` (the last two commands).
        metrics: rows of ``metrics.jsonl``, one at least.
        texts: rows of ``samples.jsonl``.
        audit: of the finished reward model on held-out data.
        state: ``finished``, ``not finished``, or what stopped it.
    """

    kind: Literal["reward", "rl", "policy"] = "policy"
    metrics: Sequence[Mapping[str, Any]] = ()
    texts: Sequence[Response] = ()
    audit: AuditResult | None = None
    state: str = "finished"

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of a logged figure, where it is a number."""
        rows = [(row["step"], row[name]) for row in self.metrics if _is_number(row.get(name))]
        return [float(step) for step, _ in rows], [float(value) for _, value in rows]

    def last(self, name: str) -> float | None:
        """The last logged value of a figure."""
        values = self.column(name)[1]
        return values[-1] if values else None

    def look(self, which: Literal["first", "last"]) -> list[Response]:
        """What the watch saw at its first or last look; empty without one."""
        steps = [text.step for text in self.texts if text.watched and text.step is not None]
        wanted = (min if which == "first" else max)(steps, default=None)
        return [text for text in self.texts if text.watched and text.step == wanted]

    @property
    def steps(self) -> int:
        """Of the last logged row."""
        return int(max((row["step"] for row in self.metrics), default=0))


@dataclass(frozen=True)
class TextFile(Described):
    """A file of responses: of ``generate`` or anybody's in that format, or of ``score``."""

    texts: Sequence[Response] = ()


@dataclass(frozen=True)
class JudgedPair:
    """Both answers to a prompt; ``preference`` is 2 for the candidate, 1 for the baseline, ``None`` where missing."""

    prompt: str
    baseline: str
    candidate: str
    preference: float | None


@dataclass(frozen=True)
class Judged(Described):
    """A folder of ``judge`` or of a study.

    Attributes:
        candidate, baseline, judge: their names.
        content: ``judge.json``; empty where there is none.
        pairs: rows of ``annotations.json``.
    """

    candidate: str = ""
    baseline: str = ""
    judge: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)
    pairs: Sequence[JudgedPair] = ()


@dataclass(frozen=True)
class WinRates:
    """The file of ``win-rate``: one object per system and, of several, their comparisons."""

    name: str
    systems: Sequence[Mapping[str, Any]]
    comparisons: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Sweep(Described):
    """A folder of ``sweep``: its table, and the runs that ended as points."""

    command: str = ""
    rows: Sequence[Mapping[str, Any]] = ()
    points: Sequence[RunPoint] = ()


@dataclass(frozen=True)
class FrontSummary:
    """Fronts with intervals, in the form of ``summarise_fronts``.

    Attributes:
        arms: by name ``runs``, ``front``, ``hypervolume``, ``band`` (a figure at each length of ``grid``), ``matched``.
        comparisons: ``first``, ``second``, ``hypervolume_difference``, ``dominance`` (along ``grid``), ``matched`` and
            ``matched_dominance`` (at ``matched``).
        grid, matched: lengths.
        score, unit: names of the score and of the unit of length.
    """

    arms: Mapping[str, Mapping[str, Any]]
    comparisons: Sequence[Mapping[str, Any]]
    grid: Sequence[float]
    matched: Sequence[float]
    score: str
    unit: str


@dataclass(frozen=True)
class Fronts:
    """Runs as points with the front of each arm: ``pareto.json``, or the policies of a testbed experiment.

    Attributes:
        points: every run.
        score, length: what the axes are.
        marks: further points by name, as length and score.
        lengths: lengths to mark, by name: the baseline's.
        summary: what ``pareto.json`` says of the fronts.
    """

    name: str
    points: Sequence[RunPoint]
    score: str
    length: str
    marks: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    lengths: Mapping[str, float] = field(default_factory=dict)
    summary: FrontSummary | None = None


@dataclass(frozen=True)
class Material:
    """Everything that a page is about, in the order in which it was given."""

    runs: Sequence[TrainingRun] = ()
    audits: Sequence[AuditResult] = ()
    files: Sequence[TextFile] = ()
    judged: Sequence[Judged] = ()
    win_rates: Sequence[WinRates] = ()
    sweeps: Sequence[Sweep] = ()
    fronts: Sequence[Fronts] = ()
    others: Sequence[Described] = ()
    notes: Sequence[str] = ()

    @property
    def described(self) -> list[Described]:
        """All that have settings or an environment."""
        every: list[Described] = [*self.runs, *self.files, *self.judged, *self.sweeps, *self.others]
        return [one for one in every if one.settings or one.environment]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
